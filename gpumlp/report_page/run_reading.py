"""Read a run folder back: all that is there of a run, finished or not, and what is wrong with it.

A file that is missing or damaged costs what it holds and no more; `problems` says which.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import Config
from ..config_file import parse_config
from ..errors import ConfigError, FileError
from ..events import Record
from ..run_place import MARK
from ..saved_model import SavedModel, load_model
from ..toml_text import read_toml
from ..wording import size

LOG_LINES = 20
LOG_END = 2**16  # bytes, in which these lines are
LARGEST = 2**26  # bytes that are read of a file
LARGEST_EPOCH = 2**53
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


@dataclass(eq=False)
class RunFiles:
    """What a run folder holds, as far as it can be read.

    `config` and `model` are None where they are missing or unreadable, `summary` is None for a run
    that has not ended, `plots` are the PNG files by name without ending.
    """

    path: Path
    config_text: str = ""
    config: Config | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] | None = None
    records: list[Record] = field(default_factory=list)
    model: SavedModel | None = None
    plots: dict[str, bytes] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The run's name, or else its folder's."""
        return self.config.name if self.config is not None else self.path.absolute().name

    @property
    def status(self) -> str:
        """That of the summary, as "done" or "diverged"; "unfinished" where there is none."""
        return "unfinished" if self.summary is None else str(self.summary.get("status"))

    @property
    def best_epoch(self) -> int | None:
        """The epoch that early stopping found to be the best, if it was asked to look."""
        best = (self.summary or {}).get("best_epoch")
        return best if isinstance(best, int) else None

    def metrics(self, part: str) -> dict[str, float | None]:
        """Return loss and metrics of "train", "val" or "test"; None for what is not finite."""
        found = (self.summary or {}).get(part)
        if not isinstance(found, dict):
            return {}
        return {name: value for name, value in found.items() if value is None or _is_number(value)}


def read_run(path: Path) -> RunFiles:
    """Read a run folder. Raises FileError when there is none, or it cannot be read.

    >>> read_run(Path("no/such/run"))
    Traceback (most recent call last):
    gpumlp.errors.FileError: no/such/run: no such folder
    """
    if not path.exists():
        raise FileError(f"{path}: no such folder")
    if not path.is_dir():
        raise FileError(f"{path}: is a file, not a run folder")
    if not (path / MARK).exists():
        raise FileError(f"{path}: not a run folder: there is no {MARK} in it")
    run = RunFiles(path)
    run.config_text = _text(run, MARK)
    run.config = _config(run)
    run.environment = _json(run, "env.json", required=True) or {}
    run.summary = _json(run, "summary.json")
    run.records = _records(run)
    run.log = _text(run, "run.log", LOG_END).splitlines()[-LOG_LINES:]
    if (path / "model.safetensors").exists():
        try:
            run.model = load_model(path)
        except FileError as error:
            run.problems.append(str(error))
    elif run.status in ("done", "interrupted"):
        run.problems.append("model.safetensors is missing")
    run.plots = dict(_plots(run))
    return run


def _bytes(run: RunFiles, name: str, end: int | None = None) -> bytes:
    """Return a file's content, or so much of its end; nothing, and a problem, if unreadable."""
    path = run.path / name
    if path.exists() and not path.is_file():  # a pipe may never end
        run.problems.append(f"{name} cannot be read: not a file")
        return b""
    try:
        with path.open("rb") as file:
            if end is not None:
                file.seek(max(0, path.stat().st_size - end))
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        run.problems.append(f"{name} cannot be read: {error.strerror}")
        return b""
    if len(content) > LARGEST:
        run.problems.append(f"{name} is left out: more than {size(LARGEST)}")
        return b""
    return content


def _text(run: RunFiles, name: str, end: int | None = None) -> str:
    return _bytes(run, name, end).decode("utf-8", "replace")


def _config(run: RunFiles) -> Config | None:
    try:
        return parse_config(read_toml(run.config_text), MARK)
    except ConfigError as error:  # of another version, or changed by hand
        run.problems.append(f"this gpumlp does not understand the configuration: {error}")
    except ValueError as error:
        run.problems.append(f"{MARK} is damaged: {error}")
    return None


def _json(run: RunFiles, name: str, required: bool = False) -> dict[str, Any] | None:
    """Return the object in a JSON file; None where there is no such file, or no object in it."""
    if not (run.path / name).exists():
        if required:
            run.problems.append(f"{name} is missing")
        return None
    found = _parsed(_text(run, name))
    if found is None:
        run.problems.append(f"{name} is damaged: it holds no JSON object")
    return found


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _records(run: RunFiles) -> list[Record]:
    """Return one record per epoch, of metrics.jsonl or else metrics.csv; only numbers and None."""
    name = "metrics.jsonl" if (run.path / "metrics.jsonl").exists() else "metrics.csv"
    text = _text(run, name)
    if name == "metrics.jsonl":
        lines = [_parsed(line) for line in text.splitlines() if line.strip()]
    else:
        lines = list(_of_csv(text))
    records, damaged = [], []
    for number, line in enumerate(lines, start=1 if name == "metrics.jsonl" else 2):
        numbers = {k: v for k, v in (line or {}).items() if v is None or _is_number(v)}
        epoch = numbers.get("epoch")
        if epoch is None or not 0 <= epoch < LARGEST_EPOCH:
            damaged.append(number)
        else:
            records.append(numbers | {"epoch": int(epoch)})
    if damaged:
        which = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
        lines_are = "line" if len(damaged) == 1 else "lines"
        run.problems.append(f"{name}: {lines_are} {which} damaged and left out")
    return records


def _of_csv(text: str) -> Iterator[dict[str, Any] | None]:
    """Yield the rows of metrics.csv as numbers, None for empty cells; None for a damaged row."""
    rows = csv.DictReader(io.StringIO(text, newline=""))
    while True:
        try:
            row = next(rows)
            yield {key: float(cell) if cell else None for key, cell in row.items()}
        except StopIteration:
            return
        except (TypeError, ValueError, csv.Error):
            yield None


def _is_number(value: Any) -> bool:
    """Whether a value of JSON is a number that fits a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 2**1023


def _plots(run: RunFiles) -> Iterator[tuple[str, bytes]]:
    """Yield the PNG files of the run that are whole."""
    for path in sorted((run.path / "plots").glob("*.png")):
        content = _bytes(run, f"plots/{path.name}")
        if content.startswith(PNG_START) and content.rstrip(b"\0").endswith(PNG_END):
            yield path.stem, content
        else:
            run.problems.append(f"plots/{path.name} is no whole PNG file")
