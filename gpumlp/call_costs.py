"""What a recorded call is called, and the least it must do: operations, and bytes moved."""

from collections.abc import Sequence
from functools import partial
from inspect import signature
from math import prod
from typing import Any

from .backend import Array, Backend, Operand
from .backend.base import Call

INSIDE = {"scratch", "partial", "tickets"}  # memory of the inside of an operation
READ_IN_PART = {"source", "tables", "table_1", "table_2", "table_3"}  # rows of them
UPDATED = {"w", "m", "v", "s", "total"}  # read and written
OF_GRADIENTS = {"add_penalty", "clip_norm", "clip_scale", "unscale"}  # which update g, too


def name_of(call: Call) -> str:
    """Return the name of a call's kernel or operation."""
    function = call.func if isinstance(call, partial) else call
    return str(getattr(function, "name", "") or getattr(function, "__name__", ""))


def operations_of(call: Call) -> float:
    """Return the floating-point operations of a matrix product; 0 for all else."""
    if hasattr(call, "operations"):
        return float(call.operations)
    named = _arguments(call)
    if name_of(call) == "gemm":
        return 2.0 * prod(int(named[size]) for size in "mnk")
    if name_of(call) == "matmul":
        products = 1
        if isinstance(named["a"], Operand):
            backend = named.get("self") or call.func.__self__  # type: ignore[attr-defined]
            products = len(backend.precision.products)
        return 2.0 * products * int(named["out"].size) * int(named["a"].shape[1])
    return 0.0


def bytes_of(call: Call) -> float:
    """Return the least bytes that a call moves: what it reads and what it writes, each once."""
    named = _arguments(call)
    updated = UPDATED | ({"g"} if name_of(call) in OF_GRADIENTS else set())
    total = 0
    for name, value in named.items():
        if name in INSIDE | READ_IN_PART:
            continue
        # a line of a table is read for each row that is written
        times = 2 if name in updated or name.startswith("row_") or name == "rows" else 1
        total += times * sum(int(array.nbytes) for array in _arrays(value))
    if "source" in named:  # only the rows that are gathered
        total += int(named["out"].size * named["source"].itemsize)
    return float(total)


def _arguments(call: Call) -> dict[str, Any]:
    """Return the arguments of a call by name; none for a call that does not tell."""
    if hasattr(call, "arguments"):
        return dict(call.arguments)
    if isinstance(call, partial) and hasattr(Backend, name_of(call)):
        return dict(signature(call.func).bind(*call.args, **call.keywords).arguments)
    return {}


def _arrays(value: Any) -> Sequence[Array]:
    """Return the arrays of an argument: one, several, or none."""
    if isinstance(value, Operand):
        return value.parts
    if isinstance(value, (list, tuple)):
        return [array for one in value for array in _arrays(one)]
    return [value] if hasattr(value, "nbytes") and hasattr(value, "strides") else []
