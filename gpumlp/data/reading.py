"""Open a data file that anyone may have written, and say what is wrong with it in one error."""

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import DataError, FileError


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
