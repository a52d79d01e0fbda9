"""Central differences of the cost: what backpropagation is compared with.

∂C/∂w ≈ (C(w + h) - C(w - h)) / 2h in float64. The error of this formula has two parts: the curve
that the straight line cuts off, about h² C'''/6, and the rounding of C, about ε C / h; the sum is
least near h = ∛ε ≈ 1e-5, with ten correct digits where C, C''' and the derivative are near 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import Array, Backend
from ..layers import Activation, Dense, Layer
from ..losses import Loss, PointwiseLoss
from ..model import Sequential
from ..parameters import Parameter

H = 1e-5
TOLERANCE = 1e-6
KINKED = ("relu", "leaky_relu", "elu")
NOISE = 4 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Comparison:
    """One entry of a gradient beside its central difference.

    `numeric` and `error` are NaN where a kink (of ReLU, of |d|, of L1 ...) lies within ±h.
    """

    parameter: str
    index: tuple[int, ...]
    analytic: float
    numeric: float
    error: float

    @property
    def skipped(self) -> bool:
        """Whether a kink was too near."""
        return bool(np.isnan(self.numeric))


class Cost:
    """Cost of one batch plus a penalty, as a function of a network's parameters.

    Args:
        model, loss: on the CPU in float64, or differences mean little.
        x, target, weight: the batch, as `Loss.forward` takes it.
        keys: of dropout, see `Sequential.dropout_keys`; the mask then stays the same.
        penalty: what the regulariser adds; by default nothing.
        l1: whether that has a kink where a weight is 0.

    >>> from gpumlp import Dense, MeanSquaredError, Sequential, get_backend
    >>> double = get_backend("cpu", "fp64")
    >>> model = Sequential(Dense(1, 1, backend=double))
    >>> weight, bias = model.parameters
    >>> weight.value[...] = 3
    >>> cost = Cost(model, MeanSquaredError(backend=double), np.array([[2.0]]), np.array([[1.0]]))
    >>> cost.value()  # (3 · 2 - 1)²
    25.0
    >>> round(cost.derivative(weight, (0, 0)), 6)  # 2 (3 · 2 - 1) · 2
    20.0
    """

    def __init__(
        self,
        model: Sequential,
        loss: Loss,
        x: Array,
        target: Array,
        weight: Array | None = None,
        *,
        keys: Array | None = None,
        penalty: Callable[[], float] | None = None,
        l1: bool = False,
    ) -> None:
        self.model, self.loss, self.x, self.target, self.weight = model, loss, x, target, weight
        self.keys, self.penalty, self.l1 = keys, penalty, l1
        self._reach: dict[str, Any] = {}
        outputs = self._outputs()
        for layer, entering in zip(model.layers, [x, *outputs[:-1]], strict=True):
            if isinstance(layer, Dense):
                self._reach[layer.weight.name] = np.maximum(1.0, abs(entering).max(axis=0))
        self._size = max(1.0, abs(self.value()))

    def value(self) -> float:
        """Return the cost plus the penalty."""
        return self._value(self._outputs()[-1])

    def step(self, parameter: Parameter) -> Array:
        """Return h of each entry: 1e-5, for a weight divided by its largest input if above 1.

        Because ∂z/∂w is that input, no z moves by more than 1e-5, however the inputs are scaled.
        """
        reach = self._reach[parameter.name] if parameter.is_weight else 1.0
        return np.broadcast_to(H / reach, parameter.shape)

    def derivative(self, parameter: Parameter, index: tuple[int, ...]) -> float | None:
        """Return the central difference by one entry, or None where a kink lies within ±h."""
        h = float(self.step(parameter)[index])
        change = self._difference(parameter.value, index, h)
        return None if change is None else change / h

    def along(self, direction: Array) -> float | None:
        """Return the central difference along a direction of all parameters (a flat buffer)."""
        h = H / float(np.linalg.norm(direction))
        change = self._difference(self.model.flat.values, ..., h * direction)
        return None if change is None else change / h

    def compare(self, parameter: Parameter, index: tuple[int, ...], gradient: Array) -> Comparison:
        """Compare one entry of a parameter's gradient with its central difference."""
        analytic, numeric = float(gradient[index]), self.derivative(parameter, index)
        if numeric is None:
            return Comparison(parameter.name, index, analytic, np.nan, np.nan)
        scale = max(1e-2 * float(abs(gradient).max()), self.floor(self.step(parameter)[index]))
        error = relative_error(analytic, numeric, scale)
        return Comparison(parameter.name, index, analytic, numeric, error)

    def floor(self, h: float = H) -> float:
        """Return the size below which rounding alone may exceed `TOLERANCE`."""
        return NOISE * self._size / (float(h) * TOLERANCE)

    def _outputs(self) -> list[Array]:
        return outputs_of_layers(self.model, self.x, self.keys)

    def _value(self, z: Array) -> float:
        penalty = 0.0 if self.penalty is None else self.penalty()
        return self.loss.forward(z, self.target, self.weight) + penalty

    def _sides(self, outputs: list[Array]) -> list[Array]:
        sides = sides_of_kinks(self.model, self.loss, outputs, self.target)
        if self.weight is not None:
            sides = [side[self.weight > 0] for side in sides]
        if self.l1:
            flat = self.model.flat
            sides.append(np.sign(flat.values[: flat.weights_end]))
        return sides

    def _difference(self, array: Array, index: Any, change: Any) -> float | None:
        """Return half of what C changes by from θ - change to θ + change."""
        start, found = array[index].copy(), []
        for moved in (start + change, start - change):
            array[index] = moved
            outputs = self._outputs()
            found.append((self._value(outputs[-1]), self._sides(outputs)))
        array[index] = start
        (above, sides_above), (below, sides_below) = found
        if not all(map(np.array_equal, sides_above, sides_below)):
            return None
        return (above - below) / 2


