"""Read arrays from an npz file that anyone may have written: no pickle, no bomb, one error."""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from gpumlp.data.table import Array
from gpumlp.errors import DataError, FileError

MAX_BYTES = 16 * 2**30  # of all arrays of a file, decompressed
HEADER_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npz(path: Path, names: Sequence[str], source: str) -> list[Array]:
    """Return the named arrays of a file that np.savez or np.savez_compressed wrote.

    Every byte of an array is covered by its zip checksum, so a damaged file cannot yield other
    values. Raises DataError, whose text begins with ``source``, if the file is missing, damaged,
    too large or lacks a name, and FileError if the system refuses to open it.
    """
    with _open(path, source) as stream, _blame(source):
        archive = zipfile.ZipFile(stream)
        size = sum(info.file_size for info in archive.infolist())
        if size > MAX_BYTES:
            raise DataError(f"{source}: {size} bytes decompressed, the limit is {MAX_BYTES}")
        return [_read_array(archive, name, source) for name in names]


def _open(path: Path, source: str) -> BinaryIO:
    try:
        if not path.is_file():
            raise DataError(f"{source}: {'not a file' if path.exists() else 'no such file'}")
        return path.open("rb")
    except OSError as error:
        raise FileError(f"{source}: {error.strerror or error}") from error


@contextmanager
def _blame(what: str) -> Iterator[None]:
    """Turn whatever a parser raises into a DataError about ``what``."""
    try:
        yield
    except DataError:
        raise
    # Damaged bytes reach zipfile, zlib, tokenize and ast, which raise a dozen unrelated types.
    except Exception as error:
        raise DataError(
            f"{what}: cannot be read: damaged or no npz file ({type(error).__name__}: {error})"
        ) from error


def _read_array(archive: zipfile.ZipFile, name: str, source: str) -> Array:
    stored = [member[:-4] for member in archive.namelist() if member.endswith(".npy")]
    if name not in stored:
        close = get_close_matches(name, stored, n=1)
        raise DataError(
            f'{source}: no array "{name}"; it has {", ".join(stored) or "none"}'
            + (f'; did you mean "{close[0]}"?' if close else "")
        )
    member = archive.getinfo(name + ".npy")
    what = f'{source}: array "{name}"'
    with _blame(what):
        _check_header(archive, member, what)
        with archive.open(member) as stream:
            array: Array = npy.read_array(stream, allow_pickle=False)
            return array


def _check_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, what: str) -> None:
    """Compare the size that the header declares with the zip entry's, before memory is taken."""
    with archive.open(member) as stream:
        version = npy.read_magic(stream)
        if version not in HEADER_READERS:
            raise DataError(f"{what} has format version {version}; save plain numbers")
        shape, _, dtype = HEADER_READERS[version](stream)
        start = stream.tell()
    if dtype.hasobject:
        raise DataError(f"{what} holds pickled objects, which may run code; save plain numbers")
    if dtype.itemsize == 0 or start + prod(shape) * dtype.itemsize != member.file_size:
        raise DataError(
            f"{what} declares shape {shape} of {np.dtype(dtype)}, which is not "
            f"the {member.file_size - start} bytes that follow"
        )
