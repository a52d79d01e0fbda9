"""All parameters of a network in one flat buffer: one for the values, one for the gradients.

Order: [all weights | all biases], so that weight decay and L1 act on one range; each block starts
at a multiple of 64 entries, and the padding holds zeros that stay zero. One operation updates
everything, one norm clips it, one write saves it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

from .backend import Array, Backend, Matrix, Operand, Scalar

ALIGNMENT = 64


class Sink(NamedTuple):
    """Where the gradient of a parameter goes: array ← beta · array + alpha · gradient."""

    array: Array
    alpha: Scalar
    beta: Scalar


@dataclass(eq=False)
class Parameter:
    """A trained array: its place in the flat buffer, and what the optimizer must know of it.

    `value` and `gradient` are views into the buffers; assign with `parameter.value[...] = array`.
    A view taken before a `Sequential` takes the layer over is of the old buffer.
    """

    name: str
    shape: tuple[int, ...]
    weight_decay: float | None = None  # None: the optimizer's
    max_norm: float | None = None
    start: int = 0
    flat: "FlatParameters" = field(init=False, repr=False)

    @property
    def is_weight(self) -> bool:
        """Whether this is a weight matrix: biases have no decay, no L1 and no max-norm."""
        return len(self.shape) > 1

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def value(self) -> Array:
        """The values, `shape`."""
        return self.view(self.flat.values)

    @property
    def gradient(self) -> Array:
        """∂loss/∂value as the last backward pass left it, `shape`."""
        return self.view(self.flat.gradients)

    def operand(self, backend: Backend) -> Matrix:
        """Return the values as matrix products read them."""
        kept = self.flat.operand
        return backend.operand(self.value) if kept is None else kept.view(self)

    def view(self, buffer: Array) -> Array:
        """Return this parameter's part of a flat buffer."""
        return buffer[self.start : self.start + self.size].reshape(self.shape)


def gradient_sink(parameter: Parameter) -> Sink:
    """Write the gradient itself: what `backward` does unless an optimizer chooses otherwise."""
    return Sink(parameter.gradient, 1.0, 0.0)


def accumulating_sink(parameter: Parameter) -> Sink:
    """Add to the gradient: the micro-batches of an effective batch after the first."""
    return Sink(parameter.gradient, 1.0, 1.0)


class FlatParameters:
    """The flat buffers of a list of parameters, which are moved into them.

    While a training step runs in a low precision, `operand` is what matrix products read in place
    of the values; the optimizer keeps it up to date.

    >>> from gpumlp.backend import get_backend
    >>> w, b = Parameter("weight", (2, 3)), Parameter("bias", (2,))
    >>> flat = FlatParameters(get_backend("cpu"), [b, w])
    >>> w.start, b.start, flat.values.size
    (0, 64, 128)
    """

    def __init__(self, backend: Backend, parameters: Sequence[Parameter]) -> None:
        self.parameters = sorted(parameters, key=lambda p: not p.is_weight)
        self.operand: Operand | None = None
        starts, end = [], 0
        for parameter in self.parameters:
            starts.append(end)
            end += -(-parameter.size // ALIGNMENT) * ALIGNMENT
        self.values = backend.zeros((end,))
        self.gradients = backend.zeros((end,))
        for parameter, start in zip(self.parameters, starts, strict=True):
            old = parameter.value if hasattr(parameter, "flat") else None
            parameter.flat, parameter.start = self, start
            if old is not None:
                parameter.value[...] = backend.asarray(backend.to_numpy(old))

    @property
    def count(self) -> int:
        """Number of parameters, without padding."""
        return sum(parameter.size for parameter in self.parameters)

    def decay_ranges(self, weight_decay: float) -> Iterator[tuple[slice, float]]:
        """Yield (range of the weights, decay) for the fewest ranges of equal non-zero decay."""
        weights = [p for p in self.parameters if p.is_weight]
        if not weights:
            return
        decays = [weight_decay if p.weight_decay is None else p.weight_decay for p in weights]
        ends = [p.start for p in weights[1:]] + [self.weights_end]
        start = 0
        for i, (decay, end) in enumerate(zip(decays, ends, strict=True)):
            if i + 1 == len(decays) or decays[i + 1] != decay:
                if decay:
                    yield slice(start, end), decay
                start = end

    @property
    def weights_end(self) -> int:
        """Where the weights end and the biases begin."""
        biases = [p.start for p in self.parameters if not p.is_weight]
        return biases[0] if biases else len(self.values)
