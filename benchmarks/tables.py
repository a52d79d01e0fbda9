"""Write the README's tables from the JSON of the benchmarks: `python benchmarks/tables.py`.

A table stands between `<!-- table: amd-epyc-2-cores/training.json -->` and `<!-- end -->`, the file
being one of benchmarks/results/. `--check` writes nothing, and exits 1 where the README differs
from what the files say. Which table a file gives depends on who wrote it: training.py,
cpu_vs_gpu.py, kernels.py, time_to_accuracy.py, footprint.py, wide_vs_deep.py, precisions.py,
estimators.py or configs.py.
"""

import argparse
import difflib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from device_report import compact
from report import OURS, Row, kernel_label, precision_rows, span_of

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MARKED = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
RATIO = "Ratio: seconds / seconds of gpumlp in the same round; bold: faster than gpumlp."
KERNELS = (
    "Of copy: bytes per second / a copy's; speed-up: plain formula / kernel, in the same round."
)
ACCURACY = "CPU time is that of all threads; ratio: CPU time / that of gpumlp in the same round."
NEEDS = "Median (ratio: theirs / ours, in the same rounds); bold: less than gpumlp."
PRECISIONS = (
    "Below nets: ‖g - g₆₄‖ / ‖g₆₄‖ of the parameter where it is largest; on a CPU emulated."
)
FOOTPRINT = {
    "import": "import, s",
    "first step": "start to first step, s",
    "command": "gpumlp.train to first step, s",
    "epoch": "peak memory of an MNIST epoch, MB",
    "disk": "on the disk, MB",
}
ERROR = "Error on test rows, mean over the seeds: RMSE (curve), share misclassified (others)."
ESTIMATORS = (
    "Score: mean over the seeds of accuracy (diabetes: R²) on test rows; ratio: seconds of a fit / "
    "those of gpumlp in the same round; bold: gpumlp is behind."
)
OPENED = re.compile(r"<!-- table:")


class TableError(Exception):
    """A marker or a file of results that cannot be used; the text says which."""


def with_tables(text: str, results: Path = RESULTS) -> str:
    """Return a Markdown text with every table written anew; raises TableError."""
    if len(MARKED.findall(text)) != len(OPENED.findall(text)):
        raise TableError("each <!-- table: DEVICE/FILE.json --> needs its <!-- end -->")
    return MARKED.sub(lambda found: f"{found[1]}{table(results, found[2])}{found[4]}", text)


def table(results: Path, name: str) -> str:
    """Return the Markdown of one file of results, its environment in the last line."""
    path = results / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows, environment = content["rows"], content["environment"]
        if "operation" in rows[0]:
            lines, legend = kernel_lines(rows), [KERNELS]
        elif rows[0].get("what") == "gradient_error":
            lines, legend = precision_lines(rows), [PRECISIONS]
        elif rows[0].get("what") == "time_to_accuracy":
            lines, legend = accuracy_lines(rows), [ACCURACY]
        elif rows[0].get("what") in FOOTPRINT:
            lines, legend = footprint_lines(rows), [NEEDS]
        elif rows[0].get("what") == "estimator":
            lines, legend = estimator_lines(rows), [ESTIMATORS]
        elif "speed_up" in rows[0]:
            head, cells, legend = compact(rows)
            lines = [*header(head), *map(line, cells)]
        elif "depth" in rows[0]:
            lines, legend = depth_lines(rows), [ERROR]
        elif "config" in rows[0]:
            lines, legend = config_lines(rows), []
        else:
            lines, legend = training_lines(rows), [RATIO]
        return "\n".join([*lines, "", *legend, environment_line(environment, name), ""])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise TableError(f"{path}: no results of a benchmark: {error!r}") from None


