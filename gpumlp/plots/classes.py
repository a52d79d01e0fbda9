"""Plots of a classifier: which classes it mistakes for which, and how far scores separate two."""

from collections.abc import Sequence

import numpy as np

from ..metrics import average_precision, confusion_matrix, roc_auc
from .predictions import Floats, Predictions
from .style import GREY, TRAINING, VALIDATION, Axes, Figure, new_figure, percent, shortened

WRITTEN_CLASSES = 20  # up to here each cell of a confusion matrix has its numbers
NAMED_CLASSES = 60
LONGEST_NAME = 14


def confusion(name: str, predictions: Predictions) -> Figure:
    """Draw the confusion matrix: rows the true classes, columns the predicted ones."""
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import PercentFormatter

    target, predicted = predictions.labels()
    classes = predictions.classes
    count, rows = len(classes), len(target)
    if not rows or not count:
        return None
    matrix = confusion_matrix(target, predicted, count)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    wrong = rows - int(np.trace(matrix))
    side = 1.6 + 0.42 * min(max(count, 6), WRITTEN_CLASSES)
    what = f"{wrong:,} of {rows:,} wrong ({predictions.part} part)"
    figure, (axes,) = new_figure(name, what, (side + 0.8, side))
    # below 1 the exponent makes rare errors visible where no number does
    norm = PowerNorm(1.0 if count <= WRITTEN_CLASSES else 0.4, 0, 1)
    image = axes.imshow(share, cmap="Blues", norm=norm)
    axes.grid(visible=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if count <= NAMED_CLASSES:
        _name_classes(axes, classes)
    if count <= WRITTEN_CLASSES:
        _write_cells(axes, matrix, share)
    label = "share of the true class's rows"
    figure.colorbar(image, ax=axes, shrink=0.8, label=label, format=PercentFormatter(1, 0))
    return figure


def _write_cells(axes: Axes, matrix: np.ndarray, share: np.ndarray) -> None:
    """Write into each cell that is not empty its rows, and their share of the true class."""
    size = 10 if len(matrix) <= 4 else 7 if len(matrix) <= 10 else 6
    for (row, column), number in np.ndenumerate(matrix):
        if number:
            color = "white" if share[row, column] > 0.7 else "black"
            rows = f"{number:,}" if number < 10_000 else f"{number / 1000:,.0f}k"
            text = f"{rows}\n{percent(float(share[row, column]))}"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size)


def _name_classes(axes: Axes, classes: Sequence[str]) -> None:
    names = [shortened(name, LONGEST_NAME) for name in classes]
    upright = max(map(len, names)) > 3 and len(names) > 2
    size = 8 if len(names) <= WRITTEN_CLASSES else 5
    places = range(len(names))
    axes.set_xticks(places, names, rotation=90 if upright else 0, fontsize=size)
    axes.set_yticks(places, names, fontsize=size)


def thresholds(name: str, predictions: Predictions) -> Figure:
    """Draw the ROC curve and the precision-recall curve of two classes, over all thresholds.

    None unless both classes have names and rows with some weight, and all scores are finite.
    """
    target, _ = predictions.labels()
    score = np.asarray(predictions.prediction, np.float64).reshape(-1)
    weight = np.asarray(_weights(predictions), np.float64)
    total = [float(weight[target == label].sum()) for label in (0, 1)]
    if len(predictions.classes) != 2 or not np.isfinite(score).all() or not all(total):
        return None
    false, true = (np.append(0.0, c) for c in _above_each_threshold(target, score, weight))
    fall_out, recall = false / false[-1], true / true[-1]
    positive = shortened(predictions.classes[1], LONGEST_NAME)
    what = f'finding "{positive}" ({predictions.part} part)'
    figure, (roc, pr) = new_figure(name, what, (7.6, 3.7), 1, 2)
    chance = {"color": GREY, "linewidth": 1, "linestyle": (0, (4, 3)), "label": "chance"}
    roc.plot([0, 1], [0, 1], **chance)
    roc.plot(fall_out, recall, color=TRAINING, clip_on=False)
    roc.set_title(f"ROC: AUC = {roc_auc(target, score, weight):.4f}")
    roc.set_xlabel("false positives, of all negatives")
    roc.set_ylabel("true positives, of all positives (recall)")
    share = total[1] / sum(total)
    pr.plot([0, 1], [share, share], **chance)
    # before the first threshold nothing is found, and precision is undefined: the curve starts flat
    precision = true[1:] / (false[1:] + true[1:])
    pr.step(recall, np.append(precision[0], precision), color=VALIDATION, where="pre")
    pr.set_title(f"average precision = {average_precision(target, score, weight):.4f}")
    pr.set_xlabel("recall: found, of all positives")
    pr.set_ylabel("precision: right, of all found")
    for axes in (roc, pr):
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.04)
        axes.set_aspect("equal")
        axes.legend(loc="lower right" if axes is roc else "lower left")
    return figure


def _weights(predictions: Predictions) -> np.ndarray:
    weight = predictions.sample_weight
    return np.ones(len(predictions.target)) if weight is None else np.asarray(weight)


def _above_each_threshold(
    target: np.ndarray, score: np.ndarray, weight: np.ndarray
) -> tuple[Floats, Floats]:
    """Return the weight of negatives and positives that score at least each distinct score.

    The highest score comes first; scores at which no weight is added are left out.
    """
    distinct, rank = np.unique(-score, return_inverse=True)
    both = [
        np.bincount(rank, weight * (target == label), minlength=len(distinct)) for label in (0, 1)
    ]
    kept = both[0] + both[1] > 0
    return np.cumsum(both[0][kept]), np.cumsum(both[1][kept])
