"""FusedBackend: which kernel each operation is, with which arguments; the same for every device."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .activations import ACTIVATIONS, Activation, Array
from .base import Call
from .fused_updates import FusedUpdates
from .operations import Scalar
from .pointwise import POINTWISE, Pointwise
from .precision import FORMATS

# the numbers of portable.h; an activation or a loss of somebody's own has none, and no kernel
ACTIVATION_NUMBERS = {activation: i for i, activation in enumerate(ACTIVATIONS.values())}
IDENTITY = ACTIVATIONS["identity"]
LOSS_NUMBERS = {loss: i for i, loss in enumerate(POINTWISE.values())}
TABLES = 3  # of a step: the optimizer's numbers, the order of rows, the keys of dropout


class FusedBackend(FusedUpdates):
    """The operations of a network as kernels, and those of updates."""

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
