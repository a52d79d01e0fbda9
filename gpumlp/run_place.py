"""The place of a run: a folder that is made whole or not at all, and belongs to one process."""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from .errors import ConfigError, FileError
from .files import file_errors, make_folder, open_to_add, sync_folder, write_synced
from .lock import lock

MARK = "config.resolved.toml"  # a folder that holds it is a run folder; who runs there locks it
ENVIRONMENT, LOG = "env.json", "run.log"
HIDDEN = f".{MARK}"  # its name until it is locked
NEW, OLD = ".new", ".old"  # end the names of folders that are being made, or replaced
FILLING = re.compile(rf"\.[0-9a-f]{{8}}\{NEW}")


def is_run(path: Path) -> bool:
    """Whether there is a run folder."""
    return (path / MARK).is_file()


def check_free(path: Path, replace: bool) -> None:
    """Raise ConfigError unless `path` is free: absent, empty, or an old run to `replace`."""
    with file_errors(path):
        if not path.exists() or (path.is_dir() and _is_empty(path)):
            return
        if not path.is_dir():
            raise ConfigError(f"--run-dir {path}: is a file, not a folder")
        if not is_run(path):
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
    left = {path.name for path in folder.iterdir() if FILLING.fullmatch(path.name)}
    others = {path.name for path in folder.iterdir()} - left
    if others <= {LOG}:
        return not others or not (folder / LOG).stat().st_size
    return bool(left) and others <= {"config.input.toml", ENVIRONMENT, LOG}


def take(path: Path) -> IO[Any]:
    """Return the lock of the run in a folder; ConfigError where another process has it."""
    return _locked(path / MARK, path)


def _locked(file: Path, folder: Path) -> IO[Any]:
    """Return an open file that is locked for this process."""
    opened = open_to_add(file)
    if not lock(opened) or not _is_there(opened, file):
        opened.close()
        raise ConfigError(f"{folder}: another process is running there")
    return opened


def _is_there(opened: IO[Any], file: Path) -> bool:
    """Whether an open file is the one of that name, which may have been replaced meanwhile."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), file.stat())
    except FileNotFoundError:
        return False


def make(path: Path, texts: Mapping[str, str], replace: bool) -> IO[Any]:
    """Make a run folder of these files whole, and return its lock; an old run is replaced.

    Where that fails the old one stays. Raises what `check_free` raises, and FileError.
    """
    check_free(path, replace)
    place = path.resolve()
    try:
        make_folder(place.parent)
        fill = _fill if place.exists() and _is_empty(place) else _make
        locked = fill(place, texts)
        sync_folder(place.parent)
    except OSError as error:  # its file name is of a temporary folder
        name = Path(error.filename or "").name
        where = path / name if name in (*texts, LOG) else path
        raise FileError(f"{where}: {error.strerror or error}") from error
    return locked


def _make(path: Path, texts: Mapping[str, str]) -> IO[Any]:
    """Make a folder under another name and rename it."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}{NEW}")
    old, locked = new.with_suffix(OLD), None
    replaced = take(path) if is_run(path) else None
    try:
        locked = _written(new, texts)
        (new / LOG).touch()
        sync_folder(new)
        try:
            if replaced is not None:
                path.rename(old)
            new.rename(path)
        except BaseException as error:
            if replaced is not None and not path.exists():
                old.rename(path)
            if getattr(error, "errno", None) in (errno.EEXIST, errno.ENOTEMPTY):
                raise ConfigError(f"{path}: another process is running there") from None
            raise
    except BaseException:
        if locked is not None:
            locked.close()
        raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if replaced is not None:
            replaced.close()
    for left in (old, *_left_by_the_dead(path)):
        shutil.rmtree(left, ignore_errors=True)
    return locked


def _written(new: Path, texts: Mapping[str, str]) -> IO[Any]:
    """Make a folder of these files; return its lock, without which it is no run at any moment."""
    new.mkdir()
    for name, text in texts.items():
        write_synced(new / name.replace(MARK, HIDDEN), text.encode())
    locked = _locked(new / HIDDEN, new)
    try:
        (new / HIDDEN).rename(new / MARK)
    except BaseException:
        locked.close()
        raise
    return locked


def _fill(path: Path, texts: Mapping[str, str]) -> IO[Any]:
    """Fill an empty folder, as a mount point or the current one cannot be replaced.

    What makes it a run folder comes last, so that it is none before all is there.
    """
    filling, locked = _locked(path / LOG, path), None
    new = path / f".{secrets.token_hex(4)}{NEW}"
    try:
        if not _is_empty(path):
            raise ConfigError(f"{path}: another process is running there")
        for left in [p for p in path.iterdir() if FILLING.fullmatch(p.name)]:
            shutil.rmtree(left)
        locked = _written(new, texts)
        for name in sorted(texts, key=lambda name: name == MARK):
            sync_folder(path)
            (new / name).rename(path / name)
        sync_folder(path)
    except BaseException as error:
        if locked is not None:
            locked.close()
        if not isinstance(error, ConfigError):
            for name in (*texts, LOG):
                (path / name).unlink(missing_ok=True)
        raise
    finally:
        filling.close()
        shutil.rmtree(new, ignore_errors=True)
    return locked


def restore(path: Path) -> bool:
    """Put a run back that a process was replacing when it was killed; whether there was one."""
    if path.exists():
        return False
    for left in _left_by_the_dead(path.resolve()):
        if left.suffix == OLD:
            with file_errors(path):
                left.rename(path.resolve())
                sync_folder(path.resolve().parent)
            return True
    return False


def _left_by_the_dead(path: Path) -> Iterator[Path]:
    """Yield the folders that processes left which were killed while making or replacing a run."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}(\{NEW}|\{OLD})")
    if path.parent.is_dir():
        for other in sorted(path.parent.iterdir()):
            if name.fullmatch(other.name) and is_run(other):
                with suppress(ConfigError, OSError):
                    take(other).close()
                    yield other
