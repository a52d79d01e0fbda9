"""Find a learning rate by one short test: let it grow from step to step, and watch the loss.

At tiny rates nothing is learned, then the loss falls, and where the rate is too large it rises
again: a good rate lies where it falls, well before the rise. Source: Smith, Cyclical Learning Rates
for Training Neural Networks (WACV 2017), section 3.3.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Literal

import numpy as np
import numpy.typing as npt

from .backend import Array
from .engine import Batches, TrainingStep, get_engine
from .optimizers import Optimizer
from .out_of_memory import explained, of_training
from .ranges import check_number, whole_number
from .trainer import Trainer

Values = npt.NDArray[np.float64]
Ending = Literal["rose", "not finite", "end of the range"]

LOWEST, HIGHEST, STEPS, FEWEST_STEPS = 1e-6, 10.0, 200, 50
AVERAGED = 1 / 20  # of the steps: what the smoothed loss looks back on, whatever their number
FEWEST_AVERAGED = 5
TOO_HIGH = 4.0  # times the minimum of the smoothed loss: there the test ends
CLEAR = 0.02  # of the first loss: what falls or rises by less has not changed
DEVIATIONS = 4.0  # of the smoothed loss, by chance: nor has what changes by less than these


@dataclass(frozen=True, eq=False)
class LearningRates:
    """What a test of learning rates found; arrays are float64 (steps,), one entry for each step.

    Attributes:
        rates: the learning rate.
        losses: the cost of the step's batch, before its update.
        smoothed: their running average.
        ending: why the test ended: the smoothed loss "rose" to 4 times its minimum, a loss was
            "not finite" (it is left out), or the "end of the range" was reached.
        steepest: the rate where the smoothed loss falls fastest; None where it never clearly falls.
        tenth: a tenth of the rate where it is lowest; None where it does not clearly fall
            and rise again.
        suggestion: the rate to train with: `steepest` in three digits; None where the loss never
            clearly falls, or is still falling at the end of the range.
    """

    rates: Values
    losses: Values
    smoothed: Values
    ending: Ending
    steepest: float | None = None
    tenth: float | None = None
    suggestion: float | None = None

    @property
    def advice(self) -> str:
        """What to do where there is no suggestion; empty where there is one.

        >>> nothing = np.zeros(0)
        >>> LearningRates(nothing, nothing, nothing, "not finite").advice
        'the loss is not finite at the lowest rate: look at the data, or begin lower'
        """
        if self.suggestion is not None:
            return ""
        if not len(self.rates):
            return "the loss is not finite at the lowest rate: look at the data, or begin lower"
        if self.steepest is not None:
            return "the loss still falls at the highest rate: go higher"
        if self.ending == "end of the range":
            return (
                "the loss never clearly falls: take more steps or larger batches, go higher, "
                "or look at the data"
            )
        return "the loss rises before it clearly falls: begin lower, or take more steps"


def find_lr(
    trainer: Trainer,
    x: Array,
    y: Array,
    *,
    sample_weight: Array | None = None,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
) -> LearningRates:
    """Train with a rate that grows from `lowest` to `highest`, by the same factor in each step.

    The test begins with the parameters and the optimizer state that the trainer has; afterwards
    all of it is as it was. Schedule, callbacks and the optimizer's own rate play no part. A loss
    that is not finite ends the test, and is no error.

    Args:
        trainer: what is to be trained, and how.
        x: rows (N, D), as `Trainer.fit` takes them; epoch follows epoch where they are few.
        y: targets (N,) or (N, K).
        sample_weight: (N,), >= 0.
        lowest: the first rate, > 0.
        highest: the last rate, > lowest.
        steps: how many rates there are, at least 50.

    Raises ValueError for numbers out of range and for data that do not fit, and DeviceError when
    memory runs out.

    >>> from gpumlp import SGD, MeanSquaredError, multilayer_perceptron
    >>> x = np.linspace(-1, 1, 64)[:, None]
    >>> model = multilayer_perceptron([1, 16, 1], "tanh")
    >>> trainer = Trainer(model, MeanSquaredError(), SGD(), batch_size="full")
    >>> found = find_lr(trainer, x, 2 * x)
    >>> found.ending, 0.001 < found.suggestion < 1, trainer.step
    ('rose', True, 0)
    """
    check_number("lowest", lowest, "> 0", lambda rate: rate > 0)
    check_number("highest", highest, f"> {lowest:g}, the lowest", lambda rate: rate > lowest)
    steps = whole_number("steps", steps, FEWEST_STEPS)
    rates = np.geomspace(lowest, highest, steps)
    with _unchanged(trainer) as probe:
        found = _grow(probe, x, y, sample_weight=sample_weight, rates=rates)
    return _judged(*found, _window(steps))


@contextmanager
def _unchanged(trainer: Trainer) -> Iterator[Trainer]:
    """Yield a copy of a trainer whose training changes nothing that the trainer has."""
    probe, flat = copy(trainer), trainer.model.flat
    probe.model = copy(trainer.model)
    probe.model.layers = [copy(layer) for layer in trainer.model.layers]
    probe.optimizer = _copied(trainer.optimizer)
    arrays = [flat.values, flat.gradients]  # the layers are copies over the same parameters
    kept = [array.copy() for array in arrays]
    try:
        yield probe
    finally:
        for array, before in zip(arrays, kept, strict=True):
            array[...] = before


def _copied(optimizer: Optimizer) -> Optimizer:
    """Return an optimizer that goes on from where this one is, with state of its own."""
    own = copy(optimizer)
    own.state = {slot: array.copy() for slot, array in optimizer.state.items()}
    if optimizer.loss_scale is not None:
        own.loss_scale = copy(optimizer.loss_scale)
        own.loss_scale.state = optimizer.loss_scale.state.copy()
    return own


@explained(of_training)
def _grow(
    trainer: Trainer, x: Array, y: Array, *, sample_weight: Array | None, rates: Values
) -> tuple[Values, Values, Values, Ending]:
    """Train a step at each rate until the test ends; return rates, losses, smoothed, ending."""
    taken, losses, smoothed = list[float](), list[float](), list[float]()
    window = _window(len(rates))
    ending: Ending = "end of the range"
    average, keep = 0.0, 1 - 1 / window
    training = trainer.training_step(x, y, sample_weight)
    largest = trainer.model.operations_of_largest_product(training.batches.size)
    with training.backend.threads_for(largest):
        for rate, loss in _batch_losses(training, trainer, rates):
            if not isfinite(loss):
                ending = "not finite"
                break
            taken.append(rate)
            losses.append(loss)
            average = keep * average + (1 - keep) * loss
            smoothed.append(average / (1 - keep ** len(losses)))  # as if it had begun at its mean
            if len(smoothed) > window and _too_high(smoothed[window:]):
                ending = "rose"
                break
    return np.array(taken), np.array(losses), np.array(smoothed), ending


def _batch_losses(
    training: TrainingStep, trainer: Trainer, rates: Values
) -> Iterator[tuple[float, float]]:
    """Yield (rate, cost of the batch) of each step, epoch after epoch."""
    batches, optimizer = training.batches, training.optimizer
    engine = get_engine(trainer.engine, training)
    rest = -len(rates) % batches.steps  # of the last epoch, whose steps are not taken
    factors = np.pad(rates / optimizer.lr, (0, rest), "edge")
    for first in range(0, len(rates), batches.steps):
        epoch, part = trainer.epoch + first // batches.steps, slice(first, first + batches.steps)
        training.begin_epoch(epoch, optimizer.steps, factors[part])
        total = 0.0
        for rate, weight in zip(rates[part], _weights(batches, epoch), strict=False):
            engine.run(1)
            optimizer.steps += 1
            before, (total, _) = total, training.sums()
            if weight:  # a batch of rows that do not count has no cost
                yield float(rate), (total - before) / float(weight)


def _weights(batches: Batches, epoch: int) -> Values:
    """Return what the rows of each step of an epoch count together, (steps,)."""
    weight = np.ones(batches.count) if batches.host_weight is None else batches.host_weight
    rows = batches.order(epoch).ravel()[: batches.count]
    return np.add.reduceat(weight[rows], np.arange(0, batches.count, batches.effective))


def _window(steps: int) -> int:
    """Return how many steps the running average looks back on."""
    return max(FEWEST_AVERAGED, int(AVERAGED * steps))


def _too_high(smoothed: Sequence[float]) -> bool:
    """Whether the last value is above 4 times the least; one below zero counts by its size."""
    least = min(smoothed)
    unit = least if least > 0 else max(smoothed[0], -least)  # a Poisson loss can be negative
    return smoothed[-1] > least + (TOO_HIGH - 1) * unit


def _judged(
    rates: Values, losses: Values, smoothed: Values, ending: Ending, window: int
) -> LearningRates:
    """Return what the curve says, as far as it says it."""
    if len(smoothed) <= window:
        return LearningRates(rates, losses, smoothed, ending)
    least = window + int(smoothed[window:].argmin())
    first = losses[: max(window, least // 2)].mean()  # of many batches, where little is learned yet
    clear = max(CLEAR * abs(first), DEVIATIONS * _deviation(losses[: least + 1], window))
    steepest = tenth = suggestion = None
    if first - smoothed[least] > clear:
        steepest = float(rates[_steepest(smoothed, window, least)])
        if rose := ending != "end of the range" or smoothed[-1] - smoothed[least] > clear:
            tenth = float(rates[least]) / 10
        if rose or smoothed[-1 - window] - smoothed[-1] <= clear:  # or it has come to rest
            suggestion = float(f"{steepest:.3g}")
    return LearningRates(rates, losses, smoothed, ending, steepest, tenth, suggestion)


def _deviation(losses: Values, window: int) -> float:
    """Return the standard deviation of the running average that is due to what batches hold."""
    keep = 1 - 1 / window
    with np.errstate(over="ignore"):
        return float(np.diff(losses).std()) / sqrt(2) * sqrt((1 - keep) / (1 + keep))


def _steepest(smoothed: Values, window: int, least: int) -> int:
    """Return where the curve falls fastest, up to its minimum, over a window before and after.

    A slope of neighbours would show by which chance their batches differ.
    """
    i = np.arange(window, least + 1)
    before, after = i - window, np.minimum(i + window, len(smoothed) - 1)
    return int(i[((smoothed[after] - smoothed[before]) / (after - before)).argmin()])
