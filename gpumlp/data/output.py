"""Write a matrix for other programs: npy, npz or csv, by the name of the file."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import ConfigError, FileError
from ..files import file_errors, write_atomically
from .types import Array

SUFFIXES = (".npy", ".npz", ".csv")


def check_output(
    path: Path, option: str, overwrite: bool, suffixes: Sequence[str] = SUFFIXES
) -> None:
    """Raise ConfigError, which names the option, unless `path` can be written as wanted.

    >>> check_output(Path("features.txt"), "--out", False)
    Traceback (most recent call last):
    gpumlp.errors.ConfigError: --out features.txt: must end in .npy, .npz or .csv
    """
    if path.suffix.lower() not in suffixes:
        *others, last = suffixes
        allowed = f"{', '.join(others)} or {last}" if others else last
        raise ConfigError(f"{option} {path}: must end in {allowed}")
    if path.is_dir():
        raise ConfigError(f"{option} {path}: is a folder")
    if path.exists() and not overwrite:
        raise ConfigError(f"{option} {path}: is there already; --overwrite replaces it")
    if not path.absolute().parent.is_dir():
        raise FileError(f"{path.absolute().parent}: no such folder")


def write_matrix(path: Path, name: str, values: Array, columns: Sequence[str]) -> None:
    """Write values (N, D) to `path`, atomically; a csv begins with a line of the column names.

    `name` is that of the array in an npz. A csv has as many digits as give the same bits again.
    Raises FileError.
    """
    kind = path.suffix.lower()
    if kind == ".csv":
        digits = 17 if values.dtype == np.float64 else 9
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([f"{value:.{digits}g}" for value in row] for row in values.tolist())
        content = lines.getvalue().encode()
    else:
        binary = io.BytesIO()
        if kind == ".npy":
            np.save(binary, values)
        else:
            np.savez(binary, allow_pickle=False, **{name: values})
        content = binary.getvalue()
    with file_errors(path):
        write_atomically(path, content)
