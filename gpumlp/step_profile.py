"""Where the time of a training step goes, and how far it is from what the machine allows.

The calls of the recorded step are timed one by one, each repeated by itself, then the step as a
whole, then some steps as the trainer runs them; of several tries the shortest counts. The
differences are what lies between calls, and what the host does besides. Everything that steps
change is put back afterwards.
"""

from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter, sleep
from typing import Any

import numpy as np

from .backend import Array, Backend, Plan, RecordingBackend, Workspace
from .backend.base import Call
from .call_costs import bytes_of, name_of, operations_of
from .engine import TrainingStep, get_engine
from .errors import DivergedError
from .events import Callback, History
from .schedules import Constant
from .trainer import Trainer

PARTS = {  # part of a step → operations, and the kernels that are called otherwise
    "gather": ("begin_step", "gather", "gather_scaled", "normalize"),
    "products": ("matmul", "split", "gemm", "product"),
    "activations": ("bias_activation_forward", "bias_activation_backward", "dropout"),
    "loss": ("softmax", "softmax_cross_entropy", "pointwise_loss", "accumulate"),
    "update": (
        *("sgd_step", "momentum_step", "nesterov_step", "adagrad_step", "rmsprop_step"),
        *("adam_step", "scale", "add_penalty", "clip_norm", "clip_rows", "square_sum"),
        *("clip_scale", "unscale", "loss_scale_step"),
    ),
}
OTHER, BETWEEN, HOST = "other", "between calls", "host"
PART = {name: part for part, names in PARTS.items() for name in names}
CALL_SECONDS, STEP_SECONDS, TRAINER_SECONDS = 0.005, 0.05, 0.5  # of what is timed at once, about
SPINNING = 0.15  # seconds in which idle threads of OpenBLAS still take a core (0.12 measured)
REPEATS, MOST_TIMES, INTERVALS, MOST_EPOCHS = 5, 1000, 8, 250
PEAK_SIZE = {"cpu": 1536, "cuda": 8192}  # of a large product
# entries of the arrays that bandwidths are measured with, and of what is timed at once
FEWEST_ENTRIES, MOST_ENTRIES, MOST_TIMED = 2**12, 2**25, 2**24


@dataclass(frozen=True)
class Row:
    """A part of a step: number of calls, seconds, and the least that it could take."""

    part: str
    calls: int
    seconds: float
    floor: float


