"""The floor of a training step: its operations, the bytes it must move, and a device's ceilings.

A step takes at least max(operations / peak, bytes / bandwidth). Operations are those of the matrix
products (`Net.flops`); bytes are counted as if each array were moved once, see `least_bytes`. The
peak is that of one large product, the bandwidth that of a copy out of cache.
"""

from collections.abc import Sequence
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

from figure import COLOURS, MARKERS, plain_ticks
from problem import Net
from report import OURS, Row

from gpumlp.plots.style import Figure, new_figure, our_style, png

FLOAT, LABEL, INDEX = 4, 8, 8  # bytes


def least_bytes(net: Net) -> int:
    """Return the bytes that a step of plain gradient descent has to move.

    Parameters are read and written once, 8 P; a batch's rows are read once, 4 B n₀, with label and
    row number, 16 B; the outputs of every layer are written going forward and read going back,
    8 B Σ n_k. Not counted: that a weight is read again for dx and a kept output for the next layer
    and for dW, what kernels sum up on the way, and that what stays in cache need not move at all.
    """
    parameters = sum(n_in * n_out + n_out for n_in, n_out in pairwise(net.sizes))
    row = FLOAT * net.sizes[0] + LABEL + INDEX + 2 * FLOAT * sum(net.sizes[1:])
    return 2 * FLOAT * parameters + net.batch * row


def batch_bytes(net: Net) -> int:
    """Return the bytes of a batch that does not lie on the device yet: rows and labels."""
    return net.batch * (FLOAT * net.sizes[0] + LABEL)


def floor_seconds(flops: float, moved: float, peak: float, bandwidth: float) -> float:
    """Return max(operations / peak, bytes / bandwidth); a ceiling of 0 is unknown: no floor."""
    return max(flops / peak if peak else 0.0, moved / bandwidth if bandwidth else 0.0)


def draw_roofline(rows: Sequence[Row], environment: dict[str, Any]) -> Figure:
    """Return GFLOP/s over operations per byte: a point for each cell, and each device's ceilings.

    A colour for each batch size, a marker for each device, hollow where formulas are plain.
    """
    devices = list(dict.fromkeys(row["device"] for row in rows))
    batches = sorted({row["batch"] for row in rows})
    colours = dict(zip(batches, cycle(COLOURS)))
    figure, (axes,) = new_figure("training steps", "roofline of " + _names(devices), (8.0, 5.4))
    for device, marker in zip(devices, MARKERS, strict=False):
        own = [row for row in rows if row["device"] == device and "transfer_seconds" not in row]
        _ceilings(axes, own, device, environment)
        for row in own:
            filled = colours[row["batch"]] if row["system"] == OURS else "none"
            point = [row["intensity"]], [row["gflops"]]
            look = {"markerfacecolor": filled, "color": colours[row["batch"]], "alpha": 0.85}
            axes.plot(*point, marker, markersize=5, gid="point", **look)
    axes.set(xscale="log", yscale="log", ylabel="GFLOP/s")
    axes.set_xlabel("operations per byte that a step must move")
    for axis in (axes.xaxis, axes.yaxis):
        plain_ticks(axis)
    _legend(figure, devices, colours, hollow=any(row["system"] != OURS for row in rows))
    return figure


def plot_roofline(rows: Sequence[Row], environment: dict[str, Any], path: Path) -> None:
    """Write the figure as PNG."""
    with our_style():
        path.write_bytes(png(draw_roofline(rows, environment)))


def _ceilings(axes: Any, rows: Sequence[Row], device: str, environment: dict[str, Any]) -> None:
    """Draw min(peak, bandwidth · x), the bend and all points in between."""
    peak = environment["peak_gflops"][device]
    bandwidth = environment["bandwidth_gb_per_s"][device]
    if not (peak and bandwidth):
        return
    places, ridge = [row["intensity"] for row in rows], peak / bandwidth
    left, right = min(*places, ridge) / 2, max(*places, ridge) * 1.5
    line = [bandwidth * left, peak, peak]
    axes.plot([left, ridge, right], line, color="#666666", linewidth=1.2, gid="ceiling")
    text = f"{device}: {peak:,.0f} GFLOP/s, {bandwidth:,.0f} GB/s"
    axes.annotate(
        text, (right, peak), (0, 3), textcoords="offset points", ha="right", color="#666666"
    )


def _legend(figure: Figure, devices: list[str], colours: dict[int, str], hollow: bool) -> None:
    """Explain colours, markers and hollow points below the axes."""
    from matplotlib.lines import Line2D

    def example(marker: str, colour: str, label: str, face: str | None = None) -> Any:
        filled = colour if face is None else face
        look: dict[str, Any] = {"color": colour, "markerfacecolor": filled, "markersize": 5}
        return Line2D([], [], linestyle="none", marker=marker, label=label, **look)

    entries = [example("s", colour, f"batch {batch:,}") for batch, colour in colours.items()]
    grey = "#666666"
    pairs = list(zip(MARKERS, devices, strict=False)) if len(devices) > 1 else []
    entries += [example(marker, grey, device) for marker, device in pairs]
    if hollow:
        entries.append(example(MARKERS[0], grey, "plain formulas", "none"))
    figure.legend(handles=entries, loc="outside lower center", ncols=min(len(entries), 6))


def _names(devices: Sequence[str]) -> str:
    return " and ".join({"cpu": "the CPU", "cuda": "the GPU"}[device] for device in devices)