def training_lines(rows: Sequence[Row]) -> list[str]:
    """Return a line for each net, and a column of milliseconds (and ratio) for each system."""
    systems = list(dict.fromkeys(row["system"] for row in rows))
    lines = [
        *header(["ms", *(f"{system} (ratio)" if system != OURS else OURS for system in systems)])
    ]
    for key in dict.fromkeys(map(measured, rows)):
        own = {row["system"]: row for row in rows if measured(row) == key}
        cells = [cell(own[system]) if system in own else "" for system in systems]
        lines.append(line([key, *cells]))
    return lines


def measured(row: Row) -> str:
    """Return what the systems were compared in."""
    return f"{row['what']} of {row['net']} @ {row['batch']}, {row['optimizer']}"


def cell(row: Row) -> str:
    """Return milliseconds, and for a peer its ratio; the one that is faster is bold."""
    milliseconds = digits(1e3 * row["seconds"]["median"])
    if row["system"] == OURS:
        return milliseconds
    ratio = f"{row['ratio']:.2f}"
    return f"{milliseconds} ({f'**{ratio}**' if row['ratio'] < 1 else ratio})"


def kernel_lines(rows: Sequence[Row]) -> list[str]:
    """Return a line for each operation and variant, and columns for each size."""
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    names = [f"{name}, {size}" for size in sizes for name in ("µs", "of copy", "speed-up")]
    lines = header(["operation", *names])
    for label in dict.fromkeys(map(kernel_label, rows)):
        own = {row["size"]: row for row in rows if kernel_label(row) == label}
        cells = [label]
        for size in sizes:
            fused, ratio = own[size]["fused"], own[size]["ratio"]
            speed_up = f"{ratio:.1f}" if ratio >= 1 else f"**{ratio:.2f}**"
            cells += [
                digits(1e6 * fused["seconds"]["median"]),
                f"{fused['of_stream']:.0%}",
                speed_up,
            ]
        lines.append(line(cells))
    return lines


def accuracy_lines(rows: Sequence[Row]) -> list[str]:
    """Return a line for each contender: what it needed to reach an accuracy."""
    first = rows[0]
    goal = f"{first['data']} to {first['goal']:.0%}: {first['net']} @ {first['batch']}, "
    goal += f"{first['optimizer']}"
    lines = header([goal, "CPU s", "s", "epochs", "ratio"])
    for row in rows:
        epochs = sorted(set(row["epochs"]))
        span = f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]}-{epochs[-1]}"
        cells = ["not reached", ""]
        if row["reached"]:
            cells = [digits(row[key]["median"]) for key in ("cpu_seconds", "seconds")]
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        lines.append(line([row["system"], *cells, span, ratio]))
    return lines


def footprint_lines(rows: Sequence[Row]) -> list[str]:
    """Return a line for each thing a run needs, and a column for each system."""
    systems = list(dict.fromkeys(row["system"] for row in rows))
    systems.sort(key=lambda system: system != OURS)
    lines = header(["", *systems])
    for what, label in FOOTPRINT.items():
        own = {row["system"]: row for row in rows if row["what"] == what}
        if own:
            cells = [footprint_cell(own[system]) if system in own else "" for system in systems]
            lines.append(line([label, *cells]))
    return lines


def footprint_cell(row: Row) -> str:
    """Return seconds or megabytes, and for others than gpumlp the ratio."""
    value = row["seconds"]["median"] if "seconds" in row else row["bytes"]["median"] / 1e6
    if row["system"] == OURS:
        return digits(value)
    ratio = f"{row['ratio']:.1f}" if row["ratio"] >= 1 else f"**{row['ratio']:.2f}**"
    return f"{digits(value)} ({ratio})"


def depth_lines(rows: Sequence[Row]) -> list[str]:
    """Return a line for each number of parameters, a column for each depth; the best is bold."""
    depths = sorted({row["depth"] for row in rows})
    lines = header(["data @ parameters", *(f"{d} hidden layer{'s' * (d > 1)}" for d in depths)])
    for data, budget in dict.fromkeys((row["data"], row["budget"]) for row in rows):
        own = {r["depth"]: r["mean"] for r in rows if (r["data"], r["budget"]) == (data, budget)}
        best = min(own.values())
        cells = [f"{own[d]:.3f}" if d in own else "" for d in depths]
        cells = [
            f"**{c}**" if own.get(d) == best else c for d, c in zip(depths, cells, strict=True)
        ]
        lines.append(line([f"{data} @ {budget:,}", *cells]))
    return lines


