"""Check that an argument is a number of the kind and range that is wanted, or say what it is."""

from collections.abc import Callable
from math import isfinite
from numbers import Integral, Real
from typing import Any


def whole_number(name: str, value: Any, least: int, otherwise: str = "") -> int:
    """Return `value` as an int; ValueError unless it is an integer of at least `least`.

    >>> whole_number("epochs", 2.5, 1)
    Traceback (most recent call last):
        ...
    ValueError: epochs must be a whole number, at least 1, got 2.5
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        wanted = f"a whole number, at least {least}{otherwise}"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return int(value)


def check_number(name: str, value: Any, wanted: str, in_range: Callable[[float], bool]) -> None:
    """Raise ValueError unless `value` is a finite number in the range that `wanted` describes.

    >>> check_number("lr", "0.1", "> 0", lambda lr: lr > 0)
    Traceback (most recent call last):
        ...
    ValueError: lr must be > 0 and finite, got '0.1'
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not isfinite(value) or not in_range(float(value)):
        finite = " and finite" if wanted.startswith(">") else ""
        raise ValueError(f"{name} must be {wanted}{finite}, got {value!r}")
