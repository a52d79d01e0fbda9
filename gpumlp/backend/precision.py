"""What matrix products read: numbers rounded to a format, whole or split into several parts.

Parameters, their gradients, the optimizer's state, biases, activations and losses are float32 in
every precision but fp64; only what the matrix units see is rounded. They add up in float32. On a
CPU, whose units know float32 alone, the rounded numbers are multiplied as float32: an emulation,
which is there to try and to test a precision, not to be fast.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .activations import Array

FORMATS = ("bf16", "fp16", "tf32")  # by their numbers in portable.h


class Precision(NamedTuple):
    """A precision.

    Attributes:
        name: as in the configuration.
        epsilon: distance from 1 to the next number that products can tell from it.
        format: what each part of an operand is rounded to; None: it is read as it is.
        products: which parts of A and of B are multiplied to make A B, the smallest first.
        dtype: of everything that is not an operand.
        scales_loss: whether gradients need a scale so as not to become 0 in the format.
    """

    name: str
    epsilon: float
    format: str | None = None
    products: tuple[tuple[int, int], ...] = ((0, 0),)
    dtype: str = "float32"
    scales_loss: bool = False

    @property
    def parts(self) -> int:
        """How many parts an operand is split into."""
        return 1 + max(max(pair) for pair in self.products)

    @property
    def format_number(self) -> int:
        """The number of the format in portable.h; any number where there is none."""
        return 0 if self.format is None else FORMATS.index(self.format)


# Two parts of bf16 hold 16 digits of a float32's 24, three parts all of them; products of parts
# that lie below what the parts hold together are left out (Henry, Tang and Heinecke 2019).
PRECISIONS = {
    p.name: p
    for p in (
        Precision("fp32", 2.0**-23),
        Precision("tf32", 2.0**-10, "tf32"),
        Precision("bf16", 2.0**-7, "bf16"),
        Precision("fp16", 2.0**-10, "fp16", scales_loss=True),
        Precision("bf16x3", 2.0**-15, "bf16", ((1, 0), (0, 1), (0, 0))),
        Precision("bf16x6", 2.0**-22, "bf16", ((0, 2), (2, 0), (1, 1), (0, 1), (1, 0), (0, 0))),
        Precision("fp64", 2.0**-52, dtype="float64"),
    )
}
FP32, FP64 = PRECISIONS["fp32"], PRECISIONS["fp64"]


class Operand:
    """A matrix as products read it: the sum of its parts.

    >>> import numpy
    >>> Operand([numpy.ones((2, 3))]).T.shape
    (3, 2)
    """

    def __init__(self, parts: Sequence[Array]) -> None:
        self.parts = tuple(parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the matrix."""
        return tuple(self.parts[0].shape)

    @property
    def T(self) -> "Operand":  # noqa: N802  (as arrays call it)
        """The transposed matrix, over the same memory."""
        return Operand([part.T for part in self.parts])

    def view(self, parameter: Any) -> "Operand":
        """Return a parameter's part of a flat buffer's operand, see `parameters`."""
        return Operand([parameter.view(part) for part in self.parts])


Matrix = Any  # an array, or an operand


def partial_products(precision: Precision, a: Matrix, b: Matrix) -> list[tuple[Array, Array]]:
    """Return the pairs of arrays whose products add up to a b, the smallest first."""
    if not isinstance(a, Operand) or not isinstance(b, Operand):
        return [(a, b)]
    return [(a.parts[i], b.parts[j]) for i, j in precision.products]


def rounded(xp: Any, x: Array, format: str) -> Array:
    """Return x as float32 rounded to the nearest number of a format, ties to even; NaN stays NaN.

    >>> import numpy
    >>> rounded(numpy, numpy.float32([1 / 3, 70000, 1e-8]), "fp16").tolist()
    [0.333251953125, inf, 0.0]
    """
    x = x.astype("float32", copy=False)
    if format == "fp16":
        with np.errstate(over="ignore"):  # what is too large becomes infinite
            return x.astype("float16").astype("float32")
    shift = {"bf16": 16, "tf32": 13}[format]
    bits = x.view("uint32")
    half = (1 << (shift - 1)) - 1 + (bits >> shift & 1)
    nearest = (bits + half) & (0xFFFFFFFF << shift & 0xFFFFFFFF)
    return xp.where(xp.isnan(x), x, nearest.astype("uint32").view("float32"))


def bits(near: Array, format: str) -> Array:
    """Return numbers of a format of 16 bits, in float32, as it writes them: uint16."""
    if format == "fp16":
        return near.astype("float16").view("uint16")
    return (near.view("uint32") >> 16).astype("uint16")


def split_parts(xp: Any, x: Array, format: str) -> Iterator[Array]:
    """Yield the parts of x without end: x rounded, what is left of x rounded, and so on."""
    while True:
        part = rounded(xp, x, format)
        yield part
        with np.errstate(invalid="ignore"):
            left = x - part
        x = xp.where(xp.isnan(left), xp.zeros_like(x), left)  # of an infinite x nothing is left
