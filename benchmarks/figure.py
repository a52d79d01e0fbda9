"""The figures of the benchmarks, as PNG."""

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

from report import OURS, Row, kernel_label

from gpumlp.plots.style import new_figure, our_style, png

MARKERS = "osD^vPX*"
# of Okabe and Ito (2008): told apart by colour-blind people
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]


def check_plot(path: Path | None) -> None:
    """Raise ValueError if a figure is wanted but cannot be drawn, before anything is measured."""
    if path is not None and find_spec("matplotlib") is None:
        raise ValueError('--plot needs matplotlib: pip install "gpumlp[bench]"')


def check_folders(*paths: Path | None) -> None:
    """Raise ValueError if a file that is to be written has no folder to go to."""
    for path in paths:
        if path is not None and not path.resolve().parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent}")


def plot_ratios(rows: Sequence[Row], path: Path) -> None:
    """Draw each system's seconds / gpumlp's, a line for each net: right of 1, gpumlp is faster."""
    labels = list(dict.fromkeys(map(_label, rows)))
    with our_style():
        size = (7.0, 1.4 + 0.34 * len(labels))
        figure, (axes,) = new_figure("training", "seconds / seconds of gpumlp", size)
        systems = dict.fromkeys(row["system"] for row in rows if row["system"] != OURS)
        axes.axvline(1, color=COLOURS[0], label=OURS)
        for system, marker, colour in zip(systems, cycle(MARKERS), cycle(COLOURS[1:])):
            own = [row for row in rows if row["system"] == system]
            places = [labels.index(_label(row)) for row in own]
            ratios = [row["ratio"] for row in own]
            axes.plot(ratios, places, marker, color=colour, markersize=6, label=system)
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlabel("log scale; right of the line gpumlp is faster")
        figure.legend(loc="outside lower center", ncols=4)
        path.write_bytes(png(figure))


def plot_kernels(rows: Sequence[Row], path: Path) -> None:
    """Draw each operation's share of a copy's speed and its speed-up, a line for each operation."""
    labels = list(dict.fromkeys(map(kernel_label, rows)))
    with our_style():
        size = (10.0, 1.4 + 0.2 * len(labels))
        figure, panels = new_figure(
            "operations", f"kernels and plain formulas, {rows[0]['device']}", size, columns=2
        )
        sizes = dict.fromkeys(row["size"] for row in rows)
        for name, marker, colour in zip(sizes, cycle(MARKERS), cycle(COLOURS)):
            own = [row for row in rows if row["size"] == name]
            places = [labels.index(kernel_label(row)) for row in own]
            shares = [row["fused"]["of_stream"] for row in own]
            for axes, values in zip(panels, (shares, [row["ratio"] for row in own]), strict=True):
                axes.plot(values, places, marker, color=colour, markersize=4.5, label=name)
        for axes, text in zip(
            panels, ("bytes per second / those of a copy", "plain formula / kernel"), strict=True
        ):
            axes.axvline(1, color="#666666", linewidth=0.8)
            axes.set_xscale("log")
            plain_ticks(axes.xaxis)
            axes.set_yticks(range(len(labels)), labels if axes is panels[0] else [])
            axes.set_ylim(len(labels) - 0.5, -0.5)
            axes.set_xlabel(f"{text} (log scale; right is faster)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        path.write_bytes(png(figure))


def plot_learning(rows: Sequence[Row], path: Path) -> None:
    """Draw accuracy over CPU seconds, a line for each round, a colour for each contender."""
    with our_style():
        figure, (axes,) = new_figure(rows[0]["data"], "test accuracy over CPU seconds", (7.0, 4.0))
        for row, colour in zip(rows, cycle(COLOURS)):
            for i, curve in enumerate(row["curves"]):
                label = row["system"] if i == 0 else None
                points = curve["cpu_seconds"][1:], curve["accuracy"][1:]
                axes.plot(*points, "o-", color=colour, markersize=3, alpha=0.8, label=label)
        axes.axhline(rows[0]["goal"], color="#666666", linewidth=0.8)
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)
        axes.set_xlabel("CPU seconds of training, all threads (log scale)")
        axes.set_ylabel("test accuracy")
        figure.legend(loc="outside lower center", ncols=4)
        path.write_bytes(png(figure))


def plot_precisions(rows: Sequence[Row], path: Path) -> None:
    """Draw the gradient's error by net, and each run's test accuracy, by precision."""
    errors = [row for row in rows if row["what"] == "gradient_error"]
    runs = [row for row in rows if row["what"] == "accuracy"]
    names = list(dict.fromkeys(row["precision"] for row in rows))
    with our_style():
        figure, (left, right) = new_figure(
            "precisions", "errors and accuracy", (10.0, 4.0), columns=2
        )
        nets = dict.fromkeys(f"{row['net']}@{row['batch']}" for row in errors)
        for net, marker, colour in zip(nets, cycle(MARKERS), cycle(COLOURS)):
            own = [row for row in errors if f"{row['net']}@{row['batch']}" == net]
            places = [names.index(row["precision"]) for row in own]
            values = [row["gradient_error"] for row in own]
            left.plot(places, values, marker, color=colour, label=net)
        left.set_yscale("log")
        left.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}")
        left.set_ylabel("error of the gradient, relative to float64")
        left.legend()
        for row in runs:
            place, reached = names.index(row["precision"]), [r["accuracy"] for r in row["runs"]]
            right.plot([place] * len(reached), reached, "o", color=COLOURS[0], alpha=0.6)
            right.plot([place - 0.2, place + 0.2], [row["mean"]] * 2, color=COLOURS[1])
        right.set_ylabel(f"{runs[0]['data']} accuracy, each seed and mean" if runs else "")
        for axes in (left, right):
            axes.set_xticks(range(len(names)), names)
            axes.set_xlim(-0.5, len(names) - 0.5)
        path.write_bytes(png(figure))


def plain_ticks(axis: Any) -> None:
    """Label a logarithmic axis with numbers as they are, at 1, 2, 5, 10 and so on."""
    from matplotlib.ticker import LogLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.set_minor_formatter("")


def _label(row: Row) -> str:
    optimizer = "" if row["optimizer"] == "sgd" else f" {row['optimizer']}"
    return f"{row['net']}@{row['batch']} {row['what']}{optimizer}"
