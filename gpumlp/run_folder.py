"""The run folder: configuration, environment, metrics, log, model and summary of one run."""

import csv
import io
import json
import secrets
import shutil
import time
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from .backend import Array
from .callbacks import format_record
from .config import Config, Log
from .config_file import dump_config
from .errors import ConfigError, FileError
from .files import file_errors, sync_folder, write_atomically
from .gradients.norms import GradientNorms
from .tensorboard import TensorBoard
from .trainer import Callback, Record, Trainer

MARK = "config.resolved.toml"  # a folder that holds it is a run folder


class RunFolder(Callback):
    """One run's folder; as a callback of the trainer it writes each epoch's metrics.

    It is made under a temporary name with both configurations and the environment, then renamed, so
    that a run folder that exists is never half made.

    Args:
        path: the folder.
        log: which metrics files it gets; both by default.
    """

    def __init__(self, path: Path, log: Log | None = None) -> None:
        self.path = path
        self._wanted = log or Log()

    @classmethod
    def create(
        cls, path: Path, config: Config, source: str, environment: Mapping[str, Any], replace: bool
    ) -> "RunFolder":
        """Make the folder `path`; `source` is the text of the configuration as it was given.

        Raises what `check_free` raises, and FileError.
        """
        check_free(path, replace)
        try:
            place = path.absolute()
            place.parent.mkdir(parents=True, exist_ok=True)
            empty = place.exists() and not any(place.iterdir())
            new = (place if empty else place.parent) / f".{place.name}.{secrets.token_hex(4)}.new"
            new.mkdir()
            try:
                (new / "config.input.toml").write_text(source, encoding="utf-8")
                (new / MARK).write_text(dump_config(config), encoding="utf-8")
                (new / "env.json").write_text(to_json(environment, indent=2), encoding="utf-8")
                _put_in_place(new, place)
            finally:
                shutil.rmtree(new, ignore_errors=True)
            sync_folder(place.parent)
        except OSError as error:  # its file name is of the temporary folder
            raise FileError(f"{path}: {error.strerror or error}") from error
        return cls(path, config.log)

    def log(self, text: str) -> None:
        """Add a line to run.log, with the time."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._append("run.log", f"{stamp} {text}\n")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json."""
        text = to_json(summary, indent=2) + "\n"
        write_atomically(self.path / "summary.json", text.encode())

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        """Add the epoch to run.log, and to metrics.jsonl and metrics.csv where they are wanted."""
        if self._wanted.jsonl:
            self._append("metrics.jsonl", to_json(record) + "\n")
        if self._wanted.csv:
            lines = io.StringIO()
            writer = csv.DictWriter(lines, list(record), lineterminator="\n")
            if len(trainer.history) == 1:
                writer.writeheader()
            writer.writerow(record)
            self._append("metrics.csv", lines.getvalue())
        self.log(format_record(record, trainer.last_epoch))

    def _append(self, name: str, text: str) -> None:
        path = self.path / name
        with file_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(text)


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


def check_free(path: Path, replace: bool) -> None:
    """Raise ConfigError unless `path` is free: absent, empty, or an old run to `replace`."""
    with file_errors(path):
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return
        if not path.is_dir():
            raise ConfigError(f"--run-dir {path}: is a file, not a folder")
        if not (path / MARK).exists():
            raise ConfigError(f"--run-dir {path}: is not empty and not a run folder; left as it is")
        if replace and path.samefile(Path.cwd()):
            raise ConfigError(f"--run-dir {path}: cannot replace the folder that one stands in")
    if not replace:
        raise ConfigError(f"--run-dir {path}: holds a run already; --overwrite replaces it")


def _put_in_place(new: Path, path: Path) -> None:
    """Rename the folder `new` to `path`; what is there goes, or stays if that fails."""
    if new.parent == path:  # an empty folder: a mount point or the current one cannot be replaced
        moved: list[Path] = []
        try:
            for file in sorted(new.iterdir()):
                moved.append(file.rename(path / file.name))
        except OSError:
            for file in moved:
                file.unlink()
            raise
        return
    old = new.with_suffix(".old")
    if path.exists():
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def to_json(value: Any, indent: int | None = None) -> str:
    """Return JSON; a number that is not finite, which JSON cannot hold, becomes null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value
