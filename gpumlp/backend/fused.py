"""FusedBackend: which kernel each operation is, with which arguments; the same for every device.

A device adds `kernel`: how a kernel is bound to arguments. Where an operation's arrays are not what
its kernel takes (another type, a strided view), the plain formula of `Backend` runs.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from typing import Any

import numpy as np

from .activations import ACTIVATIONS, Activation, Array
from .base import Backend, Call, Plan
from .geometry import SUMS
from .operations import OPERATIONS, Scalar
from .pointwise import POINTWISE, Pointwise
from .precision import FORMATS

# the numbers of portable.h; an activation or a loss of somebody's own has none, and no kernel
ACTIVATION_NUMBERS = {activation: i for i, activation in enumerate(ACTIVATIONS.values())}
IDENTITY = ACTIVATIONS["identity"]
LOSS_NUMBERS = {loss: i for i, loss in enumerate(POINTWISE.values())}
TABLES = 3  # of a step: the optimizer's numbers, the order of rows, the keys of dropout


class CallSequence(tuple[Call, ...]):
    """Several calls as one, in order."""

    def __call__(self) -> None:
        """Run them."""
        for call in self:
            call()


def flat(plan: Sequence[Call]) -> Iterator[Call]:
    """Yield the calls of a plan with sequences taken apart."""
    for call in plan:
        yield from call if isinstance(call, CallSequence) else (call,)


class FusedBackend(Backend):
    """Operations as kernels.

    `_bind_NAME` takes what the operation NAME takes, and returns a kernel bound to it, or None
    where only the plain formula will do. Kernels check nothing, so shapes are checked here.
    """

    formulas: type[Backend] = Backend  # the plain ones, as this array library spells them
    kernel_operand: np.dtype[Any] = np.dtype("float32")  # the type `operand` of the kernels

    def kernel(self, name: str, **arguments: Any) -> Call | None:
        """Return a kernel bound to arguments by name; None where this backend has no kernels.

        Arguments are arrays (or None) and numbers; a number where the kernel reads from memory
        becomes an array.
        """
        raise NotImplementedError

    def bind(self, name: str, *args: Any, **kwargs: Any) -> Call:
        """As in `Backend`: a kernel where the operation has one for these arguments."""
        binder = getattr(self, f"_bind_{name}", None)
        call: Call | None = binder(*args, **kwargs) if binder else None
        return call or partial(getattr(self.formulas, name), self, *args, **kwargs)

    def calls(self, plan: Plan) -> list[Call]:
        """As in `Backend`; what stands for several calls is taken apart."""
        return [*flat(plan)]

    def _tickets(self) -> Array | None:
        """Return zeroed counters by which a kernel's blocks know which of them is the last."""
        return self.zeros((SUMS,), np.uint32)

    def _fits(self, shape: tuple[int, ...], *arrays: Array | None) -> bool:
        """Whether kernels take these arrays: that shape, float32, contiguous in this order."""
        return all(
            array.shape == shape and array.dtype == np.float32 and self._in_order(array)
            for array in arrays
            if array is not None
        )

    def _in_order(self, array: Array) -> bool:
        in_fortran_order = array.ndim == 2 and self.workspace_order == "F"
        return bool(array.flags.f_contiguous if in_fortran_order else array.flags.c_contiguous)

    # ------------------------------------------------------- a step's inputs

    def _bind_begin_step(
        self, clock: Array, rows: Sequence[Array], tables: Sequence[Array]
    ) -> Call | None:
        arguments: dict[str, Any] = {"clock": clock}
        pairs = [*zip(rows, tables, strict=True)]
        if len(pairs) > TABLES:
            return None
        for row, table in pairs:
            if row.shape != table.shape[1:] or not _copyable(row, table):
                return None
        for i, (row, table) in enumerate(pairs + [(None, None)] * (TABLES - len(pairs)), 1):
            size = 0 if row is None else row.nbytes
            arguments |= {f"row_{i}": row, f"table_{i}": table, f"bytes_{i}": size}
        return self.kernel("begin_step", **arguments, tickets=self._tickets())

    def _bind_gather(self, out: Array, source: Array, index: Array) -> Call | None:
        rows = len(index)
        if out.shape != (rows, *source.shape[1:]) or not _copyable(out, source):
            return None
        if not _counts(index):
            return None
        size = out.nbytes // max(rows, 1)
        return self.kernel("gather", out=out, source=source, index=index, rows=rows, bytes=size)

    def _bind_gather_scaled(
        self, out: Array, source: Array, index: Array, factor: float, scratch: Array
    ) -> Call | None:
        rows, columns = len(index), source.shape[-1]
        if out.shape != (rows, columns) or out.dtype != np.float32 or source.dtype != np.uint8:
            return None
        if not (out.flags.c_contiguous and source.flags.c_contiguous and _counts(index)):
            return None
        return self.kernel(
            "gather_scaled",
            out=out,
            source=source,
            index=index,
            factor=factor,
            rows=rows,
            columns=columns,
        )

    def _bind_normalize(self, out: Array, weights: Array) -> Call | None:
        if not self._fits(out.shape, out, weights):
            return None
        return self.kernel("normalize", out=out, weights=weights, rows=len(weights))

    # -------------------------------------------------------------- operands

    def _bind_split(self, parts: Sequence[Array], x: Array, format: str) -> Call | None:
        flags = x.flags
        if x.dtype != np.float32 or not (flags.c_contiguous or flags.f_contiguous):
            return None
        for part in parts:
            if part.shape != x.shape or part.dtype != self.kernel_operand:
                return None
            if (part.flags.c_contiguous, part.flags.f_contiguous) != (
                flags.c_contiguous,
                flags.f_contiguous,
            ):
                return None
        high, middle, low = (*(part.ravel("K") for part in parts), None, None)[:3]
        return self.kernel(
            "split",
            high=high,
            middle=middle,
            low=low,
            x=x.ravel("K"),
            format=FORMATS.index(format),
            n=x.size,
        )

    # --------------------------------------------------------------- network

    def _bind_bias_activation_forward(
        self, a: Array, z: Array, bias: Array | None, activation: Activation
    ) -> Call | None:
        if z.ndim != 2 or activation not in ACTIVATION_NUMBERS:
            return None
        if not (self._fits(z.shape, a, z) and self._fits(z.shape[1:], bias)):
            return None
        return self.kernel(
            "bias_activation_forward",
            a=a,
            copy=None,
            z=z,
            bias=bias,
            activation=ACTIVATION_NUMBERS[activation],
            format=0,
            rows=z.shape[0],
            columns=z.shape[1],
        )

    def _bind_bias_activation_backward(
        self,
        dz: Array,
        bias_sink: Array | None,
        da: Array,
        kept: Array,
        activation: Activation,
        alpha: Scalar = 1.0,
        beta: Scalar = 0.0,
        scratch: Array = None,
    ) -> Call | None:
        if dz.ndim != 2 or activation not in ACTIVATION_NUMBERS:
            return None
        columns = dz.shape[1:]
        if not (self._fits(dz.shape, dz, da, kept) and self._fits(columns, bias_sink)):
            return None
        unchanged = activation is IDENTITY and dz is da
        return self.kernel(
            "bias_activation_backward",
            dz=None if unchanged else dz,
            copy=None,
            bias_sink=bias_sink,
            da=da,
            kept=kept,
            alpha=alpha,
            beta=beta,
            activation=ACTIVATION_NUMBERS[activation],
            format=0,
            rows=dz.shape[0],
            columns=dz.shape[1],
            partial=scratch,
            tickets=self._tickets(),
        )

    def _bind_dropout(
        self, out: Array, x: Array, key: Scalar, rate: float, first_row: int, scratch: Array
    ) -> Call | None:
        if x.ndim != 2 or not self._fits(x.shape, out, x):
            return None
        return self.kernel(
            "dropout",
            out=out,
            x=x,
            key=key,
            threshold=min(round(rate * 2**32), 2**32 - 1),
            factor=1 / (1 - rate),
            first_row=first_row,
            rows=x.shape[0],
            columns=x.shape[1],
        )

    # ------------------------------------------------------------------ loss

    def _bind_softmax(self, y: Array, z: Array) -> Call | None:
        if not self._fits(z.shape, y, z):
            return None
        return self.kernel("softmax", y=y, z=z, rows=z.shape[0], columns=z.shape[1])

    def _bind_softmax_cross_entropy(
        self,
        loss: Array,
        correct: Array | None,
        dz: Array,
        z: Array,
        target: Array,
        weight: Scalar,
        smoothing: float,
        scratch: Array,
    ) -> Call | None:
        rows, labels = z.shape[:1], target.ndim == 1
        if not (self._fits(z.shape, dz, z) and self._fits(rows, loss, correct)):
            return None
        if target.shape != (rows if labels else z.shape) or not _weighs(weight, rows):
            return None
        if target.dtype != (np.int64 if labels else np.float32):
            return None
        if labels and not target.flags.c_contiguous:
            return None
        return self.kernel(
            "softmax_cross_entropy",
            loss=loss,
            correct=correct,
            dz=dz,
            z=z,
            labels=target if labels else None,
            distribution=None if labels else target,
            **_strides(target),
            **_weights(weight),
            smoothing=smoothing,
            rows=z.shape[0],
            columns=z.shape[1],
        )

    def _bind_pointwise_loss(
        self,
        loss: Array,
        correct: Array | None,
        dz: Array,
        z: Array,
        target: Array,
        weight: Scalar,
        formula: Pointwise,
        parameter: float,
        scratch: Array,
    ) -> Call | None:
        rows = z.shape[:1]
        if formula not in LOSS_NUMBERS or not self._fits(rows, loss, correct):
            return None
        if not (self._fits(z.shape, dz, z) and target.shape == z.shape and _weighs(weight, rows)):
            return None
        if target.dtype != np.float32:
            return None
        return self.kernel(
            "pointwise_loss",
            loss=loss,
            correct=correct,
            dz=dz,
            z=z,
            target=target,
            **_strides(target),
            **_weights(weight),
            formula=LOSS_NUMBERS[formula],
            parameter=parameter,
            rows=z.shape[0],
            columns=z.shape[1],
        )

    def _bind_accumulate(
        self, total: Array, values: Array, weights: Array | None = None, scratch: Array = None
    ) -> Call | None:
        shape = values.shape
        if not self._fits(shape, values, weights) or total.shape != shape:
            return None
        if total.dtype != np.float64 or not total.flags.c_contiguous:
            return None
        return self.kernel("accumulate", total=total, values=values, weights=weights, n=values.size)

    # ---------------------------------------------------------- loss scaling

    def _bind_unscale(self, g: Array, overflow: Array, scale: Scalar) -> Call | None:
        return self._of_vectors("unscale", {"g": g}, overflow=overflow, scale=scale)

    def _bind_loss_scale_step(self, state: Array, patience: float, largest: float) -> Call | None:
        if not self._fits((4,), state):
            return None
        return self.kernel("loss_scale_step", state=state, patience=patience, largest=largest)

    # ---------------------------------------------------------------- update

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