def relative_error(analytic: float, numeric: float, scale: float) -> float:
    """Return |analytic - numeric| / max(|analytic|, |numeric|, scale).

    `scale` keeps numbers that are small beside their neighbours, and so dominated by rounding, from
    counting as wrong.

    >>> relative_error(1.0, 0.5, 0.1), relative_error(0.0, 1e-12, 1e-3), relative_error(0, 0, 0)
    (0.5, 1e-09, 0.0)
    """
    size = max(abs(analytic), abs(numeric), scale)
    return abs(analytic - numeric) / size if size else 0.0


def outputs_of_layers(
    model: Sequential, x: Array, keys: Array | None = None, backend: Backend | None = None
) -> list[Array]:
    """Return the output of every layer for a batch x; the arguments are those of `forward`."""
    outputs = []
    for i, layer in enumerate(model.layers):
        key = None if keys is None else keys[i : i + 1].reshape(())
        x = layer.forward(x, key=key, backend=backend)
        outputs.append(x)
    return outputs


def sides_of_kinks(
    model: Sequential, loss: Loss, outputs: Sequence[Array], target: Array
) -> list[Array]:
    """Return on which side of each kink the outputs lie: arrays (B, n) of numbers to compare.

    Kinks are those of ReLU, leaky ReLU and ELU (in its second derivative), of |d| and Huber's.
    """
    xp = model.backend.xp
    sides = [xp.sign(a) for layer, a in zip(model.layers, outputs, strict=True) if _kinked(layer)]
    if isinstance(loss, PointwiseLoss) and loss.name in ("mae", "huber"):
        d = outputs[-1] - loss.as_target(target, model.backend)
        sides += [xp.sign(d), abs(d) > loss.parameter]
    return sides


def _kinked(layer: Layer) -> bool:
    return isinstance(layer, Dense | Activation) and layer.activation.name in KINKED
