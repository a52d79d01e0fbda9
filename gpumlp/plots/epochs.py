"""Plots over the epochs of a training: loss and metrics, learning rate, gradient norms."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..events import Record
from ..metrics import METRICS
from .style import GREY, TRAINING, VALIDATION, Axes, Figure, new_figure

LEGEND_LAYERS = 12
MARKED_EPOCHS = 40
FALLING = 20


def history(name: str, records: Sequence[Record], best_epoch: int | None) -> Figure:
    """Draw loss and metrics over the epochs, one panel each, and mark the best epoch.

    That is `best_epoch`, or else the epoch of the lowest validation loss.
    """
    if not records:
        return None
    shown = ["loss", *(m for m in METRICS if any(m in r or f"val_{m}" in r for r in records))]
    columns = {1: 1, 2: 2, 4: 2}.get(len(shown), 3)
    rows = -(-len(shown) // columns)
    size = (3.6 * columns, 2.7 * rows + 0.6)
    figure, panels = new_figure(name, "training", size, rows, columns)
    best, why = _best(records, best_epoch)
    for quantity, axes in zip(shown, panels, strict=False):
        drawn = [
            _over_epochs(axes, records, quantity, TRAINING, "training"),
            _over_epochs(axes, records, f"val_{quantity}", VALIDATION, "validation"),
        ]
        _scale(axes, np.concatenate(drawn), above_zero=quantity == "loss")
        _title(axes, quantity, best, why)
    for axes in panels[len(shown) :]:
        axes.remove()
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    named = {text: line for text, line in lines.items() if not text.startswith("_")}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=3)
    return figure


def _best(records: Sequence[Record], best_epoch: int | None) -> tuple[Record | None, str]:
    """Return the record of the best epoch, and what it is called."""
    if best_epoch is not None:
        return next((r for r in records if r["epoch"] == best_epoch), None), "best epoch"
    losses = _series(records, "val_loss")
    if not np.isfinite(losses).any():
        return None, ""
    return records[int(np.nanargmin(losses))], "epoch of the lowest validation loss"


def _title(axes: Axes, quantity: str, best: Record | None, why: str) -> None:
    """Name the quantity, with its value in the best epoch, and draw a line there."""
    axes.set_title(quantity.replace("_", " "), loc="left")
    if best is None:
        return
    axes.axvline(best["epoch"], color=GREY, linewidth=1, linestyle=(0, (4, 3)), label=why)
    key, color = f"val_{quantity}", VALIDATION
    if key not in best:
        key, color = quantity, TRAINING
    if key in best:
        known = best[key] is not None and np.isfinite(best[key])
        value = f"{best[key]:.4g}" if known else "not finite"
        value = f"{value} in epoch {best['epoch']}"
        axes.set_title(value, loc="right", color=color, fontsize=9)


def learning_rate(name: str, records: Sequence[Record]) -> Figure:
    """Draw the learning rate of each epoch's last step."""
    if not records:
        return None
    figure, (axes,) = new_figure(name, "learning rate", (4.8, 3.0))
    rates = _over_epochs(axes, records, "lr", TRAINING, "")
    axes.set_ylabel("at the end of the epoch")
    known = rates[rates > 0]
    # a logarithm for what falls all the time, not for a cosine, whose very end is next to nothing
    falling = len(known) > 0 and float(known.max() / np.quantile(known, 0.25)) > FALLING
    _scale(axes, rates, ratio=1 if falling else np.inf)
    return figure


def gradient_norms(name: str, records: Sequence[Record], initial: Record) -> Figure:
    """Draw ‖∂C/∂W‖ of each layer over the epochs; epoch 0 is before the first step."""
    if initial:
        records = [{"epoch": 0, **initial}, *records]
    layers = sum(key.startswith("grad_norm_") for key in (records[-1] if records else {}))
    if not layers:
        return None
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    figure, (axes,) = new_figure(name, "gradient of each layer's weights", (6.2, 3.4))
    shades = colormaps["viridis"](np.linspace(0, 0.9, layers))  # without its palest yellow
    ends = {1: " (input)", layers: " (output)"} if layers > 1 else {}
    # a logarithm has no place for a norm of zero, and many markers hide each other
    options = {"positive": True, "marked": layers <= 4 or len(records) == 1}
    values = [
        _over_epochs(
            axes, records, f"grad_norm_{i}", shade, f"layer {i}{ends.get(i, '')}", **options
        )
        for i, shade in enumerate(shades, start=1)
    ]
    axes.set_ylabel("norm of ∂C/∂W")
    if not np.isfinite(values).any():
        return None
    _scale(axes, np.concatenate(values), ratio=1)
    if layers <= LEGEND_LAYERS:
        figure.legend(loc="outside right center", reverse=True)
    else:
        norm = BoundaryNorm(np.arange(0.5, layers + 1), layers)
        bar = figure.colorbar(ScalarMappable(norm, ListedColormap(shades)), ax=axes)
        bar.set_ticks(np.unique(np.linspace(1, layers, 8).astype(int)))
        bar.ax.minorticks_off()
        bar.set_label(f"layer (1: input, {layers}: output)")
    return figure


def _series(records: Sequence[Record], key: str) -> np.ndarray:
    """Return a quantity over the epochs; nan where there is none, or none that can be drawn."""
    values = np.array([r[key] if r.get(key) is not None else np.nan for r in records], np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _over_epochs(
    axes: Axes,
    records: Sequence[Record],
    key: str,
    color: Any,
    label: str,
    *,
    positive: bool = False,
    marked: bool = True,
) -> np.ndarray:
    """Draw a quantity over the epochs, as far as it was recorded, and return its values."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(
        MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    )
    axes.set_xlabel("epoch")
    values = _series(records, key)
    if positive:
        values[~(values > 0)] = np.nan
    if np.isfinite(values).any():
        marker = "o" if len(records) <= MARKED_EPOCHS and marked else None
        epochs = [record["epoch"] for record in records]
        axes.plot(epochs, values, color=color, marker=marker, label=label)
    return values


def _scale(axes: Axes, values: np.ndarray, ratio: float = 20, above_zero: bool = True) -> None:
    """Make the y axis logarithmic where positive values span more than `ratio`."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    known = values[np.isfinite(values)]
    if not len(known):
        box = {"facecolor": "white", "edgecolor": "none"}  # over the line of the best epoch
        place = {"transform": axes.transAxes, "ha": "center", "color": GREY, "bbox": box}
        axes.text(0.5, 0.5, "no finite value", **place)
        return
    lowest, highest = float(known.min()), float(known.max())
    if lowest > 0 and highest / lowest > ratio and above_zero:
        axes.set_yscale("log")
        steps = (1.0, 2.0, 5.0) if highest / lowest < 500 else (1.0,)
        axes.yaxis.set_major_locator(LogLocator(subs=steps))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif lowest == highest:  # a flat line, without magnifying what is no difference
        share = 0.5 <= lowest <= 1  # as of accuracies, which end at 1
        axes.set_ylim(*sorted((0.0, 1.05 if share else 2 * lowest or 1.0)))
    elif lowest < -1 and highest <= 1:  # r2 of the first epochs may be anything
        axes.set_ylim(-1, 1.05)
