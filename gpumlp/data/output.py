"""Write results for other programs: npy, npz, csv or parquet, by the name of the file."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, FileError
from ..files import write_atomically
from .types import Array

SUFFIXES = (".npy", ".npz", ".csv", ".parquet")
Column = Array | Sequence[str]  # numbers or text


def check_output(
    path: Path, option: str, overwrite: bool, suffixes: Sequence[str] = SUFFIXES
) -> None:
    """Raise ConfigError, which names the option, unless `path` can be written as wanted.

    >>> check_output(Path("features.txt"), "--out", False)
    Traceback (most recent call last):
    gpumlp.errors.ConfigError: --out features.txt: must end in .npy, .npz, .csv or .parquet
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
    """Write values (N, D) to `path`, atomically; csv and parquet have named columns.

    `name` is that of the array in an npz. Raises as `write_columns` does.
    """
    if path.suffix.lower() in (".csv", ".parquet"):
        write_columns(path, dict(zip(columns, values.T, strict=True)))
    else:
        write_arrays(path, {name: values})


def write_columns(path: Path, columns: Mapping[str, Column]) -> None:
    """Write columns of equal length to a csv or parquet file, atomically.

    A csv has as many digits as give the same bits again. Raises FileError, and ConfigError for
    parquet without pyarrow.
    """
    if path.suffix.lower() == ".csv":
        write_atomically(path, csv_text(columns).encode())
        return
    pyarrow, parquet = load_pyarrow(str(path))
    table = pyarrow.table({name: pyarrow.array(column) for name, column in columns.items()})
    content = io.BytesIO()
    parquet.write_table(table, content)
    write_atomically(path, content.getvalue())


def csv_text(columns: Mapping[str, Column]) -> str:
    """Return columns of equal length as csv, with a line of their names.

    >>> csv_text({"class": ["a", "b"], "p": np.array([0.25, 1.0], np.float32)}).splitlines()
    ['class,p', 'a,0.25', 'b,1']
    """
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*map(_cells, columns.values()), strict=True))
    return lines.getvalue()


def _cells(column: Column) -> Iterable[str]:
    if not isinstance(column, np.ndarray) or column.dtype.kind != "f":
        return map(str, column)
    digits = 17 if column.dtype == np.float64 else 9
    return (f"{value:.{digits}g}" for value in column.tolist())


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write one array to an npy file, or several by name to an npz, atomically; FileError."""
    binary = io.BytesIO()
    if path.suffix.lower() == ".npy":
        (array,) = arrays.values()
        np.save(binary, array, allow_pickle=False)
    else:
        np.savez(binary, allow_pickle=False, **arrays)
    write_atomically(path, binary.getvalue())


def load_pyarrow(what: str) -> tuple[Any, Any]:
    """Return pyarrow and its parquet module; ConfigError about `what`, where it is missing."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(
            f'{what}: parquet needs pyarrow, which is missing; pip install "gpumlp[parquet]"'
        ) from None
    return pyarrow, parquet
