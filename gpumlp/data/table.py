"""A table is the raw rows of one source, checked once so that nothing later has to."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from ..errors import DataError
from .features import Features
from .place import Source, place, with_columns
from .types import Array, Rows

BLOCK_VALUES = 2**20  # 8 MiB in float64: temporaries stay in the cache, whatever the data's size
NUMERIC = "buif"  # NumPy's kinds: bool, unsigned, signed, float


@dataclass(frozen=True, eq=False)
class Table:
    """The raw rows of one source, as :func:`check` returns them.

    ``x`` (N, D) numeric, in its own dtype; ``y`` (N,) integers, floats, bools or text, or (N, K)
    numeric; ``sample_weight`` None or (N,), finite, >= 0 and not all 0; ``source`` is the name
    that messages use. NaN in ``y`` is found by :mod:`gpumlp.data.targets`, which knows the task.
    Where values may be missing, NaN in ``x`` stands for them. ``y_source`` is where y
    comes from, if that is another file or has column names.
    """

    x: Array
    y: Array
    sample_weight: Array | None = None
    source: str = "data"
    features: Features = field(default_factory=Features)
    y_source: Source | None = None

    @property
    def target_source(self) -> Source:
        """The source as messages about y name it: its rows, and the columns of y."""
        return self.y_source or with_columns(self.source, ())


def check(
    table: Table,
    names: tuple[str, str, str] = ("x", "y", "sample_weight"),
    missing: bool = False,
) -> Table:
    """Return the table with x flattened to (N, D) and text in y as str, or say what is wrong.

    ``names`` are the names of the three arrays in messages; with ``missing``, x may hold NaN.
    Raises DataError for a wrong shape or dtype, for lengths that differ, for no rows, and for
    values that are not finite.

    >>> images = Table(np.zeros((5, 28, 28)), np.arange(5))
    >>> check(images).x.shape
    (5, 784)
    >>> check(Table(np.array([[1.0, np.nan]]), np.array([0]), source="my.npz"))
    Traceback (most recent call last):
    gpumlp.errors.DataError: my.npz: row 0, column 1 (counted from 0): x is nan; 1 such value
    """
    x_name, y_name, weight_name = names
    x = checked_x(table.x, x_name, table.source, missing)
    y = _checked_y(table.y, y_name, with_columns(table.source, ()))
    _check_lengths(x, x_name, y, y_name, table.source)
    if table.sample_weight is not None:
        named = (weight_name,) if getattr(table.source, "columns", ()) else ()
        _check_weights(table.sample_weight, weight_name, with_columns(table.source, named))
        _check_lengths(x, x_name, table.sample_weight, weight_name, table.source)
    return replace(table, x=x, y=y)


def check_finite(values: Array, name: str, source: str, rows: Rows | None = None) -> None:
    """Raise DataError if values, (N,) or (N, D), has NaN or infinity; names the first and counts.

    ``rows`` (N,) are the row numbers to name, where values is a selection; by default 0..N-1.
    """
    if values.dtype.kind != "f":
        return
    count, first = 0, None
    for block in blocks(len(values), prod(values.shape[1:])):
        bad = ~np.isfinite(values[block])
        if first is None and bad.any():
            row, *column = map(int, np.argwhere(bad)[0])
            first = (block.start + row, *column)
        count += int(np.count_nonzero(bad))
    if first is not None:
        row, column = (*first, None)[:2]
        where = place(source, row if rows is None else int(rows[row]), column)
        raise DataError(
            f"{where}: {name} is {values[first]}; {count} such value{'s' if count > 1 else ''}"
        )


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Cut ``rows`` rows into slices of about BLOCK_VALUES values each.

    >>> list(blocks(5, BLOCK_VALUES // 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, BLOCK_VALUES // max(1, columns))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def checked_x(x: Array, name: str, source: str, missing: bool = False) -> Array:
    """Return x as (N, D); raises DataError as `check` does."""
    if x.dtype.kind not in NUMERIC:
        raise DataError(f"{source}: {name} must be real numbers, its dtype is {x.dtype}")
    if x.ndim < 2:
        raise DataError(f"{source}: {name} must have rows and columns, its shape is {x.shape}")
    if 0 in x.shape:
        raise DataError(f"{source}: {name} is empty, its shape is {x.shape}")
    x = x.reshape(len(x), -1)
    if not missing:
        check_finite(x, name, source)
    return x


def _checked_y(y: Array, name: str, source: str) -> Array:
    if y.dtype.kind not in NUMERIC + "US":
        raise DataError(f"{source}: {name} must be numbers or text, its dtype is {y.dtype}")
    if y.ndim not in (1, 2) or 0 in y.shape:
        raise DataError(f"{source}: {name} must be (rows,) or (rows, columns), not {y.shape}")
    if y.ndim == 2 and y.dtype.kind in "US":
        raise DataError(f"{source}: {name} has {y.shape[1]} columns of text; it must be 1-D")
    if y.dtype.kind == "S":
        try:
            return np.char.decode(y, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{source}: {name} is not UTF-8 text ({error})") from error
    if y.dtype.kind == "U":
        codes = np.ascontiguousarray(y).view(y.dtype.byteorder + "u4").reshape(len(y), -1)
        wrong = (codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))
        if wrong.any():
            row, character = map(int, np.argwhere(wrong)[0])
            code = int(codes[row, character])
            raise DataError(f"{place(source, row)}: {name} holds U+{code:04X}, no character")
    return y


def _check_weights(weights: Array, name: str, source: str) -> None:
    if weights.dtype.kind not in NUMERIC or weights.ndim != 1:
        raise DataError(
            f"{source}: {name} must be one number a row, "
            f"its dtype is {weights.dtype} and its shape {weights.shape}"
        )
    check_finite(weights, name, source)
    if (weights < 0).any():
        row = int(np.argmax(weights < 0))
        raise DataError(f"{place(source, row)}: {name} is {weights[row]}, expected >= 0")
    if not weights.any():
        raise DataError(f"{source}: {name} is 0 in every row")


def _check_lengths(first: Array, name: str, other: Array, other_name: str, source: str) -> None:
    if len(first) != len(other):
        raise DataError(f"{source}: {name} has {len(first)} rows, {other_name} has {len(other)}")
