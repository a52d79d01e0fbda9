"""Backpropagation of one sample, quantity by quantity, with the letters of the lecture notes.

forward pass   z = W x + b, a = σ(z), and ∂z/∂w = x, the layer's input
backward pass  ∂l/∂z: case 1, output layer: from the loss; case 2, hidden layer:
               σ'(z) · Σ w ∂l/∂z over the units of the next layer
their product  ∂l/∂w = ∂z/∂w · ∂l/∂z

The numbers are those of the real layers, which run on a backend that keeps what training
overwrites (z), beside central differences of the loss.
"""

from copy import copy
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from ..backend import Activation, Array, Backend, Scalar, get_activation, get_backend
from ..errors import DivergedError
from ..layers import Dense
from ..losses import Loss
from ..model import Sequential
from .differences import Cost

COMPARED = 100


@dataclass(frozen=True, eq=False)
class LayerExplanation:
    """Every quantity of one layer for one sample, float64.

    Attributes:
        number: 1 for the first layer.
        activation: name of σ.
        case: 1 for the output layer, whose ∂l/∂a comes from the loss; 2 for a hidden one.
        w, b: the weights (n_out, n_in), and the biases (n_out,) or None.
        x: the layer's input (n_in,): ∂z/∂w of every weight into a unit.
        z, a: before and after the activation, (n_out,).
        sigma_prime: σ'(z), (n_out,).
        da: ∂l/∂a, (n_out,); in case 2 the sum Σ w ∂l/∂z over the next layer's units.
        dz: ∂l/∂z = σ'(z) ∂l/∂a, (n_out,).
        dw, db: ∂l/∂w (n_out, n_in), and ∂l/∂b (n_out,) or None.
        numeric_dw, numeric_db: central differences in their shapes; NaN where none was taken, or a
            kink is too near.
        error: their largest relative error (see `differences`); NaN where there are none.
    """

    number: int
    activation: str
    case: int
    w: Array
    b: Array | None
    x: Array
    z: Array
    a: Array
    sigma_prime: Array
    da: Array
    dz: Array
    dw: Array
    db: Array | None
    numeric_dw: Array
    numeric_db: Array | None
    error: float


def explain(
    model: Sequential, loss: Loss, x_row: Any, target_row: Any, entries: int | None = COMPARED
) -> list[LayerExplanation]:
    """Return all quantities of forward and backward pass for one sample, layer by layer.

    Args:
        model: a network of `Dense` layers on any device; its state and gradients are left alone.
        loss: l is this loss of the one row. Dropout is off, as in a prediction.
        x_row: the sample (n_in,).
        target_row: its target: a label, or (K,).
        entries: so many weights and biases of each layer, those with the largest ∂l/∂w, are
            compared with central differences; None: all.

    Raises ValueError for layers other than `Dense`, and for a row or target that does not fit;
    DivergedError when the loss is not finite.

    >>> from gpumlp import Dense, MeanSquaredError, Sequential
    >>> model = Sequential(Dense(1, 1, "sigmoid"), Dense(1, 1))
    >>> for parameter, value in zip(model.parameters, (1.0, 0.0, 2.0, 0.5)):
    ...     parameter.value[...] = value
    >>> hidden, output = explain(model, MeanSquaredError(), [0.0], [1.0])
    >>> hidden.z, hidden.a, output.z
    (array([0.]), array([0.5]), array([1.5]))
    >>> output.dz  # case 1: 2 (z - t)
    array([1.])
    >>> hidden.dz  # case 2: σ'(0) · 2 · 1
    array([0.5])
    >>> output.dw, output.numeric_dw.round(9)  # ∂z/∂w · ∂l/∂z = 0.5 · 1
    (array([[0.5]]), array([[0.5]]))
    """
    (model, layers), loss = _in_float64(model), copy(loss)
    loss.backend = model.backend
    x, target = np.asarray(x_row, np.float64).reshape(1, -1), np.asarray(target_row)[None]
    watching = _Watching()
    with np.errstate(all="ignore"):
        value = loss.forward(model.forward(x, backend=watching), target)
    if not isfinite(value):
        raise DivergedError(f"the loss of this sample is {value:g}; nothing can be derived")
    model.backward(loss.backward(), backend=watching, input_gradient=False)
    gradients = {p.name: p.gradient.copy() for p in model.parameters}
    inputs = [x[0], *(a for _, a in watching.forwards[:-1])]
    cost = Cost(model, loss, x, target)
    watched = zip(inputs, watching.forwards, reversed(watching.backwards), strict=True)
    return [
        LayerExplanation(
            number=i + 1,
            activation=layer.activation.name,
            case=1 if i + 1 == len(layers) else 2,
            w=layer.weight.value.copy(),
            b=None if layer.bias is None else layer.bias.value.copy(),
            x=entering,
            z=z,
            a=a,
            sigma_prime=sigma_prime,
            da=da,
            dz=dz,
            **_products(cost, layer, gradients, entries),
        )
        for i, (layer, (entering, (z, a), (da, sigma_prime, dz))) in enumerate(
            zip(layers, watched, strict=True)
        )
    ]