def config_lines(rows: Sequence[Row]) -> list[str]:
    """Return a line for each configuration: what it reaches, over how many seeds, how fast."""
    lines = header(["config", "parameters", "seeds", "metric", "mean", "min", "max", "seconds"])
    for row in rows:
        metric = f"{row['part']} {row['metric']}"
        found = [f"{x:.4f}" for x in (row["mean"], min(row["values"]), max(row["values"]))]
        seconds = digits(row["seconds"]["median"])
        count = f"{row['parameters']:,}"
        lines.append(line([row["config"], count, str(len(row["seeds"])), metric, *found, seconds]))
    return lines


def estimator_lines(rows: Sequence[Row]) -> list[str]:
    """Return a line for each data set: scores, epochs and seconds of a fit, ours and theirs."""
    both = [f"{system}: score, epochs, s".split(", ") for system in (OURS, "scikit-learn")]
    lines = header(
        ["data, rows to train on", *both[0], *both[1], "difference", "ratio (min to max)"]
    )
    for data in dict.fromkeys(row["data"] for row in rows):
        ours, theirs = sorted(
            (row for row in rows if row["data"] == data), key=lambda row: row["system"] != OURS
        )
        cells = [f"{data}, {ours['rows'][0]:,}"]
        for row in (ours, theirs):
            seconds = digits(row["seconds"]["median"])
            cells += [f"{row['score']:.4f}", span_of(row["iterations"]), seconds]
        difference, ratio = ours["score"] - theirs["score"], theirs["ratio"]
        least, most = theirs["ratios"]
        cells.append(f"{difference:+.4f}" if difference >= 0 else f"**{difference:+.4f}**")
        shown = f"{ratio:.2f}" if ratio >= 1 else f"**{ratio:.2f}**"
        lines.append(line([*cells, f"{shown} ({least:.2f} to {most:.2f})"]))
    return lines


def precision_lines(rows: Sequence[Row]) -> list[str]:
    """Return a line for each precision: its errors, and the accuracy reached with it."""
    heads, lines = precision_rows(rows)
    return [*header(heads), *map(line, lines)]


def header(cells: Sequence[str]) -> list[str]:
    """Return the two lines that open a table, numbers to the right."""
    return [line(cells), line(["---", *["---:"] * (len(cells) - 1)])]


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def digits(value: float) -> str:
    """Return a number with three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def environment_line(environment: dict[str, Any], name: str) -> str:
    """Return what the numbers were measured on, when, and the file they are from."""
    systems = environment.get("systems", {})
    versions = {k: v for about in systems.values() for k, v in about["versions"].items()}
    versions = {"gpumlp": environment["packages"]["gpumlp"], **versions}
    parts = [environment[key] for key in ("gpu", "cpu") if key in environment]
    parts.append(f"{environment['cpu_count']} cores")
    parts.append(f"Python {environment['python']}")
    parts += [f"{package} {found}" for package, found in versions.items()]
    parts += [f"kernels: {environment['kernels']}"] if "kernels" in environment else []
    parts += [environment["date"]] if "date" in environment else []
    return f"{', '.join(parts)}; benchmarks/results/{name}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 1 the README is not in step, 2 a marker or a file cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it differs")
    parser.add_argument("--file", type=Path, default=ROOT / "README.md", metavar="FILE.md")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    options = parser.parse_args(arguments)
    try:
        before = options.file.read_text(encoding="utf-8")
        after = with_tables(before, options.results)
        if before != after and not options.check:
            options.file.write_text(after, encoding="utf-8")
    except (TableError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    if before != after and options.check:
        names = str(options.file), "what the results say"
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), *names, lineterm="")
        print("\n".join(lines))
        print("run python benchmarks/tables.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
