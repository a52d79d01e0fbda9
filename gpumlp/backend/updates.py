"""Updates: the plain formulas by which gradients change parameters, one for each optimizer.

They are operations of `Backend` (see `base.py`, also for the rules they keep).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .activations import Array
from .operations import Scalar, operation
from .precision import Precision


def _skips(skip: Array | None) -> bool:
    return skip is not None and bool(skip)


class Updates:
    """What `Backend` consists of besides arrays and the operations of a network."""

    xp: Any
    dtype: np.dtype[Any]
    precision: Precision

    def split(self, parts: Sequence[Array], x: Array, format: str) -> None:
        """See `Backend`."""
        raise NotImplementedError

    # ---------------------------------------------------------- loss scaling

    @operation
    def unscale(self, g: Array, overflow: Array, scale: Scalar) -> None:
        """g /= scale; `overflow` (0-d) becomes 1 if any entry is not finite then."""
        g *= 1 / scale
        self.xp.maximum(overflow, 1 - self.xp.isfinite(g).all(), out=overflow)

    @operation
    def loss_scale_step(self, state: Array, patience: float, largest: float) -> None:
        """Halve the scale after an overflow, double it after `patience` steps without one.

        state (4,): the scale; steps since it changed; steps that were skipped; whether this one
        overflowed, which becomes 0. The scale stays below `largest` (Micikevicius et al. 2018).
        """
        xp, (scale, since, count, overflow) = self.xp, state
        grown = (overflow == 0) & (since + 1 >= patience)
        doubled = xp.minimum(2 * scale, largest)
        later = xp.where((overflow != 0) | grown, 0, since + 1)
        state[0] = xp.where(overflow != 0, scale / 2, xp.where(grown, doubled, scale))
        state[1], state[2], state[3] = later, count + overflow, 0

    # ---------------------------------------------------------------- update
    #
    # Where `skip` is an array that holds 1, nothing is done (the gradient had overflowed). `copy`,
    # where there is one, becomes w rounded to the precision's format.

    def _written(self, w: Array, copy: Array | None) -> None:
        if copy is not None and self.precision.format is not None:
            self.split([copy], w, self.precision.format)

    @operation
    def scale(self, w: Array, factor: Scalar, skip: Array | None = None) -> None:
        """w *= factor: decoupled weight decay (Loshchilov and Hutter 2019), or the loss scale."""
        if not _skips(skip):
            w *= factor

    @operation
    def add_penalty(
        self, g: Array, w: Array, weight_decay: float, l1: float, scratch: Array
    ) -> None:
        """g += weight_decay w + l1 sign(w): the gradient of weight_decay ‖w‖²/2 + l1 ‖w‖₁."""
        if weight_decay:
            self.xp.multiply(w, weight_decay, out=scratch)
            g += scratch
        if l1:
            self.xp.sign(w, out=scratch)
            scratch *= l1
            g += scratch

    @operation
    def clip_norm(self, g: Array, limit: float, scratch: Array) -> None:
        """g *= min(1, limit / ‖g‖) for the whole flat gradient (Pascanu et al. 2013)."""
        xp = self.xp
        if not g.size:
            return
        xp.abs(g, out=scratch)
        peak = xp.maximum(scratch.max(), np.finfo(self.dtype).tiny)
        scratch /= peak  # the squares of large entries would overflow
        scratch *= scratch
        norm = peak * xp.sqrt(scratch.sum())
        g *= limit / xp.maximum(norm, limit)

    @operation
    def clip_rows(self, w: Array, limit: float, scratch: Array) -> None:
        """Scale each row of w (n_out, n_in) whose norm exceeds `limit` to that norm (max-norm)."""
        self.xp.multiply(w, w, out=scratch)
        norms = self.xp.sqrt(scratch.sum(axis=1, keepdims=True))
        w *= limit / self.xp.maximum(norms, limit)

    @operation
    def sgd_step(
        self,
        w: Array,
        g: Array,
        lr: Scalar,
        scratch: Array,
        copy: Array | None = None,
        skip: Array | None = None,
    ) -> None:
        """w -= lr g."""
        if _skips(skip):
            return
        self.xp.multiply(g, lr, out=scratch)
        w -= scratch
        self._written(w, copy)

    @operation
    def momentum_step(
        self,
        w: Array,
        v: Array,
        g: Array,
        lr: Scalar,
        momentum: float,
        scratch: Array,
        copy: Array | None = None,
        skip: Array | None = None,
    ) -> None:
        """v = μ v + g, w -= lr v (Polyak 1964)."""
        if _skips(skip):
            return
        v *= momentum
        v += g
        self.xp.multiply(v, lr, out=scratch)
        w -= scratch
        self._written(w, copy)

    @operation
    def nesterov_step(
        self,
        w: Array,
        v: Array,
        g: Array,
        lr: Scalar,
        momentum: float,
        scratch: Array,
        copy: Array | None = None,
        skip: Array | None = None,
    ) -> None:
        """v = μ v + g, w -= lr (g + μ v) (Sutskever et al. 2013)."""
        if _skips(skip):
            return
        v *= momentum
        v += g
        self.xp.multiply(v, momentum, out=scratch)
        scratch += g
        scratch *= lr
        w -= scratch
        self._written(w, copy)

    @operation
    def adagrad_step(
        self,
        w: Array,
        s: Array,
        g: Array,
        lr: Scalar,
        eps: float,
        scratch: Array,
        copy: Array | None = None,
        skip: Array | None = None,
    ) -> None:
        """s += g², w -= lr g / (√s + ε) (Duchi et al. 2011)."""
        if _skips(skip):
            return
        xp = self.xp
        xp.multiply(g, g, out=scratch)
        s += scratch
        self._scaled_update(w, g, s, lr, eps, scratch)
        self._written(w, copy)

    @operation
    def rmsprop_step(
        self,
        w: Array,
        s: Array,
        g: Array,
        lr: Scalar,
        rho: float,
        eps: float,
        scratch: Array,
        copy: Array | None = None,
        skip: Array | None = None,
    ) -> None:
        """s = ρ s + (1 - ρ) g², w -= lr g / (√s + ε) (Tieleman and Hinton 2012)."""
        if _skips(skip):
            return
        self._moving_average(s, g, rho, 2, scratch)
        self._scaled_update(w, g, s, lr, eps, scratch)
        self._written(w, copy)

    @operation
    def adam_step(
        self,
        w: Array,
        m: Array,
        v: Array,
        g: Array,
        lr: Scalar,
        correction: Scalar,
        betas: tuple[float, float],
        eps: float,
        scratch: Array,
        copy: Array | None = None,
        skip: Array | None = None,
    ) -> None:
        """m = β₁ m + (1 - β₁) g, v = β₂ v + (1 - β₂) g², w -= lr m / (correction √v + ε).

        Kingma and Ba 2015. With step t = 1, 2, ... the caller passes lr = lr₀ / (1 - β₁ᵗ) and
        correction = 1 / √(1 - β₂ᵗ).
        """
        if _skips(skip):
            return
        xp = self.xp
        self._moving_average(m, g, betas[0], 1, scratch)
        self._moving_average(v, g, betas[1], 2, scratch)
        xp.sqrt(v, out=scratch)
        scratch *= correction
        scratch += eps
        xp.divide(m, scratch, out=scratch)
        scratch *= lr
        w -= scratch
        self._written(w, copy)

    def _moving_average(self, s: Array, g: Array, rho: float, power: int, scratch: Array) -> None:
        """s = ρ s + (1 - ρ) g^power."""
        s *= rho
        self.xp.multiply(g, 1 - rho, out=scratch)
        if power == 2:
            scratch *= g
        s += scratch

    def _scaled_update(
        self, w: Array, g: Array, s: Array, lr: Scalar, eps: float, scratch: Array
    ) -> None:
        """w -= lr g / (√s + ε)."""
        self.xp.sqrt(s, out=scratch)
        scratch += eps
        self.xp.divide(g, scratch, out=scratch)
        scratch *= lr
        w -= scratch
