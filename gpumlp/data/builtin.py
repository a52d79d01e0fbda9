"""The small data sets that need no file of one's own: shipped inside the package, or computed."""

from difflib import get_close_matches
from pathlib import Path

import numpy as np

from ..errors import DataError
from .npz import read_npz
from .types import Array

SHIPPED = ("digits", "breast_cancer", "diabetes")
BUILTIN = (*SHIPPED, "xor", "curve")


def shipped_file(name: str) -> Path:
    """Return the npz file of one of SHIPPED; make_builtin.py made it, its arrays are x and label.

    >>> shipped_file("digits").name
    'digits.npz'
    """
    return Path(__file__).with_name(f"{name}.npz")


def load_builtin(name: str) -> tuple[Array, Array]:
    """Return x (N, D) and the target (N,) of a data set; ATTRIBUTION.md says where it comes from.

    ============== ============= ==========================================================
    digits         1797 × 64     pixels 0 to 16, uint8; digits 0 to 9, uint8
    breast_cancer  569 × 30      measurements, float64; "malignant" or "benign"
    diabetes       442 × 10      measurements, float64; progression after a year, float64
    xor            4 × 2         0 or 1, uint8; whether they differ, 0 or 1, uint8
    curve          1000 × 1      -1 to 1, float64; sin(2πx) + cos(5πx)/2, float64
    ============== ============= ==========================================================

    Raises DataError, beginning with "builtin:NAME", for another name.

    >>> x, y = load_builtin("xor")
    >>> x.tolist(), y.tolist()
    ([[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0])
    """
    if name == "xor":
        x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.uint8)
        return x, x[:, 0] ^ x[:, 1]
    if name == "curve":
        return _curve()
    source = f"builtin:{name}"
    if name not in SHIPPED:
        close = get_close_matches(name, BUILTIN, n=1)
        near = f'; did you mean "builtin:{close[0]}"?' if close else ""
        raise DataError(f"{source}: allowed are {', '.join(BUILTIN)}{near}")
    x, y = read_npz(shipped_file(name), ["x", "label"], source)
    return x, y


def _curve() -> tuple[Array, Array]:
    """Ten turning points: a straight line explains 12 % of the variance, a network nearly all."""
    x = np.linspace(-1, 1, 1000)
    y = np.sin(2 * np.pi * x) + np.cos(5 * np.pi * x) / 2
    return x[:, None], y.round(9)  # the last digits differ between processors
