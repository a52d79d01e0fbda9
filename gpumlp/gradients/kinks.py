"""Rows so near to a kink of ReLU or |d| that rounding may choose the side and the derivative."""

import numpy as np

from ..layers import Activation, Dense
from ..losses import Loss
from ..model import Sequential

KINKED = ("relu", "leaky_relu")
NEAR = 1e-5  # of a layer's largest z: some hundred times what float32 is off by


def near_kinks(
    model: Sequential, loss: Loss, x: np.ndarray, target: np.ndarray, keys: np.ndarray | None
) -> np.ndarray:
    """Return which rows of a batch x (B, n_in) lie near a kink, (B,); the model is in float64.

    A z of exactly 0, as of inputs that are all 0, is 0 in every precision.

    >>> from gpumlp import Dense, MeanSquaredError, Sequential, get_backend
    >>> double = get_backend("cpu", "fp64")
    >>> model = Sequential(Dense(1, 2, "relu", double))
    >>> model.parameters[0].value[...] = [[1], [0]]
    >>> x = np.array([[1.0], [1e-7], [0.0]])
    >>> near_kinks(model, MeanSquaredError(backend=double), x, x, None)
    array([False,  True, False])
    """
    near = np.zeros(len(x), bool)
    for i, layer in enumerate(model.layers):
        if isinstance(layer, Dense) and layer.activation.name in KINKED:
            backend, weight = layer.backend, layer.weight
            z = backend.empty((len(x), layer.n_out))
            backend.matmul(z, backend.operand(x), weight.operand(backend).T)
            if layer.bias is not None:
                z += layer.bias.value
            near |= _near(z, abs(z).max())
        elif isinstance(layer, Activation) and layer.activation.name in KINKED:
            near |= _near(x, abs(x).max())
        x = layer.forward(x, key=None if keys is None else keys[i])
    if loss.name == "mae":
        near |= _near(x - target, max(abs(x).max(), abs(target).max()))
    return near


def _near(d: np.ndarray, largest: float) -> np.ndarray:
    return np.asarray(((d != 0) & (abs(d) < NEAR * largest)).any(axis=1))
