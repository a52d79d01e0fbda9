"""The run folder: configuration, environment, metrics, log, model and summary of one run."""

import csv
import errno
import io
import json
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import IO, Any, Self

from .backend import Array
from .callbacks import format_record
from .config import Config, Log
from .config_file import dump_config
from .errors import ConfigError, FileError
from .events import Callback, Record
from .files import file_errors, sync_file, sync_folder, write_atomically, write_synced
from .gradients.norms import GradientNorms
from .lock import lock
from .tensorboard import TensorBoard
from .trainer import Trainer

MARK = "config.resolved.toml"  # a folder that holds it is a run folder
ENVIRONMENT, LOG, CHECKPOINTS = "env.json", "run.log", "checkpoints"
NEW = ".new"  # ends the names of folders that are being made


class RunFolder(Callback):
    """One run's folder; as a callback of the trainer it writes each epoch's metrics.

    It is made under a temporary name with both configurations and the environment, then renamed, so
    that a run folder that exists is never half made. As a context it belongs to this process alone.

    Args:
        path: the folder.
        log: which metrics files it gets; both by default.
        locked: its run.log, open and locked; `create` and `open` see to that.
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

        Raises what `check_free` raises, and FileError.
        """
        check_free(path, replace)
        texts = {
            "config.input.toml": source,
            ENVIRONMENT: to_json(environment, indent=2),
            MARK: dump_config(config),
        }
        place = path.absolute()
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            fill = _fill_folder if place.exists() and _is_empty(place) else _make_folder
            locked = fill(place, texts)
            sync_folder(place.parent)
        except OSError as error:  # its file name is of a temporary folder
            name = Path(error.filename or "").name
            where = path / name if name in (*texts, LOG) else path
            raise FileError(f"{where}: {error.strerror or error}") from error
        return cls(path, config.log, locked)

    @classmethod
    def open(cls, path: Path, log: Log) -> "RunFolder":
        """Take over the folder of a run that was begun, to go on with it.

        Raises ConfigError when another process is at it, and FileError.
        """
        with file_errors(path):
            return cls(path, log, _locked(path))

    def cut_back(self, history: Sequence[Record]) -> None:
        """Write the metrics files anew, up to where the history goes.

        What an earlier process wrote after its last checkpoint goes: the summary, and what files
        were being written when it ended.
        """
        with file_errors(self.path):
            for path in [self.path / "summary.json", *self.path.rglob(".*.tmp")]:
                path.unlink(missing_ok=True)
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
            read = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise FileError(f"{path}: cannot be read: {error}") from None
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
        with file_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(text)


def csv_line(record: Record, first: bool = False) -> str:
    """Return a record's line of metrics.csv, the first one with the names above it."""
    lines = io.StringIO()
    writer = csv.DictWriter(lines, list(record), lineterminator="\n")
    if first:
        writer.writeheader()
    writer.writerow(record)
    return lines.getvalue()


def _locked(path: Path) -> IO[Any]:
    """Return a run folder's log, open and locked; ConfigError where another process has it."""
    file = (path / LOG).open("ab")
    if not lock(file):
        file.close()
        raise ConfigError(f"{path}: another process is running there")
    return file


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
        if not path.exists() or (path.is_dir() and _is_empty(path)):
            return
        if not path.is_dir():
            raise ConfigError(f"--run-dir {path}: is a file, not a folder")
        if not (path / MARK).exists():
            raise ConfigError(f"--run-dir {path}: is not empty and not a run folder; left as it is")
        if replace and path.samefile(Path.cwd()):
            raise ConfigError(f"--run-dir {path}: cannot replace the folder that one stands in")
    if not replace:
        raise ConfigError(
            f"--run-dir {path}: holds a run already; --resume goes on with it, "
            "--overwrite replaces it"
        )


def _is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but what a process left that was killed while filling it."""
    names = {path.name for path in folder.iterdir()}
    left = {name for name in names if name.endswith(NEW)}
    others = names - left
    if others <= {LOG}:
        return not others or not (folder / LOG).stat().st_size
    return bool(left) and others <= {"config.input.toml", ENVIRONMENT, LOG}


def _make_folder(path: Path, texts: Mapping[str, str]) -> IO[Any]:
    """Make a run folder of these files whole, in place of an old one; return its lock.

    Where that fails the old one stays.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}{NEW}")
    replaced = _locked(path) if (path / MARK).exists() else None
    old, locked = new.with_suffix(".old"), None
    try:
        new.mkdir()
        for name, text in texts.items():
            write_synced(new / name, text.encode())
        locked = _locked(new)
        if replaced is not None:
            path.rename(old)
        try:
            new.rename(path)
        except OSError as error:
            if replaced is not None:
                old.rename(path)
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):  # another process was faster
                check_free(path, False)
            raise
    except BaseException:
        if locked is not None:
            locked.close()
        raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if replaced is not None:
            replaced.close()
    shutil.rmtree(old, ignore_errors=True)
    return locked


def _fill_folder(path: Path, texts: Mapping[str, str]) -> IO[Any]:
    """Fill an empty folder, as a mount point or the current one cannot be replaced.

    What makes it a run folder comes last, so that it is none before all is there.
    """
    locked = _locked(path)
    new = path / f".{secrets.token_hex(4)}{NEW}"
    try:
        check_free(path, False)  # another process may have filled it
        for left in path.glob(f".*{NEW}"):
            shutil.rmtree(left)
        new.mkdir()
        for name, text in texts.items():
            write_synced(new / name, text.encode())
        for name in sorted(texts, key=lambda name: name == MARK):
            (new / name).rename(path / name)
    except BaseException as error:
        if not isinstance(error, ConfigError):
            for name in (*texts, LOG):
                (path / name).unlink(missing_ok=True)
        locked.close()
        raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return locked


def to_json(value: Any, indent: int | None = None) -> str:
    """Return JSON; a number that is not finite, which JSON cannot hold, becomes null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value
