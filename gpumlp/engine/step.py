"""TrainingStep: what one step does, written once: batch, forward, loss, backward, update.

batch      the next rows in the epoch's order
forward    z = x Wᵀ + b, a = σ(z), layer after layer
loss       the sample losses, and dl/dz of the output layer
backward   dl/dz of every layer by the chain rule; dl/dW = dzᵀ x
update     W ← W - η dl/dW, or what the optimizer makes of it
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isinf
from typing import NamedTuple

import numpy as np

from ..backend import Array, Backend, RecordingBackend
from ..errors import StateError
from ..layers import Layer
from ..losses import Loss
from ..model import Sequential
from ..optimizers import EVERYTHING, Optimizer
from ..parameters import accumulating_sink, gradient_sink
from ..randomness import dropout_keys, permutation
from ..sparse import SparseRows
from .early import EarlyUpdates


@dataclass(eq=False)
class Batches:
    """The rows of the training data in the order of an epoch.

    Args:
        x, target: the data on the device: (N, D), and (N,) or (N, K). x may be `SparseRows`.
        weight: what each row's loss counts, (N,); None: 1.
        host_weight: the same on the host.
        count_weight: what a row counts in the accuracy, (N,); None: as in `weight`.
        host_count_weight: the same on the host.
        scale: what x is multiplied by where it holds bytes (uint8).
        size: rows of a micro-batch; N or more means the whole data at once, without a copy.
        accumulate: micro-batches whose gradients make one update.
        shuffle: whether each epoch has its own order, a function of (seed, epoch).
    """

    x: Array
    target: Array
    weight: Array | None
    size: int
    accumulate: int
    shuffle: bool
    seed: int
    host_weight: np.ndarray | None = None
    count_weight: Array | None = None
    host_count_weight: np.ndarray | None = None
    scale: float = 1.0
    position: int = 0  # steps of this epoch that were taken

    def __post_init__(self) -> None:
        self.count = len(self.x)
        self.size = min(self.size, self.count)
        self.effective = min(self.size * self.accumulate, self.count)
        self.steps = -(-self.count // self.effective)
        self._drawn: tuple[int, np.ndarray] = (-1, np.arange(0))

    @property
    def whole(self) -> bool:
        """Whether each step uses all data in one batch."""
        return self.size == self.count

    def order(self, epoch: int) -> np.ndarray:
        """Return the epoch's row numbers: int64 (steps, effective), the last line padded."""
        self.draw(epoch)
        numbers = self._drawn[1]
        self._sums, self._count_sums = (
            None if weight is None else np.cumsum(weight[numbers])
            for weight in (self.host_weight, self.host_count_weight)
        )
        order = np.zeros(self.steps * self.effective, np.int64)
        order[: self.count] = numbers
        return order.reshape(self.steps, self.effective)

    def draw(self, epoch: int) -> None:
        """Draw an epoch's row numbers; worth doing ahead, while a device is at work."""
        if self._drawn[0] != epoch:
            shuffled = self.shuffle and not self.whole
            count = self.count
            drawn = permutation(count, self.seed, epoch) if shuffled else np.arange(count)
            self._drawn = epoch, drawn

    @property
    def rows_taken(self) -> int:
        """Rows of the steps of this epoch that were taken."""
        return min(self.position * self.effective, self.count)

    @property
    def weight_taken(self) -> float:
        """Their sum of weights: what the sum of their weighted losses is divided by."""
        if self._sums is None:
            return float(self.rows_taken)
        # where all weights are zero so is the weighted sum, and the cost is called 0
        return float(self._sums[self.rows_taken - 1]) or 1.0

    @property
    def count_taken(self) -> float:
        """Their sum of count weights: what the number of correct rows is divided by."""
        if self._count_sums is None:
            return self.weight_taken
        return float(self._count_sums[self.rows_taken - 1]) or 1.0

    def take(self, n: int) -> Iterator[tuple[int, int]]:
        """Yield (rows, steps) of the next n steps: the full batches, at the epoch's end the rest.

        Raises ValueError where n goes past the end of the epoch.
        """
        if self.position + n > self.steps:
            raise ValueError(f"{n} steps go past the end of the epoch")
        self.position += n
        rest = self.count - (self.steps - 1) * self.effective
        full = n - (n > 0 and self.position == self.steps and rest < self.effective)
        if full:
            yield self.effective, full
        if full < n:
            yield rest, 1


