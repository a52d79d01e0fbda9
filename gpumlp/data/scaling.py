"""Scale columns, x -> (x - offset) * factor, with numbers taken from the training rows only."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpumlp.data.table import Array, Rows, blocks, check_finite
from gpumlp.errors import DataError

Float64 = npt.NDArray[np.float64]

SCALERS = ("none", "standard", "minmax")


@dataclass(frozen=True, eq=False)
class Scaler:
    """One of SCALERS with its numbers: ``offset`` and ``factor``, float64 (D,)."""

    name: str
    offset: Float64
    factor: Float64

    @classmethod
    def fit(cls, name: str, x: Array, rows: Rows | None = None, source: str = "data") -> "Scaler":
        """Take the numbers from x (N, D), or from its given rows.

        ``minmax`` maps each column onto [0, 1]; ``standard`` to mean 0 and variance 1 (of the
        population, in two passes). Raises DataError for a column too wide for float64, and
        ValueError for an unknown name.

        >>> Scaler.fit("minmax", np.array([[0], [16]], np.uint8)).factor
        array([0.0625])
        """
        if name not in SCALERS:
            raise ValueError(f"unknown scaler {name!r}; allowed: {', '.join(SCALERS)}")
        if name == "none":
            return cls(name, np.zeros(x.shape[1]), np.ones(x.shape[1]))
        with np.errstate(over="ignore", invalid="ignore"):  # reported below, with the column
            low, high, mean = _range_and_mean(x, rows)
            spread = high - low if name == "minmax" else _deviation(x, rows, mean)
        if not np.isfinite(spread).all():
            column = int(np.argmin(np.isfinite(spread)))
            raise DataError(
                f"{source}: column {column} (counted from 0) spans {low[column]} to "
                f"{high[column]}, too wide to scale"
            )
        # A column that does not vary has nothing to scale, and 1 / 0 would be no number; the same
        # for one that varies so little that the reciprocal overflows.
        varies = spread >= np.finfo(np.float64).tiny
        return cls(name, low if name == "minmax" else mean, 1 / np.where(varies, spread, 1))

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
        scaled = np.empty((len(x) if rows is None else len(rows), x.shape[1]), dtype)
        with np.errstate(over="ignore"):  # check_finite reports it, with row and column
            for block, values in _blocks(x, rows):
                values -= self.offset
                values *= self.factor
                scaled[block] = values
        check_finite(scaled, f"scaled x as {scaled.dtype}", source, rows)
        return scaled

    def to_arrays(self) -> dict[str, Float64]:
        """Return the arrays to save; the name is saved apart, as text."""
        return {"offset": self.offset, "factor": self.factor}

    @classmethod
    def from_arrays(cls, name: str, arrays: Mapping[str, Any]) -> "Scaler":
        """Rebuild the scaler that ``to_arrays`` saved.

        Raises KeyError if an array is missing, ValueError if name or shapes are not a scaler's.
        """
        offset, factor = (np.asarray(arrays[key], np.float64) for key in ("offset", "factor"))
        if name not in SCALERS or offset.ndim != 1 or offset.shape != factor.shape:
            raise ValueError(f"no scaler {name!r} with shapes {offset.shape} and {factor.shape}")
        return cls(name, offset, factor)


def _blocks(x: Array, rows: Rows | None) -> Iterator[tuple[slice, Float64]]:
    """Copy x, or its given rows, to float64 a block at a time, so that big data never is."""
    for block in blocks(len(x) if rows is None else len(rows), x.shape[1]):
        yield block, x[block if rows is None else rows[block]].astype(np.float64)


def _range_and_mean(x: Array, rows: Rows | None) -> tuple[Float64, Float64, Float64]:
    low, high, total = (np.full(x.shape[1], start) for start in (np.inf, -np.inf, 0.0))
    count = 0
    for _, values in _blocks(x, rows):
        np.minimum(low, values.min(axis=0), out=low)
        np.maximum(high, values.max(axis=0), out=high)
        total += values.sum(axis=0)
        count += len(values)
    # The sum of a constant column rounds, and a spread of rounding errors is not 0.
    return low, high, np.where(low == high, low, total / count)


def _deviation(x: Array, rows: Rows | None, mean: Float64) -> Float64:
    squares = np.zeros_like(mean)
    count = 0
    for _, values in _blocks(x, rows):
        values -= mean
        squares += np.square(values).sum(axis=0)
        count += len(values)
    return np.sqrt(squares / count)
