"""The list of operations: what can be recorded, and has a plain formula and perhaps a kernel."""

from collections.abc import Callable
from typing import Any, TypeVar

Scalar = Any  # a Python float, or a 0-d array of the device
Method = TypeVar("Method", bound=Callable[..., None])

OPERATIONS: list[str] = []


def operation(method: Method) -> Method:
    """Register a method of `Backend` as an operation: it can be recorded, and has parity tests."""
    OPERATIONS.append(method.__name__)
    return method
