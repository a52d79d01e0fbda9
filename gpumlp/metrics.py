"""How good predictions are, measured on the host in float64, with the values scikit-learn gives.

Every metric is a function ``f(target, prediction, sample_weight=None)`` returning a Python float.
N is the number of samples; an array of shape (N, 1) counts as (N,). Weights have shape (N,), are
finite and not negative; a sample of weight 0 counts as absent. Arrays of other shapes, and labels
out of range, raise ValueError. A metric that is undefined (no samples, one class in an AUC) is nan.
`METRICS` names them all; `evaluate` computes several from what a network predicts.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import ConfigError

Array = NDArray[Any]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Weights = ArrayLike | None
Task = Literal["multiclass", "binary", "multilabel", "regression"]


def accuracy(
    labels: ArrayLike, predicted_labels: ArrayLike, sample_weight: Weights = None
) -> float:
    """Weighted share of samples whose label is right.

    Labels of shape (N,), of any dtype; for several labels a sample, rows (N, K) of 0 and 1, which
    are right when the whole row is (scikit-learn's subset accuracy).

    >>> accuracy([0, 1, 2, 2], [0, 1, 2, 0])
    0.75
    >>> accuracy([[0, 1], [1, 1]], [[0, 1], [1, 0]])
    0.5
    """
    target, predicted, weight = _rows(labels, predicted_labels, sample_weight)
    _require_equal_shapes(target, predicted)
    right = target == predicted
    return _mean(right if right.ndim == 1 else right.all(axis=1), weight)


def top_k_accuracy(
    labels: ArrayLike, scores: ArrayLike, k: int, sample_weight: Weights = None
) -> float:
    """Weighted share of samples whose class is among the `k` highest scores.

    Labels: integers (N,) in 0..C-1; scores: (N, C). Of equal scores the lower class comes first, so
    that k = 1 is the accuracy of the argmax. ValueError unless 1 <= k <= C.

    >>> top_k_accuracy([0, 2], [[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]], k=2)
    0.5
    """
    target, values, weight = _rows(labels, scores, sample_weight)
    if values.ndim != 2:
        raise ValueError(f"scores must have shape (N, C) with C > 1, not {values.shape}")
    classes = values.shape[1]
    if not 1 <= k <= classes:
        raise ValueError(f"k must be between 1 and the {classes} classes, not {k}")
    best = np.argsort(-values.astype(np.float64), axis=1, kind="stable")[:, :k]
    return _mean((best == _indices(target, classes)[:, None]).any(axis=1), weight)


def macro_f1(
    labels: ArrayLike,
    predicted_labels: ArrayLike,
    sample_weight: Weights = None,
    *,
    classes: int | None = None,
) -> float:
    """Plain mean over the classes of F1 = 2·(right as c) / (truly c + predicted as c).

    Labels of shape (N,): the mean is over the classes that occur in either array, or, when
    `classes` is given, over 0..classes-1, where a class that never occurs counts 0.
    Rows (N, K) of 0 and 1: the mean is over the columns, F1 being that of the 1s; a column without
    any 1 counts 0. Source: van Rijsbergen, Information Retrieval, 2nd ed. (1979), chapter 7.

    >>> macro_f1([0, 0, 1, 1], [0, 0, 1, 0])  # (4/5 + 2/3) / 2
    0.7333333333333334
    """
    target, predicted, weight = _rows(labels, predicted_labels, sample_weight)
    _require_equal_shapes(target, predicted)
    if not len(weight):
        return float("nan")
    if target.ndim == 2:
        target, predicted = _indices(target, 2), _indices(predicted, 2)
        hits, total = weight @ (target * predicted), weight @ (target + predicted)
    else:
        if classes is None:
            names, both = np.unique(np.stack((target, predicted)), return_inverse=True)
            (target, predicted), classes = both.reshape(2, -1), len(names)
        target, predicted = _indices(target, classes), _indices(predicted, classes)
        hits = np.bincount(target, weight * (target == predicted), classes)
        total = np.bincount(target, weight, classes) + np.bincount(predicted, weight, classes)
    return float(np.mean(2 * hits / np.where(total > 0, total, 1)))


def log_loss(labels: ArrayLike, probabilities: ArrayLike, sample_weight: Weights = None) -> float:
    """Weighted mean of the cross-entropy -Σ_c t_c ln p_c, in nats.

    Probabilities (N, C) with labels as integers (N,) or as one-hot or soft rows (N, C); or
    probabilities (N,) of class 1 with labels (N,) from 0 to 1. As in scikit-learn, p is clipped to
    [ε, 1-ε], ε being the machine epsilon of the dtype given (2⁻²³ for float32, 2⁻⁵² for float64),
    which keeps ln 0 finite; rows are not rescaled to sum 1. Source: Bishop, Pattern Recognition and
    Machine Learning (2006), equations 4.90 and 4.108.

    >>> round(log_loss([1, 0], [0.8, 0.4]), 6)  # -(ln 0.8 + ln 0.6) / 2
    0.366985
    """
    target, p, weight = _rows(labels, probabilities, sample_weight)
    tiny = float(np.finfo(p.dtype).eps) if p.dtype.kind == "f" else 2.0**-52
    p = p.astype(np.float64)
    if p.ndim == 1 and target.ndim == 1:
        p, target = np.stack((1 - p, p), axis=1), np.stack((1 - target, target), axis=1)
    elif target.ndim == 1:
        target = _one_hot(target, p.shape[1])
    _require_equal_shapes(target, p)
    if np.any((target < 0) | (target > 1)):
        raise ValueError("binary labels and soft labels must be between 0 and 1")
    return _mean(-np.sum(target * np.log(np.clip(p, tiny, 1 - tiny)), axis=1), weight)


def roc_auc(labels: ArrayLike, scores: ArrayLike, sample_weight: Weights = None) -> float:
    """Area under the ROC curve: the chance that a positive sample outscores a negative one.

    AUC = Σ_{i positive, j negative} w_i w_j ([s_i > s_j] + ½ [s_i = s_j]) / (W₊ W₋), exact with
    ties, computed from the ranks. Labels 0 or 1 (N,) with scores (N,); rows (N, K) of 0 and 1 with
    scores (N, K): mean over the columns; integers (N,) with scores (N, C): mean over the classes,
    each against the rest. nan where one column has only one class or a score is nan.
    Source: Hanley and McNeil, Radiology 143 (1982) 29-36.

    >>> roc_auc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])
    0.875
    """
    target, values, weight = _rows(labels, scores, sample_weight)
    if values.ndim == 2 and target.ndim == 1:
        target = _one_hot(target, values.shape[1])
    _require_equal_shapes(target, values)
    columns = zip(_columns(_indices(target, 2)).T, _columns(values).T, strict=True)
    return float(np.mean([_area(positive, column, weight) for positive, column in columns]))


def average_precision(labels: ArrayLike, scores: ArrayLike, sample_weight: Weights = None) -> float:
    """Area under the precision-recall curve by steps: Σ_k (R_k - R_{k-1}) P_k.

    P_k is the precision and R_k the recall of the samples that score at least the k-th highest
    distinct score. Labels 0 or 1 (N,) with scores (N,). nan where no sample is positive, with some
    weight, or a score is nan. Source: scikit-learn's average_precision_score.

    >>> average_precision([0, 1, 1], [0.1, 0.9, 0.4])
    1.0
    >>> average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])  # 1/2 · 1 + 1/2 · 2/3
    0.8333333333333333
    """
    target, values, weight = _rows(labels, scores, sample_weight)
    _require_equal_shapes(target, values)
    positive = _indices(target, 2)
    if np.isnan(values).any() or not (weight * positive).any():
        return float("nan")
    rank = np.unique(-values, return_inverse=True)[1]
    found, hits = np.bincount(rank, weight), np.bincount(rank, weight * positive)
    precision = np.cumsum(hits) / np.maximum(np.cumsum(found), np.finfo(np.float64).tiny)
    return float(hits @ precision / hits.sum())


def confusion_matrix(labels: ArrayLike, predicted_labels: ArrayLike, classes: int) -> Integers:
    """Count the samples of each true class (row) predicted as each class (column): int64 (C, C).

    Labels: integers (N,) in 0..classes-1.

    >>> confusion_matrix([0, 0, 1], [0, 1, 1], classes=2)
    array([[1, 1],
           [0, 1]])
    """
    target, predicted, _ = _rows(labels, predicted_labels, None)
    cell = _indices(target, classes) * classes + _indices(predicted, classes)
    return np.bincount(cell, minlength=classes * classes).reshape(classes, classes)


def mean_squared_error(
    target: ArrayLike, prediction: ArrayLike, sample_weight: Weights = None
) -> float:
    """Weighted mean of (t - y)² over samples and outputs; arrays (N,) or (N, K) of equal shape.

    >>> mean_squared_error([1.0, 2.0], [1.0, 4.0])
    2.0
    """
    t, y, weight = _outputs(target, prediction, sample_weight)
    return _mean(np.mean((t - y) ** 2, axis=1), weight)


def rmse(target: ArrayLike, prediction: ArrayLike, sample_weight: Weights = None) -> float:
    """Root of the mean squared error of each output, then the mean over outputs, as scikit-learn.

    Arrays (N,) or (N, K) of equal shape. With K > 1 this is not √(mean_squared_error).

    >>> rmse([0.0, 0.0], [3.0, 3.0])
    3.0
    """
    t, y, weight = _outputs(target, prediction, sample_weight)
    return float(np.mean([np.sqrt(_mean(column, weight)) for column in ((t - y) ** 2).T]))


def mae(target: ArrayLike, prediction: ArrayLike, sample_weight: Weights = None) -> float:
    """Weighted mean of |t - y| over samples and outputs; arrays (N,) or (N, K) of equal shape.

    >>> mae([1.0, 2.0], [1.0, 4.0])
    1.0
    """
    t, y, weight = _outputs(target, prediction, sample_weight)
    return _mean(np.mean(np.abs(t - y), axis=1), weight)


def r2(target: ArrayLike, prediction: ArrayLike, sample_weight: Weights = None) -> float:
    """Coefficient of determination 1 - Σ w(t - y)² / Σ w(t - t̄)², plain mean over the outputs.

    Arrays (N,) or (N, K) of equal shape. An output whose targets are constant counts 1 when the
    prediction is perfect and 0 when it is not, as in scikit-learn. nan for fewer than two samples.
    Source: Draper and Smith, Applied Regression Analysis, 3rd ed. (1998), chapter 1.

    >>> r2([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    0.5
    >>> r2([5.0, 5.0], [5.0, 6.0])
    0.0
    """
    t, y, weight = _outputs(target, prediction, sample_weight)
    if len(weight) < 2:
        return float("nan")
    from_first = t - t[0]  # exactly 0 for constant targets, where t - mean(t) may not be
    spread = weight @ (from_first - weight @ from_first / weight.sum()) ** 2
    error = weight @ (t - y) ** 2
    constant = spread == 0
    explained = 1 - error / np.where(constant, 1, spread)
    return float(np.mean(np.where(constant, error == 0, explained)))


class Metric(NamedTuple):
    """What `evaluate` has to know about a metric.

    `needs` says which prediction `function` takes: predicted labels, or the scores themselves
    (probabilities; in regression, values). `soft_target` says that it takes target rows as they
    are where the other classification metrics take labels. `least_outputs` is the smallest number
    of outputs, or classes, for which it is defined.
    """

    name: str
    function: Callable[..., float]
    greater_is_better: bool
    tasks: tuple[Task, ...]
    needs: Literal["labels", "scores"]
    soft_target: bool = False
    least_outputs: int = 1


_CLASSIFICATION: tuple[Task, ...] = ("multiclass", "binary", "multilabel")
_REGRESSION: tuple[Task, ...] = ("regression",)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy, True, _CLASSIFICATION, "labels"),
        Metric(
            "top_3_accuracy",
            partial(top_k_accuracy, k=3),
            True,
            ("multiclass",),
            "scores",
            least_outputs=3,
        ),
        Metric("macro_f1", macro_f1, True, _CLASSIFICATION, "labels"),
        Metric("log_loss", log_loss, False, ("multiclass", "binary"), "scores", soft_target=True),
        Metric("auc", roc_auc, True, _CLASSIFICATION, "scores"),
        Metric("mse", mean_squared_error, False, _REGRESSION, "scores"),
        Metric("rmse", rmse, False, _REGRESSION, "scores"),
        Metric("mae", mae, False, _REGRESSION, "scores"),
        Metric("r2", r2, True, _REGRESSION, "scores"),
    )
}

DEFAULT_METRICS: dict[str, tuple[str, ...]] = {
    "multiclass": ("accuracy",),
    "binary": ("accuracy", "auc"),
    "multilabel": ("accuracy", "macro_f1"),
    "regression": ("rmse", "mae", "r2"),
}


def select(
    task: str, names: str | Iterable[str] | None = None, outputs: int | None = None
) -> tuple[Metric, ...]:
    """Return the metrics called `names`, or the default ones of `task`, without computing anything.

    A string is one name. Raises ConfigError, naming the allowed ones, for an unknown task or name,
    for a metric that is not meant for the task, and for one that needs more than `outputs` outputs.
    A configuration is checked with it before training starts.

    >>> [metric.name for metric in select("regression")]
    ['rmse', 'mae', 'r2']
    """
    if task not in DEFAULT_METRICS:
        raise ConfigError(f"unknown task {task!r}; allowed: {', '.join(DEFAULT_METRICS)}")
    if isinstance(names, str):
        names = (names,)
    chosen = DEFAULT_METRICS[task] if names is None else tuple(names)
    allowed = [name for name, metric in METRICS.items() if task in metric.tasks]
    for name in chosen:
        if name not in allowed:
            problem = f"is not meant for {task}" if name in METRICS else "is unknown"
            raise ConfigError(
                f"metric {name!r} {problem}; allowed for {task}: {', '.join(allowed)}"
            )
        least = METRICS[name].least_outputs
        if outputs is not None and outputs < least:
            raise ConfigError(f"metric {name!r} needs at least {least} outputs, not {outputs}")
    return tuple(METRICS[name] for name in chosen)


def evaluate(
    task: str,
    target: ArrayLike,
    prediction: ArrayLike,
    names: Iterable[str] | None = None,
    sample_weight: Weights = None,
) -> dict[str, float]:
    """Compute the metrics called `names` (default: `DEFAULT_METRICS`) from a network's prediction.

    | task       | target                                           | prediction              |
    |------------|--------------------------------------------------|-------------------------|
    | multiclass | integers (N,), or one-hot or soft rows (N, C)    | probabilities (N, C)    |
    | binary     | from 0 to 1, (N,) or (N, 1)                      | probability of class 1  |
    | multilabel | from 0 to 1, (N, K)                              | probabilities (N, K)    |
    | regression | values (N,) or (N, K)                            | values of equal shape   |

    Labels are the argmax of a multiclass row, and whether a binary or multilabel value is above
    0.5, in the target as in the prediction. Raises ConfigError as `select` does, and ValueError
    where the arrays do not fit the task.

    >>> evaluate("multiclass", [0, 1], [[0.9, 0.1], [0.8, 0.2]])
    {'accuracy': 0.5}
    """
    metrics = select(task, names)
    target, prediction = np.asarray(target), np.asarray(prediction)
    if task == "multiclass" and (prediction.ndim != 2 or prediction.shape[1] < 2):
        raise ValueError(f"a multiclass prediction has shape (N, C > 1), not {prediction.shape}")
    if task == "multiclass" and target.ndim == 2 and target.shape[1] > 1:
        _require_equal_shapes(target, prediction)  # which their argmax would hide
    if task == "binary" and prediction.shape not in ((len(target),), (len(target), 1)):
        raise ValueError(f"a binary prediction has shape (N,) or (N, 1), not {prediction.shape}")
    labels, predicted_labels = _decide(task, target), _decide(task, prediction)
    return {
        metric.name: metric.function(
            target if metric.soft_target else labels,
            predicted_labels if metric.needs == "labels" else prediction,
            sample_weight=sample_weight,
        )
        for metric in metrics
    }


def _decide(task: str, array: Array) -> Array:
    """Labels from probabilities; labels, and values of a regression, stay what they are."""
    if task == "multiclass":
        return array.argmax(axis=1) if array.ndim == 2 and array.shape[1] > 1 else array
    return array if task == "regression" else np.asarray(array > 0.5)


def _rows(
    target: ArrayLike, prediction: ArrayLike, sample_weight: Weights
) -> tuple[Array, Array, Floats]:
    """Both arrays, (N, 1) as (N,), and the weights, without the samples of weight 0."""
    first, second = (_squeeze(np.asarray(array)) for array in (target, prediction))
    if len(first) != len(second):
        raise ValueError(f"{len(first)} targets do not fit {len(second)} predictions")
    if sample_weight is None:
        return first, second, np.ones(len(first))
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (len(first),):
        raise ValueError(f"sample_weight must have shape ({len(first)},), not {weight.shape}")
    if not np.all((weight >= 0) & (weight < np.inf)):
        raise ValueError("sample_weight must be finite and not negative")
    kept = weight > 0
    return first[kept], second[kept], weight[kept]


def _squeeze(array: Array) -> Array:
    if array.ndim not in (1, 2):
        raise ValueError(f"an array of a metric must have shape (N,) or (N, K), not {array.shape}")
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _outputs(
    target: ArrayLike, prediction: ArrayLike, sample_weight: Weights
) -> tuple[Floats, Floats, Floats]:
    """Targets and predictions of a regression as float64 (N, K), and the weights."""
    t, y, weight = _rows(target, prediction, sample_weight)
    _require_equal_shapes(t, y)  # else (N,) - (N, K) would broadcast
    return _columns(t).astype(np.float64), _columns(y).astype(np.float64), weight


def _columns(array: Array) -> Array:
    return array if array.ndim == 2 else array[:, None]


def _require_equal_shapes(target: Array, prediction: Array) -> None:
    if target.shape != prediction.shape:
        raise ValueError(
            f"a target of {target.shape} does not fit a prediction of {prediction.shape}"
        )


def _indices(labels: Array, classes: int) -> Integers:
    """Labels as int64, checked to be whole numbers in 0..classes-1."""
    wrong = (labels < 0) | (labels >= classes) | (labels != np.floor(labels))
    if wrong.any():
        example = labels[wrong][0].item()
        raise ValueError(f"labels must be whole numbers from 0 to {classes - 1}, not {example!r}")
    return labels.astype(np.int64)


def _one_hot(labels: Array, classes: int) -> Integers:
    return np.equal(_indices(labels, classes)[:, None], np.arange(classes)).astype(np.int64)


def _mean(values: Array, weight: Floats) -> float:
    return float(np.sum(values * weight) / weight.sum()) if len(weight) else float("nan")


def _area(positive: Array, scores: Array, weight: Floats) -> float:
    """AUC of one column: a positive beats the negatives of lower scores and half its equals."""
    if np.isnan(scores).any() or not 0 < positive.sum() < len(positive):
        return float("nan")
    rank = np.unique(scores, return_inverse=True)[1]
    up, down = np.bincount(rank, weight * positive), np.bincount(rank, weight * (1 - positive))
    return float(up @ (np.cumsum(down) - down / 2) / (up.sum() * down.sum()))
