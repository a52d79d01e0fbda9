"""FusedUpdates: which kernels the operations of `updates` are, with which arguments."""

from typing import Any

import numpy as np

from .activations import Array
from .base import Call
from .geometry import SUMS
from .kernel_backend import KernelBackend, together
from .operations import Scalar


class FusedUpdates(KernelBackend):
    """What gradients do to parameters, as kernels of vectors of equal length."""

    def _of_vectors(self, name: str, arrays: dict[str, Array], **others: Any) -> Call | None:
        """Return a kernel of vectors of equal length bound to its arguments."""
        first = next(iter(arrays.values()))
        if not self._fits(first.shape, *arrays.values()):
            return None
        return self.kernel(name, **arrays, **others, n=first.size)

    def _of_update(
        self,
        name: str,
        arrays: dict[str, Array],
        copy: Array | None,
        skip: Array | None,
        **numbers: Scalar,
    ) -> Call | None:
        """Return the kernel of an optimizer's step bound to its arguments."""
        w = arrays["w"]
        if copy is not None and (copy.shape != w.shape or copy.dtype != self.kernel_operand):
            return None
        number = self.precision.format_number
        return self._of_vectors(name, arrays, **numbers, copy=copy, skip=skip, format=number)

    # ---------------------------------------------------------- loss scaling

    def _bind_unscale(self, g: Array, overflow: Array, scale: Scalar) -> Call | None:
        return self._of_vectors("unscale", {"g": g}, overflow=overflow, scale=scale)

    def _bind_loss_scale_step(self, state: Array, patience: float, largest: float) -> Call | None:
        if not self._fits((4,), state):
            return None
        return self.kernel("loss_scale_step", state=state, patience=patience, largest=largest)

    # -------------------------------------------------- penalties and limits

    def _bind_scale(self, w: Array, factor: Scalar, skip: Array | None = None) -> Call | None:
        return self._of_vectors("scale", {"w": w}, factor=factor, skip=skip)

    def _bind_add_penalty(
        self, g: Array, w: Array, weight_decay: float, l1: float, scratch: Array
    ) -> Call | None:
        vectors = {"g": g, "w": w}
        return self._of_vectors("add_penalty", vectors, weight_decay=weight_decay, l1=l1)

    def _bind_clip_norm(self, g: Array, limit: float, scratch: Array) -> Call | None:
        if not self._fits(g.shape, g):
            return None
        total, partial = self.zeros((), np.float64), self.zeros((SUMS,), np.float64)
        tickets = self._tickets()
        return together(
            [
                self.kernel(
                    "square_sum", sum=total, partial=partial, tickets=tickets, g=g, n=g.size
                ),
                self.kernel("clip_scale", g=g, sum=total, limit=limit, n=g.size),
            ]
        )

    def _bind_clip_rows(self, w: Array, limit: float, scratch: Array) -> Call | None:
        if w.dtype != np.float32 or not w.flags.c_contiguous:
            return None
        return self.kernel("clip_rows", w=w, limit=limit, rows=w.shape[0], columns=w.shape[1])

    # -------------------------------------------------------------- optimizers

    def _bind_sgd_step(
        self,
        w: Array,
        g: Array,
        lr: Scalar,
        scratch: Array,
        copy: Array | None = None,
        skip: Array | None = None,
    ) -> Call | None:
        return self._of_update("sgd_step", {"w": w, "g": g}, copy, skip, lr=lr)

    def _bind_momentum_step(
        self,
        w: Array,
        v: Array,
        g: Array,
        lr: Scalar,
        momentum: float,
        scratch: Array,
        copy: Array | None = None,
        skip: Array | None = None,
    ) -> Call | None:
        vectors = {"w": w, "v": v, "g": g}
        return self._of_update("momentum_step", vectors, copy, skip, lr=lr, mu=momentum)

    def _bind_nesterov_step(
        self,
        w: Array,
        v: Array,
        g: Array,
        lr: Scalar,
        momentum: float,
        scratch: Array,
        copy: Array | None = None,
        skip: Array | None = None,
    ) -> Call | None:
        vectors = {"w": w, "v": v, "g": g}
        return self._of_update("nesterov_step", vectors, copy, skip, lr=lr, mu=momentum)

    def _bind_adagrad_step(
        self,
        w: Array,
        s: Array,
        g: Array,
        lr: Scalar,
        eps: float,
        scratch: Array,
        copy: Array | None = None,
        skip: Array | None = None,
    ) -> Call | None:
        vectors = {"w": w, "s": s, "g": g}
        return self._of_update("adagrad_step", vectors, copy, skip, lr=lr, eps=eps)

    def _bind_rmsprop_step(
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
    ) -> Call | None:
        vectors = {"w": w, "s": s, "g": g}
        numbers = {"lr": lr, "rho": rho, "one_less_rho": 1 - rho, "eps": eps}
        return self._of_update("rmsprop_step", vectors, copy, skip, **numbers)

    def _bind_adam_step(
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
    ) -> Call | None:
        return self._of_update(
            "adam_step",
            {"w": w, "m": m, "v": v, "g": g},
            copy,
            skip,
            lr=lr,
            correction=correction,
            beta1=betas[0],
            one_less_beta1=1 - betas[0],
            beta2=betas[1],
            one_less_beta2=1 - betas[1],
            eps=eps,
        )
