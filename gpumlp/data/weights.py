"""Turn class weights into the sample weights they stand for."""

from collections.abc import Mapping

import numpy as np

from gpumlp.data.table import Array
from gpumlp.data.targets import Targets
from gpumlp.errors import DataError


def row_weights(
    y: Array, targets: Targets, class_weight: str | Mapping[str, float] | None, dtype: np.dtype
) -> Array | None:
    """Return the weight of each row's class, (N,), or None without class weights.

    Args:
        y: encoded labels, int64 (N,), or 0 and 1 (N, 1).
        targets: where the class names stand.
        class_weight: name → weight, 1 for classes not named; or "balanced": N / (C · rows of the
            class), so that every class weighs the same.
        dtype: of the result.

    Raises DataError for a name that is no class, and for targets that are no labels.

    >>> targets = Targets("binary", ("no", "yes"), 1)
    >>> row_weights(np.array([[0.0], [1.0], [1.0]]), targets, {"no": 2.0}, np.dtype("float64"))
    array([2., 1., 1.])
    """
    if class_weight is None:
        return None
    if y.ndim == 2 and y.shape[1] > 1:
        raise DataError("loss.class_weight needs one label per row, the target has several columns")
    labels = y.reshape(-1).astype(np.int64)
    if isinstance(class_weight, str):
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
    return weights[labels].astype(dtype)
