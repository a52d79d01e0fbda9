"""EpochStart: what an epoch began with, from which a diverged epoch is repeated to find out where.

Nothing is looked at inside an epoch, so that steps need not wait for each other; a loss that is not
finite is noticed some steps late. But a step is a function of parameters, optimizer state and its
number alone, and so repeated steps have the same bits and can be watched.
"""

from math import isfinite

import numpy as np

from ..errors import DivergedError
from ..model import Sequential
from . import Engine
from .step import Progress, TrainingStep
from .watch import WatchingBackend, is_finite


class EpochStart:
    """Parameters and optimizer state at the start of an epoch, kept to repeat it.

    It takes as much memory as they do, and one copy an epoch.

    Args:
        training: the step whose epochs these are.
        engine: what runs them.
    """

    def __init__(self, training: TrainingStep, engine: Engine) -> None:
        self._training, self._engine = training, engine
        optimizer = training.optimizer
        self._arrays = [training.model.flat.values, *optimizer.arrays.values()]
        self._kept = [array.copy() for array in self._arrays]
        self._first = optimizer.steps
        self._progress: Progress | None = None

    def keep(self) -> None:
        """Keep what there is now, before the first step of an epoch or of what is left of it."""
        for kept, array in zip(self._kept, self._arrays, strict=True):
            kept[...] = array
        self._first = self._training.optimizer.steps
        self._progress = self._training.progress if self._training.batches.position else None

    def diverged(self, epoch: int, before: int, total: float) -> DivergedError:
        """Return the error that says where an epoch diverged, by repeating it.

        `before` is the number of steps when all was well last, and `total` the sum of the losses by
        now. Parameters, optimizer state and its number of steps are then those after the step that
        is named. Where repeating shows nothing, because something else than the steps changed
        the parameters, the steps and the parameters that are not finite are named.
        """
        optimizer = self._training.optimizer
        bad, steps = not_finite(self._training.model), f"{before + 1}-{optimizer.steps}"
        what = f"; not finite: {', '.join(bad)}" if bad else ""
        try:
            found = self._find(before)
        except MemoryError:  # repeating takes more of it
            found = ""
        self._kept = []  # the error may be kept for long, and this object with its traceback
        if found:
            steps, what = str(optimizer.steps), f": first not finite: {found}"
        if before + 1 == optimizer.steps:
            steps = str(optimizer.steps)
        loss = "" if isfinite(total) else f"; the loss became {total:g}"
        return DivergedError(
            f"training diverged in epoch {epoch}, step{'s' * ('-' in steps)} {steps}{what}{loss}. "
            f"Try a smaller learning rate (now {optimizer.lr:g}), scaled inputs, or clip_norm"
        )

    def _find(self, before: int) -> str:
        """Return what was not finite first, and stop after that step; "" where nothing is found."""
        training, optimizer = self._training, self._training.optimizer
        batches, start = training.batches, self._progress.position if self._progress else 0
        steps = optimizer.steps - self._first
        known = self._return(max(0, before - self._first - 1))  # one more, to compare with
        if known:
            known = self._return(0)
        watch = WatchingBackend(training)
        earlier: set[str] = set()
        with np.errstate(all="ignore"):
            while batches.position - start < steps:
                watch.run_step()
                total, _ = training.sums()
                if not isfinite(total) or set(not_finite(training.model)) - known:
                    optimizer.steps = self._first + batches.position - start
                    # an excluded class may be -∞ in every step, and is no cause
                    new = [one for one in watch.found if one.name not in earlier] or watch.found
                    return ", ".join(filter(None, new[0])) if new else ""
                earlier = {one.name for one in watch.found}
        return ""

    def _return(self, steps: int) -> set[str]:
        """Go back, repeat so many steps, and return the parameters that are not finite."""
        for kept, array in zip(self._kept, self._arrays, strict=True):
            array[...] = kept
        self._training.model.flat.gradients[...] = 0  # its padding, which no step writes
        self._training.rewind(self._progress)
        if steps:
            self._engine.run(steps)
        return set(not_finite(self._training.model))


def not_finite(model: Sequential) -> list[str]:
    """Return the names of the parameters that are not finite; one look where all are."""
    if is_finite(model.backend, model.flat.values):
        return []
    return [p.name for p in model.parameters if not is_finite(model.backend, p.value)]
