"""What cpu_vs_gpu.py found, for reading: a table of all, a compact one, and in plain sentences."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import median
from typing import Any

from report import OURS, Row

Cell = tuple[str, int]  # net and batch size
NAMED = 6  # nets that a sentence names before it says how many more there are


def chosen(rows: Sequence[Row], device: str, variant: str = "fused") -> dict[Cell, Row]:
    """Return the rows of a device and a variant by net and batch."""
    wanted = (device, variant)
    return {
        (row["net"], row["batch"]): row for row in rows if (row["device"], row["variant"]) == wanted
    }


def share(row: Row) -> float:
    """Return which part of its time a step needs at least: floor / seconds."""
    return float(row["floor_seconds"] / row["seconds"]["median"])


def has_gpu(rows: Sequence[Row]) -> bool:
    """Whether a GPU was measured, too."""
    return any(row["device"] == "cuda" for row in rows)


# ---------------------------------------------------------------------------- tables


def device_table(rows: Sequence[Row]) -> str:
    """Return a line for each net, batch and device, a blank line between nets."""
    head = f"{'net':30} {'batch':>6} {'device':6} {'engine':6} {'ms/step':>9} {'samples/s':>12}"
    lines = [f"{head} {'GFLOP/s':>8} {'floor':>6} {'plain':>6} {'transfers':>9} {'speed-up':>17}"]
    net = None
    for row in rows:
        if row["system"] != OURS:
            continue
        if net not in (None, row["net"]):
            lines.append("")
        net, cell = row["net"], (row["net"], row["batch"])
        plain, fed = (chosen(rows, row["device"], v).get(cell) for v in ("plain", "transfers"))
        speed_up = f"{number(row['speed_up']):>7} {value_of(fed, 'speed_up'):>9}"
        lines.append(
            f"{net:30} {row['batch']:6} {row['device']:6} {row['engine']:6} "
            f"{1e3 * row['seconds']['median']:9.4g} {row['samples_per_s']:12,.0f} "
            f"{row['gflops']:8.1f} {share(row):6.1%} {value_of(plain, 'ratio'):>6} "
            f"{value_of(fed, 'ratio'):>9} {speed_up}"
        )
    lines.append("floor: share of the time in which the step's operations or bytes could be done")
    lines.append("plain: seconds by the plain formulas / these, in the same rounds")
    lines.append("transfers: seconds with every batch from the host's memory / these")
    lines.append("speed-up: seconds on the CPU / on this device, then with those transfers")
    return "\n".join(lines)


def value_of(row: Row | None, key: str) -> str:
    """Return a row's ratio as text, or a dash where there is no row."""
    return number(row[key] if row else None)


def number(value: float | None) -> str:
    """Return a ratio with digits that count, or a dash for none.

    >>> number(0.1234), number(12.34), number(1234.5), number(None)
    ('0.12', '12.3', '1,234', '-')
    """
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def compact(rows: Sequence[Row]) -> tuple[list[str], list[list[str]], list[str]]:
    """Return the head, a line of cells for each net, and a legend: a column for each batch.

    A cell is the GPU's speed-up (and with transfers), bold where the CPU is faster; without a GPU
    samples per second (and the share of the floor).
    """
    both = has_gpu(rows)
    ours, fed = (chosen(rows, "cuda" if both else "cpu", v) for v in ("fused", "transfers"))
    batches = sorted({batch for _, batch in ours})
    head = [f"{'GPU / CPU' if both else 'samples/s'} at batch", *(f"{b:,}" for b in batches)]
    lines = []
    for net in dict.fromkeys(net for net, _ in ours):
        cells = [(net, batch) for batch in batches]
        texts = [_cell(ours.get(cell), fed.get(cell), both) for cell in cells]
        lines.append([net, *texts])
    if both:
        legend = "Speed-up of the GPU over the CPU (with every batch from the host's memory)"
        return head, lines, [f"{legend}; bold: the CPU is faster.", *sentences(rows)]
    legend = "Samples per second (share of the floor, max(operations / peak, bytes / bandwidth))."
    return head, lines, [legend, *sentences(rows)]


