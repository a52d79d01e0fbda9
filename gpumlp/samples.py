"""Samples: rows with targets and weights on a device, checked once so that no step has to."""

from dataclasses import dataclass

import numpy as np

from .backend import Array, Backend
from .losses import Loss
from .model import Sequential
from .sparse import SparseRows, is_sparse

BLOCK_ROWS = 4096


@dataclass(eq=False)
class Samples:
    """Rows of data as training and evaluation take them, all on one device.

    ``x`` (N, D), which still is to be multiplied by ``scale`` where it holds bytes (uint8), or
    `SparseRows`, and
    ``target`` (N,) or (N, K), as the loss takes it; ``sample_weight`` (N,) or None is what a row
    counts in metrics, ``loss_weight`` (N,) or None what its loss counts: the sample weight times
    the weight of its class.
    """

    x: Array
    target: Array
    sample_weight: Array | None
    loss_weight: Array | None
    scale: float = 1.0


def as_samples(
    model: Sequential,
    loss: Loss,
    x: Array,
    y: Array,
    sample_weight: Array | None = None,
    *,
    class_weight: Array | None = None,
    scale: float = 1.0,
    part: str = "",
) -> Samples:
    """Move rows x (N, D), targets and weights to the model's device, or say what does not fit.

    x is multiplied by `scale`: bytes (uint8) only when a batch is taken, till then they stay bytes.
    SciPy's sparse matrices stay sparse, too.

    Raises ValueError, which names the array with `part` before it: for other shapes and lengths,
    for values that are no numbers or not finite, for targets that the loss does not take, and for
    weights that are negative or all 0.

    >>> from gpumlp.losses import MeanSquaredError
    >>> from gpumlp.model import multilayer_perceptron
    >>> as_samples(multilayer_perceptron([2, 1]), MeanSquaredError(), [[0, float("nan")]], [1])
    Traceback (most recent call last):
        ...
    ValueError: x has nan at row 0, column 1 (counted from 0)
    """
    backend = model.backend
    x = _numbers(f"{part}x", x, backend, keep=True)
    if x.dtype != np.uint8 and scale != 1:
        with np.errstate(over="ignore"):  # reported below
            x, scale = x * scale, 1.0
        _check_finite(f"{part}x · input_scale", x, backend)
    if x.ndim != 2 or model.n_in not in (None, x.shape[1]):
        columns = "D" if model.n_in is None else model.n_in
        raise ValueError(f"{part}x must have shape (N, {columns}), got {x.shape}")
    if not len(x):
        raise ValueError(f"{part}x has no rows")
    target = _target(f"{part}y", y, x, model, loss)
    if sample_weight is not None:
        sample_weight = _numbers(f"{part}sample_weight", sample_weight, backend)
        if sample_weight.shape != (len(x),):
            raise ValueError(
                f"{part}sample_weight must have shape ({len(x)},), got {sample_weight.shape}"
            )
        _check_weights(f"{part}sample_weight", sample_weight)
    weight = loss_weights(target, sample_weight, class_weight)
    if weight is not None and class_weight is not None:
        _check_weights(f"{part}y: sample weight times class weight", weight)
    return Samples(x, target, sample_weight, weight, scale)


def as_class_weight(model: Sequential, task: str, class_weight: Array | None) -> Array | None:
    """Return the weights of the classes, (C,) or None, on the model's device; checks them first."""
    if class_weight is None:
        return None
    if task not in ("multiclass", "binary"):
        raise ValueError(f"class_weight is for multiclass and binary, the task is {task}")
    classes = 2 if task == "binary" else model.n_out
    weight = _numbers("class_weight", class_weight, model.backend)
    if weight.shape != (classes,):
        raise ValueError(f"class_weight must have shape ({classes},), got {weight.shape}")
    _check_weights("class_weight", weight)
    return weight


def loss_weights(
    target: Array, sample_weight: Array | None, class_weight: Array | None
) -> Array | None:
    """Return what each row's loss counts: sample_weight · class_weight[label] (N,), or None.

    `target` holds labels (N,), or 0 and 1 (N, 1); ValueError for soft targets with class weights.

    >>> import numpy as np
    >>> loss_weights(np.array([0, 1, 1]), np.array([1.0, 1.0, 2.0]), np.array([5.0, 0.5]))
    array([5. , 0.5, 1. ])
    """
    if class_weight is None:
        return sample_weight
    labels = target.astype("int64")
    if target.size != len(target) or bool((labels != target).any()):
        raise ValueError("class_weight needs one label per row, not soft targets or many columns")
    weight = class_weight[labels.reshape(-1)]
    return weight if sample_weight is None else weight * sample_weight


def _target(name: str, y: Array, x: Array, model: Sequential, loss: Loss) -> Array:
    """Return the targets as the loss takes them."""
    try:
        target = loss.as_target(y, model.backend)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from None
    if target.shape[:1] != (len(x),):
        rows = len(target) if target.ndim else "no"
        raise ValueError(f"{name} has {rows} rows, x has {len(x)}")
    _check_finite(name, target, model.backend)
    if model.n_out is not None:
        try:
            loss.check_target(target, len(x), model.n_out)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return target


def _numbers(name: str, array: Array, backend: Backend, keep: bool = False) -> Array:
    """Return the array in the backend's type; its values are numbers, and finite ones.

    With `keep`, bytes stay bytes and sparse matrices sparse.
    """
    try:
        if is_sparse(array) and keep:
            array = SparseRows(array, backend.dtype)
            _check_finite(name, array, backend)
            return array
        given = backend.xp.asarray(array)
        if given.dtype.kind not in "buif":
            raise TypeError(f"got {given.dtype}")
        if keep and given.dtype == np.uint8:
            return given
        with np.errstate(over="ignore"):  # what becomes infinite is found below
            array = backend.asarray(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers: {error}") from None
    _check_finite(name, array, backend)
    return array


def _check_finite(name: str, array: Array, backend: Backend) -> None:
    """Raise ValueError with the first place that is not finite; needs no memory where all are."""
    if isinstance(array, SparseRows):
        found = array.not_finite()
        if found is not None:
            value, (row, column) = found
            raise ValueError(f"{name} has {value} at row {row}, column {column} (counted from 0)")
        return
    if not array.size or array.dtype.kind != "f":
        return
    if array.flags.c_contiguous:
        flat = array.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            # one pass, not by BLAS, whose threads would spin for a tenth of a second afterwards;
            # where it overflows there is a second look
            squares = float(backend.xp.einsum("i,i->", flat, flat))
        if np.isfinite(squares):
            return
    if np.isfinite(float(array.min())) and np.isfinite(float(array.max())):
        return
    for start in range(0, len(array), BLOCK_ROWS):
        block = backend.to_numpy(array[start : start + BLOCK_ROWS])
        for place in np.argwhere(~np.isfinite(block))[:1]:
            where = f"row {start + place[0]}" + "".join(f", column {i}" for i in place[1:])
            raise ValueError(f"{name} has {block[tuple(place)]} at {where} (counted from 0)")


def _check_weights(name: str, weight: Array) -> None:
    """Raise ValueError unless no weight is negative and their sum is finite and not 0."""
    if not float(weight.min()) >= 0:
        raise ValueError(f"{name} must be >= 0, got {float(weight.min()):g}")
    with np.errstate(over="ignore"):
        total = float(weight.sum())
    if not 0 < total < np.inf:
        raise ValueError(f"{name} must not be 0 for every row" if not total else f"{name}: too big")