@dataclass(frozen=True)
class StepProfile:
    """Where the time of a step goes.

    Attributes:
        rows: the parts; their seconds add up to `seconds`.
        seconds: of a step, as the trainer takes it.
        steps: how many of them make an epoch.
        peak: floating-point operations per second of one large product.
        bandwidth: bytes per second of reading and writing as much as the largest call does.
    """

    rows: tuple[Row, ...]
    seconds: float
    steps: int
    peak: float
    bandwidth: float

    @property
    def floor(self) -> float:
        """The least seconds of a step: operations / peak and bytes / bandwidth, call by call."""
        return sum(row.floor for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """Return the profile as values that JSON can hold, times in microseconds."""
        rows = [
            {
                "part": row.part,
                "calls": row.calls,
                "us": round(1e6 * row.seconds, 3),
                "share": round(row.seconds / self.seconds, 4),
                "floor_us": round(1e6 * row.floor, 3),
            }
            for row in self.rows
        ]
        return {
            "rows": rows,
            "us_per_step": round(1e6 * self.seconds, 3),
            "floor_us": round(1e6 * self.floor, 3),
            "share_of_floor": round(self.floor / self.seconds, 4),
            "steps_per_epoch": self.steps,
            "peak_gflops": round(self.peak / 1e9, 1),
            "bandwidth_gb_per_s": round(self.bandwidth / 1e9, 1),
        }


def profile_training(trainer: Trainer, x: Array, y: Array, weight: Array | None) -> StepProfile:
    """Return where the time of a step goes that `trainer.fit(x, y, sample_weight=weight)` takes.

    Parameters, optimizer state and the trainer itself are afterwards as they were.
    """
    with _Unchanged(trainer), np.errstate(all="ignore"):
        training = trainer.training_step(x, y, weight)
        operations = trainer.model.operations_of_largest_product(training.batches.size)
        with training.backend.threads_for(operations):
            training.begin_epoch(trainer.epoch, trainer.step, np.ones(training.batches.steps))
            own = _seconds_of_calls(training)
            step = _seconds_of_a_step(training, trainer.engine)
        # what varies between two measurements must not make a step shorter than it is
        whole = max(step, _seconds_in_trainer(trainer, x, y, weight, step, training))
        peak, bandwidth = _peak(training.backend), _Bandwidth(training.backend)
        rows = _rows(own, step, whole, peak, bandwidth)
        largest = max((bytes_of(call) for _, call, _ in own), default=0.0)
    return StepProfile(rows, whole, training.batches.steps, peak, bandwidth.of(largest))


class _Unchanged:
    """A context after which parameters, gradients and optimizer are as they were before."""

    def __init__(self, trainer: Trainer) -> None:
        optimizer, flat = trainer.optimizer, trainer.model.flat
        self._arrays = [flat.values, flat.gradients, *optimizer.state.values()]
        if optimizer.loss_scale is not None:
            self._arrays.append(optimizer.loss_scale.state)
        self._optimizer, self._steps = optimizer, optimizer.steps

    def __enter__(self) -> None:
        self._kept = [array.copy() for array in self._arrays]

    def __exit__(self, *_: object) -> None:
        for array, kept in zip(self._arrays, self._kept, strict=True):
            array[...] = kept
        self._optimizer.steps = self._steps


# ------------------------------------------------------------------------------ timing


def _seconds_of_calls(training: TrainingStep) -> list[tuple[str, Call, float]]:
    """Return (name, call, seconds) of each call of a step with a full batch."""
    backend, rows = training.backend, training.batches.effective
    plan: Plan = []
    training(RecordingBackend(backend, Workspace(backend), plan), rows)
    found = []
    for call in backend.calls(plan):
        if name_of(call) == "begin_step":
            seconds = _seconds_of_begin_step(training, call)
        else:
            seconds = _seconds_of_call(backend, call)
        found.append((name_of(call), call, seconds))
        _settle(backend, call)
    training.rewind()
    return found


def _seconds_of_call(backend: Backend, call: Call) -> float:
    times = 1
    while (seconds := backend.seconds(call, times)) * times < CALL_SECONDS:
        if 2 * times > MOST_TIMES:
            break
        times *= 2
    return min(seconds, *(backend.seconds(call, times) for _ in range(REPEATS)))


def _seconds_of_begin_step(training: TrainingStep, call: Call) -> float:
    """Return them, without letting the step's clock pass the end of its tables."""
    tries = []
    for _ in range(REPEATS):
        training.rewind()
        training.backend.synchronize()
        began = perf_counter()
        call()
        training.backend.synchronize()
        tries.append(perf_counter() - began)
    return min(tries)


def _seconds_of_beginning(trainer: Trainer, training: TrainingStep) -> float:
    """Return what the host does before an epoch, in seconds for each of its steps."""
    steps = training.batches.steps
    training.batches.draw(trainer.epoch + 1)  # so that the order is drawn anew
    began = perf_counter()
    training.begin_epoch(trainer.epoch, trainer.step, np.ones(steps))
    training.backend.synchronize()
    return (perf_counter() - began) / steps


def _seconds_of_a_step(training: TrainingStep, engine: str) -> float:
    """Return the seconds of a step as the engine runs it, steps after each other."""
    runner, backend, steps = get_engine(engine, training), training.backend, training.batches.steps
    n = 1
    found: list[float] = []
    while len(found) < REPEATS:
        training.rewind()
        runner.run(min(n, steps))  # what is recorded or captured first is not timed
        backend.synchronize()
        training.rewind()
        began = perf_counter()
        runner.run(min(n, steps))
        backend.synchronize()
        seconds = perf_counter() - began
        if seconds < STEP_SECONDS and n < steps:
            n *= 2
        else:
            found.append(seconds / min(n, steps))
    training.rewind()
    return min(found)


class _Clock(Callback):
    """Looks at the clock every so many steps of a training."""

    every_steps: int

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps
        self.times: list[float] = []

    def on_step(self, trainer: Trainer) -> None:
        """As in `Callback`."""
        self.times.append(perf_counter())


def _seconds_in_trainer(
    trainer: Trainer, x: Array, y: Array, weight: Array | None, step: float, training: TrainingStep
) -> float:
    """Return the seconds of a step in a `fit` of a while, without validation and callbacks."""
    steps = training.batches.steps
    # an epoch costs something besides its steps, so of short ones not too many
    most = steps * MOST_EPOCHS // INTERVALS
    clock = _Clock(max(1, min(most, int(TRAINER_SECONDS / step / INTERVALS))))
    probe = copy(trainer)
    probe.history, probe.callbacks, probe.schedule = History(), [clock], Constant()
    count = (INTERVALS + 2) * clock.every_steps  # the first steps are also recorded
    with suppress(DivergedError):  # a schedule may have held the learning rate down
        probe.fit(x, y, epochs=count // steps + 1, max_steps=count, sample_weight=weight)
    if len(clock.times) < 2:
        return 0.0
    shortest = min(after - before for before, after in pairwise(clock.times))
    seconds = shortest / clock.every_steps
    if clock.every_steps >= steps:
        return seconds
    return seconds + min(_seconds_of_beginning(trainer, training) for _ in range(REPEATS))


def _peak(backend: Backend) -> float:
    """Return the operations per second of one large matrix product."""
    n = PEAK_SIZE[backend.name.partition(":")[0]] // (1 if backend.dtype == "float32" else 2)
    a, b, out = (backend.zeros((n, n)) + 1 for _ in range(3))
    a, b = backend.operand(a), backend.operand(b)
    plan = [backend.bind("matmul", out, a, b)]
    seconds = min(_seconds(backend, plan) for _ in range(REPEATS))
    sleep(SPINNING)
    return sum(map(operations_of, backend.calls(plan))) / seconds


def _settle(backend: Backend, call: Call) -> None:
    """Wait until the threads of a product, which look out for more, sleep again."""
    if backend.name == "cpu" and operations_of(call):
        sleep(SPINNING)


class _Bandwidth:
    """Bytes per second of reading and writing an array, which depends on the caches it fits in."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._measured: dict[int, float] = {}

    def of(self, nbytes: float) -> float:
        """Return it for an array of about that size."""
        entries = 1 << max(int(nbytes / 8), FEWEST_ENTRIES).bit_length()
        entries = min(entries, MOST_ENTRIES)
        if entries not in self._measured:
            w = self._backend.zeros((entries,)) + 1
            call, times = self._backend.bind("scale", w, 1.0), max(1, MOST_TIMED // entries)
            tries = []
            for _ in range(REPEATS):
                sleep(SPINNING / REPEATS if self._backend.name == "cpu" else 0)
                tries.append(_seconds(self._backend, [call], times))
            seconds = min(tries)
            self._measured[entries] = 2.0 * w.nbytes / seconds
        return self._measured[entries]


def _seconds(backend: Backend, plan: Plan, times: int = 1) -> float:
    return sum(backend.seconds(call, times) for call in backend.calls(plan))


# ---------------------------------------------------------------------------- the table


def _rows(
    own: Sequence[tuple[str, Call, float]],
    step: float,
    whole: float,
    peak: float,
    bandwidth: _Bandwidth,
) -> tuple[Row, ...]:
    """Return the parts, in the order of a step, and what is left beside them."""
    rows = []
    for part in (*PARTS, OTHER):
        calls = [(call, seconds) for name, call, seconds in own if PART.get(name, OTHER) == part]
        if calls:
            # (W may stay in the cache, so what a product reads sets no limit; and what a call has
            # reached is possible, whatever was measured with other memory)
            floor = sum(
                min(
                    seconds,
                    operations_of(call) / peak or bytes_of(call) / bandwidth.of(bytes_of(call)),
                )
                for call, seconds in calls
            )
            rows.append(Row(part, len(calls), sum(seconds for _, seconds in calls), floor))
    rows.append(Row(BETWEEN, 0, step - sum(row.seconds for row in rows), 0.0))
    rows.append(Row(HOST, 0, whole - step, 0.0))
    return tuple(rows)
