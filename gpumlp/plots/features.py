"""Plots of what hidden layers make of the rows: the notes' feature transformation, layer by layer.

Each panel shows the activations of one layer in the plane in which they vary most, their first two
principal components. Classes that lie mixed at the input come apart from layer to layer.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array
from ..data.targets import class_indices
from ..model import Sequential
from ..wording import count
from .predictions import Floats, Predictions
from .style import CLASSES, MARKERS, Axes, Figure, new_figure, percent, shortened

SHOWN_ROWS = 2000
SHOWN_LAYERS = 6
NAMED_CLASSES = len(CLASSES) * len(MARKERS)


class LayerFeatures(NamedTuple):
    """The activations of one layer: what it is called, and (n, units) of the rows shown."""

    name: str
    values: Array


def layer_features(model: Sequential, x: Array, scale: float = 1.0) -> list[LayerFeatures]:
    """Return what the input and the hidden layers make of rows x (n, D), times `scale`.

    Of many layers the first and last ones, NumPy arrays all.
    """
    hidden = len(model.layers) - 1
    shown = list(range(hidden + 1))
    if len(shown) > SHOWN_LAYERS:
        half = SHOWN_LAYERS // 2
        shown = shown[:half] + shown[-half:]
    found = []
    for layer in shown:
        values = np.asarray(model.backend.to_numpy(model.features(x, layer, scale)))
        width = count(values.shape[1], "unit" if layer else "value")
        what = f"hidden layer {layer} of {hidden}" if layer else "input"
        found.append(LayerFeatures(f"{what} ({width})", values))
    return found


def shown_rows(n: int) -> slice:
    """Return every k-th of n rows, at most SHOWN_ROWS."""
    return slice(0, n, -(-n // SHOWN_ROWS) or 1)


def principal_components(values: Array) -> tuple[Floats, Floats]:
    """Return the first two principal components of rows (n, d), and their share of the variance.

    They are U S of the singular value decomposition of the centred rows, found from the smaller of
    the two products of the rows with themselves; (n, 2), zero where there is no second one. Each
    axis points to where its largest entry is positive, so that the picture is the same each time.
    Rows must be finite.

    >>> scores, shares = principal_components(np.array([[0.0, 0], [2, 0], [4, 0]]))
    >>> scores[:, 0].tolist(), shares.tolist()
    ([-2.0, 0.0, 2.0], [1.0, 0.0])
    """
    values = np.asarray(values, np.float64)
    size = float(abs(values).max(initial=0.0)) or 1.0  # so that no square overflows
    centred = values / size
    centred -= centred.mean(axis=0)
    n, d = centred.shape
    product = centred.T @ centred if d <= n else centred @ centred.T
    variance, vectors = np.linalg.eigh(product)
    variance, vectors = variance[::-1].clip(0), vectors[:, ::-1][:, :2]
    total = float(variance.sum())
    scores, shares = np.zeros((n, 2)), np.zeros(2)
    # what rounding leaves of equal rows is no variance
    if total <= (n * d) * (8 * np.finfo(np.float64).eps) ** 2:
        return scores, shares
    if d > n:  # from eigenvectors of the rows to those of the units
        vectors = centred.T @ vectors / np.sqrt(np.maximum(variance[:2], 1e-30 * total))
    for i, axis in enumerate(vectors.T):
        sign = 1.0 if axis[abs(axis).argmax()] >= 0 else -1.0
        with np.errstate(over="ignore"):
            scores[:, i] = centred @ axis * (sign * size)
        shares[i] = variance[i] / total
    return scores, shares


def feature_planes(
    name: str, task: str, predictions: Predictions, layers: Sequence[LayerFeatures]
) -> Figure:
    """Draw the rows in the first two principal components of each layer, coloured by what is true.

    `layers` are of the rows `shown_rows` of the predictions. None where there is nothing to show.
    """
    if not layers or not len(layers[0].values):
        return None
    columns = {1: 1, 2: 2, 4: 2}.get(len(layers), 3)
    rows = -(-len(layers) // columns)
    size = (3.1 * columns + 1.3, 3.0 * rows + 0.5)
    what = f"rows as layers see them ({predictions.part} part)"
    figure, panels = new_figure(name, what, size, rows, columns)
    colours = _Colours(task, predictions)
    for layer, axes in zip(layers, panels, strict=False):
        _plane(axes, layer, colours)
    for axes in panels[len(layers) :]:
        axes.remove()
    colours.explain(figure, panels[: len(layers)])
    return figure


def _plane(axes: Axes, layer: LayerFeatures, colours: "_Colours") -> None:
    known = np.isfinite(layer.values).all(axis=1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.set_xlabel("1st component", fontsize=8)
    axes.set_ylabel("2nd component", fontsize=8)
    if not known.any():
        axes.set_title(f"{layer.name}\nno finite value", fontsize=9)
        return
    scores, shares = principal_components(layer.values[known])
    first, second = map(percent, shares)
    said = f"{first} + {second} of the variance" if shares[0] else "all rows alike"
    axes.set_title(f"{layer.name}\n{said}", fontsize=9)
    colours.scatter(axes, scores, known)
    axes.margins(0.06)


class _Colours:
    """What colour a row has: that of its class, or of its true value on a continuous scale."""

    def __init__(self, task: str, predictions: Predictions) -> None:
        rows = shown_rows(len(predictions.target))
        self.classes = tuple(predictions.classes)
        one_class = task in ("multiclass", "binary")
        self.named = one_class and 0 < len(self.classes) <= NAMED_CLASSES
        if one_class:
            self.values = class_indices(np.asarray(predictions.target)[rows]).astype(np.float64)
            self.label = "class (its number, counted from 0)"
        elif task == "multilabel":
            self.values = np.asarray(predictions.target)[rows].sum(axis=1).astype(np.float64)
            self.label = "number of labels"
        else:
            self.values = predictions.values()[0][rows, 0]
            outputs = np.asarray(predictions.target).reshape(len(predictions.target), -1).shape[1]
            self.label = "true value" if outputs == 1 else "true value of output 1"
        finite = self.values[np.isfinite(self.values)]
        # one far value must not hide the differences of the others
        ends = [0.02, 0.98] if task == "regression" and len(finite) > 50 else [0, 1]
        self.limits = np.quantile(finite, ends) if len(finite) else (0.0, 1.0)
        self.extend = "both" if ends[0] else "neither"
        self._drawn: Any = None

    def scatter(self, axes: Axes, scores: Floats, known: np.ndarray) -> None:
        """Draw the rows that are `known`, (n,) bool, at their scores (known rows, 2)."""
        values = self.values[known]
        size = 40 if len(values) <= 20 else 16 if len(values) <= 200 else 9
        if self.named:
            for label in range(len(self.classes)):
                chosen = scores[values == label]
                style = {"color": CLASSES[label % len(CLASSES)], "s": size, "alpha": 0.75}
                marker = MARKERS[label // len(CLASSES)]
                axes.scatter(*chosen.T, marker=marker, linewidths=0, **style)
                if len(chosen) and len(self.classes) > len(CLASSES):
                    self._name(axes, np.median(chosen, axis=0), self.classes[label])
            return
        low, high = self.limits
        style = {"c": values, "s": size, "alpha": 0.75, "cmap": "viridis", "linewidths": 0}
        self._drawn = axes.scatter(*scores.T, vmin=low, vmax=high, **style)

    def _name(self, axes: Axes, place: Floats, name: str) -> None:
        """Write the name of a class in the middle of its rows, for eyes that see few colours."""
        from matplotlib.patheffects import withStroke

        halo = [withStroke(linewidth=2.5, foreground="white")]
        text = shortened(name, 6)
        axes.text(
            *place, text, ha="center", va="center", fontsize=8, weight="bold", path_effects=halo
        )

    def explain(self, figure: Figure, panels: Sequence[Axes]) -> None:
        """Add the legend of the classes, or the colour bar of the values."""
        if self.named:
            from matplotlib.lines import Line2D

            marks = [
                Line2D([], [], linestyle="", markersize=5, marker=marker, color=colour)
                for marker in MARKERS
                for colour in CLASSES
            ]
            names = [shortened(name, 14) for name in self.classes]
            style = {"loc": "outside right center", "fontsize": 8, "ncols": 1 + (len(names) > 12)}
            figure.legend(marks[: len(names)], names, **style)
        elif self._drawn is not None:
            figure.colorbar(
                self._drawn, ax=panels, label=self.label, shrink=0.8, extend=self.extend
            )
