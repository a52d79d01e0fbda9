"""Figures in one style, drawn without pyplot: no window, no display, and no state left behind."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

# of matplotlib, which is optional and imported where a figure is drawn
Figure: TypeAlias = Any
Axes: TypeAlias = Any

# of Okabe and Ito (2008): told apart by colour-blind people, and in grey
TRAINING, VALIDATION, GREY = "#0072B2", "#D55E00", "#666666"
# ... and without their yellow, which white paper hides; more classes than colours: other markers
CLASSES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = ("o", "^", "s")
STYLE = {
    "figure.dpi": 110,
    "font.size": 9,
    "figure.titlesize": 11,
    "axes.titlesize": 10,
    "figure.facecolor": "white",  # opaque: on a dark page, too, the labels are black on white
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.5,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "text.parse_math": False,  # a class may be called "$"
}


@contextmanager
def our_style() -> Iterator[None]:
    """Draw in our style inside a `with` block, whatever the user's matplotlibrc says."""
    import matplotlib

    rc: dict[Any, Any] = {k: v for k, v in matplotlib.rcParamsDefault.items() if "backend" not in k}
    with matplotlib.rc_context(rc | STYLE), warnings.catch_warnings():
        # the font lacks some scripts: such names are drawn as boxes
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from")
        yield


def new_figure(
    name: str, what: str, size: tuple[float, float], rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """Return a figure of `size` inches with the title "name: what", and its axes row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    room = int(9 * size[0]) - len(what) - 2
    figure.suptitle(f"{shortened(name, max(room, 8))}: {what}")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def png(figure: Figure) -> bytes:
    """Return a figure as PNG of 256 colours: a third of the size, and no date or version inside."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    content = io.BytesIO()
    image.quantize(dither=Image.Dither.NONE).save(content, "png", optimize=True)
    return content.getvalue()


def shortened(text: str, length: int) -> str:
    """Return a text of that length at most.

    >>> shortened("setosa", 6), shortened("versicolor", 6)
    ('setosa', 'versi…')
    """
    return text if len(text) <= length else text[: length - 1] + "…"


def percent(share: float) -> str:
    """Return a share as percent that says 0 % or 100 % only of none and all.

    >>> [percent(share) for share in (1.0, 0.9999, 0.5, 0.001)]
    ['100%', '>99%', '50%', '<1%']
    """
    if 0 < share < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= share < 1 else f"{share:.0%}"
