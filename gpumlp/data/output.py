"""Write columns for other programs: npy, npz, csv or parquet, by the name of the file."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..errors import ConfigError, DataError, FileError
from ..files import file_errors, write_atomically
from .frame import Text
from .parquet_file import check_pyarrow
from .types import Array

SUFFIXES = (".npy", ".npz", ".csv", ".parquet")
BLOCK_ROWS = 2**14
Columns: TypeAlias = Mapping[str, Any]  # arrays (N,) of numbers, `Text`, or arrow arrays


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
        check_pyarrow(f"{option} {path}")
    if path.is_dir():
        raise ConfigError(f"{option} {path}: is a folder")
    if path.exists() and not overwrite:
        raise ConfigError(f"{option} {path}: is there already; --overwrite replaces it")
    if not path.absolute().parent.is_dir():
        raise FileError(f"{path.absolute().parent}: no such folder")


def write_output(path: Path, columns: Columns, arrays: Mapping[str, Array]) -> None:
    """Write to `path`, atomically: the columns to csv or parquet, the arrays to npz or npy.

    An npy holds the first of the arrays. Raises FileError, and DataError for a column that cannot
    be written as text.
    """
    kind, content = path.suffix.lower(), io.BytesIO()
    with file_errors(path):
        if kind == ".csv":
            write_atomically(path, csv_blocks(columns))
            return
        if kind == ".parquet":
            _write_parquet(content, columns)
        elif kind == ".npy":
            np.save(content, next(iter(arrays.values())), allow_pickle=False)
        else:
            np.savez(content, allow_pickle=False, **arrays)
        write_atomically(path, content.getvalue())


def csv_blocks(columns: Columns) -> Iterator[bytes]:
    r"""Yield a csv file in pieces: names, then rows, with digits that give the same bits again.

    >>> b"".join(csv_blocks({"a": np.array([1, 2]), "b": Text(("x, y",), np.array([0, -1]))}))
    b'a,b\n1,"x, y"\n2,\n'
    """
    rows = len(_first(columns))
    yield _csv_lines([list(columns)])
    for start in range(0, rows, BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        yield _csv_lines(zip(*(_cells(n, c, block) for n, c in columns.items()), strict=True))


def _csv_lines(rows: Any) -> bytes:
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(rows)
    return lines.getvalue().encode()


def _first(columns: Columns) -> Any:
    first = next(iter(columns.values()))
    return first.codes if isinstance(first, Text) else first


def _cells(name: str, column: Any, block: slice) -> list[str]:
    """Return some cells of a column as text, empty for those that are missing."""
    if isinstance(column, Text):
        texts = (*column.values, "")  # which the code -1 stands for
        return [texts[code] for code in column.codes[block].tolist()]
    if not isinstance(column, np.ndarray):
        return _arrow_cells(name, column[block])
    if column.dtype.kind != "f":
        return list(map(str, column[block].tolist()))
    digits = 17 if column.dtype == np.float64 else 9
    return ["" if v != v else f"{v:.{digits}g}" for v in column[block].tolist()]


def _arrow_cells(name: str, column: Any) -> list[str]:
    import pyarrow

    try:
        texts = column.cast(pyarrow.string())
    except pyarrow.ArrowException:
        raise DataError(
            f'column "{name}" is of type {column.type}, which has no text; write .parquet'
        ) from None
    return [text or "" for text in texts.to_pylist()]


def _write_parquet(content: io.BytesIO, columns: Columns) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    def arrow(column: Any) -> Any:
        if not isinstance(column, Text):
            return pyarrow.array(column) if isinstance(column, np.ndarray) else column
        codes = pyarrow.array(column.codes, mask=column.codes < 0)
        values = pyarrow.array(column.values, pyarrow.string())
        return pyarrow.DictionaryArray.from_arrays(codes, values).cast(pyarrow.string())

    write_table(pyarrow.table({name: arrow(column) for name, column in columns.items()}), content)