def largest(values: Array, count: int | None) -> Array:
    """Return the indices of the entries that are largest in size, largest first: (count, ndim).

    >>> largest(np.array([[1.0, -5.0], [3.0, 0.0]]), 2).tolist()
    [[0, 1], [1, 0]]
    """
    order = np.argsort(-abs(values), axis=None, kind="stable")[:count]
    return np.stack(np.unravel_index(order, values.shape), axis=1)


class _Watching(Backend):
    """A float64 backend that keeps z, a, ∂l/∂a, σ'(z) and ∂l/∂z of the one row in a batch."""

    def __init__(self) -> None:
        super().__init__(np, "float64")
        self.forwards: list[tuple[Array, Array]] = []
        self.backwards: list[tuple[Array, Array, Array]] = []

    def bias_activation_forward(
        self, a: Array, z: Array, bias: Array | None, activation: Activation
    ) -> None:
        """Add the bias first, and keep z, over which a may be written."""
        super().bias_activation_forward(z, z, bias, get_activation("identity"))
        before = z[0].copy()
        super().bias_activation_forward(a, z, None, activation)
        self.forwards.append((before, a[0].copy()))

    def bias_activation_backward(
        self,
        dz: Array,
        bias_sink: Array | None,
        da: Array,
        kept: Array,
        activation: Activation,
        alpha: Scalar = 1.0,
        beta: Scalar = 0.0,
        scratch: Array = None,
    ) -> None:
        """Look at σ' alone first: it is what ∂l/∂a = 1 becomes."""
        given, sigma_prime = da[0].copy(), np.empty_like(da)
        ones = np.ones_like(da)
        super().bias_activation_backward(
            sigma_prime, None, ones, kept, activation, scratch=self.scratch(da)
        )
        super().bias_activation_backward(dz, bias_sink, da, kept, activation, alpha, beta, scratch)
        self.backwards.append((given, sigma_prime[0], dz[0].copy()))


def _in_float64(model: Sequential) -> tuple[Sequential, list[Dense]]:
    """Return a copy of the network on the CPU in float64, without dropout, and its layers."""
    double = get_backend("cpu", "fp64")
    layers = []
    for i, layer in enumerate(model.layers):
        if not isinstance(layer, Dense):
            raise ValueError(f"explain takes networks of Dense layers; layer {i} is {layer!r}")
        one = Dense(layer.n_in, layer.n_out, "identity", double, bias=layer.bias is not None)
        one.activation = layer.activation
        for parameter, own in zip(one.parameters, layer.parameters, strict=True):
            parameter.value[...] = model.backend.to_numpy(own.value)
        layers.append(one)
    return Sequential(*layers), layers


def _products(
    cost: Cost, layer: Dense, gradients: dict[str, Array], entries: int | None
) -> dict[str, Any]:
    """Return ∂l/∂w and ∂l/∂b of a layer, their central differences, and the largest error."""
    found: dict[str, Any] = {"db": None, "numeric_db": None}
    errors = []
    for short, parameter in (("dw", layer.weight), ("db", layer.bias)):
        if parameter is None:
            continue
        gradient = gradients[parameter.name]
        numeric = np.full(parameter.shape, np.nan)
        for index in largest(gradient, entries):
            compared = cost.compare(parameter, tuple(map(int, index)), gradient)
            numeric[compared.index] = compared.numeric
            errors.append(compared.error)
        found |= {short: gradient, f"numeric_{short}": numeric}
    return found | {"error": float(np.fmax.reduce(errors))}
