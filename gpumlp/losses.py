"""Losses: how good the network is. Each takes the last layer's linear output z and the targets.

The notes' three quantities: the *sample loss* l of one row, the *cost* (its mean over a batch or
data set) and the *total loss* L (its sum).
With weights w the cost is Σ w l / Σ w, and the total is Σ w l.
"""

from math import inf
from typing import Any

import numpy as np

from .backend import POINTWISE, Array, Backend, Scalar, get_activation, get_backend


class Loss:
    """A loss and its gradient by z.

    Args:
        reduction: "mean": the gradient is that of the cost; "sum": that of the total loss.
        backend: a backend or a device name.

    After `forward`, `sample_losses` (B,), `cost` and `total` hold the notes' three quantities.
    Raises ValueError for an unknown reduction.
    """

    name = ""
    target_range = (-inf, inf)
    counts_correct = False  # whether "correct" has a meaning, so that accuracy can be counted

    def __init__(self, reduction: str = "mean", backend: Backend | str = "cpu") -> None:
        if reduction not in ("mean", "sum"):
            raise ValueError(f'reduction must be "mean" or "sum", got {reduction!r}')
        self.reduction = reduction
        self.backend = get_backend(backend)
        self.sample_losses: Array = None
        self.cost = self.total = float("nan")
        self._dz: Array = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reduction!r})"

    def forward(self, z: Array, target: Array, weight: Array | None = None) -> float:
        """Return the cost (or the total loss, by `reduction`) of outputs z (B, K) as a float.

        `weight` (B,) are sample weights. Keeps the gradient for `backward`.
        """
        backend = self.backend
        z = backend.asarray(z)
        target = self.as_target(target, backend)
        rows = len(z)
        self.check_target(target, rows, z.shape[1])
        factor: Scalar = 1.0 if self.reduction == "sum" else 1.0 / max(rows, 1)
        sums = float(rows)
        if weight is not None:
            weight = backend.asarray(weight)
            if weight.shape != (rows,):
                raise ValueError(f"{rows} outputs but weights of shape {weight.shape}")
            if not bool((weight >= 0).all()):
                raise ValueError("sample weights must be >= 0")
            factor = weight
            sums = float(weight.sum())
            if self.reduction == "mean":
                factor = backend.empty(weight.shape)
                backend.normalize(factor, weight)
        with np.errstate(invalid="ignore"):  # 0 · (-∞) of an excluded class
            losses, _, self._dz = self.apply(z, target, factor, backend)
        self.sample_losses = losses
        self.total = float((losses if weight is None else losses * weight).sum(dtype="float64"))
        self.cost = self.total / sums if sums else 0.0
        return self.cost if self.reduction == "mean" else self.total

    def backward(self) -> Array:
        """Return dz = ∂(cost or total loss)/∂z of the last `forward`, (B, K).

        Raises ValueError when there was none.
        """
        if self._dz is None:
            raise ValueError(f"{self!r}: backward needs a forward pass before it")
        return self._dz

    def task(self, outputs: int | None) -> str:
        """Return the task, see `metrics.METRICS`, that the loss is for with so many outputs."""
        return "regression"

    def as_target(self, target: Any, backend: Backend) -> Array:
        """Return targets as an array of the shape and type that `apply` takes."""
        target = backend.asarray(target)
        return target[:, None] if target.ndim == 1 else target

    def check_target(self, target: Array, rows: int, outputs: int) -> None:
        """Raise ValueError unless `target` fits outputs of shape (rows, outputs)."""
        if len(target) != rows:
            raise ValueError(f"{rows} outputs but {len(target)} targets")
        if target.shape != (rows, outputs):
            raise ValueError(f"outputs have shape {(rows, outputs)}, targets {target.shape}")
        lowest, highest = self.target_range
        if target.size and not lowest <= float(target.min()) <= float(target.max()) <= highest:
            raise ValueError(
                f"targets of {self!r} lie in [{lowest:g}, {highest:g}], "
                f"got {float(target.min()):g} to {float(target.max()):g}"
            )

    def apply(
        self, z: Array, target: Array, weight: Scalar, backend: Backend, count: bool = False
    ) -> tuple[Array, Array | None, Array]:
        """Return (sample losses (B,), correct (B,) or None, dz (B, K)) in `backend`'s memory.

        dz row i is weight_i ∂l_i/∂z_i; `weight` is a scalar or (B,). With `count`, correct holds 1
        for each row that the network gets right (None where that has no meaning).
        """
        losses, dz = backend.empty((len(z),)), backend.empty(z.shape)
        correct = backend.empty((len(z),)) if count and self.counts_correct else None
        self._compute(losses, correct, dz, z, target, weight, backend)
        return losses, correct, dz

    def _compute(
        self,
        losses: Array,
        correct: Array | None,
        dz: Array,
        z: Array,
        target: Array,
        weight: Scalar,
        backend: Backend,
    ) -> None:
        raise NotImplementedError

    def link(self, z: Array, backend: Backend) -> Array:
        """Return the prediction y that z stands for: probabilities, a rate, or z itself."""
        return z


