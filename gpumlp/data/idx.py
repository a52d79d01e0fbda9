"""Read an array from an IDX file, the format of MNIST, plain or gzipped."""

import gzip
import os
import sys
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from ..errors import DataError
from .reading import blame, check_memory, check_unpacked, open_data
from .types import Array

DTYPES: dict[int, type[np.generic]] = {
    0x08: np.uint8,
    0x09: np.int8,
    0x0B: np.int16,
    0x0C: np.int32,
    0x0D: np.float32,
    0x0E: np.float64,
}
MAX_DIMENSIONS = 64  # NumPy's
MAX_BYTES = 16 * 2**30
DEFLATE_RATIO = 1032  # no deflate stream is smaller than its content by more
BLOCK = 2**20


def read_idx(path: Path, source: str) -> Array:
    """Return the array of an IDX file, in this machine's byte order.

    The format: two zero bytes, one for the type, one for the number of dimensions, each dimension
    as a big-endian uint32, then the values, big-endian, the last dimension changing fastest
    (Y. LeCun, C. Cortes, C. Burges: The MNIST database of handwritten digits). Whether a file is
    gzipped is seen from its first bytes. Raises DataError, whose text begins with ``source``, if
    the file is missing, damaged, or longer or shorter than its header declares, and FileError if
    the system refuses to open it.
    """
    with open_data(path, source) as stream, blame(source, "IDX"):
        size = os.fstat(stream.fileno()).st_size
        zipped = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        if not zipped:
            return _read(stream, size, size, source)
        with gzip.GzipFile(fileobj=stream) as unzipped:
            return _read(cast(BinaryIO, unzipped), size, size * DEFLATE_RATIO, source)


def _read(stream: BinaryIO, size: int, most: int, source: str) -> Array:
    """Read header and values of a stream of at most ``most`` bytes, of a file of ``size``."""
    shape, dtype = _read_header(stream, source)
    declared = prod(shape) * dtype.itemsize
    claim = f"{source}: its header declares shape {shape} of {dtype}, {declared} bytes"
    # Before memory is taken, so that a few bytes cannot ask for gigabytes.
    follow = most - 4 - 4 * len(shape)
    if declared > follow:
        raise DataError(f"{claim}, but at most {follow} follow: truncated or damaged")
    if declared > MAX_BYTES:
        raise DataError(f"{claim}; the limit is {MAX_BYTES}")
    check_unpacked(declared, size, source, "unpack it first")
    check_memory(declared, source)
    array = np.empty(shape, dtype)
    try:
        count = _fill(array.reshape(-1).view(np.uint8).data, stream)
    except EOFError as error:
        raise DataError(f"{claim}, but the gzip stream breaks off: truncated") from error
    if count < declared:
        raise DataError(f"{claim}, but {count} follow: truncated")
    if stream.read(1):  # at the end, this also compares the gzip checksum
        raise DataError(f"{claim}, but more follow")
    if sys.byteorder == "little":
        array.byteswap(inplace=True)
    return array


def _read_header(stream: BinaryIO, source: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES:
        types = ", ".join(f"{code:02x}" for code in DTYPES)
        raise DataError(
            f"{source}: not an IDX file: it begins with {magic.hex(' ') or 'nothing'}, "
            f"expected 00 00, one of {types}, and the number of dimensions"
        )
    if not 1 <= magic[3] <= MAX_DIMENSIONS:
        raise DataError(f"{source}: {magic[3]} dimensions, expected 1 to {MAX_DIMENSIONS}")
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{source}: truncated: {4 + len(sizes)} bytes, and the header has more")
    return tuple(np.frombuffer(sizes, ">u4").tolist()), np.dtype(DTYPES[magic[2]])


def _fill(view: memoryview, stream: BinaryIO) -> int:
    """Read bytes until ``view`` is full or the stream ends; return their number."""
    count = 0
    # In blocks: GzipFile.readinto makes a copy of what it reads.
    while read := cast(Any, stream).readinto(view[count : count + BLOCK]):
        count += cast(int, read)
    return count
