"""Plot of a test of learning rates: the loss over the rate."""

from pathlib import Path

from ..files import write_atomically
from ..lr_finder import LearningRates
from .style import GREY, TRAINING, VALIDATION, Figure, new_figure, our_style, png


def write_rates(path: Path, name: str, found: LearningRates) -> None:
    """Write the figure of a test as a PNG file; the same test gives the same bytes.

    `name` is the configuration's, for the title. Raises FileError.
    """
    with our_style():
        write_atomically(path, png(learning_rates(name, found)))


def learning_rates(name: str, found: LearningRates) -> Figure:
    """Draw the loss of each batch and their running average, and mark the suggested rate."""
    from matplotlib.ticker import FuncFormatter

    figure, (axes,) = new_figure(name, "test of learning rates", (5.6, 3.4))
    if len(found.smoothed):  # the last batches may be far above all that matters
        low, high = float(found.smoothed.min()), float(found.smoothed[0])
        room = max(high - low, abs(high), 1e-12)
        axes.set_ylim(low - 0.1 * room, high + 0.5 * room)
    axes.plot(found.rates, found.losses, color=TRAINING, alpha=0.3, linewidth=1, label="of a batch")
    axes.plot(found.rates, found.smoothed, color=TRAINING, label="running average")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    if found.suggestion is not None:
        text = f"suggested: {found.suggestion:g}"
        axes.axvline(found.suggestion, color=VALIDATION, linestyle=(0, (4, 3)), label=text)
    else:
        axes.set_title("no clear answer", loc="right", color=GREY, fontsize=9)
    figure.legend(loc="outside lower center", ncols=3)
    return figure
