"""Write results for other programs: npy, npz, csv or parquet, by the name of the file."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..errors import ConfigError, DataError, FileError
from ..files import write_atomically
from .frame import Text
from .parquet_file import load_pyarrow
from .types import Array

SUFFIXES = (".npy", ".npz", ".csv", ".parquet")
BLOCK_ROWS = 2**14
Column: TypeAlias = Any  # an array (N,) of numbers, a list of str, `Text`, or an arrow array


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
    if path.suffix.lower() == ".parquet":
        load_pyarrow(f"{option} {path}")  # or ConfigError, before anything is computed
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

    A csv has as many digits as give the same bits again. Raises FileError, ConfigError for parquet
    without pyarrow, and DataError for a column of a parquet file that has no text.
    """
    if path.suffix.lower() == ".csv":
        write_atomically(path, (block.encode() for block in csv_blocks(columns)))
        return
    pyarrow, parquet = load_pyarrow(str(path))

    def arrow(column: Column) -> Any:
        if not isinstance(column, Text):
            own = isinstance(column, pyarrow.Array | pyarrow.ChunkedArray)
            return column if own else pyarrow.array(column)
        codes = pyarrow.array(column.codes, mask=column.codes < 0)
        values = pyarrow.array(column.values, pyarrow.string())
        return pyarrow.DictionaryArray.from_arrays(codes, values).cast(pyarrow.string())

    content = io.BytesIO()
    parquet.write_table(pyarrow.table({n: arrow(c) for n, c in columns.items()}), content)
    write_atomically(path, content.getvalue())


def csv_blocks(columns: Mapping[str, Column]) -> Iterator[str]:
    r"""Yield columns of equal length as csv: a line of their names, then some thousand rows a time.

    >>> list(csv_blocks({"class": Text(("a",), np.array([0, -1])), "p": np.array([0.25, 1.0])}))
    ['class,p\n', 'a,0.25\n,1\n']
    """
    first = next(iter(columns.values()))
    rows = len(first.codes if isinstance(first, Text) else first)
    yield _csv_lines([columns])
    for start in range(0, rows, BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        cells = (_cells(name, column, block) for name, column in columns.items())
        yield _csv_lines(zip(*cells, strict=True))


def _csv_lines(rows: Iterable[Iterable[str]]) -> str:
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(rows)
    return lines.getvalue()


def _cells(name: str, column: Column, block: slice) -> Iterable[str]:
    """Return some cells of a column as text, empty for those that are missing."""
    if isinstance(column, Text):
        texts = (*column.values, "")  # which the code -1 stands for
        return [texts[code] for code in column.codes[block].tolist()]
    if not isinstance(column, np.ndarray):
        return column[block] if isinstance(column, list) else _arrow_cells(name, column[block])
    if column.dtype.kind != "f":
        return map(str, column[block].tolist())
    digits = 17 if column.dtype == np.float64 else 9
    return (f"{value:.{digits}g}" for value in column[block].tolist())


def _arrow_cells(name: str, column: Any) -> list[str]:
    import pyarrow

    try:
        texts = column.cast(pyarrow.string())
    except pyarrow.ArrowException:
        kind = str(column.type)[:100]
        raise DataError(
            f'column "{name}" is of type {kind}, which csv has no text for; write .parquet'
        ) from None
    return [text or "" for text in texts.to_pylist()]


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write one array to an npy file, or several by name to an npz, atomically; FileError."""
    binary = io.BytesIO()
    if path.suffix.lower() == ".npy":
        (array,) = arrays.values()
        np.save(binary, array, allow_pickle=False)
    else:
        np.savez(binary, allow_pickle=False, **arrays)
    write_atomically(path, binary.getvalue())
