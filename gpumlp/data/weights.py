"""Turn the class weights of a configuration into one number for each class."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .targets import Targets
from .types import Array


def class_weights(
    y: Array,
    targets: Targets,
    class_weight: str | Mapping[str, float] | None,
    dtype: npt.DTypeLike,
) -> Array | None:
    """Return the weight of each class, (C,) in the order of `targets`, or None without any.

    Args:
        y: encoded labels of the training rows, int64 (N,), or 0 and 1 (N, 1).
        targets: where the class names stand.
        class_weight: name → weight, 1 for classes not named; or "balanced": N / (C · rows of the
            class), so that every class weighs the same.
        dtype: of the result.

    Raises DataError for a name that is no class, and for targets that are no labels.

    >>> targets = Targets("binary", ("no", "yes"), 1)
    >>> class_weights(np.array([[0.0], [1.0], [1.0]]), targets, {"no": 2.0}, "float64")
    array([2., 1.])
    """
    if class_weight is None:
        return None
    if y.ndim == 2 and y.shape[1] > 1:
        raise DataError("loss.class_weight needs one label per row, the target has several columns")
    if isinstance(class_weight, str):
        labels = y.reshape(-1).astype(np.int64)
        counts = np.bincount(labels, minlength=len(targets.classes))
        weights = len(labels) / (len(counts) * np.maximum(counts, 1))
    else:
        unknown = [name for name in class_weight if name not in targets.classes]
        if unknown:
            raise DataError(
                f'loss.class_weight names "{unknown[0]}", which is no class; '
                f"the classes are {', '.join(targets.classes)}"
            )
        weights = np.array([class_weight.get(name, 1.0) for name in targets.classes])
    return weights.astype(dtype)
