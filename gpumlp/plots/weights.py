"""Plot of the first layer's weights: what its units look for in the input."""

from collections.abc import Sequence
from math import isqrt

import numpy as np

from .style import Figure, new_figure

SHOWN_UNITS = 64


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
