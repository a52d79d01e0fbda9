"""What was measured fastest, kept on disk: which algorithm each matrix product takes on a GPU.

A choice holds for one model of GPU and one version of the library; each pair has a file. Without it
an algorithm would be chosen anew in each process, and runs would differ in their last bits. A run
that is resumed brings its own choices along, which come before those of the file.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import FileError
from ...files import read_small, write_atomically


class Choices:
    """Choices by what was asked, in memory and, where `path` can be written, on disk.

    A file that cannot be read or is not one of ours counts as empty, and is replaced. `used` are
    the choices that were asked for, and `given` those that are taken before all others.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.given: dict[str, list[Any]] = {}
        self.used: dict[str, list[Any]] = {}
        self._choices: dict[str, list[Any]] | None = None

    def get(self, key: str) -> list[Any] | None:
        """Return what was chosen, or None."""
        if self._choices is None:
            self._choices = self._read()
        found = self.given.get(key) or self._choices.get(key)
        if found is not None:
            self.used[key] = found
        return found

    def keep(self, key: str, choice: list[Any]) -> None:
        """Remember a choice; what other processes have written in the meantime stays."""
        self.used[key] = choice
        self._choices = self._read() | (self._choices or {}) | {key: choice}
        if self.path is None:
            return
        text = json.dumps(self._choices, indent=0, sort_keys=True)
        with suppress(FileError, OSError):  # then it is chosen anew next time
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, text.encode())

    def _read(self) -> dict[str, list[Any]]:
        try:
            return choices_of(json.loads(read_small(self.path)) if self.path else {})
        except (FileError, ValueError, RecursionError):
            return {}


def choices_of(read: Any) -> dict[str, list[Any]]:
    """Return what looks like choices in what was read from a file."""
    entries = read.items() if isinstance(read, Mapping) else ()
    return {key: choice for key, choice in entries if isinstance(choice, list)}
