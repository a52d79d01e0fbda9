"""Scale columns, x -> (x - offset) * factor, with numbers taken from the training rows only.

Missing values, NaN, are first replaced by the mean of the training rows' values.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .place import place
from .reading import check_memory
from .table import blocks, check_finite
from .types import Array, Float64, Rows

SCALERS = ("none", "standard", "minmax")


@dataclass(frozen=True, eq=False)
class Scaler:
    """One of SCALERS with its numbers: ``offset`` and ``factor``, float64 (D,).

    ``fill`` (D,) stands in for missing values; None where there can be none.
    """

    name: str
    offset: Float64
    factor: Float64
    fill: Float64 | None = None

    @classmethod
    def fit(
        cls,
        name: str,
        x: Array,
        rows: Rows | None = None,
        source: str = "data",
        missing: bool = False,
    ) -> "Scaler":
        """Take the numbers from x (N, D), or from its given rows.

        ``minmax`` maps each column onto [0, 1]; ``standard`` to mean 0 and variance 1 (of the
        population, in two passes). With ``missing``, NaN in x is a value to be filled in. Raises
        DataError for a column too wide for float64 or without any value, and ValueError for an
        unknown name.

        >>> Scaler.fit("minmax", np.array([[0], [16]], np.uint8)).factor
        array([0.0625])
        """
        if name not in SCALERS:
            raise ValueError(f"unknown scaler {name!r}; allowed: {', '.join(SCALERS)}")
        with np.errstate(over="ignore", invalid="ignore"):  # reported below, with the column
            fill = _means(x, rows, source) if missing else None
            if name == "none":
                return cls(name, np.zeros(x.shape[1]), np.ones(x.shape[1]), fill)
            low, high, mean = _range_and_mean(x, rows, fill)
            spread = high - low if name == "minmax" else _deviation(x, rows, fill, mean)
        if not np.isfinite(spread).all():
            column = int(np.argmin(np.isfinite(spread)))
            raise DataError(
                f"{place(source, column=column)} spans {low[column]} to {high[column]}, "
                "too wide to scale"
            )
        # A column that does not vary has nothing to scale, and 1 / 0 would be no number; the same
        # for one that varies so little that the reciprocal overflows.
        varies = spread >= np.finfo(np.float64).tiny
        offset = low if name == "minmax" else mean
        return cls(name, offset, 1 / np.where(varies, spread, 1), fill)

    def transform(
        self, x: Array, dtype: npt.DTypeLike, rows: Rows | None = None, source: str = "data"
    ) -> Array:
        """Return x (N, D), or its given rows, scaled: a C-contiguous array of that dtype.

        Computed in float64, a block of rows at a time. Raises DataError if the number of columns is
        not that of the training data, or if a value is out of the dtype's range.

        >>> scaler = Scaler.fit("minmax", np.array([[0], [16]], np.uint8))
        >>> scaler.transform(np.array([[4]], np.uint8), np.float32)
        array([[0.25]], dtype=float32)
        """
        if x.shape[1] != len(self.offset):
            raise DataError(
                f"{source}: {x.shape[1]} columns, the training data has {len(self.offset)}"
            )
        shape = len(x) if rows is None else len(rows), x.shape[1]
        check_memory(
            prod(shape) * np.dtype(dtype).itemsize, f"{source}: x of shape {shape}, scaled,"
        )
        scaled = np.empty(shape, dtype)
        with np.errstate(over="ignore"):  # check_finite reports it, with row and column
            for block, values in _blocks(x, rows, self.fill):
                values -= self.offset
                values *= self.factor
                scaled[block] = values
        check_finite(scaled, f"scaled x as {scaled.dtype}", source, rows)
        return scaled

    def inverse(self, scaled: Array) -> Float64:
        """Return what was scaled, (N, D) in float64.

        >>> Scaler("standard", np.array([10.0]), np.array([0.5])).inverse(np.array([[1.0]]))
        array([[12.]])
        """
        return scaled.astype(np.float64) / self.factor + self.offset

    def to_arrays(self) -> dict[str, Float64]:
        """Return the arrays to save; the name is saved apart, as text."""
        arrays = {"offset": self.offset, "factor": self.factor}
        return arrays if self.fill is None else arrays | {"fill": self.fill}

    @classmethod
    def from_arrays(cls, name: str, arrays: Mapping[str, Any]) -> "Scaler":
        """Rebuild the scaler that ``to_arrays`` saved.

        Raises KeyError if an array is missing, ValueError if name, shapes or numbers are not a
        scaler's.
        """
        offset, factor = (np.asarray(arrays[key], np.float64) for key in ("offset", "factor"))
        fill = np.asarray(arrays["fill"], np.float64) if "fill" in arrays else None
        shapes = {array.shape for array in (offset, factor, fill) if array is not None}
        if name not in SCALERS or offset.ndim != 1 or len(shapes) > 1:
            raise ValueError(f"no scaler {name!r} with shapes {offset.shape} and {factor.shape}")
        given = [array for array in (offset, factor, fill) if array is not None]
        if not (np.isfinite(given).all() and (factor > 0).all()):
            raise ValueError(
                f"no scaler {name!r}: a number is not finite, or a factor not positive"
            )
        return cls(name, offset, factor, fill)


def _blocks(
    x: Array, rows: Rows | None, fill: Float64 | None = None
) -> Iterator[tuple[slice, Float64]]:
    """Copy x, or its given rows, to float64 a block at a time, so that big data never is."""
    for block in blocks(len(x) if rows is None else len(rows), x.shape[1]):
        values = x[block if rows is None else rows[block]].astype(np.float64)
        if fill is not None:
            np.copyto(values, fill, where=np.isnan(values))
        yield block, values


def _means(x: Array, rows: Rows | None, source: str) -> Float64:
    """Return the mean of each column's values; raises DataError for a column without any."""
    total, count = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for _, values in _blocks(x, rows):
        given = ~np.isnan(values)
        total += values.sum(axis=0, where=given)
        count += given.sum(axis=0)
    if not count.all():
        where = place(source, column=int(np.argmin(count)))
        raise DataError(f"{where} has no value in the training part")
    return total / count


def _range_and_mean(
    x: Array, rows: Rows | None, fill: Float64 | None
) -> tuple[Float64, Float64, Float64]:
    low, high, total = (np.full(x.shape[1], start) for start in (np.inf, -np.inf, 0.0))
    count = 0
    for _, values in _blocks(x, rows, fill):
        np.minimum(low, values.min(axis=0), out=low)
        np.maximum(high, values.max(axis=0), out=high)
        total += values.sum(axis=0)
        count += len(values)
    # The sum of a constant column rounds, and a spread of rounding errors is not 0.
    return low, high, np.where(low == high, low, total / count)


def _deviation(x: Array, rows: Rows | None, fill: Float64 | None, mean: Float64) -> Float64:
    squares = np.zeros_like(mean)
    count = 0
    for _, values in _blocks(x, rows, fill):
        values -= mean
        squares += np.square(values).sum(axis=0)
        count += len(values)
    return np.sqrt(squares / count)
