"""EarlyUpdates: layers are updated while the backward pass goes on in the layers below them.

On a GPU the update, which is bound by memory, then runs beside matrix products, which are bound by
arithmetic. Only large layers are worth calls of their own, so layers wait for each other until they
have enough weights together.
"""

from ..backend import Backend
from ..layers import Layer
from ..optimizers import EVERYTHING, Optimizer


class EarlyUpdates:
    """Called with each layer whose gradients are complete, the last one first.

    Args:
        optimizer: whose `update_early` is called.
        backend: on which; it says how many weights are worth it.
        written_through: whether the backward pass has written into more than gradients.
    """

    def __init__(self, optimizer: Optimizer, backend: Backend, written_through: bool) -> None:
        self._optimizer, self._backend = optimizer, backend
        self._written_through = written_through
        self._end = optimizer.flat.weights_end  # the weights from here on are updated

    def __call__(self, layer: Layer) -> None:
        """Update the weights of a layer and of those that waited, if they are many."""
        for weight in (p for p in layer.parameters if p.is_weight):
            if self._end - weight.start >= self._backend.early_update:
                self._update_from(weight.start)

    def _update_from(self, start: int) -> None:
        part = slice(start, self._end)
        self._optimizer.update_early(self._backend, self._written_through, part)
        self._end = start

    def rest(self) -> slice:
        """Return the part of the flat buffers that is left to be updated."""
        flat = self._optimizer.flat
        if self._end == flat.weights_end:
            return EVERYTHING
        if self._end:
            self._update_from(0)
        return slice(flat.weights_end, len(flat.values))
