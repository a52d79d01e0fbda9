"""Learning-rate schedules: for every step, a factor by which the base learning rate is multiplied.

A step is one update of the parameters; steps are numbered from 0 over the whole training. The host
computes a table of factors in float64 for the steps ahead, and nothing of a schedule runs on the
device. A factor depends on the step number alone, so a table cut in two holds the same bits.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from .ranges import check_number, whole_number

Factors = npt.NDArray[np.float64]
State = dict[str, float | int | None]


class Schedule(ABC):
    """What every schedule can do; a new one only defines `factors`.

    Only `Plateau` learns from what is observed: the others have no state and ignore values.
    """

    @abstractmethod
    def factors(self, step: Factors) -> Factors:
        """Return the factor of each of the given step numbers, both float64 (S,)."""

    def table(self, first_step: int, steps: int) -> Factors:
        """Return the factors of the steps first_step .. first_step + steps - 1: float64 (steps,).

        Raises ValueError when one of the two is negative.

        >>> Step(every=2, gamma=0.5).table(first_step=1, steps=4)
        array([1.  , 0.5 , 0.5 , 0.25])
        """
        whole_number("first_step", first_step, 0)
        whole_number("steps", steps, 0)
        return self.factors(np.arange(first_step, first_step + steps, dtype=np.float64))

    def observe(self, value: float) -> None:  # noqa: B027 - to ignore the value is the default
        """Take note of a validation loss or metric; it can change the next tables only."""

    def state(self) -> State:
        """Return what was learned from the observations, as values that JSON can hold."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` returned. Raises ValueError when the keys are not those."""
        if set(state) != set(self.state()):
            raise ValueError(f"a {type(self).__name__} schedule has no state {sorted(state)}")


@dataclass
class Constant(Schedule):
    """The base learning rate throughout: factor 1.

    >>> Constant().table(0, 3)
    array([1., 1., 1.])
    """

    def factors(self, step: Factors) -> Factors:
        """Return ones."""
        return np.ones_like(step)


@dataclass
class Step(Schedule):
    """Multiply by gamma once every `every` steps: gamma^⌊step / every⌋.

    Raises ValueError unless every >= 1 and gamma > 0.

    >>> Step(every=2, gamma=0.5).table(0, 5)
    array([1.  , 1.  , 0.5 , 0.5 , 0.25])
    """

    every: int
    gamma: float

    def __post_init__(self) -> None:
        _check_decay(self.every, self.gamma)

    def factors(self, step: Factors) -> Factors:
        """Return gamma^⌊step / every⌋."""
        return np.power(self.gamma, np.floor_divide(step, self.every))


@dataclass
class Exponential(Schedule):
    """Decay smoothly, by gamma over every `every` steps: gamma^(step / every).

    Raises ValueError unless every >= 1 and gamma > 0.

    >>> Exponential(gamma=0.25, every=2).table(0, 4)
    array([1.   , 0.5  , 0.25 , 0.125])
    """

    gamma: float
    every: int

    def __post_init__(self) -> None:
        _check_decay(self.every, self.gamma)

    def factors(self, step: Factors) -> Factors:
        """Return gamma^(step / every)."""
        return np.power(self.gamma, step / self.every)


@dataclass
class Cosine(Schedule):
    """Half a cosine from 1 down to `floor`, which is reached at step `total_steps` and kept.

    floor + (1 - floor)·(1 + cos(π·step / total_steps)) / 2. Raises ValueError unless
    total_steps >= 1 and 0 <= floor <= 1. Source: Loshchilov and Hutter, SGDR: Stochastic Gradient
    Descent with Warm Restarts (ICLR 2017), equation 5, without restarts.

    >>> Cosine(total_steps=4).table(0, 6).round(3)
    array([1.   , 0.854, 0.5  , 0.146, 0.   , 0.   ])
    """

    total_steps: int
    floor: float = 0.0

    def __post_init__(self) -> None:
        whole_number("total_steps", self.total_steps, 1)
        _check_fraction("floor", self.floor)

    def factors(self, step: Factors) -> Factors:
        """Return the cosine at step / total_steps."""
        return _anneal(1.0, self.floor, np.minimum(step / self.total_steps, 1.0))


@dataclass
class OneCycle(Schedule):
    """Rise from `start` to 1 and fall to `end`, both along half a cosine.

    The peak, the base learning rate itself, lies at step peak_fraction·total_steps - 1 (or at
    step 0, if that is negative), the end at the last step, after which the factor stays. `start`
    and `end` are fractions of the peak: PyTorch's OneCycleLR with its default
    final_div_factor = 10⁴ is end = start·10⁻⁴. Raises ValueError unless total_steps >= 1,
    0 <= peak_fraction < 1, 0 <= start <= 1 and 0 <= end <= 1. Source: Smith and Topin,
    Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates (2018).

    >>> OneCycle(total_steps=10, peak_fraction=0.3, start=0.04, end=0.0).table(0, 10).round(2)
    array([0.04, 0.52, 1.  , 0.95, 0.81, 0.61, 0.39, 0.19, 0.05, 0.  ])
    """

    total_steps: int
    peak_fraction: float = 0.3
    start: float = 1 / 25
    end: float = 1e-4

    def __post_init__(self) -> None:
        whole_number("total_steps", self.total_steps, 1)
        check_number("peak_fraction", self.peak_fraction, "in [0, 1)", lambda part: 0 <= part < 1)
        _check_fraction("start", self.start)
        _check_fraction("end", self.end)

    def factors(self, step: Factors) -> Factors:
        """Return the rising cosine before the peak and the falling one from there on."""
        peak = max(self.peak_fraction * self.total_steps - 1, 0.0)
        last = max(self.total_steps - 1, 1)
        phase = np.interp(step, (0.0, peak, last), (0.0, 1.0, 2.0))
        rise, fall = _anneal(self.start, 1.0, phase), _anneal(1.0, self.end, phase - 1)
        return np.where(phase < 1, rise, fall)


