"""From seconds of rounds to rows, and from rows to a table."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from problem import Net

Row = dict[str, Any]
OURS = "gpumlp"


def make_rows(
    common: Row,
    net: Net,
    samples: int,
    seconds: Mapping[str, Sequence[float]],
    engines: Mapping[str, str],
    peak: float,
) -> list[Row]:
    """Return a row for each system, gpumlp's first.

    Args:
        common: the fields that all rows share.
        net: what was trained.
        samples: rows of data that one unit (a step, an epoch) goes through.
        seconds: of one unit, for each system round after round; the rounds of all systems pair up.
        engines: how each system runs.
        peak: operations per second of a large matrix product.
    """
    flops = net.flops(samples)
    rows = []
    for system, own in seconds.items():
        middle = median(own)
        rows.append(
            {
                "net": net.name,
                "batch": net.batch,
                **common,
                "system": system,
                "engine": engines[system],
                "seconds": summary(own),
                "samples_per_s": samples / middle,
                "gflops": flops / middle / 1e9,
                "floor_seconds": flops / peak,
                "ratio": paired_ratio(own, seconds[OURS]),
            }
        )
    return rows


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Return median, least, most and number of some seconds."""
    return {
        "median": median(seconds),
        "min": min(seconds),
        "max": max(seconds),
        "n": len(seconds),
    }


def paired_ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Return the median over the rounds of their seconds / ours: above 1, gpumlp is faster."""
    return median(a / b for a, b in zip(theirs, ours, strict=True))


def table(rows: Sequence[Row]) -> str:
    """Return rows for reading, a blank line between groups of paired rows.

    `floor` is the share of the time that the step's matrix products would take at the speed of one
    large product of the backend's own; a peer whose product is faster than that can pass 100 %.
    """
    head = f"{'net':28} {'what':5} {'optim':5} {'system':13} {'engine':11}"
    lines = [f"{head} {'ms':>10} {'min':>10} {'max':>10} {'GFLOP/s':>8} {'floor':>6} {'ratio':>6}"]
    group = None
    for row in rows:
        if group not in (None, (row["net"], row["batch"], row["what"], row["optimizer"])):
            lines.append("")
        group = row["net"], row["batch"], row["what"], row["optimizer"]
        seconds = row["seconds"]
        times = " ".join(f"{1e3 * seconds[key]:10.4g}" for key in ("median", "min", "max"))
        share = row["floor_seconds"] / seconds["median"]
        lines.append(
            f"{row['net'] + '@' + str(row['batch']):28} {row['what']:5} {row['optimizer']:5} "
            f"{row['system']:13} {row['engine']:11} {times} {row['gflops']:8.1f} {share:6.1%} "
            f"{row['ratio']:6.2f}"
        )
    lines.append("ratio: seconds / seconds of gpumlp in the same round (above 1: gpumlp is faster)")
    return "\n".join(lines)


def kernel_label(row: Row) -> str:
    """Return an operation with its variant, and the number of classes where that is small."""
    narrow = row["operation"].startswith("softmax") and row["shape"][-1] == 10
    return " ".join(filter(None, [row["operation"], row["variant"], "of 10" if narrow else ""]))


def kernel_table(rows: Sequence[Row]) -> str:
    """Return rows of operations for reading, a blank line between sizes."""
    head = f"{'operation':25} {'variant':11} {'shape':17} {'plain µs':>10} {'kernel µs':>10}"
    lines = [f"{head} {'ns/entry':>9} {'GB/s':>7} {'of copy':>7} {'speed-up':>8}"]
    size = None
    for row in rows:
        if size not in (None, row["size"]):
            lines.append("")
        size, fused = row["size"], row["fused"]
        plain, own = (1e6 * row[kind]["seconds"]["median"] for kind in ("plain", "fused"))
        lines.append(
            f"{row['operation']:25} {row['variant']:11} {' x '.join(map(str, row['shape'])):17} "
            f"{plain:10.4g} {own:10.4g} {fused['ns_per_element']:9.3g} {fused['gb_per_s']:7.2f} "
            f"{fused['of_stream']:7.0%} {row['ratio']:8.2f}"
        )
    lines.append(
        "of copy: bytes per second / those of a copy out of or in cache, in the same round;"
    )
    lines.append(
        "  what is updated in place can pass it: a copy's target is read, too, to be written"
    )
    lines.append("speed-up: seconds of the plain formula / of the kernel, in the same round")
    return "\n".join(lines)


def precision_rows(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return the heads and the cells of what each precision costs, a line for each."""
    errors = [row for row in rows if row["what"] == "gradient_error"]
    runs = {row["precision"]: row for row in rows if row["what"] == "accuracy"}
    nets = list(dict.fromkeys(f"{row['net']}@{row['batch']}" for row in errors))
    heads = ["precision", *nets]
    if runs:
        first = next(iter(runs.values()))
        heads += [f"{first['data']} accuracy, {len(first['runs'])} seeds"]
    lines = []
    for name in dict.fromkeys(row["precision"] for row in rows):
        own = {
            f"{row['net']}@{row['batch']}": f"{row['gradient_error']:.1e}"
            for row in errors
            if row["precision"] == name
        }
        cells = [name, *(own.get(net, "") for net in nets)]
        if runs:
            run = runs.get(name)
            cells.append("" if run is None else f"{run['mean']:.4f} ± {run['deviation']:.4f}")
        lines.append(cells)
    return heads, lines


