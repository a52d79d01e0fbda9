"""Where files are kept, and how they are written: a reader finds old content or new, never half."""

import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .errors import FileError

SMALL = 2**24  # bytes
TEMPORARY = ".tmp"  # ends the names of files that are being written


def cache_folder() -> Path:
    """Return where files are kept that can be made again: ~/.cache/gpumlp.

    XDG_CACHE_HOME, and LOCALAPPDATA on Windows, replace ~/.cache.
    """
    caches = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return Path(caches or os.path.expanduser("~/.cache")) / "gpumlp"


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a FileError that names the path and what to do."""
    try:
        yield
    except OSError as error:
        raise FileError(f"{error.filename or path}: {error.strerror or error}") from error


def write_atomically(
    path: Path, content: bytes | Iterable[bytes | memoryview], generations: int = 1
) -> None:
    """Write a file of that content, whole or in pieces: temporary file, fsync, rename, fsync.

    So many `generations` are kept: the file that was there becomes NAME-1, that one NAME-2, and so
    on; at any moment each of them is whole. Raises FileError when the file system refuses; what was
    there before is then still there, though between the renames the newest one is NAME-1.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    with file_errors(path):
        try:
            write_synced(temporary, content)
            for number in reversed(range(1, generations)):
                newer = generation(path, number - 1)
                if newer.exists():
                    newer.replace(generation(path, number))
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_synced(path: Path, content: bytes | Iterable[bytes | memoryview]) -> None:
    """Write a file, whole or in pieces, and wait until it is on the disk."""
    with path.open("wb") as file:
        file.writelines([content] if isinstance(content, bytes) else content)
        file.flush()
        os.fsync(file.fileno())


def read_small(path: Path) -> bytes:
    """Return the content of a file of ours, which is small.

    Raises FileError for one that is not there, is large, or is no file: a pipe may never end.
    """
    with file_errors(path):
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > SMALL:
            raise FileError(f"{path}: is not what gpumlp wrote")
        return path.read_bytes()


def open_to_add(path: Path) -> IO[bytes]:
    """Open a file to write behind what it holds; OSError for a pipe that nobody reads."""
    at_once = getattr(os, "O_NONBLOCK", 0)  # not on Windows
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags | at_once, 0o666))


def remove_temporary(folder: Path) -> None:
    """Remove what processes left in a folder that were killed in `write_atomically`."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if re.fullmatch(rf"\..+\.\d+\{TEMPORARY}", path.name) and path.is_file():
            path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, so that they survive a power loss."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Wait until what was added to a file is on the disk."""
    with open_to_add(path) as file:
        os.fsync(file.fileno())


def generation(path: Path, number: int) -> Path:
    """Return where an older content of a file is kept; number 0 is the file itself.

    >>> generation(Path("last.safetensors"), 1).name
    'last-1.safetensors'
    """
    return path.with_stem(f"{path.stem}-{number}") if number else path


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power loss, where the system can."""
    if os.name != "posix":  # Windows cannot open a folder, and needs no such call
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
