"""Open a data file that anyone may have written, and say what is wrong with it in one error."""

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..backend.system_memory import system_memory
from ..errors import DataError, FileError
from ..wording import size

FREE_SIZE = 2**25  # bytes that are unpacked, however few they were packed into
MAX_RATIO = 100  # bytes per packed byte beyond that; a bomb has up to a thousand, or a million


def open_data(path: Path, source: str) -> BinaryIO:
    """Open an ordinary file for reading; a pipe or a device, which may never end, is refused.

    Raises DataError, whose text begins with ``source``, if it is missing or no ordinary file, and
    FileError if the system refuses.

    >>> open_data(Path("missing.npy"), "my data")
    Traceback (most recent call last):
    gpumlp.errors.DataError: my data: no such file
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{source}: not a file")
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a null byte
        raise DataError(f"{source}: no such file") from error
    except OSError as error:
        raise FileError(f"{source}: {error.strerror or error}") from error


@contextmanager
def blame(what: str, kind: str) -> Iterator[None]:
    """Turn whatever the parser of a ``kind`` of file raises into a DataError about ``what``.

    >>> with blame("my.npz", "npz"):
    ...     raise ValueError("bad magic")
    Traceback (most recent call last):
    gpumlp.errors.DataError: my.npz: cannot be read: damaged or no npz file (ValueError: bad magic)
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # parsers also warn of what they then read or refuse
            yield
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{what}: does not fit into memory ({error or 'no details'})") from error
    # Damaged bytes reach zipfile, zlib, tokenize and ast, which raise a dozen unrelated types.
    except Exception as error:
        raise DataError(
            f"{what}: cannot be read: damaged or no {kind} file ({type(error).__name__}: {error})"
        ) from error


def check_unpacked(unpacked: int, packed: int, what: str, way_out: str) -> None:
    """Raise DataError about what unpacks to more than is believed, before it is.

    >>> check_unpacked(10**9, 10**6, "x.npz", "save it with np.savez")
    Traceback (most recent call last):
    gpumlp.errors.DataError: x.npz: unpacks to more than 100 times its size, as bombs do; if you \
trust it, save it with np.savez
    """
    if unpacked > max(FREE_SIZE, MAX_RATIO * packed):
        raise DataError(
            f"{what}: unpacks to more than {MAX_RATIO} times its size, as bombs do; "
            f"if you trust it, {way_out}"
        )


def check_memory(needed: int, what: str) -> None:
    """Raise DataError if so many bytes are more than are free, before they are taken."""
    memory = system_memory() if needed > FREE_SIZE else None
    if memory is not None and needed > memory.free:
        raise DataError(
            f"{what} needs {size(needed)} of memory, and {size(memory.free)} are free; "
            "give fewer rows or columns"
        )
