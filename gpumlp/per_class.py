"""How well each class is found: precision, recall and F1, one class a row."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
SHOWN_NAME = 40  # characters


class ClassScore(NamedTuple):
    """The scores of one class, weighted by the rows' weights; `rows` counts those that have it."""

    name: str
    precision: float
    recall: float
    f1: float
    rows: int


def class_scores(
    task: str,
    target: Array,
    prediction: Array,
    names: Sequence[str],
    sample_weight: Array | None = None,
) -> list[ClassScore]:
    """Return the scores of each class (multilabel: of each label), as scikit-learn computes them.

    Args:
        task: "multiclass", "binary" or "multilabel".
        target: labels (N,), or rows (N, C); binary 0 and 1, (N,) or (N, 1); multilabel (N, K).
        prediction: probabilities (N, C), (N, 1) or (N, K).
        names: of the classes or labels.
        sample_weight: (N,) or None.

    0 stands where nothing was predicted as a class, or no row has it.

    >>> y = np.array([[0.2], [0.9], [0.7]])
    >>> class_scores("binary", np.array([0, 1, 0]), y, ["no", "yes"])[1]
    ClassScore(name='yes', precision=0.5, recall=1.0, f1=0.6666666666666666, rows=1)
    """
    truth, found = (_membership(task, array, len(names)) for array in (target, prediction))
    weight = np.ones(len(truth)) if sample_weight is None else sample_weight.astype(np.float64)
    hits, true, predicted = (weight @ part for part in (truth & found, truth, found))

    def share(part: Array, whole: Array) -> list[float]:
        result: list[float] = np.where(whole > 0, part / np.where(whole > 0, whole, 1), 0).tolist()
        return result

    columns = (share(hits, predicted), share(hits, true), share(2 * hits, true + predicted))
    return [
        ClassScore(*row) for row in zip(names, *columns, truth.sum(axis=0).tolist(), strict=True)
    ]


def _membership(task: str, array: Array, classes: int) -> NDArray[np.bool_]:
    """Return whether each row is in each class, bool (N, C)."""
    if task == "multilabel":
        return np.asarray(array > 0.5)
    if task == "binary":
        labels = (array.reshape(-1) > 0.5).astype(np.int64)
    else:
        labels = array.argmax(axis=1) if array.ndim == 2 else array
    return np.asarray(labels[:, None] == np.arange(classes))


def class_table(scores: Sequence[ClassScore]) -> str:
    """Return the scores for reading.

    >>> print(class_table([ClassScore("no", 1.0, 0.5, 2 / 3, 1200)]))
    class    precision    recall        f1      rows
    no          1.0000    0.5000    0.6667     1,200
    """
    shown = [_shown(score.name) for score in scores]
    width = max(5, *map(len, shown)) if shown else 5
    lines = [f"{'class':{width}}{'precision':>13}{'recall':>10}{'f1':>10}{'rows':>10}"]
    for name, score in zip(shown, scores, strict=True):
        numbers = f"{score.precision:13.4f}{score.recall:10.4f}{score.f1:10.4f}{score.rows:10,}"
        lines.append(f"{name:{width}}{numbers}")
    return "\n".join(lines)


def _shown(name: str) -> str:
    """Return a name on one line, not too long, and without what a terminal would obey."""
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)
    return plain if len(plain) <= SHOWN_NAME else f"{plain[: SHOWN_NAME - 3]}..."
