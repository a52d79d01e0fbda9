"""Read a target that is columns of numbers: values, labels that are on or off, or probabilities.

Each function takes the y of a checked table and raises DataError, beginning with ``source`` and
naming row and column, for what it does not expect.
"""

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .frame import NUMBER
from .place import place
from .table import check_finite
from .types import Array, Float64


def columns(y: Array, source: str) -> Float64:
    """Return y, (N,) or (N, K) finite numbers, as float64 (N, K)."""
    if y.dtype.kind == "U":
        for row, text in enumerate(y.tolist()):
            if not NUMBER.fullmatch(text):
                raise DataError(
                    f'{place(source, row)}: the target is text, "{text}", expected numbers'
                )
    with np.errstate(over="ignore"):  # a long double may not fit; found by the check
        values = y.astype(np.float64)
    check_finite(values, "the target", source)
    return values.reshape(len(y), -1)


def zeros_and_ones(y: Array, source: str) -> Float64:
    """Return y, (N, K) zeros and ones of any numeric dtype, as float64 (N, K)."""
    if y.ndim != 2:
        raise DataError(f"{source}: the target must have a column for each label, not {y.shape}")
    values = columns(y, source)
    _refuse((values != 0) & (values != 1), values, "0 or 1", source)
    return values


def probabilities(y: Array, source: str) -> Float64:
    """Return y, (N, C) with rows >= 0 that sum to 1 within 0.001, as float64 (N, C)."""
    values = columns(y, source)
    _refuse(values < 0, values, "a probability", source)
    sums = values.sum(axis=1)
    wrong = abs(sums - 1) > 1e-3
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"{place(source, row)}: the target sums to {sums[row]:.6g}, not to 1")
    return values


def _refuse(wrong: npt.NDArray[np.bool_], values: Array, expected: str, source: str) -> None:
    if wrong.any():
        row, column = map(int, np.argwhere(wrong)[0])
        raise DataError(
            f"{place(source, row, column)}: the target is {values[row, column]:g}, "
            f"expected {expected}"
        )