def precision_table(rows: Sequence[Row]) -> str:
    """Return what each precision costs, for reading."""
    heads, lines = precision_rows(rows)
    widths = [max(len(cells[i]) for cells in (heads, *lines)) for i in range(len(heads))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in (heads, *lines)
    ]
    text.append("numbers below nets: error of the gradient, relative to float64")
    return "\n".join(text)


def start_table(starts: Sequence[Row]) -> str:
    """Return what came before the timing: seconds of build and of first runs with compilation."""
    lines = ["before the timing, in seconds (build; first runs with compilation):"]
    for start in starts:
        lines.append(
            f"  {start['net']:28} {start['optimizer']:5} {start['system']:13} "
            f"{start['build_seconds']:7.2f} {start['warm_up_seconds']:7.2f}"
        )
    return "\n".join(lines)


def accuracy_table(rows: Sequence[Row]) -> str:
    """Return what each contender needed to reach an accuracy, for reading."""
    head = f"{'system':14} {'CPU s':>8} {'min':>8} {'max':>8} {'s/epoch':>8} {'seconds':>8}"
    lines = [f"{head} {'epochs':>9} {'accuracy':>9} {'ratio':>6}"]
    for row in rows:
        later = row["later_epoch_cpu_seconds"]
        pace = f"{'-' if later is None else format(later, '.2f'):>8}"
        epochs, best = row["epochs"], max(row["accuracy"])
        span = str(epochs[0]) if len(set(epochs)) == 1 else f"{min(epochs)}-{max(epochs)}"
        if row["reached"]:
            times = " ".join(f"{row['cpu_seconds'][key]:8.2f}" for key in ("median", "min", "max"))
            times += f" {pace} {row['seconds']['median']:8.2f}"
        else:
            times = f"{'not reached in every round':>26} {pace} {'-':>8}"
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
        lines.append(f"{row['system']:14} {times} {span:>9} {best:9.4f} {ratio:>6}")
    lines.append("s/epoch: CPU seconds of an epoch after the first, which may include compilation")
    lines.append(
        "ratio: CPU seconds / those of gpumlp in the same round (above 1: gpumlp is cheaper)"
    )
    return "\n".join(lines)


def footprint_table(rows: Sequence[Row]) -> str:
    """Return what a run costs besides its steps, for reading, a blank line between kinds."""
    lines = [f"{'what':11} {'system':10} {'median':>12} {'min':>12} {'max':>12} {'ratio':>7}"]
    what = None
    for row in rows:
        if what not in (None, row["what"]):
            lines.append("")
        what, own = row["what"], row.get("seconds") or row["bytes"]
        scale, unit = (1.0, "s") if "seconds" in row else (1e6, "MB")
        numbers = (
            f"{own[key] / scale:.3f}" if unit == "s" else f"{own[key] / scale:,.0f}"
            for key in ("median", "min", "max")
        )
        texts = " ".join(f"{number + ' ' + unit:>12}" for number in numbers)
        lines.append(f"{row['what']:11} {row['system']:10} {texts} {row['ratio']:7.2f}")
    lines.append("ratio: theirs / ours, in the same rounds (above 1: gpumlp needs less)")
    return "\n".join(lines)


def estimator_table(rows: Sequence[Row]) -> str:
    """Return what both systems' estimators reached, and how long fitting took, for reading."""
    head = f"{'data':14} {'system':8} {'score':>7} {'min':>7} {'max':>7} {'difference':>10}"
    lines = [f"{head} {'epochs':>9} {'seconds':>8} {'min':>8} {'max':>8} {'ratio':>6} (min - max)"]
    scores = {row["data"]: row["score"] for row in rows if row["system"] == OURS}
    for row in rows:
        lines += [""] if row["system"] == OURS and len(lines) > 1 else []
        own = f"{row['score']:7.4f} {min(row['scores']):7.4f} {max(row['scores']):7.4f}"
        times = " ".join(f"{row['seconds'][key]:8.3g}" for key in ("median", "min", "max"))
        difference = ratios = ""
        if row["system"] != OURS:
            difference = f"{scores[row['data']] - row['score']:+.4f}"
            ratios = f" ({row['ratios'][0]:.2f} - {row['ratios'][1]:.2f})"
        lines.append(
            f"{row['data']:14} {row['system']:8} {own} {difference:>10} "
            f"{span_of(row['iterations']):>9} {times} {row['ratio']:6.2f}{ratios}"
        )
    lines.append(
        "score: mean over the seeds of accuracy or R² on test rows; difference: ours - this"
    )
    lines.append("ratio: seconds of the fit / those of gpumlp in the same round")
    return "\n".join(lines)


def span_of(numbers: Sequence[int]) -> str:
    """Return the least and the most of some numbers."""
    return "-".join(map(str, sorted({min(numbers), max(numbers)})))


def cpu_model() -> str:
    """Return the processor's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
