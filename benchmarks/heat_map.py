"""Figures of cpu_vs_gpu.py: a quantity by batch size and width, a panel for each depth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
from device_report import Cell, by_cell, chosen, has_gpu, number, share
from report import Row

from gpumlp.plots.style import Figure, new_figure, our_style, png


@dataclass(frozen=True)
class Quantity:
    """What the panels of one line show: values by net and batch.

    Those that are centred are ratios, whose colours part at 1; the others begin at 0.
    """

    title: str
    values: Mapping[Cell, float]
    centred: bool
    text: Callable[[float], str] = number


def quantities(rows: Sequence[Row]) -> list[Quantity]:
    """Return the speed-ups of the GPU, or without one what is known of the CPU."""
    if has_gpu(rows):
        titles = {
            "fused": "GPU / CPU",
            "transfers": "GPU with transfers / CPU",
            "plain": "GPU / CPU, both by plain formulas",
        }
        found = {v: by_cell(chosen(rows, "cuda", v), "speed_up") for v in titles}
        return [Quantity(titles[v], values, True) for v, values in found.items() if values]
    shares = {cell: share(row) for cell, row in chosen(rows, "cpu").items()}
    ratios = by_cell(chosen(rows, "cpu", "plain"), "ratio")
    shown = [Quantity("share of the floor", shares, False, "{:.0%}".format)]
    return shown + ([Quantity("plain / fused, seconds", ratios, True)] if ratios else [])


def draw_heat_maps(rows: Sequence[Row]) -> Figure:
    """Return a line of panels for each quantity, a panel for each depth."""
    shown, depths = quantities(rows), sorted({row["depth"] for row in rows})
    batches = sorted({row["batch"] for row in rows})
    nets = {depth: nets_of(rows, depth) for depth in depths}
    tallest = max(map(len, nets.values()))
    size = (1.6 + 0.62 * len(batches) * len(depths), 1.2 + (0.75 + 0.4 * tallest) * len(shown))
    title = "speed of steps, GPU and CPU" if has_gpu(rows) else "steps on the CPU"
    figure, panels = new_figure(
        "gpumlp", title, (max(size[0], 5.0), size[1]), len(shown), len(depths)
    )
    for i, quantity in enumerate(shown):
        for depth, axes in zip(depths, panels[i * len(depths) :], strict=False):
            draw_panel(axes, quantity, nets[depth], batches)
            layers = f"{depth} hidden layer{'s' * (depth != 1)}"
            axes.set_title(f"{quantity.title}, {layers}", fontsize=8)
            axes.set_xlabel("batch size" if i == len(shown) - 1 else "")
    return figure


def nets_of(rows: Sequence[Row], depth: int) -> dict[str, str]:
    """Return the nets of a depth, each with its width, or its name where that would not tell."""
    own = [row for row in rows if row["depth"] == depth]
    nets = {row["net"]: row["width"] for row in own}
    ends = {(net.split("-")[0], net.split("-")[-1]) for net in nets}
    by_width = len(ends) == 1 and None not in nets.values()
    return {net: f"{width:,}" if by_width else net for net, width in nets.items()}


def draw_panel(
    axes: Any, quantity: Quantity, nets: Mapping[str, str], batches: Sequence[int]
) -> None:
    """Draw numbers on colours: purple where a ratio is above 1, orange below, white at 1."""
    grid = np.full((len(nets), len(batches)), np.nan)
    for line, net in enumerate(nets):
        for column, batch in enumerate(batches):
            value = quantity.values.get((net, batch))
            if value is not None:
                grid[line, column] = log2(value) if quantity.centred else value
    low, high = limits(quantity)
    axes.imshow(
        grid, "PuOr" if quantity.centred else "Blues", aspect="auto", vmin=low, vmax=high,
        origin="lower",
    )  # fmt: skip
    for line, net in enumerate(nets):
        for column, batch in enumerate(batches):
            value = quantity.values.get((net, batch))
            text = "–" if value is None else quantity.text(value)
            place = (grid[line, column] - low) / (high - low)
            dark = place > 0.7 if not quantity.centred else abs(place - 0.5) > 0.35
            colour = "white" if dark else "black"
            axes.text(column, line, text, ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(batches)), [f"{batch:,}" for batch in batches], fontsize=7)
    axes.set_yticks(range(len(nets)), nets.values(), fontsize=7)
    axes.set_ylabel("width" if set(nets) != set(nets.values()) else "", fontsize=8)
    axes.grid(False)


def limits(quantity: Quantity) -> tuple[float, float]:
    """Return the ends of the colours: as far below 1 as above, or from 0 to the largest value.

    >>> limits(Quantity("", {("", 1): 8.0, ("", 2): 0.5}, centred=True))
    (-3.0, 3.0)
    """
    if not quantity.centred:
        return 0.0, max([*quantity.values.values(), 1e-9])
    most = max([abs(log2(value)) for value in quantity.values.values()] + [0.1])
    return -most, most


def plot_heat_maps(rows: Sequence[Row], path: Path) -> None:
    """Write the figure as PNG."""
    with our_style():
        path.write_bytes(png(draw_heat_maps(rows)))
