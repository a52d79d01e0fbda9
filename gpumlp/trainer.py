"""Trainer: epochs over the data, validation, history, and the events at which callbacks are called.

It knows protocols only: engines run steps, callbacks watch; no files, no arguments, no kernels.
"""

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from math import isfinite
from time import perf_counter

import numpy as np

from .backend import Array
from .engine import ENGINES, Batches, Engine, TrainingStep, get_engine
from .engine.divergence import EpochStart, not_finite
from .errors import DivergedError
from .events import Callback, History, Record
from .loss_scale import SMALLEST
from .losses import Loss
from .metrics import evaluate, select
from .model import Sequential
from .optimizers import Optimizer
from .out_of_memory import explained, of_prediction, of_training
from .ranges import check_number, whole_number
from .samples import Samples, as_class_weight, as_samples
from .schedules import Constant, Schedule
from .training_state import (
    Fit,
    State,
    callback_states,
    put_callback_states,
    put_state,
    take_state,
)

PROGRESS_SECONDS = 0.1


class _Interrupted(Exception):  # noqa: N818 - no error
    """Ends a validation that a callback has interrupted."""


class Trainer:
    """Trains a network by (variants of) gradient descent on mini-batches.

    Args:
        model, loss, optimizer: what to train, how good it is, how to improve it.
        schedule: multiplies the optimizer's learning rate; constant by default.
        batch_size: rows of a batch, or "full": the literal gradient descent of the notes.
        accumulate: batches whose gradients are added up for one update.
        shuffle: whether every epoch has its own order of the rows.
        seed: of that order.
        engine: "auto", "eager" or "graph", see `engine`.
        metrics: names of validation metrics, see `metrics.METRICS`; by default the task's.
        callbacks: called at each event, in this order.
        unscale: turns targets (N, K) and predictions of a regression on scaled targets, NumPy
            arrays, into the units of the data: metrics are computed there, the loss is not.
        class_weight: (C,), what the loss of a row with that label counts, besides its sample
            weight, in training as in `evaluate`; accuracy and metrics use sample weights only.
        input_scale: what x is multiplied by, in `fit`, `evaluate` and `predict`. Bytes (uint8) stay
            bytes in memory, and become numbers batch by batch: for images, 1 / 255.

    Raises ValueError for values out of range.

    >>> import numpy as np
    >>> from gpumlp.layers import Dense
    >>> from gpumlp.losses import SoftmaxCrossEntropy
    >>> from gpumlp.optimizers import Adam
    >>> x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> model = Sequential(Dense(2, 8, "tanh"), Dense(8, 2), seed=1)
    >>> trainer = Trainer(model, SoftmaxCrossEntropy(), Adam(lr=0.1), batch_size="full")
    >>> history = trainer.fit(x, np.array([0, 1, 1, 0]), epochs=50)
    >>> history[-1]["accuracy"]
    1.0
    >>> trainer.predict(x).argmax(axis=1).tolist()
    [0, 1, 1, 0]
    """

    def __init__(
        self,
        model: Sequential,
        loss: Loss,
        optimizer: Optimizer,
        *,
        schedule: Schedule | None = None,
        batch_size: int | str = 64,
        accumulate: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        engine: str = "auto",
        metrics: Sequence[str] | None = None,
        callbacks: Iterable[Callback] = (),
        unscale: Callable[[np.ndarray], np.ndarray] | None = None,
        class_weight: Array | None = None,
        input_scale: float = 1.0,
    ) -> None:
        if batch_size != "full":
            batch_size = whole_number("batch_size", batch_size, 1, ' or "full"')
        if engine not in ("auto", *ENGINES):
            raise ValueError(f"unknown engine {engine!r}; choose auto, {', '.join(ENGINES)}")
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.schedule = schedule or Constant()
        self.batch_size, self.shuffle, self.engine = batch_size, shuffle, engine
        self.accumulate = whole_number("accumulate", accumulate, 1)
        self.seed = whole_number("seed", seed, 0)
        self.callbacks = list(callbacks)
        self.task = loss.task(model.n_out)
        self.metrics = [metric.name for metric in select(self.task, metrics, model.n_out)]
        if unscale is not None and self.task != "regression":
            raise ValueError(f"unscale is for regression, the task is {self.task}")
        self.unscale = unscale
        self.class_weight = as_class_weight(model, self.task, class_weight)
        check_number("input_scale", input_scale, "> 0", lambda scale: scale > 0)
        self.input_scale = float(input_scale)
        self.history = History()
        self.epoch = 0  # the epoch under way, counted from 1
        self.best_epoch: int | None = None
        self.last_epoch = self.last_step = 0
        self.running_loss = float("nan")
        self.workspace_bytes = 0  # memory of a step of the last `fit`, besides data and parameters
        self.stop_reason: str | None = None
        self.interrupted = False  # whether the last `fit` was broken off by `interrupt`
        self.began = 0, 0  # epoch and step at which the last `fit` began
        self.under_way: TrainingStep | None = None  # of an epoch that has begun and not ended
        self._stopped: str | None = None  # why `stop` was called, also if an interruption was first
        self._resumed: Fit | None = None  # what the next `fit` goes on with
        self._fit_began: float | None = None  # None where no `fit` is under way
        self._seconds, self._epoch_began = 0.0, 0.0

    @property
    def step(self) -> int:
        """Number of updates made so far."""
        return self.optimizer.steps

    def stop(self, reason: str) -> None:
        """End training after the event under way; `stop_reason` keeps why."""
        self._stopped = self._stopped or reason  # the first one counts
        self.stop_reason = self.stop_reason or reason

    def interrupt(self, reason: str) -> None:
        """Break training off after the event under way; `stop_reason` keeps why.

        Unlike `stop` it leaves the epoch under way unfinished, without a record in the history: a
        trainer that is given the `state` of now goes on with it. Does nothing where training ends
        for another reason.
        """
        if self.stop_reason is None:
            self.stop_reason, self.interrupted = reason, True

    @property
    def seconds(self) -> float:
        """Seconds that the last `fit` took, or has taken so far, without those between two runs."""
        if self._fit_began is None:
            return self._seconds
        return perf_counter() - self._fit_began

    @property
    def epoch_seconds(self) -> float:
        """Seconds since the epoch under way began, without those between two runs."""
        return perf_counter() - self._epoch_began

    @property
    def fit_under_way(self) -> Fit | None:
        """What the `fit` under way has come to, or what the next one goes on with; None for none.

        Raises ValueError after a `fit` that was interrupted.
        """
        if self._fit_began is None:
            if self.interrupted:
                raise ValueError("the last fit was interrupted: callbacks can take its state then")
            return self._resumed
        progress = None if self.under_way is None else self.under_way.progress
        seconds = 0.0 if self.under_way is None else self.epoch_seconds
        callbacks = callback_states(self)
        return Fit(
            self.began, self.seconds, self.best_epoch, self._stopped, progress, seconds, callbacks
        )

    def state(self) -> State:
        """Return all that `load_state` needs to go on from here, to the bit: arrays and facts.

        For callbacks, and between two calls of `fit`. On a CPU arrays are the trainer's own: write
        or copy them before the next step. Raises ValueError after a `fit` that was interrupted,
        whose state callbacks can take while it ends.

        >>> from gpumlp.losses import MeanSquaredError
        >>> from gpumlp.model import multilayer_perceptron
        >>> from gpumlp.optimizers import SGD
        >>> model = multilayer_perceptron([2, 1])
        >>> sorted(Trainer(model, MeanSquaredError(), SGD()).state()["parameters"])
        ['0.bias', '0.weight']
        """
        if self.under_way is None:
            self.optimizer.bind(self.model.flat, self.model.backend)
        return take_state(self)

    def load_state(self, state: State) -> None:
        """Go back to a `state`, of this or of another trainer that was made alike.

        Where the state is of a `fit` under way, the next `fit`, with the same data and arguments,
        goes on with it, and ends with the bits of one that was never interrupted. Raises
        StateError, a ValueError, when the state is of a trainer that was made otherwise, or has
        other callbacks; `fit` does when it is of other data.
        """
        self._resumed, self.interrupted = put_state(self, state), False

    @explained(of_training)
    def fit(
        self,
        x: Array,
        y: Array,
        *,
        epochs: int = 10,
        max_steps: int | None = None,
        sample_weight: Array | None = None,
        validation: tuple[Array, ...] | None = None,
    ) -> History:
        """Train for `epochs` more epochs, or `max_steps` more steps if that is sooner.

        Args:
            x: rows (N, D).
            y: targets (N,) or (N, K), as the loss takes them.
            epochs: how many more epochs.
            max_steps: how many more steps at most.
            sample_weight: (N,), >= 0.
            validation: (x, y) or (x, y, sample_weight), evaluated after each epoch.

        Returns the history, also of earlier calls. Raises DivergedError, which names step and
        tensor, when the loss is no longer finite, DeviceError, which says what fits, when memory
        runs out, and before anything is changed ValueError for data that do not fit (see
        `samples`).
        """
        epochs = whole_number("epochs", epochs, 1)
        if max_steps is not None:
            max_steps = whole_number("max_steps", max_steps, 1)
        held_out = None
        if validation is not None:
            if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
                raise ValueError("validation must be (x, y) or (x, y, sample_weight)")
            held_out = self._samples(*validation, part="validation ")
        training = self.training_step(x, y, sample_weight)
        batches, engine = training.batches, get_engine(self.engine, training)
        self.engine = engine.name
        resumed = self._resumed or Fit((self.epoch, self.step))
        training.check(resumed.progress)
        self.began, self.best_epoch, self._stopped = resumed.began, resumed.best_epoch, None
        self.interrupted, self.stop_reason = False, None
        if resumed.stop_reason is not None:
            self.stop(resumed.stop_reason)
        first_epoch, first_step = self.began
        self.last_epoch = first_epoch + epochs
        self.last_step = first_step + epochs * batches.steps
        if max_steps is not None:
            self.last_step = min(self.last_step, first_step + max_steps)
            self.last_epoch = first_epoch + -(-(self.last_step - first_step) // batches.steps)
        start = EpochStart(training, engine)
        largest = self.model.operations_of_largest_product(batches.size)
        self._fit_began = perf_counter() - resumed.seconds
        try:
            self._call("on_train_begin")
            put_callback_states(self, resumed.callbacks)
            self._resumed, under_way = None, resumed.progress is not None
            with self.model.backend.threads_for(largest):
                while under_way or (self.step < self.last_step and self.stop_reason is None):
                    self._epoch(engine, training, start, held_out, resumed if under_way else None)
                    under_way = False
        finally:
            self.workspace_bytes = engine.nbytes
            self._call("on_train_end")
            self._seconds, self._fit_began = self.seconds, None
        return self.history

    def training_step(self, x: Array, y: Array, sample_weight: Array | None = None) -> TrainingStep:
        """Return the step that `fit` repeats on these data; an engine runs it."""
        data = self._samples(x, y, sample_weight)
        return TrainingStep(self.model, self.loss, self.optimizer, self._batches(data))

    def _samples(self, *data: Array, part: str = "") -> Samples:
        return as_samples(
            self.model,
            self.loss,
            *data,
            class_weight=self.class_weight,
            scale=self.input_scale,
            part=part,
        )

    def _batches(self, data: Samples) -> Batches:
        """Return what an engine takes its batches from."""

        def on_host(weight: Array | None) -> np.ndarray | None:
            return None if weight is None else backend.to_numpy(weight).astype(np.float64)

        backend, counted = self.model.backend, None
        if self.class_weight is not None:
            counted = data.sample_weight
            if counted is None:
                counted = backend.xp.ones_like(data.loss_weight)
        return Batches(
            x=data.x,
            target=data.target,
            weight=data.loss_weight,
            size=len(data.x) if self.batch_size == "full" else int(self.batch_size),
            accumulate=self.accumulate,
            shuffle=self.shuffle,
            seed=self.seed,
            host_weight=on_host(data.loss_weight),
            count_weight=counted,
            host_count_weight=on_host(counted),
            scale=data.scale,
        )

    def _epoch(
        self,
        engine: Engine,
        training: TrainingStep,
        start: EpochStart,
        held_out: Samples | None,
        resumed: Fit | None,
    ) -> None:
        """Run one epoch, or what is left of it, up to `last_step`, and add its record.

        `resumed` says how far it had come, and in how many seconds, before it was interrupted.
        """
        done, seconds = (resumed.progress, resumed.epoch_seconds) if resumed else (None, 0.0)
        first = self.step - (done.position if done else 0)
        factors = self.schedule.table(first, training.batches.steps)
        self.epoch += 1
        try:
            training.begin_epoch(self.epoch - 1, first, factors, done)
            self.under_way = training
            self._epoch_began = perf_counter() - seconds
            self._call("on_epoch_begin")
            start.keep()
            self._steps(engine, training, start, min(first + len(factors), self.last_step))
            if self.step > first and not self.interrupted:
                training.backend.synchronize()
                record = self._record(training, first, factors, self.epoch_seconds)
                if held_out is not None:
                    found = self._evaluate(held_out, self._between_blocks)
                    record |= {f"val_{name}": value for name, value in found.items()}
        except _Interrupted:
            pass
        finally:
            self.under_way = None
            if self.step == first or self.interrupted:  # it goes on later, or never began
                self.epoch -= 1
        if self.step == first or self.interrupted:
            return
        self.history.append(record)
        self.schedule.observe(record["val_loss"] if "val_loss" in record else record["loss"])
        for callback in self.callbacks:
            callback.on_epoch_end(self, record)

    def _between_blocks(self) -> None:
        self._call("on_progress")
        if self.interrupted:
            raise _Interrupted

    def _steps(self, engine: Engine, training: TrainingStep, start: EpochStart, end: int) -> None:
        """Run the steps before `end`, calling callbacks between them."""
        n = 1
        while self.step < end and self.stop_reason is None:
            n = min(n, self._next_event(end) - self.step)
            started, before = perf_counter(), self.step
            engine.run(n)
            self.optimizer.steps += n
            if self.step == end < self.last_step:
                training.batches.draw(self.epoch)  # of the next one: a GPU is still at work
            self._check(training, start, before, end)
            pace = (perf_counter() - started) / n
            n = max(1, int(PROGRESS_SECONDS / max(pace, 1e-9)))
            for callback in self.callbacks:
                if callback.every_steps and self.step % callback.every_steps == 0:
                    callback.on_step(self)
            self._call("on_progress")

    def _next_event(self, end: int) -> int:
        """Return the next step at which a callback wants to be called, at most `end`."""
        every = [callback.every_steps for callback in self.callbacks if callback.every_steps]
        return min([end, *(self.step // e * e + e for e in every)])

    def _check(self, training: TrainingStep, start: EpochStart, before: int, end: int) -> None:
        """Read the running loss; raise DivergedError when it is not finite."""
        total, _ = training.sums()
        self.running_loss = total / training.batches.weight_taken
        # the loss was taken before the last update, so at the end the parameters are looked at too
        if not isfinite(total) or (self.step == end and not_finite(self.model)):
            raise start.diverged(self.epoch, before, total)
        scale = self.optimizer.loss_scale
        if scale is not None and scale.value < SMALLEST:
            raise DivergedError(
                f"training diverged in epoch {self.epoch}, step {self.step}: the gradient is not "
                f"finite in float16, whatever it is scaled by (now {scale.value:g}). Try a smaller "
                f'learning rate (now {self.optimizer.lr:g}), scaled inputs, or precision = "bf16"'
            )

    def _record(
        self, training: TrainingStep, first: int, factors: np.ndarray, seconds: float
    ) -> Record:
        """Return the epoch's line of the history."""
        batches = training.batches
        total, correct = training.sums()
        rows = batches.rows_taken
        record: Record = {
            "epoch": self.epoch,
            "step": self.step,
            "lr": self.optimizer.lr * float(factors[self.step - first - 1]),
            "loss": total / batches.weight_taken,
            "total_loss": total,
        }
        if self.optimizer.has_penalty:
            record["penalty"] = self.optimizer.penalty()
        if self.loss.counts_correct:
            record["accuracy"] = correct / batches.count_taken
        if self.optimizer.loss_scale is not None:
            scale = self.optimizer.loss_scale
            record |= {"loss_scale": scale.value, "skipped_steps": scale.skipped}
        return record | {"samples_per_s": rows / seconds, "seconds": seconds}

    @explained(of_prediction)
    def evaluate(self, x: Array, y: Array, sample_weight: Array | None = None) -> dict[str, float]:
        """Return the cost ("loss") and the metrics of rows x (N, D) with targets y.

        With `class_weight` the loss counts class weights, and metrics do not; with `unscale`
        metrics are in the units of the data ("rmse" of a price in its currency), and the loss is
        that of the scaled targets. Raises ValueError for data that do not fit, as `fit` does.
        """
        return self._evaluate(self._samples(x, y, sample_weight))

    def _evaluate(
        self, data: Samples, between: Callable[[], None] | None = None
    ) -> dict[str, float]:
        backend, loss = self.model.backend, copy(self.loss)
        loss.backend = backend
        with np.errstate(all="ignore"):  # a diverged network is found by its loss
            z = self.model.predict(data.x, data.scale, between)
            loss.forward(z, data.target, data.loss_weight)
            target = backend.to_numpy(data.target)
            prediction = backend.to_numpy(self.loss.link(z, backend))
            if self.unscale is not None:
                target, prediction = self.unscale(target), self.unscale(prediction)
        weight = None if data.sample_weight is None else backend.to_numpy(data.sample_weight)
        metrics = evaluate(self.task, target, prediction, self.metrics, weight)
        return {"loss": loss.cost} | metrics

    @explained(of_prediction)
    def predict(self, x: Array) -> Array:
        """Return predictions for rows x (N, D): probabilities, rates or values, (N, K).

        Values are those the loss compares with targets: with `unscale`, scaled ones.
        """
        return self.loss.link(self.model.predict(x, self.input_scale), self.model.backend)

    def _call(self, event: str) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self)