def _cell(row: Row | None, fed: Row | None, both: bool) -> str:
    if row is None:
        return ""
    if not both:
        return f"{row['samples_per_s']:,.0f} ({share(row):.0%})"
    own = [one["speed_up"] for one in (row, fed) if one is not None]
    texts = [f"**{number(s)}**" if s is not None and s < 1 else number(s) for s in own]
    return texts[0] + (f" ({texts[1]})" if len(texts) > 1 else "")


# ------------------------------------------------------------------------- sentences


def sentences(rows: Sequence[Row]) -> list[str]:
    """Return what the rows say about the notes' "GPUs saved a lot of time"."""
    speed_ups = by_cell(chosen(rows, "cuda"), "speed_up")
    if not speed_ups:
        return cpu_alone(rows)
    fed = by_cell(chosen(rows, "cuda", "transfers"), "speed_up")
    said = [gpu_wins(speed_ups), cpu_wins(speed_ups, rows)]
    if fed:
        best, wins = max(fed, key=fed.__getitem__), sum(s > 1 for s in fed.values())
        said.append(
            f"With every batch brought from the host's memory the GPU is faster in {wins} of "
            f"{len(fed)}, at most {number(fed[best])} times ({name(best)})."
        )
    return said


def by_cell(rows: Mapping[Cell, Row], key: str) -> dict[Cell, float]:
    """Return a key's value for each cell that has one."""
    return {cell: row[key] for cell, row in rows.items() if row[key] is not None}


def gpu_wins(speed_ups: Mapping[Cell, float]) -> str:
    """Say in how many cells the GPU is faster, and where most."""
    best, wins = max(speed_ups, key=speed_ups.__getitem__), sum(s > 1 for s in speed_ups.values())
    most = f"{number(speed_ups[best])} times as fast as the CPU at {name(best)}"
    if not wins:
        return f"The GPU is faster nowhere: at best it is {most}."
    typical = f"in the median {number(median(speed_ups.values()))} times"
    return f"The GPU is {most}, {typical}, and faster in {wins} of {len(speed_ups)} combinations."


def cpu_wins(speed_ups: Mapping[Cell, float], rows: Sequence[Row]) -> str:
    """Say where the CPU is faster, or where it comes nearest."""
    lost = [cell for cell, speed_up in speed_ups.items() if speed_up < 1]
    if not lost:
        least = min(speed_ups, key=speed_ups.__getitem__)
        at_least = number(speed_ups[least])
        return f"The CPU wins nowhere: at {name(least)} the GPU still is {at_least} times as fast."
    found = chosen(rows, "cpu")
    most = max(found[cell]["flops"] for cell in lost)
    named = [
        f"{net} @ {', '.join(f'{batch:,}' for _, batch in own)}"
        for net, own in groupby(lost, lambda cell: cell[0])
    ]
    more = [f"and {len(named) - NAMED} nets more"] if len(named) > NAMED else []
    where = "; ".join([*named[:NAMED], *more])
    return f"The CPU wins in {len(lost)}, with at most {most:.2g} operations a step: {where}."


def cpu_alone(rows: Sequence[Row]) -> list[str]:
    """Say what the CPU reaches, and that there is nothing to compare it with."""
    ours, plain = chosen(rows, "cpu"), chosen(rows, "cpu", "plain")
    said = []
    if ours:
        best, least = (pick(ours, key=lambda cell: ours[cell]["gflops"]) for pick in (max, min))
        texts = [
            f"{ours[cell]['gflops']:.3g} GFLOP/s, {share(ours[cell]):.0%} of the floor's speed, "
            f"at {name(cell)}"
            for cell in (best, least)
        ]
        said.append(f"The CPU reaches {texts[0]}; least is {texts[1]}.")
    if plain:
        ratios = sorted(row["ratio"] for row in plain.values())
        middle = f"{number(median(ratios))} times as long in the median"
        half = [number(ratios[k * (len(ratios) - 1) // 4]) for k in (1, 3)]
        said.append(f"Plain formulas take {middle}, {half[0]} to {half[1]} in the middle half.")
    return [*said, "The GPU half is missing: it was not measured, so nothing is said of a GPU."]


def name(cell: Cell) -> str:
    """Return a net and batch as text."""
    return f"{cell[0]} @ {cell[1]:,}"


def left_out_lines(left_out: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what was not measured, and why."""
    return [
        f"left out: {a['net']} @ {a['batch']:,}, {a.get('system', 'all')}: {a['why']}"
        for a in left_out
    ]
