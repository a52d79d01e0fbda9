"""Time training steps on CPU and GPU by batch, width and depth: `python benchmarks/cpu_vs_gpu.py`.

"GPUs saved a lot of time", say the notes: how much, and where the CPU is faster. On each device
steps are also taken by the plain formulas, and on the GPU with data that lie on the host. Every
contender has a process of its own; only one runs at a time, in rounds A B A B, and ratios are
medians over the rounds. Before anything is timed its first steps are compared with the plain
formulas in float64. Where there is no usable GPU, the CPU half is run.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grid
from device_bench import CONTENDERS, ROUNDS, DeviceBench
from device_report import device_table, left_out_lines, sentences
from figure import check_folders, check_plot
from heat_map import plot_heat_maps
from problem import Net
from roofline import plot_roofline
from rounds import exit_code_of, say
from worker import Worker

from gpumlp import get_backend
from gpumlp.errors import DeviceError

Results = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """Return what the options are."""
    made = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    made.add_argument(
        "--device", choices=["cpu", "cuda"], help="cpu: its half alone; cuda: both, or exit 5"
    )
    made.add_argument("--quick", action="store_true", help="within a minute: less of everything")
    made.add_argument("--out", type=Path, metavar="FILE.json", help="write the results here")
    made.add_argument("--plot", type=Path, metavar="FILE.png", help="draw heat maps")
    made.add_argument("--roofline", type=Path, metavar="FILE.png", help="draw the roofline")
    made.add_argument("--widths", help="of hidden layers; default: 32,128,512,2048")
    made.add_argument("--depths", help="hidden layers; default: 1,2,4")
    made.add_argument("--batches", help="default: 16,64,256,1024,4096")
    made.add_argument("--nets", help="instead, as in 784-30-10@10; their own batches are added")
    made.add_argument("--rounds", type=int, help=f"default: {ROUNDS}, or 3 with --quick")
    most = f"operations of a step; what needs more is left out; default: {grid.MOST_OPERATIONS:g}"
    made.add_argument("--most", type=float, default=grid.MOST_OPERATIONS, help=most)
    made.add_argument("--minutes", type=float, help="begin nothing after so many; default: no end")
    made.add_argument(
        "--redraw", type=Path, metavar="FILE.json", help="measure nothing, show these results"
    )
    return made


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, `cells` among them: nets with batches; exits 2 where one is wrong."""
    options = (made := parser()).parse_args(arguments)
    try:
        for path in (options.plot, options.roofline):
            check_plot(path)
        check_folders(options.out, options.plot, options.roofline)
        options.cells = cells(options)
        if options.rounds is not None and options.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {options.rounds}")
        for name in ("most", "minutes"):
            if (given := getattr(options, name)) is not None and not given > 0:
                raise ValueError(f"{name} must be above 0, got {given:g}")
        options.results = None if options.redraw is None else read(options.redraw)
    except ValueError as error:
        made.error(str(error))
    return options


def cells(options: argparse.Namespace) -> list[Net]:
    """Return all nets and batches that the options ask for."""
    quick = options.quick

    def chosen(name: str, standard: list[int], fewer: list[int]) -> list[int]:
        given = getattr(options, name)
        return (fewer if quick else standard) if given is None else grid.numbers(name, given)

    batches = chosen("batches", grid.BATCHES, grid.QUICK_BATCHES)
    if options.nets is not None:
        if options.widths is not None or options.depths is not None:
            raise ValueError("give either nets, or widths and depths")
        return grid.with_batches([Net.parse(net) for net in options.nets.split(",")], batches)
    widths = chosen("widths", grid.WIDTHS, grid.QUICK_WIDTHS)
    depths = chosen("depths", grid.DEPTHS, grid.QUICK_DEPTHS)
    if not (made := grid.grid(widths, depths, batches)):
        raise ValueError("widths, depths and batches need at least one number each")
    return made


def read(path: Path) -> Results:
    """Return earlier results; ValueError where the file has none."""
    try:
        results: Results = json.loads(path.read_text(encoding="utf-8"))
        if results["rows"] and all("variant" in row for row in results["rows"]):
            return results
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{path}: no results of cpu_vs_gpu.py")


def devices(wanted: str | None) -> list[str]:
    """Return the devices to run on, the CPU first; DeviceError if a GPU is wanted but missing."""
    if wanted == "cpu":
        return ["cpu"]
    try:
        get_backend("cuda")
    except DeviceError as error:
        if wanted == "cuda":
            raise
        say(f"no GPU, so this is the CPU half alone: {error}")
        return ["cpu"]
    return ["cpu", "cuda"]


def measure(options: argparse.Namespace) -> tuple[Results, list[Exception]]:
    """Return the results, and the errors of what was left out because it failed.

    The JSON is written after each net and batch, so that a run that is stopped leaves what it has.
    """
    kept, too_large = grid.split(options.cells, options.most)
    with ExitStack() as stack:
        workers = {}
        for device in devices(options.device):
            for system in CONTENDERS[device]:
                say(f"start {system} for {device}")
                worker = workers[device, system] = Worker(system)
                stack.callback(worker.close)
        seconds = 60 * (options.minutes or float("inf"))
        bench = DeviceBench(workers, options.quick, options.rounds, seconds)
        bench.left_out += too_large
        results: Results = {"environment": bench.environment(), "rows": []}
        for net in kept:
            bench.measure_batch(net)
            results = {"environment": bench.environment(), "rows": bench.rows}
            if options.out:
                options.out.write_text(json.dumps(results, indent=1) + "\n")
    return results, [*bench.failures]


def show(results: Results, options: argparse.Namespace) -> None:
    """Draw the figures, print the table and what follows from it."""
    rows, environment = results["rows"], results["environment"]
    for line in left_out_lines(environment["left_out"]):
        print(line)
    if not rows:
        return
    if options.plot:
        plot_heat_maps(rows, options.plot)
    if options.roofline:
        plot_roofline(rows, environment, options.roofline)
    bandwidths = environment["bandwidth_gb_per_s"]
    for device, peak in environment["peak_gflops"].items():
        where = environment["gpu" if device == "cuda" else "cpu"]
        print(f"{where}: product {peak:,.0f} GFLOP/s, copy {bandwidths[device]:,.1f} GB/s")
    print(f"\n{device_table(rows)}\n")
    print("\n".join(sentences(rows)))


def run(options: argparse.Namespace) -> None:
    """Measure or read, show, and fail where a contender did."""
    results, failures = (options.results, []) if options.results else measure(options)
    show(results, options)
    if failures:
        raise failures[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code, see `exit_code_of`."""
    options = parse(arguments)
    return exit_code_of(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
