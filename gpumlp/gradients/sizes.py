"""SizingBackend: the formulas in float64, which also add up the sizes of what each sum is made of.

A sum in float32 is off by a part of the sizes that went into it, Σ |dz| |x|, and not of what is
left of them: the rows of a batch may all but cancel, their rounding errors do not.
"""

import numpy as np

from ..backend import Array, Backend, Matrix, Operand, Precision, Scalar
from ..backend.activations import Activation
from ..parameters import FlatParameters


class SizingBackend(Backend):
    """The plain formulas in float64 on the CPU, for the training of one network.

    In a low precision products read rounded numbers here, too; all else is float64.

    `sizes` maps each parameter's name to the largest Σ |dz| |x| (of a bias: Σ |dz|) among its
    entries since it was last cleared, times the factor α with which the sum was written;
    `accumulated` is the sum of the sizes of all losses (and of what else is counted).
    """

    def __init__(self, precision: Precision | None = None) -> None:
        low = precision if precision is not None and precision.format else None
        super().__init__(np, "float64", low)
        self.sizes: dict[str, float] = {}
        self.accumulated = 0.0
        self._names: dict[int, str] = {}

    def watch(self, flat: FlatParameters, buffers: list[Array]) -> None:
        """Take note of the sums that are written into one of these flat buffers."""
        for buffer in buffers:
            for parameter in flat.parameters:
                self._names[_address(parameter.view(buffer))] = parameter.name

    def clear(self) -> None:
        """Begin anew."""
        self.sizes, self.accumulated = {}, 0.0

    def _note(self, out: Array, size: float, alpha: Scalar) -> None:
        name = self._names.get(_address(out))
        if name is not None:
            self.sizes[name] = self.sizes.get(name, 0.0) + abs(float(alpha)) * size

    def matmul(
        self,
        out: Array,
        a: Matrix,
        b: Matrix,
        alpha: Scalar = 1.0,
        beta: Scalar = 0.0,
        scratch: Array = None,
    ) -> None:
        """As in `Backend`."""
        if _address(out) in self._names:
            left, right = (x.parts[0] if isinstance(x, Operand) else x for x in (a, b))
            self._note(out, float((abs(left) @ abs(right)).max()), alpha)
        super().matmul(out, a, b, alpha, beta, scratch)

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
        """As in `Backend`."""
        super().bias_activation_backward(dz, bias_sink, da, kept, activation, alpha, beta, scratch)
        if bias_sink is not None:
            self._note(bias_sink, float(abs(dz).sum(axis=0).max()), alpha)

    def clip_norm(self, g: Array, limit: float, scratch: Array) -> None:
        """As in `Backend`; what is made smaller was made of smaller things."""
        before = float(np.linalg.norm(g))
        super().clip_norm(g, limit, scratch)
        factor = float(np.linalg.norm(g)) / (before or 1.0)
        self.sizes = {name: size * factor for name, size in self.sizes.items()}

    def accumulate(
        self, total: Array, values: Array, weights: Array | None = None, scratch: Array = None
    ) -> None:
        """As in `Backend`."""
        self.accumulated += float(abs(values if weights is None else values * weights).sum())
        super().accumulate(total, values, weights, scratch)


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])
