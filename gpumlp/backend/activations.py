"""The activations a = σ(z), each a plain pair: the function and its derivative.

A pair works on any NumPy-like namespace `xp` and writes into memory it is given. An activation that
*keeps* its output a can run in place (a and z the same array), and its derivative is written in
terms of a; one that keeps its input z needs both arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sqrt
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray: the two share no base class


@dataclass(frozen=True)
class Activation:
    """A function σ, its derivative, and which of z and a the derivative is written in.

    `forward(xp, a, z)` writes a = σ(z). `derivative(xp, d, kept, scratch)` writes d = σ'(z) from
    the kept array; `d`, `kept` and `scratch` have one shape and do not overlap.
    """

    name: str
    keeps: str  # "output" or "input"
    forward: Callable[[Any, Array, Array], None]
    derivative: Callable[[Any, Array, Array, Array], None]


LOWEST = {char: float(np.log(np.finfo(char).tiny)) for char in "fd"}
LEAKY_SLOPE = 0.01
GELU_SCALE = sqrt(2 / pi)
GELU_CUBIC = 0.044715
FAR = 1e30


def _identity(xp: Any, a: Array, z: Array) -> None:
    if a is not z:
        a[...] = z


def _identity_derivative(xp: Any, d: Array, a: Array, scratch: Array) -> None:
    d[...] = 1


def _sigmoid(xp: Any, a: Array, z: Array) -> None:
    # 1 / (1 + e^-z) keeps its relative accuracy in the left tail, where the tanh form gives 0.
    # Further left than its smallest normal value a stays there: e^-z would overflow in the end, and
    # subnormal numbers are slow.
    xp.maximum(z, LOWEST[a.dtype.char], out=a)
    xp.negative(a, out=a)
    xp.exp(a, out=a)
    a += 1
    xp.reciprocal(a, out=a)


def _sigmoid_derivative(xp: Any, d: Array, a: Array, scratch: Array) -> None:
    xp.subtract(1, a, out=d)
    d *= a


def _tanh(xp: Any, a: Array, z: Array) -> None:
    xp.tanh(z, out=a)


def _tanh_derivative(xp: Any, d: Array, a: Array, scratch: Array) -> None:
    xp.multiply(a, a, out=d)
    xp.subtract(1, d, out=d)


def _relu(xp: Any, a: Array, z: Array) -> None:
    xp.maximum(z, 0, out=a)


def _relu_derivative(xp: Any, d: Array, a: Array, scratch: Array) -> None:
    xp.greater(a, 0, out=d)


def _leaky_relu(xp: Any, a: Array, z: Array) -> None:
    xp.multiply(z, LEAKY_SLOPE, out=a)
    xp.maximum(z, a, out=a)


def _leaky_relu_derivative(xp: Any, d: Array, z: Array, scratch: Array) -> None:
    xp.greater(z, 0, out=d)
    d *= 1 - LEAKY_SLOPE
    d += LEAKY_SLOPE


def _elu(xp: Any, a: Array, z: Array) -> None:
    xp.minimum(z, 0, out=a)
    xp.expm1(a, out=a)
    xp.maximum(z, a, out=a)  # e^z - 1 >= z everywhere, so this changes only z > 0


def _elu_derivative(xp: Any, d: Array, z: Array, scratch: Array) -> None:
    xp.minimum(z, 0, out=d)
    xp.exp(d, out=d)


def _gelu_inner(xp: Any, t: Array, z: Array) -> None:
    xp.multiply(z, z, out=t)
    t *= GELU_SCALE * GELU_CUBIC
    t += GELU_SCALE
    t *= z
    xp.tanh(t, out=t)


def _gelu(xp: Any, a: Array, z: Array) -> None:
    _gelu_inner(xp, a, z)
    a += 1
    a *= 0.5
    a *= z


def _gelu_derivative(xp: Any, d: Array, z: Array, t: Array) -> None:
    # with t = tanh(u):  σ' = (1 + t) / 2 + z (1 - t²) u' / 2 = (1 + t) / 2 · (1 + z (1 - t) u')
    _gelu_inner(xp, t, z)
    xp.multiply(z, z, out=d)
    d *= 3 * GELU_SCALE * GELU_CUBIC
    d += GELU_SCALE
    d *= z
    xp.clip(d, -FAR, FAR, out=d)  # z³ overflows where 1 - t or 1 + t is 0
    t *= -1
    t += 1
    d *= t  # z (1 - t) u'
    d += 1
    t *= -0.5
    t += 1  # (1 + t) / 2
    d *= t


def _silu_sigmoid(xp: Any, s: Array, z: Array) -> None:
    # far left 0 but for rounding: it is multiplied by z, which may be huge there
    _sigmoid(xp, s, z)
    s -= np.finfo(s.dtype).tiny


def _silu(xp: Any, a: Array, z: Array) -> None:
    _silu_sigmoid(xp, a, z)
    a *= z


def _silu_derivative(xp: Any, d: Array, z: Array, s: Array) -> None:
    # with s = sigmoid(z):  σ' = s (1 + z (1 - s))
    _silu_sigmoid(xp, s, z)
    xp.subtract(1, s, out=d)
    d *= z
    d += 1
    d *= s


def _softplus(xp: Any, a: Array, z: Array) -> None:
    xp.logaddexp(z, 0, out=a)


def _softplus_derivative(xp: Any, d: Array, a: Array, scratch: Array) -> None:
    # σ'(z) = sigmoid(z) = 1 - e^-a
    xp.negative(a, out=d)
    xp.expm1(d, out=d)
    xp.negative(d, out=d)


ACTIVATIONS = {
    activation.name: activation
    for activation in (
        # a = z
        Activation("identity", "output", _identity, _identity_derivative),
        # a = 1 / (1 + e^-z), σ' = a (1 - a)
        Activation("sigmoid", "output", _sigmoid, _sigmoid_derivative),
        # σ' = 1 - a²
        Activation("tanh", "output", _tanh, _tanh_derivative),
        # a = max(z, 0), σ' = [a > 0] (Nair and Hinton 2010)
        Activation("relu", "output", _relu, _relu_derivative),
        # a = max(z, 0.01 z) (Maas et al. 2013)
        Activation("leaky_relu", "input", _leaky_relu, _leaky_relu_derivative),
        # a = z for z > 0, e^z - 1 elsewhere (Clevert et al. 2015)
        Activation("elu", "input", _elu, _elu_derivative),
        # a = z (1 + tanh(√(2/π) (z + 0.044715 z³))) / 2 (Hendrycks and Gimpel 2016, the tanh form)
        Activation("gelu", "input", _gelu, _gelu_derivative),
        # a = z sigmoid(z) (Elfwing et al. 2017)
        Activation("silu", "input", _silu, _silu_derivative),
        # a = log(1 + e^z) (Dugas et al. 2001)
        Activation("softplus", "output", _softplus, _softplus_derivative),
    )
}


def get_activation(name: str) -> Activation:
    """Return the activation of that name; ValueError lists the names there are."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; choose from {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
