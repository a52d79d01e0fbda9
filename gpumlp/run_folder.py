"""The run folder: configuration, environment, metrics, log, model and summary of one run."""

import csv
import io
import json
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from .backend import Array
from .callbacks import format_record
from .config import Config, Log
from .config_file import dump_config
from .errors import FileError
from .events import Callback, Record
from .files import (
    file_errors,
    open_to_add,
    read_small,
    remove_temporary,
    sync_file,
    write_atomically,
)
from .gradients.norms import GradientNorms
from .json_text import to_json
from .run_place import ENVIRONMENT, LOG, MARK, make, take
from .tensorboard import TensorBoard
from .trainer import Trainer

CHECKPOINTS = "checkpoints"


class RunFolder(Callback):
    """One run's folder; as a callback of the trainer it writes each epoch's metrics.

    It is made under a temporary name with both configurations and the environment, then renamed, so
    that a run folder that exists is never half made. As a context it belongs to this process alone.

    Args:
        path: the folder.
        log: which metrics files it gets; both by default.
        locked: its lock, an open file; `create` and `open` see to that.
    """

    def __init__(self, path: Path, log: Log | None = None, locked: IO[Any] | None = None) -> None:
        self.path = path
        self._wanted = log or Log()
        self._locked = locked

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes have the folder."""
        if self._locked is not None:
            self._locked.close()

    @classmethod
    def create(
        cls, path: Path, config: Config, source: str, environment: Mapping[str, Any], replace: bool
    ) -> "RunFolder":
        """Make the folder `path`; `source` is the text of the configuration as it was given.

        Raises ConfigError where the folder is not free, or another process's, and FileError.
        """
        texts = {
            "config.input.toml": source,
            ENVIRONMENT: to_json(environment, indent=2),
            MARK: dump_config(config),
        }
        return cls(path, config.log, make(path, texts, replace))

    @classmethod
    def open(cls, path: Path, log: Log) -> "RunFolder":
        """Take over the folder of a run that was begun, to go on with it.

        Raises ConfigError when another process is at it, and FileError.
        """
        with file_errors(path):
            return cls(path, log, take(path))

    def cut_back(self, history: Sequence[Record]) -> None:
        """Write the metrics files anew, up to where the history goes.

        What an earlier process wrote after its last checkpoint goes: the summary, and what files
        were being written when it ended.
        """
        with file_errors(self.path):
            (self.path / "summary.json").unlink(missing_ok=True)
            for folder in (self.path, self.path / CHECKPOINTS, self.path / "plots"):
                remove_temporary(folder)
            shutil.rmtree(self.path / "tensorboard", ignore_errors=True)
        if self._wanted.jsonl:
            text = "".join(to_json(record) + "\n" for record in history)
            write_atomically(self.path / "metrics.jsonl", text.encode())
        if self._wanted.csv:
            text = "".join(csv_line(record, first=i == 0) for i, record in enumerate(history))
            write_atomically(self.path / "metrics.csv", text.encode())

    def read_environment(self) -> dict[str, Any]:
        """Return what env.json holds. Raises FileError when it cannot be read."""
        path = self.path / ENVIRONMENT
        try:
            read = json.loads(read_small(path))
        except (ValueError, RecursionError) as error:
            raise FileError(f"{path}: is not what gpumlp wrote ({error})") from None
        if not isinstance(read, dict):
            raise FileError(f"{path}: is not what gpumlp wrote")
        return read

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Write env.json anew."""
        write_atomically(self.path / ENVIRONMENT, to_json(environment, indent=2).encode())

    def log(self, text: str) -> None:
        """Add a line to run.log, with the time."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._append(LOG, f"{stamp} {text}\n")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, once the metrics, to which lines were added, are on the disk."""
        for path in (self.path / "metrics.jsonl", self.path / "metrics.csv"):
            with file_errors(path):
                if path.exists():
                    sync_file(path)
        text = to_json(summary, indent=2) + "\n"
        write_atomically(self.path / "summary.json", text.encode())

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        """Add the epoch to run.log, and to metrics.jsonl and metrics.csv where they are wanted."""
        if self._wanted.jsonl:
            self._append("metrics.jsonl", to_json(record) + "\n")
        if self._wanted.csv:
            self._append("metrics.csv", csv_line(record, first=len(trainer.history) == 1))
        self.log(format_record(record, trainer.last_epoch))

    def _append(self, name: str, text: str) -> None:
        path = self.path / name
        with file_errors(path), open_to_add(path) as file:
            file.write(text.encode("utf-8", "backslashreplace"))


def csv_line(record: Record, first: bool = False) -> str:
    """Return a record's line of metrics.csv, the first one with the names above it."""
    lines = io.StringIO()
    writer = csv.DictWriter(lines, list(record), lineterminator="\n")
    if first:
        writer.writeheader()
    writer.writerow(record)
    return lines.getvalue()


def log_callbacks(
    folder: RunFolder, log: Log, x: Array, y: Array, sample_weight: Array | None = None
) -> list[Callback]:
    """Return what [log] asks for as callbacks, in the order in which they have to run.

    `x`, `y` and `sample_weight` are the training part. Raises ConfigError when tensorboardX is
    asked for and missing.
    """
    callbacks: list[Callback] = []
    if log.gradient_norms:
        callbacks.append(GradientNorms(x, y, sample_weight))
    callbacks.append(folder)
    if log.tensorboard:
        callbacks.append(TensorBoard(folder.path / "tensorboard"))
    return callbacks


def default_path(name: str) -> Path:
    """Return runs/NAME-UTC-xxxx, which does not exist yet."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return Path("runs") / f"{name}-{stamp}-{secrets.token_hex(2)}"
