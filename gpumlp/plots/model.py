"""Plots of a trained model: where it is wrong, and what its first layer sees."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np

from ..backend import Array
from ..metrics import confusion_matrix, r2
from .style import GREY, TRAINING, Axes, Figure, new_figure, shortened

WRITTEN_CLASSES = 20  # up to here each cell of a confusion matrix has its number
NAMED_CLASSES = 60
SHOWN_UNITS = 64
SHOWN_POINTS = 2000
SHOWN_OUTPUTS = 4


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the trained model says of one part of the data, and what is true.

    Args:
        part: "test", "val" or "train".
        target: as `Trainer.fit` takes it, (N,) or (N, K).
        prediction: as `Trainer.predict` returns it, (N, K).
        classes: names of the classes, where there are any.
        unscale: turns both (N, K) into the units of the data, as `Trainer.unscale` does.
    """

    part: str
    target: Array
    prediction: Array
    classes: Sequence[str] = ()
    unscale: Callable[[Array], Array] | None = None


def confusion(name: str, predictions: Predictions) -> Figure:
    """Draw the confusion matrix: rows the true classes, columns the predicted ones."""
    from matplotlib.colors import PowerNorm

    target, predicted = (
        _labels(np.asarray(array)) for array in (predictions.target, predictions.prediction)
    )
    classes = predictions.classes
    count, rows = len(classes), len(target)
    if not rows:
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
        for (row, column), number in np.ndenumerate(matrix):
            if number:
                color = "white" if share[row, column] > 0.6 else "black"
                text = f"{number:,}" if number < 10_000 else f"{number:.1e}"
                size = 10 if count <= 4 else 8 if len(text) < 4 else 6.5
                axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    return figure


def _labels(array: np.ndarray) -> np.ndarray:
    """Return class indices (N,) of indices, one-hot rows, probabilities (N, C), or y (N, 1)."""
    if array.ndim == 1 and array.dtype.kind in "iu":
        return array
    array = array.reshape(len(array), -1)
    return array.argmax(axis=1) if array.shape[1] > 1 else (array[:, 0] > 0.5).astype(np.int64)


def _name_classes(axes: Axes, classes: Sequence[str]) -> None:
    names = [shortened(name, 14) for name in classes]
    upright = max(map(len, names)) > 3 and len(names) > 2
    size = 8 if len(names) <= WRITTEN_CLASSES else 5
    places = range(len(names))
    axes.set_xticks(places, names, rotation=90 if upright else 0, fontsize=size)
    axes.set_yticks(places, names, fontsize=size)


def predicted_against_true(name: str, predictions: Predictions) -> Figure:
    """Draw predicted over true values, one panel for each of the first outputs."""
    target, prediction = (
        np.asarray(array, np.float64).reshape(len(array), -1)
        for array in (predictions.target, predictions.prediction)
    )
    if predictions.unscale is not None:
        target, prediction = predictions.unscale(target), predictions.unscale(prediction)
    if not len(target):
        return None
    outputs = min(target.shape[1], SHOWN_OUTPUTS)
    columns = min(outputs, 2)
    rows = -(-outputs // columns)
    what, size = f"predictions ({predictions.part} part)", (3.6 * columns + 0.6, 3.6 * rows + 0.5)
    figure, panels = new_figure(name, what, size, rows, columns)
    every = -(-len(target) // SHOWN_POINTS)
    for output, axes in enumerate(panels):
        if output >= outputs:
            axes.remove()
            continue
        t, y = target[:, output], prediction[:, output]
        which = f"output {output + 1}: " if outputs > 1 else ""
        axes.set_title(f"{which}R² = {r2(t, y):.3f}")
        known = np.concatenate([t, y[np.isfinite(y)]])
        ends = [float(known.min()), float(known.max())]
        axes.plot(ends, ends, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        axes.scatter(t[::every], y[::every], s=9, alpha=0.5, color=TRAINING, linewidths=0)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel("true value")
        axes.set_ylabel("predicted value")
    return figure


# --------------------------------------------------------------------------- what it has learned


def first_layer(name: str, weights: Sequence[np.ndarray]) -> Figure:
    """Draw the first layer's weights: as images if the inputs form a square, else as a heat map.

    `weights` are the network's matrices (n_out, n_in). Of many units it shows those whose output
    weighs most in the next layer. None for more than 100 inputs that form no square.
    """
    units, inputs = weights[0].shape if weights else (0, 0)
    side = isqrt(inputs)
    square = side * side == inputs and inputs >= 16
    if not units or not (square or inputs <= 100):
        return None
    chosen, which = _chosen_units(weights)
    w = weights[0][chosen].astype(np.float64)
    w[~np.isfinite(w)] = np.nan
    limit = float(np.nanquantile(abs(w), 0.995)) if np.isfinite(w).any() else 0.0
    limit = limit or 1.0
    if square:
        columns = min(len(w), 8)
        w = _tiled(w.reshape(-1, side, side), columns)
        size = (max(0.75 * columns, 3.4) + 1.3, 0.75 * -(-len(chosen) // columns) + 0.7)
    else:
        size = (6.0, max(min(0.16 * len(w), 5.5), 1.2) + 1.5)
    figure, (axes,) = new_figure(name, "first-layer weights", size)
    axes.set_title(which, fontsize=9)
    aspect = "equal" if square else "auto"
    image = axes.imshow(w, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect=aspect)
    axes.grid(visible=False)
    if square:
        axes.set_axis_off()
    else:
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        axes.set_xlabel("input (counted from 0)")
        places = np.unique(np.linspace(0, len(chosen) - 1, 16).astype(int))
        axes.set_yticks(places, [str(chosen[i]) for i in places])
        axes.set_ylabel("unit (counted from 0)")
    figure.colorbar(image, ax=axes, extend="both", extendfrac=0.03, label="weight")
    return figure


def _chosen_units(weights: Sequence[np.ndarray]) -> tuple[np.ndarray, str]:
    """Return the units to show, and which ones these are in words."""
    units = len(weights[0])
    if len(weights) == 1 or units <= SHOWN_UNITS:
        chosen = np.arange(min(units, SHOWN_UNITS))
        return chosen, f"{'all' if len(chosen) == units else 'the first'} {len(chosen)} units"
    outgoing = np.nan_to_num(np.linalg.norm(weights[1].astype(np.float64), axis=0))
    chosen = np.argsort(-outgoing, kind="stable")[:SHOWN_UNITS]
    return chosen, f"the {SHOWN_UNITS} of {units} units with the largest outgoing weights"


def _tiled(images: np.ndarray, columns: int) -> np.ndarray:
    """Return images (n, h, w) as one, row by row, with gaps of one pixel between them."""
    height, width = images.shape[1] + 1, images.shape[2] + 1
    rows = -(-len(images) // columns)
    sheet = np.full((rows * height - 1, columns * width - 1), np.nan)
    for i, image in enumerate(images):
        top, left = i // columns * height, i % columns * width
        sheet[top : top + height - 1, left : left + width - 1] = image
    return sheet
