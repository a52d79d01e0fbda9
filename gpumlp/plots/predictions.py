"""What a trained model says of one part of the data, and what is true: what plots compare."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..backend import Array
from ..data.targets import class_indices

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the trained model says of one part of the data, and what is true.

    Args:
        part: "test", "val" or "train".
        target: as `Trainer.fit` takes it, (N,) or (N, K).
        prediction: as `Trainer.predict` returns it, (N, K).
        classes: names of the classes, where there are any.
        unscale: turns both (N, K) into the units of the data, as `Trainer.unscale` does.
        sample_weight: (N,), or None where all rows weigh the same.
        x: the rows themselves, (N, D), as the network reads them; None where they are not known.
    """

    part: str
    target: Array
    prediction: Array
    classes: Sequence[str] = ()
    unscale: Callable[[Array], Array] | None = None
    sample_weight: Array | None = None
    x: Array | None = None

    def labels(self) -> tuple[Integers, Integers]:
        """Return true and predicted class of each row, (N,) each."""
        target, prediction = np.asarray(self.target), np.asarray(self.prediction)
        return class_indices(target), class_indices(prediction)

    def values(self) -> tuple[Floats, Floats]:
        """Return true and predicted values, (N, K) each, in the units of the data."""
        target, prediction = (
            np.asarray(array, np.float64).reshape(len(array), -1)
            for array in (self.target, self.prediction)
        )
        if self.unscale is None:
            return target, prediction
        return self.unscale(target), self.unscale(prediction)
