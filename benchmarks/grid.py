"""Which networks and batch sizes cpu_vs_gpu.py measures, and which are too large for it."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from problem import Net

INPUTS, CLASSES = 784, 10
WIDTHS, DEPTHS = [32, 128, 512, 2048], [1, 2, 4]  # units of a hidden layer; hidden layers
BATCHES = [16, 64, 256, 1024, 4096]
QUICK_WIDTHS, QUICK_DEPTHS, QUICK_BATCHES = [32, 256], [1, 2], [16, 256]
MOST_OPERATIONS = 2e11  # of a step; two cores take 2 s for them, and one cell has 30 such steps


def numbers(name: str, text: str) -> list[int]:
    """Return the positive integers of a comma-separated list, ascending; none for nothing.

    ValueError, which says what is allowed, where it is no such list.
    """
    parts = text.split(",") if text else []
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise ValueError(f"{name} must be positive integers, as in 16,64, got {text!r}")
    return sorted({int(part) for part in parts})


def grid(widths: Iterable[int], depths: Iterable[int], batches: Sequence[int]) -> list[Net]:
    """Return every combination: the nets by depth and width, each with its batches."""
    nets = [(INPUTS, *[width] * depth, CLASSES) for depth in depths for width in widths]
    return [Net(sizes, batch) for sizes in nets for batch in batches]


def with_batches(nets: Iterable[Net], batches: Iterable[int]) -> list[Net]:
    """Return each net with each batch size, its own included."""
    return [replace(net, batch=size) for net in nets for size in sorted({*batches, net.batch})]


def split(nets: Iterable[Net], most: float) -> tuple[list[Net], list[dict[str, Any]]]:
    """Return the nets whose steps have at most so many operations, and why not the others."""
    kept, left_out = [], []
    for net in nets:
        flops = net.flops(net.batch)
        if flops <= most:
            kept.append(net)
        else:
            why = f"{flops:.2g} operations a step, more than the limit of {most:.2g}"
            left_out.append(left_out_row(net, why))
    return kept, left_out


def left_out_row(net: Net, why: str, system: str | None = None) -> dict[str, Any]:
    """Return what the results say of something that was not measured."""
    about = {"net": net.name, "batch": net.batch, "flops": net.flops(net.batch), "why": why}
    return about | ({"system": system} if system else {})


def shape_of(net: Net) -> dict[str, int | None]:
    """Return the number of hidden layers and their width, None where they differ or there are none.

    >>> shape_of(Net.parse("784-32-32-10@16"))
    {'width': 32, 'depth': 2}
    """
    hidden = set(net.sizes[1:-1])
    return {"width": hidden.pop() if len(hidden) == 1 else None, "depth": len(net.sizes) - 2}
