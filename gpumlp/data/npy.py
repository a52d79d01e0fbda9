"""Read the array of an npy file that anyone may have written: no pickle, no claim believed."""

import io
import os
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from ..errors import DataError
from .reading import blame, check_memory, open_data
from .table import NUMERIC
from .types import Array

# Version 3 differs from 2 in the encoding of field names alone, which no check here depends on.
HEADER_READERS = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
    (3, 0): npy.read_array_header_2_0,
}
MAX_HEADER = 12 + 10_000  # bytes, as in NumPy, which however reads before it looks at the size


def read_npy(path: Path, source: str) -> Array:
    """Return the array of a file that np.save wrote, in its own shape, order and dtype.

    Records are read if all their fields are numbers. Raises DataError, whose text begins with
    ``source``, if the file is missing or damaged, holds Python objects, or is longer or shorter
    than its header declares, and FileError if the system refuses to open it.
    """
    with open_data(path, source) as stream, blame(source, "npy"):
        check_header(stream, os.fstat(stream.fileno()).st_size, f"{source}: the array")
        stream.seek(0)
        return read_array(stream)


def check_header(stream: BinaryIO, size: int, what: str) -> None:
    """Compare what the header of an npy stream of ``size`` bytes declares with what follows it.

    No memory is taken for the array. Raises DataError about ``what``, and what NumPy's parser
    raises for text that is no header.

    >>> stream = io.BytesIO()
    >>> np.save(stream, np.zeros(3))
    >>> size, _ = stream.tell(), stream.seek(0)
    >>> check_header(stream, size - 8, "my.npy")
    Traceback (most recent call last):
    gpumlp.errors.DataError: my.npy declares shape (3,) of float64, 24 bytes, but 16 follow
    """
    start = io.BytesIO(stream.read(MAX_HEADER))
    version = npy.read_magic(start)
    if version not in HEADER_READERS:
        raise DataError(f"{what} has the unknown npy version {version}; save it again")
    shape, _, dtype = HEADER_READERS[version](start)
    if dtype.hasobject:
        raise DataError(f"{what} holds pickled objects, which may run code; save plain numbers")
    for name in dtype.names or ():
        if dtype[name].kind not in NUMERIC:
            raise DataError(f'{what} has a field "{name}" of {dtype[name]}; save plain numbers')
    declared, rest = prod(shape) * dtype.itemsize, size - start.tell()
    if dtype.itemsize == 0 or min(shape, default=0) < 0 or declared != rest:
        raise DataError(
            f"{what} declares shape {shape} of {np.dtype(dtype)}, {declared} bytes, "
            f"but {rest} follow"
        )
    check_memory(declared, what)


def read_array(stream: BinaryIO) -> Array:
    """Return the array of an npy stream whose header was checked; objects are never unpickled.

    Raises what NumPy's parser raises, and ValueError for a bool that is neither true nor false.
    """
    array: Array = npy.read_array(stream, allow_pickle=False)
    for part in [array[name] for name in array.dtype.names or ()] or [array]:
        if part.dtype.kind == "b" and (part.view(np.uint8) > 1).any():
            raise ValueError("a bool is neither 0 nor 1")
    return array
