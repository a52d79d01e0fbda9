"""Plots of a regression: predicted values against true ones, and what is left over."""

from typing import Any

import numpy as np

from ..metrics import r2
from .predictions import Predictions
from .style import GREY, TRAINING, Axes, Figure, new_figure

SHOWN_POINTS = 2000
SHOWN_OUTPUTS = 4
DASHED: dict[str, Any] = {"color": GREY, "linewidth": 1, "linestyle": (0, (4, 3))}
POINTS: dict[str, Any] = {"s": 9, "alpha": 0.5, "color": TRAINING, "linewidths": 0}


def predicted_against_true(name: str, predictions: Predictions) -> Figure:
    """Draw predicted over true values, one panel for each of the first outputs."""
    target, prediction = predictions.values()
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
        axes.set_title(f"{which}R² = {_r2(t, y, predictions)}")
        known = np.concatenate([t, y[np.isfinite(y)]])
        ends = [float(known.min()), float(known.max())]
        axes.plot(ends, ends, **DASHED)
        axes.scatter(t[::every], y[::every], **POINTS)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel("true value")
        axes.set_ylabel("predicted value")
    return figure


def residuals(name: str, predictions: Predictions) -> Figure:
    """Draw true less predicted values over the predicted ones, and how often each occurs.

    One row of two panels for each of the first outputs; None where no residual is finite.
    """
    target, prediction = predictions.values()
    left = target - prediction
    if not np.isfinite(left).any():
        return None
    outputs = min(target.shape[1], SHOWN_OUTPUTS)
    what = f"residuals ({predictions.part} part)"
    figure, panels = new_figure(name, what, (7.2, 2.9 * outputs + 0.5), outputs, 2)
    for output in range(outputs):
        over, often = panels[2 * output : 2 * output + 2]
        _residuals(
            over,
            often,
            prediction[:, output],
            left[:, output],
            f"output {output + 1}" if outputs > 1 else "",
        )
    return figure


def _residuals(
    over: Axes, often: Axes, prediction: np.ndarray, left: np.ndarray, which: str
) -> None:
    known = np.isfinite(left)
    prediction, left = prediction[known], left[known]
    every = -(-len(left) // SHOWN_POINTS) or 1
    over.axhline(0, **DASHED)
    over.scatter(prediction[::every], left[::every], **POINTS)
    over.set_xlabel("predicted value")
    over.set_ylabel("residual: true - predicted")
    over.set_title(which)
    often.axvline(0, **DASHED)
    often.set_xlabel("residual: true - predicted")
    often.set_ylabel("rows")
    if not len(left):
        often.set_title("no finite value")
        return
    often.hist(left, bins=_bins(left), color=TRAINING, alpha=0.75, edgecolor="white", linewidth=0.5)
    with np.errstate(over="ignore"):
        mean, deviation = float(left.mean()), float(left.std())
    often.set_title(f"mean {mean:.3g}, standard deviation {deviation:.3g}")


def _bins(values: np.ndarray) -> np.ndarray:
    """Return the edges of 5 to 40 equal bins, about √n of them."""
    low, high = float(values.min()), float(values.max())
    count = int(np.clip(np.sqrt(len(values)), 5, 40))
    least = max(1e-9 * max(abs(low), abs(high)), 1e-300)  # below it floats cannot divide the width
    if not high - low > least:
        low, high = low - max(abs(low), 1.0), high + max(abs(high), 1.0)
    return np.linspace(low, high, count + 1)


def _r2(target: np.ndarray, prediction: np.ndarray, predictions: Predictions) -> str:
    weight = predictions.sample_weight
    return f"{r2(target, prediction, None if weight is None else np.asarray(weight)):.3f}"
