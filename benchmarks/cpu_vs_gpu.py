"""Time training steps of gpumlp on CPU and GPU by batch size: `python benchmarks/cpu_vs_gpu.py`.

Each device has a process of its own; only one runs at a time, in rounds A B A B, and a speed-up is
the median over the rounds. Before anything is timed the first steps are compared: those of each
device with the plain formulas in float64. Where there is no usable GPU, the CPU half is run.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from figure import check_folders, check_plot, plot_batches
from problem import EPOCH_ROWS, Net, Problem, update_norms
from report import OURS, Row, device_table, make_rows, paired_ratio
from rounds import CHECK_STEPS, QUICK_ROWS, Bench, check, exit_code_of, say
from training import NETS
from worker import Worker

from gpumlp import get_backend
from gpumlp.environment import describe
from gpumlp.errors import DeviceError

BATCHES = [16, 64, 256, 1024, 4096]
QUICK_BATCHES = [16, 256]
ROUNDS = 5
CHECK_FLOPS = 2.5e11  # of the plain formulas; beyond that one step is compared


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options with their lists checked; exits 2 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], help="cpu: its half alone; cuda: both, or exit 5"
    )
    parser.add_argument("--quick", action="store_true", help="within a minute: less of everything")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the results here")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw samples/s by batch")
    parser.add_argument("--nets", help="as in 784-30-10@10; default: the standard")
    parser.add_argument("--batches", help="besides each net's own; default: 16,64,...,4096")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}, or 3 with --quick")
    options = parser.parse_args(arguments)
    try:
        check_plot(options.plot)
        check_folders(options.out, options.plot)
        if options.nets is not None:
            options.nets = [Net.parse(net) for net in options.nets.split(",")]
        default = QUICK_BATCHES if options.quick else BATCHES
        options.batches = default if options.batches is None else numbers(options.batches)
        if options.rounds is not None and options.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {options.rounds}")
    except ValueError as error:
        parser.error(str(error))
    return options


def numbers(text: str) -> list[int]:
    """Return the positive integers of a comma-separated list, or none for nothing."""
    parts = text.split(",") if text else []
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise ValueError(f"batches must be positive integers, as in 16,64, got {text!r}")
    return [int(part) for part in parts]


class DeviceBench(Bench):
    """gpumlp on one device or two; `rows` are those of all nets and batches so far."""

    def __init__(self, workers: Mapping[str, Worker], quick: bool, rounds: int | None) -> None:
        super().__init__([], "cpu", quick, rounds)
        self.workers = dict(workers)
        self.rounds = rounds or (3 if quick else ROUNDS)
        self.patience = float("inf")
        self.peaks = dict.fromkeys(workers, 0.0)
        self._seconds: list[tuple[Net, dict[str, list[float]], dict[str, str]]] = []

    @property
    def rows(self) -> list[Row]:
        """As in `Bench`; `speed_up` is seconds on the CPU / seconds on the row's device."""
        rows = []
        for net, seconds, engines in self._seconds:
            for device, own in seconds.items():
                common = {"optimizer": "sgd", "precision": "fp32", "device": device, "what": "step"}
                (row,) = make_rows(
                    common, net, net.batch, {OURS: own}, {OURS: engines[device]}, self.peaks[device]
                )
                rows.append(row | {"speed_up": paired_ratio(seconds["cpu"], own)})
        return rows

    def measure_batch(self, net: Net) -> None:
        """Build one net on every device, check, and time its steps."""
        rows = self.data_rows[str(net)] = net.rows(QUICK_ROWS if self.quick else EPOCH_ROWS)
        check_steps = CHECK_STEPS if CHECK_STEPS * net.flops(net.batch) <= CHECK_FLOPS else 1
        say(f"{net}: check {' and '.join(self.workers)}")
        expected = reference(Problem(net, rows, "sgd", "cpu"), check_steps)
        engines, steps = {}, {}
        for device, worker in self.workers.items():
            n = 8192 if device == "cuda" else 2048
            reply = worker.ask("peak", device=device, n=n, for_seconds=0.5)
            self.peaks[device] = max(self.peaks[device], 1e9 * float(reply["gflops"]))
            built = worker.ask("build", net=str(net), rows=rows, optimizer="sgd", device=device)
            engines[device] = built["engine"]
            ours = worker.ask("check", steps=check_steps)
            check(net, {OURS: expected, f"{OURS} on {device}": ours}, check_steps)
            steps[device] = self._steps_per_turn(worker, rows // net.batch)
            warm_up = ours["seconds"] + worker.ask("run", steps=steps[device])["seconds"]
            start = {"net": str(net), "optimizer": "sgd", "system": OURS, "device": device}
            start |= {"build_seconds": built["seconds"], "warm_up_seconds": warm_up}
            self.starts.append(start)
        say(f"{net}: {self.rounds} rounds")
        self._seconds.append((net, self._rounds("step", steps), engines))

    def environment(self) -> dict[str, Any]:
        """As in `Bench`, with both devices' peaks, and the GPU where there is one."""
        facts = super().environment()
        if "cuda" in self.workers:
            cuda = describe(get_backend("cuda"))
            facts |= {key: cuda[key] for key in ("gpu", "cuda_runtime", "cuda_driver")}
        facts["peak_gflops"] = {device: peak / 1e9 for device, peak in self.peaks.items()}
        return facts


def reference(problem: Problem, steps: int) -> dict[str, Any]:
    """Return what a worker's check replies, computed by the plain formulas."""
    weights = problem.trained(steps)
    return {"loss": problem.loss(weights), "norms": update_norms(problem.weights(), weights)}


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


def sweep(nets: Sequence[Net], batches: Sequence[int]) -> list[Net]:
    """Return each net with each batch size, its own included."""
    return [replace(net, batch=size) for net in nets for size in sorted({*batches, net.batch})]


def run(options: argparse.Namespace) -> None:
    """Measure, write JSON and figure, print the table."""
    used = devices(options.device)
    standard = NETS[used[-1]][: 2 if options.quick else None]
    nets = options.nets or [Net.parse(net) for net in standard]
    with ExitStack() as stack:
        workers = {}
        for device in used:
            workers[device] = Worker(OURS)
            stack.callback(workers[device].close)
        bench = DeviceBench(workers, options.quick, options.rounds)
        for net in sweep(nets, options.batches):
            bench.measure_batch(net)
        environment = bench.environment()
    if options.out:
        results = {"environment": environment, "rows": bench.rows}
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    if options.plot:
        plot_batches(bench.rows, options.plot)
    peaks = ", ".join(f"{device} {peak / 1e9:.0f}" for device, peak in bench.peaks.items())
    print(f"peak of a large product, GFLOP/s: {peaks}; {environment['cpu']}\n")
    print(device_table(bench.rows))


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code, see `exit_code_of`."""
    options = parse(arguments)
    return exit_code_of(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
