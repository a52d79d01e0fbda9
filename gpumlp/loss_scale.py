"""Loss scaling: a factor that keeps small gradients from becoming 0 in float16.

Float16 knows nothing between 0 and 6e-8, and many entries of dl/dz are smaller. So the loss, and
with it every gradient, is multiplied by a scale before the backward pass, and the gradient is
divided by it afterwards. The scale is as large as can be: it doubles after a while without trouble,
and is halved when a gradient overflowed; that step then changes nothing (Micikevicius et al. 2018).
All of it happens on the device, in the recorded step.
"""

from .backend import Array, Backend

FIRST = 2.0**16
LARGEST = 2.0**24
SMALLEST = 2.0**-14  # below it the gradient overflows whatever its scale
PATIENCE = 2000  # steps without an overflow after which the scale doubles


class LossScale:
    """The scale, and how it changes.

    Attributes:
        state: (4,): the scale; steps since it last changed; steps that were skipped so far; and
            whether the gradient of the step under way overflowed, 0 or 1.

    >>> from gpumlp.backend import get_backend
    >>> backend = get_backend("cpu", "fp16")
    >>> scale, g = LossScale(backend), backend.asarray([65536.0, float("inf")])
    >>> scale.unscale(backend, g)
    >>> g.tolist(), float(scale.overflow)
    ([1.0, inf], 1.0)
    >>> scale.advance(backend)
    >>> scale.value, scale.skipped
    (32768.0, 1)
    """

    def __init__(self, backend: Backend) -> None:
        self.state = backend.asarray([FIRST, 0.0, 0.0, 0.0])

    def _entry(self, i: int) -> Array:
        return self.state[i : i + 1].reshape(())

    @property
    def overflow(self) -> Array:
        """Whether the step under way must be skipped: 1 or 0, on the device."""
        return self._entry(3)

    @property
    def value(self) -> float:
        """The scale; waits for the device."""
        return float(self._entry(0))

    @property
    def skipped(self) -> int:
        """How many steps were skipped so far; waits for the device."""
        return int(self._entry(2))

    def apply(self, backend: Backend, dz: Array) -> None:
        """Multiply dl/dz of the output layer, from which all gradients follow, by the scale."""
        backend.scale(dz, self._entry(0))

    def unscale(self, backend: Backend, gradient: Array) -> None:
        """Divide a gradient by the scale, and note whether it overflowed."""
        backend.unscale(gradient, self.overflow, self._entry(0))

    def advance(self, backend: Backend) -> None:
        """Choose the scale of the next step."""
        backend.loss_scale_step(self.state, PATIENCE, LARGEST)
