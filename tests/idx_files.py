"""IDX files as the tests of data, of MNIST and of the download write them."""

import gzip
import struct

import numpy as np

from gpumlp.data.idx import DTYPES
from gpumlp.data.mnist import STEMS

CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}


def idx_bytes(array):
    """The IDX file of an array."""
    magic = bytes([0, 0, CODES[array.dtype.newbyteorder("=")], array.ndim])
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return magic + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


def mnist_arrays(train=7, test=3):
    """Small arrays by the stem of the file they belong in."""
    rng = np.random.default_rng(0)
    made = {}
    for stem, n in zip(STEMS, (train, train, test, test), strict=True):
        shape = (n, 28, 28) if "images" in stem else (n,)
        made[stem] = rng.integers(0, 10, shape, dtype=np.uint8)
    return made


def write_mnist(folder, made, ending="", dot="-"):
    """Write the four files into a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, array in made.items():
        content = idx_bytes(array)
        name = stem.replace("-idx", f"{dot}idx") + ending
        (folder / name).write_bytes(gzip.compress(content) if ending else content)
    return folder
