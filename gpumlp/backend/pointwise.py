"""The losses that compare output and target entry by entry: each a plain pair l(z, t), ∂l/∂z.

`value` and `derivative` are called as f(xp, out, z, t, scratch, parameter): they write into `out`,
may use `scratch` (same shape), and work on any NumPy-like namespace. z is the output layer's
linear output.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .activations import Array, get_activation

Formula = Callable[[Any, Array, Array, Array, Array, float], None]


@dataclass(frozen=True)
class Pointwise:
    """A loss of one output entry and its derivative by z."""

    name: str
    value: Formula
    derivative: Formula


def _squared(xp: Any, out: Array, z: Array, t: Array, scratch: Array, _: float) -> None:
    xp.subtract(z, t, out=out)
    out *= out


def _squared_derivative(xp: Any, out: Array, z: Array, t: Array, scratch: Array, _: float) -> None:
    xp.subtract(z, t, out=out)
    out *= 2


def _absolute(xp: Any, out: Array, z: Array, t: Array, scratch: Array, _: float) -> None:
    xp.subtract(z, t, out=out)
    xp.abs(out, out=out)


def _absolute_derivative(xp: Any, out: Array, z: Array, t: Array, scratch: Array, _: float) -> None:
    xp.subtract(z, t, out=out)
    xp.sign(out, out=out)


def _huber(xp: Any, out: Array, z: Array, t: Array, scratch: Array, delta: float) -> None:
    # with c = clip(d, -δ, δ): c (d - c/2) is d²/2 inside and δ (|d| - δ/2) outside
    _huber_derivative(xp, out, z, t, scratch, delta)
    xp.multiply(out, -0.5, out=scratch)
    scratch += z
    scratch -= t
    out *= scratch


def _huber_derivative(
    xp: Any, out: Array, z: Array, t: Array, scratch: Array, delta: float
) -> None:
    xp.subtract(z, t, out=out)
    xp.clip(out, -delta, delta, out=out)


def _smoothed(xp: Any, out: Array, t: Array, smoothing: float) -> None:
    xp.multiply(t, 1 - smoothing, out=out)
    out += smoothing / 2


def _bce(xp: Any, out: Array, z: Array, t: Array, scratch: Array, smoothing: float) -> None:
    # -t log σ(z) - (1 - t) log(1 - σ(z)) = ([z > 0] - t) z + log(1 + e^-|z|): no cancellation
    _smoothed(xp, scratch, t, smoothing)
    xp.greater(z, 0, out=out)
    out -= scratch
    out *= z
    xp.abs(z, out=scratch)
    xp.negative(scratch, out=scratch)
    xp.exp(scratch, out=scratch)
    xp.log1p(scratch, out=scratch)
    out += scratch


def _bce_derivative(
    xp: Any, out: Array, z: Array, t: Array, scratch: Array, smoothing: float
) -> None:
    get_activation("sigmoid").forward(xp, out, z)
    _smoothed(xp, scratch, t, smoothing)
    out -= scratch


def _poisson(xp: Any, out: Array, z: Array, t: Array, scratch: Array, _: float) -> None:
    xp.exp(z, out=out)
    xp.multiply(t, z, out=scratch)
    out -= scratch


def _poisson_derivative(xp: Any, out: Array, z: Array, t: Array, scratch: Array, _: float) -> None:
    xp.exp(z, out=out)
    out -= t


POINTWISE = {
    loss.name: loss
    for loss in (
        Pointwise("bce", _bce, _bce_derivative),  # parameter: label smoothing
        Pointwise("mse", _squared, _squared_derivative),  # (z - t)²
        Pointwise("mae", _absolute, _absolute_derivative),  # |z - t|
        Pointwise("huber", _huber, _huber_derivative),  # parameter: δ (Huber 1964)
        Pointwise("poisson", _poisson, _poisson_derivative),  # e^z - t z: z is the log of the rate
    )
}