class SoftmaxCrossEntropy(Loss):
    """Multi-class cross-entropy: l = -Σ_k ŷ_k log y_k with y = softmax(z), dz = y - ŷ.

    Targets are integer labels (B,), or one-hot or soft rows ŷ (B, C) that sum to 1. With label
    smoothing ε, ŷ becomes (1 - ε) ŷ + ε / C (Szegedy et al. 2016).

    >>> loss = SoftmaxCrossEntropy()
    >>> round(loss.forward([[0.0, 0.0]], [1]), 4)
    0.6931
    >>> loss.backward().tolist()
    [[0.5, -0.5]]
    """

    name = "cross_entropy"
    target_range = (0.0, 1.0)  # of rows; labels are checked against the number of outputs
    counts_correct = True

    def __init__(
        self,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        backend: Backend | str = "cpu",
    ) -> None:
        super().__init__(reduction, backend)
        self.label_smoothing = _checked_smoothing(label_smoothing)

    def task(self, outputs: int | None) -> str:
        """As in `Loss`."""
        return "multiclass"

    def as_target(self, target: Any, backend: Backend) -> Array:
        """Labels (B,) as int64; rows (B, C) as they are."""
        labels = backend.xp.asarray(target)
        if labels.ndim == 1:
            if labels.dtype.kind not in "iub":
                raise ValueError(f"labels must be integers, got {labels.dtype}")
            return labels.astype("int64")
        return backend.asarray(labels)

    def check_target(self, target: Array, rows: int, outputs: int) -> None:
        """Raise ValueError unless `target` is labels below `outputs`, or (rows, outputs)."""
        if outputs < 2:
            raise ValueError(
                "softmax needs at least two outputs, as that of one is always 1; "
                "for two classes with one output use BinaryCrossEntropy"
            )
        if target.ndim != 1 or len(target) != rows:
            super().check_target(target, rows, outputs)
            if rows and not bool((abs(target.sum(axis=1) - 1) <= 1e-3).all()):
                raise ValueError("each target row must sum to 1")
        elif rows and not 0 <= target.min() <= target.max() < outputs:
            raise ValueError(
                f"labels must lie in 0..{outputs - 1}, got {target.min()}..{target.max()}"
            )

    def _compute(
        self,
        losses: Array,
        correct: Array | None,
        dz: Array,
        z: Array,
        target: Array,
        weight: Scalar,
        backend: Backend,
    ) -> None:
        backend.softmax_cross_entropy(
            losses, correct, dz, z, target, weight, self.label_smoothing, backend.scratch(z)
        )

    def link(self, z: Array, backend: Backend) -> Array:
        """Return y = softmax(z)."""
        y = backend.empty(z.shape)
        backend.softmax(y, z)
        return y


class PointwiseLoss(Loss):
    """A loss that compares output and target entry by entry; l is the mean over the K outputs.

    Targets are (B, K), or (B,) for one output.
    """

    parameter = 0.0

    def _compute(
        self,
        losses: Array,
        correct: Array | None,
        dz: Array,
        z: Array,
        target: Array,
        weight: Scalar,
        backend: Backend,
    ) -> None:
        backend.pointwise_loss(
            losses,
            correct,
            dz,
            z,
            target,
            weight,
            POINTWISE[self.name],
            self.parameter,
            backend.scratch(z),
        )


class BinaryCrossEntropy(PointwiseLoss):
    """Binary and multi-label cross-entropy: l = -t log y - (1 - t) log(1 - y), y = sigmoid(z).

    Targets in [0, 1]. With label smoothing ε, t becomes (1 - ε) t + ε / 2.

    >>> round(BinaryCrossEntropy().forward([[0.0]], [1]), 4)
    0.6931
    """

    name = "bce"
    target_range = (0.0, 1.0)
    counts_correct = True

    def __init__(
        self,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        backend: Backend | str = "cpu",
    ) -> None:
        super().__init__(reduction, backend)
        self.parameter = _checked_smoothing(label_smoothing)

    def task(self, outputs: int | None) -> str:
        """As in `Loss`."""
        return "binary" if outputs == 1 else "multilabel"

    def link(self, z: Array, backend: Backend) -> Array:
        """Return y = sigmoid(z)."""
        y = backend.empty(z.shape)
        backend.bias_activation_forward(y, z, None, get_activation("sigmoid"))
        return y


class MeanSquaredError(PointwiseLoss):
    """Mean squared error: l = (z - t)².

    >>> MeanSquaredError().forward([[3.0]], [1])
    4.0
    """

    name = "mse"


class MeanAbsoluteError(PointwiseLoss):
    """Mean absolute error: l = |z - t|; its derivative at 0 is taken as 0.

    >>> MeanAbsoluteError().forward([[3.0]], [1])
    2.0
    """

    name = "mae"


class Huber(PointwiseLoss):
    """Huber's loss (1964): d²/2 for |d| <= δ, δ (|d| - δ/2) beyond, d = z - t.

    >>> Huber(delta=1.0).forward([[3.0]], [1])
    1.5
    """

    name = "huber"

    def __init__(
        self, reduction: str = "mean", delta: float = 1.0, backend: Backend | str = "cpu"
    ) -> None:
        super().__init__(reduction, backend)
        if not delta > 0:
            raise ValueError(f"delta must be > 0, got {delta}")
        self.parameter = delta


class Poisson(PointwiseLoss):
    """Poisson loss: l = e^z - t z, the negative log-likelihood of a count t with rate e^z.

    (Without the constant log t!.) Targets >= 0.

    >>> Poisson().forward([[0.0]], [3])
    1.0
    """

    name = "poisson"
    target_range = (0.0, inf)

    def link(self, z: Array, backend: Backend) -> Array:
        """Return the rate e^z."""
        return backend.xp.exp(z)


LOSSES: dict[str, type[Loss]] = {
    loss.name: loss
    for loss in (
        SoftmaxCrossEntropy,
        BinaryCrossEntropy,
        MeanSquaredError,
        MeanAbsoluteError,
        Huber,
        Poisson,
    )
}


def _checked_smoothing(smoothing: float) -> float:
    if not 0 <= smoothing < 1:
        raise ValueError(f"label_smoothing must lie in [0, 1), got {smoothing}")
    return smoothing