def together(calls: list[Call | None]) -> Call | None:
    """Return calls as one; None if any is missing."""
    there = [call for call in calls if call is not None]
    if len(calls) == 1:
        return calls[0]
    return CallSequence(there) if len(there) == len(calls) else None


def _copyable(one: Array, other: Array) -> bool:
    """Whether rows can be copied from one to the other as bytes."""
    return bool(one.dtype == other.dtype and one.flags.c_contiguous and other.flags.c_contiguous)


def _counts(index: Array) -> bool:
    """Whether kernels take these row numbers."""
    return bool(index.dtype == np.int64 and index.flags.c_contiguous)


def _weighs(weight: Scalar, rows: tuple[int, ...]) -> bool:
    """Whether `weight` is a number, or a vector with an entry for each row."""
    if isinstance(weight, (int, float)):
        return True
    return bool(weight.shape in ((), rows) and weight.dtype == np.float32)


def _strides(target: Array) -> dict[str, int]:
    """Return the distances of a target's rows and columns, in entries."""
    row, column = (*(stride // target.itemsize for stride in target.strides), 1)[:2]
    return {"row_stride": row, "column_stride": column}


def _weights(weight: Scalar) -> dict[str, Any]:
    """Return a scalar or sample weights (B,) as a pointer and the distance of two weights."""
    per_row = getattr(weight, "ndim", 0) == 1
    return {"weight": weight, "weight_stride": weight.strides[0] // 4 if per_row else 0}


def _fused(name: str) -> Callable[..., None]:
    @wraps(getattr(Backend, name))
    def operation(self: FusedBackend, *args: Any, **kwargs: Any) -> None:
        self.bind(name, *args, **kwargs)()

    return operation


for _name in OPERATIONS:
    setattr(FusedBackend, _name, _fused(_name))