class Progress(NamedTuple):
    """How far an epoch has come: steps taken, and the running sums, float64 (effective,)."""

    position: int
    losses: Array
    correct: Array


class TrainingStep:
    """One training step of a model on batches; calling it runs the step on a backend.

    Also holds what an epoch's steps share on the device: clock, order, tables, and the running sums
    of sample losses and of correct rows, which are read at events only.
    """

    def __init__(
        self, model: Sequential, loss: Loss, optimizer: Optimizer, batches: Batches
    ) -> None:
        self.model, self.loss, self.optimizer, self.batches = model, loss, optimizer, batches
        self.backend: Backend = model.backend
        optimizer.bind(model.flat, self.backend)
        if batches.whole and (batches.x.dtype == np.uint8 or isinstance(batches.x, SparseRows)):
            batches.x = self.backend.asarray(batches.x) * batches.scale
        self.loss_scale = optimizer.loss_scale
        alone = batches.accumulate == 1 and self.loss_scale is None
        self.writes_through = optimizer.writes_through and alone
        # what matrix products read in place of the parameters, where they read something else
        low = self.backend.operand_format is not None
        values = model.flat.values
        self._operand = self.backend.operand_memory(values.shape) if low else None
        backend, effective = self.backend, batches.effective
        self._clock = backend.zeros((), np.int64)
        self._index = backend.zeros((effective,), np.int64)
        self._keys = backend.zeros((len(model.layers),), np.uint32)
        # filled anew each epoch, at the same address, because recorded calls hold them
        self._order = backend.zeros((batches.steps, effective), np.int64)
        self._table = backend.zeros((batches.steps, len(optimizer.row)))
        self._key_table = backend.zeros((batches.steps, len(model.layers)), np.uint32)
        self._lines, self._tables = [optimizer.row], [self._table]
        if model.has_dropout:
            self._lines.append(self._keys)
            self._tables.append(self._key_table)
        if not batches.whole:
            self._lines.append(self._index)
            self._tables.append(self._order)
        self._losses = backend.zeros((effective,), np.float64)
        self._correct = backend.zeros((effective,), np.float64)

    def begin_epoch(
        self, epoch: int, first_step: int, factors: np.ndarray, progress: Progress | None = None
    ) -> None:
        """Upload what this epoch's steps need, and go to its first step, or as far as it was.

        `factors` multiply the learning rate, (steps,); `first_step` is the epoch's, also where it
        has come further.
        """
        backend, batches = self.backend, self.batches
        table = self.optimizer.table(factors, first_step)
        if self.model.has_dropout:
            keys = dropout_keys(self.model.seed, len(self.model.layers), first_step, batches.steps)
            self._key_table[...] = backend.asarray(keys, np.uint32)
        with np.errstate(over="ignore"):  # a rate out of range makes the run diverge, which is said
            self._table[...] = backend.asarray(table)
        self._order[...] = backend.asarray(batches.order(epoch), np.int64)
        self.rewind(progress)

    def check(self, progress: Progress | None) -> None:
        """Raise StateError when the progress of an epoch is of other data."""
        if progress is None:
            return
        position, steps, shape = progress.position, self.batches.steps, self._losses.shape
        if position > steps:
            raise StateError(f"the state is of other data: {position} steps of an epoch of {steps}")
        for sums in (progress.losses, progress.correct):
            if sums.shape != shape:
                rows = f"sums of {sums.shape} rows in batches of {shape}"
                raise StateError(f"the state is of other data: {rows}")

    def rewind(self, progress: Progress | None = None) -> None:
        """Go back to the first step of the epoch, or to where it was; the parameters stay."""
        position, losses, correct = progress or (0, 0.0, 0.0)
        self._clock[...] = self.batches.position = position
        for total, kept in ((self._losses, losses), (self._correct, correct)):
            total[...] = self.backend.asarray(kept, np.float64)
        self.refresh()

    @property
    def progress(self) -> Progress:
        """How far the epoch has come, on the host; `rewind` takes it."""
        sums = (np.array(self.backend.to_numpy(a)) for a in (self._losses, self._correct))
        return Progress(self.batches.position, *sums)

    def refresh(self) -> None:
        """Take over parameters that something else than a step may have changed."""
        if self._operand is not None:
            format = str(self.backend.operand_format)
            self.backend.split(self._operand.parts, self.model.flat.values, format)

    @property
    def row_bytes(self) -> int:
        """Bytes of what is kept for each row of an effective batch."""
        return sum(int(a.nbytes) for a in (self._index, self._losses, self._correct))

    def sums(self) -> tuple[float, float]:
        """Return (Σ w l, Σ w over correct rows) of the epoch so far; waits for the device."""
        return float(self._losses.sum()), float(self._correct.sum())

    def __call__(self, backend: RecordingBackend, rows: int) -> None:
        """Run one step over an effective batch of `rows` rows."""
        flat = self.model.flat
        flat.operand = self._operand
        try:
            self._run(backend, rows)
        finally:
            flat.operand = None

    def _run(self, backend: RecordingBackend, rows: int) -> None:
        batches = self.batches
        backend.begin_step(self._clock, self._lines, self._tables)
        weights = counts = None
        factors: Array | float = 1.0 if self.loss.reduction == "sum" else 1.0 / rows
        if batches.weight is not None:
            weights = counts = factors = self._rows(backend, batches.weight, slice(rows))
            if self.loss.reduction == "mean":
                factors = backend.empty(weights.shape)
                backend.normalize(factors, weights)
        if batches.count_weight is not None:
            counts = self._rows(backend, batches.count_weight, slice(rows))
        early = self._early_updates(backend)
        position = backend.workspace.position  # micro-batches take turns in the same memory
        for start in range(0, rows, batches.size):
            backend.workspace.position = position
            part = slice(start, min(start + batches.size, rows))
            self._micro_batch(backend, part, weights, counts, factors, early)
        if self.loss_scale is not None:
            self.loss_scale.unscale(backend, self.model.flat.gradients)
        rest = EVERYTHING if early is None else early.rest()
        self.optimizer.update(backend, self.writes_through, rest)
        if self.loss_scale is not None:
            self.loss_scale.advance(backend)

    def _early_updates(self, backend: Backend) -> EarlyUpdates | None:
        """Return what updates large layers early, where it may and where that is worth it."""
        optimizer, through = self.optimizer, self.writes_through
        possible = self.batches.accumulate == 1 and optimizer.may_update_early(through)
        if not possible or isinf(backend.early_update):
            return None
        return EarlyUpdates(optimizer, backend, through)

    def _micro_batch(
        self,
        backend: Backend,
        part: slice,
        weights: Array | None,
        counts: Array | None,
        factors: Array | float,
        done: Callable[[Layer], None] | None,
    ) -> None:
        """Forward, loss and backward over the rows `part` of an effective batch."""
        x = self._inputs(backend, part)
        target = self._rows(backend, self.batches.target, part)
        keys = self._keys if self.model.has_dropout else None
        z = self.model.forward(x, keys=keys, first_row=part.start, backend=backend)
        factor = factors if isinstance(factors, float) else factors[part]
        losses, correct, dz = self.loss.apply(z, target, factor, backend, count=True)
        if self.loss_scale is not None:
            self.loss_scale.apply(backend, dz)
        for total, values, weight in (
            (self._losses, losses, weights),
            (self._correct, correct, counts),
        ):
            if values is not None:
                weighting = () if weight is None else (weight[part], backend.scratch(values))
                backend.accumulate(total[part], values, *weighting)
        into = gradient_sink if part.start == 0 else accumulating_sink
        if self.writes_through:
            into = self.optimizer.sink
        self.model.backward(dz, into=into, input_gradient=False, backend=backend, done=done)

    def _inputs(self, backend: Backend, part: slice) -> Array:
        """Gather rows of x, as numbers."""
        source = self.batches.x
        if source.dtype != np.uint8:
            return self._rows(backend, source, part)
        index = self._index[part]
        out, scratch = (
            backend.empty((len(index), source.shape[1]), dtype, order="C")
            for dtype in (None, np.uint8)
        )
        backend.gather_scaled(out, source, index, self.batches.scale, scratch)
        return out

    def _rows(self, backend: Backend, source: Array, part: slice) -> Array:
        """Gather rows of the data; the data itself where a step uses all of it."""
        if self.batches.whole:
            return source
        index = self._index[part]
        out = backend.empty((len(index), *source.shape[1:]), source.dtype, order="C")
        backend.gather(out, source, index)
        return out