@dataclass
class Plateau(Schedule):
    """Multiply by `factor` when the observed value has not improved for more than `patience` times.

    A value improves on the best one when it is lower by more than `min_delta` (higher, if
    `greater_is_better`); nan and infinity never do. After a reduction the next `cooldown` values
    are not counted. The factor never falls below `minimum`. This is ReduceLROnPlateau of PyTorch,
    with threshold_mode="abs". Raises ValueError unless 0 < factor < 1, 0 <= minimum <= 1, and
    patience, min_delta and cooldown are at least 0.

    >>> plateau = Plateau(factor=0.5, patience=0)
    >>> for loss in (1.0, 0.9, 0.9):
    ...     plateau.observe(loss)
    >>> plateau.table(0, 2)
    array([0.5, 0.5])
    """

    factor: float = 0.1
    patience: int = 10
    min_delta: float = 0.0
    minimum: float = 0.0
    cooldown: int = 0
    greater_is_better: bool = False
    _scale: float = field(default=1.0, init=False)
    _best: float | None = field(default=None, init=False)
    _bad: int = field(default=0, init=False)
    _resting: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        check_number("factor", self.factor, "above 0 and below 1", lambda value: 0 < value < 1)
        whole_number("patience", self.patience, 0)
        check_number("min_delta", self.min_delta, ">= 0", lambda value: value >= 0)
        _check_fraction("minimum", self.minimum)
        whole_number("cooldown", self.cooldown, 0)

    def factors(self, step: Factors) -> Factors:
        """Return the present factor for every step."""
        return np.full_like(step, self._scale)

    def observe(self, value: float) -> None:
        """Take note of a value, and reduce the factor if it is one bad value too many."""
        if self._improves(value):
            self._best, self._bad = float(value), 0
        else:
            self._bad += 1
        if self._resting:
            self._resting, self._bad = self._resting - 1, 0
        if self._bad > self.patience:
            self._scale = max(self._scale * self.factor, self.minimum)
            self._resting, self._bad = self.cooldown, 0

    def _improves(self, value: float) -> bool:
        if not isfinite(value) or self._best is None:
            return isfinite(value)
        gain = value - self._best if self.greater_is_better else self._best - value
        return gain > self.min_delta

    def state(self) -> State:
        """Return the present factor, the best value, and the two counters."""
        return {
            "scale": self._scale,
            "best": self._best,
            "bad": self._bad,
            "resting": self._resting,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` returned. Raises ValueError when the keys are not those."""
        super().load_state(state)
        scale, best, bad, resting = (state[name] for name in self.state())
        numbers = float(scale), None if best is None else float(best), int(bad), int(resting)
        self._scale, self._best, self._bad, self._resting = numbers


@dataclass
class Warmup(Schedule):
    """Multiply another schedule by min((step + 1) / warmup_steps, 1): a linear start.

    The other schedule counts from step 0 as well: it runs under the warm-up, not after it. What is
    observed, and the state, are the other schedule's. Raises ValueError unless warmup_steps >= 1.
    Source: Goyal et al., Accurate, Large Minibatch SGD (2017), section 2.2.

    >>> Warmup(Constant(), warmup_steps=4).table(0, 6)
    array([0.25, 0.5 , 0.75, 1.  , 1.  , 1.  ])
    """

    schedule: Schedule
    warmup_steps: int

    def __post_init__(self) -> None:
        whole_number("warmup_steps", self.warmup_steps, 1)

    def factors(self, step: Factors) -> Factors:
        """Return the other schedule's factors times the warm-up."""
        return self.schedule.factors(step) * np.minimum((step + 1) / self.warmup_steps, 1.0)

    def observe(self, value: float) -> None:
        """Pass the value on."""
        self.schedule.observe(value)

    def state(self) -> State:
        """Return the other schedule's state."""
        return self.schedule.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load the other schedule's state."""
        self.schedule.load_state(state)


def _anneal(start: float, end: float, fraction: Factors) -> Factors:
    """Half a cosine from `start` at fraction 0 to `end` at fraction 1."""
    return end + (start - end) * (1 + np.cos(np.pi * fraction)) / 2


def _check_decay(every: int, gamma: float) -> None:
    whole_number("every", every, 1)
    check_number("gamma", gamma, "> 0", lambda value: value > 0)


def _check_fraction(name: str, value: float) -> None:
    check_number(name, value, "between 0 and 1", lambda fraction: 0 <= fraction <= 1)
