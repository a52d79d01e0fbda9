"""Find and read the four IDX files of MNIST, or of a set that uses its names (Fashion-MNIST)."""

import os
from pathlib import Path

import numpy as np

from ..errors import DataError, FileError
from ..files import cache_folder
from .idx import read_idx
from .types import Array

Images = tuple[Array, Array]

STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
SIDE = 28  # pixels

_WAYS_OUT = """
  set data.path or GPUMLP_DATA (its subfolder "mnist") to a folder with the four files, or
  pip install "gpumlp[fetch]" and gpumlp fetch mnist"""


def mnist_folder() -> Path:
    """Return where the files lie unless data.path says otherwise: $GPUMLP_DATA/mnist or a cache.

    The cache is ~/.cache/gpumlp/mnist; XDG_CACHE_HOME, and LOCALAPPDATA on Windows, replace
    ~/.cache.
    """
    if os.environ.get("GPUMLP_DATA"):
        return Path(os.environ["GPUMLP_DATA"]) / "mnist"
    return cache_folder() / "mnist"


def find_mnist(folder: str | None) -> Path:
    """Return the folder with the four files: ``folder`` if given, else :func:`mnist_folder`.

    Raises DataError, beginning with "mnist: ", if a file is missing there, saying which and the
    ways out, and FileError if the system refuses to list the folder.

    >>> find_mnist("nowhere")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    gpumlp.errors.DataError: mnist: nowhere has no train-images-idx3-ubyte, ... (or .gz)
      set data.path or GPUMLP_DATA (its subfolder "mnist") to a folder with the four files, or
      pip install "gpumlp[fetch]" and gpumlp fetch mnist
    """
    place = mnist_folder() if folder is None else Path(folder)
    _files(place)
    return place


def load_mnist(folder: str | None) -> tuple[Images, Images]:
    """Return ((x, y) to train on, (x, y) to test on): x uint8 (N, 28, 28), y uint8 (N,).

    Raises as :func:`find_mnist`, and DataError for files that are damaged or not what they should
    be; texts begin with "mnist: ".
    """
    images, labels, test_images, test_labels = _files(find_mnist(folder))
    return _read_part(images, labels), _read_part(test_images, test_labels)


def present_files(folder: Path) -> dict[str, Path | None]:
    """Return, for each of STEMS, the file of ``folder`` that has it, in whichever spelling.

    Raises FileError if the system refuses to list the folder; one that does not exist is empty.

    >>> present_files(Path("nowhere"))["t10k-labels-idx1-ubyte"] is None
    True
    """
    try:
        present = set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null byte
        present = set()
    except OSError as error:
        raise FileError(f"mnist: {folder}: {error.strerror or error}") from error
    found = {stem: [name for name in _spellings(stem) if name in present] for stem in STEMS}
    return {stem: folder / names[0] if names else None for stem, names in found.items()}


def _files(folder: Path) -> list[Path]:
    files = present_files(folder)
    missing = [stem for stem, path in files.items() if path is None]
    if missing:
        raise DataError(f"mnist: {folder} has no {', '.join(missing)} (or .gz){_WAYS_OUT}")
    return [path for path in files.values() if path is not None]


def _spellings(stem: str) -> list[str]:
    dotted = stem.replace("-idx", ".idx")
    return [stem, stem + ".gz", dotted, dotted + ".gz"]


def _read_part(images: Path, labels: Path) -> Images:
    x = read_idx(images, f"mnist: {images}")
    y = read_idx(labels, f"mnist: {labels}")
    for path, array, tail in ((images, x, (SIDE, SIDE)), (labels, y, ())):
        if array.dtype != np.uint8 or array.ndim != 1 + len(tail) or array.shape[1:] != tail:
            expected = ", ".join(map(str, ("N", *tail)))
            raise DataError(
                f"mnist: {path}: {array.dtype} of shape {array.shape}, expected uint8 ({expected})"
            )
    if len(x) != len(y):
        raise DataError(f"mnist: {images} has {len(x)} images, {labels} has {len(y)} labels")
    return x, y
