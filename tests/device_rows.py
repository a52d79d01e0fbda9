"""The modules of cpu_vs_gpu.py, and rows as it writes them: contenders take told seconds."""

import sys
from pathlib import Path
from unittest.mock import patch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.insert(0, str(BENCHMARKS))

import contenders  # noqa: E402, F401
import cpu_vs_gpu  # noqa: E402, F401
import cuda_contenders  # noqa: E402, F401
import device_bench  # noqa: E402
import device_report  # noqa: E402, F401
import grid  # noqa: E402, F401
import heat_map  # noqa: E402, F401
import roofline  # noqa: E402, F401
import rounds  # noqa: E402
import tables  # noqa: E402, F401
import worker  # noqa: E402, F401
from problem import Net, Problem  # noqa: E402, F401

RIGHT = {"loss": 1.0, "norms": [1.0, 2.0]}
SMALL, LARGE = "784-32-10", "784-2048-10"
CELLS = [f"{net}@{batch}" for net in (SMALL, LARGE) for batch in (16, 256)]
PEAKS, BANDWIDTHS = {"cpu": 100.0, "cuda": 10_000.0}, {"cpu": 20.0, "cuda": 2_000.0}


class ToldWorker:
    """A contender on a device; `seconds` of a step by net, or one after the other from a list."""

    def __init__(self, device, seconds, found=RIGHT):
        self.device, self.seconds, self.found = device, seconds, found
        self.about, self.net = {"versions": {}}, None

    def ask(self, command, **given):
        match command:
            case "peak":
                return {"gflops": PEAKS[self.device]}
            case "bandwidth":
                return {"gb_per_s": BANDWIDTHS[self.device]}
            case "build":
                self.net = given["net"]
                return {"seconds": 0.5, "engine": "graph", "kernels": None}
            case "check":
                return self.found | {"seconds": 0.1}
            case "run":
                s = self.seconds
                return {
                    "seconds": given["steps"] * (s[self.net] if isinstance(s, dict) else next(s))
                }
        raise AssertionError(command)


def measured(workers, cells=CELLS, rounds_of_each=1, **options):
    """Return a bench that has measured some nets; `workers`: by device and system."""
    bench = device_bench.DeviceBench(workers, True, rounds_of_each, **options)
    with (
        patch.object(rounds, "PAUSE", 0),
        patch.object(device_bench, "reference", lambda problem, steps: RIGHT),
    ):
        for cell in cells:
            bench.measure_batch(Net.parse(cell))
    return bench


def told(device, seconds):
    """A worker with one time for all nets, or one for each."""
    return ToldWorker(
        device, seconds if isinstance(seconds, dict) else dict.fromkeys(CELLS, seconds)
    )


def cpu_rows(fused=0.001, plain=0.002):
    """The rows of a run without a GPU."""
    workers = {("cpu", "gpumlp"): told("cpu", fused), ("cpu", "gpumlp-plain"): told("cpu", plain)}
    return measured(workers).rows


def rows_of_both(cuda, fed=0.004, cpu=0.01):
    """The rows of a run with both devices; the plain formulas take twice as long."""
    seconds = {("cpu", "gpumlp"): cpu, ("cpu", "gpumlp-plain"): 0.02}
    seconds |= {
        ("cuda", "gpumlp"): cuda,
        ("cuda", "gpumlp-cupy"): 0.005,
        ("cuda", "gpumlp-fed"): fed,
    }
    return measured({key: told(key[0], value) for key, value in seconds.items()}).rows
