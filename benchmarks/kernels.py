"""Time each operation, as a plain formula and as a kernel: `python benchmarks/kernels.py`.

Both run on the same arrays in one process, bound once and repeated as an engine repeats a recorded
step, in rounds plain, kernel, copy, plain, ...; the copy of one array to another in the same round
is the speed that this machine's memory allows. Before an operation is timed, its kernel's results
are compared with the plain formula in float64.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from math import prod
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from figure import check_folders, check_plot, plot_kernels
from kernel_cases import CASES, OUT_OF_CACHE, QUICK_DIVISOR, SIZES, Case, Maker
from report import Row, cpu_model, kernel_table, paired_ratio, summary
from rounds import CheckError, exit_code_of, say

from gpumlp import get_backend
from gpumlp.backend import Backend
from gpumlp.backend.cuda.backend import CupyFormulas
from gpumlp.environment import describe

ROUNDS, QUICK_ROUNDS = 9, 3
TURN = 0.003  # seconds that a contender runs in a round, or one call
TOLERANCE = 1e-5  # of an array's largest entry: sums of thousands of terms in float32
FLUSH_BYTES = 2**28  # read between two calls, more than a GPU's cache holds
CALLS = 16  # of a plan, so that a GPU's launch of it counts little


def plain(fused: Backend, dtype: str = "float32") -> Backend:
    """Return the plain formulas on the device of a backend."""
    return (Backend if fused.xp is np else CupyFormulas)(fused.xp, dtype)


def check(case: Case, shape: tuple[int, ...], fused: Backend) -> None:
    """Compare what the kernel leaves in each array with the formula in float64; CheckError."""
    makers = [Maker(b, fused.workspace_order) for b in (fused, plain(fused, "float64"))]
    for make in makers:
        case.bind(make, shape)()
    xp = fused.xp
    for actual, expected in zip(*(make.compared for make in makers), strict=True):
        off = float(xp.abs(actual.astype("float64") - expected).max())
        exact = actual.dtype.kind != "f"
        allowed = 0.0 if exact else TOLERANCE * float(xp.abs(expected).max())
        if not off <= allowed:  # written so that NaN fails
            raise CheckError(
                f"{case.operation} {case.variant} {list(shape)}: what {fused!r} computes differs "
                f"from the plain formula by {off:.3g}, and rounding allows {allowed:.3g}"
            )


# ---------------------------------------------------------------------------- timing


class Clock:
    """Measures on the host."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def seconds(self, repeat: Callable[[int], None], n: int, out_of_cache: bool) -> float:
        """Return the seconds of one of n repetitions."""
        began = perf_counter()
        repeat(n)
        return (perf_counter() - began) / n


class DeviceClock(Clock):
    """Measures by a GPU's own events; out of cache each call finds nothing of the one before."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.other = backend.zeros((FLUSH_BYTES // 4,))
        self.largest = backend.empty(())

    def seconds(self, repeat: Callable[[int], None], n: int, out_of_cache: bool) -> float:
        """As in `Clock`; reading `other` also keeps the GPU busy while the host launches."""
        cuda, spans = self.backend.xp.cuda, []
        for times in [1] * n if out_of_cache else [n]:
            if out_of_cache:
                self.other.max(out=self.largest)
            began, ended = cuda.Event(), cuda.Event()
            began.record()
            repeat(times)
            ended.record()
            spans.append((began, ended))
        self.backend.synchronize()
        return sum(1e-3 * float(cuda.get_elapsed_time(*span)) for span in spans) / n


class Timed:
    """A call that is repeated, `n` times in a turn."""

    def __init__(
        self,
        clock: Clock,
        backend: Backend,
        call: Callable[[], None],
        make: Maker,
        out_of_cache: bool,
    ) -> None:
        self.clock, self.make, self.out_of_cache = clock, make, out_of_cache
        most = 10**6 if make.lines is None else make.lines
        self.calls = 1 if self.out_of_cache else min(CALLS, most)
        self.repeat = backend.replay([call] * self.calls)
        self.n = 1
        self.seconds()  # the first run is slower
        while 2 * self.n * self.calls <= most and self.seconds() * self.calls * self.n < TURN / 2:
            self.n *= 2

    def seconds(self) -> float:
        """Return the seconds of one call."""
        if self.make.clock is not None:
            self.make.clock[...] = 0
        return self.clock.seconds(self.repeat, self.n, self.out_of_cache) / self.calls


class Bench:
    """One device's operations, and what was measured of them: `rows` and `copies`."""

    def __init__(self, device: str, quick: bool) -> None:
        self.device, self.fused = device, get_backend(device)
        self.plain = plain(self.fused)
        self.clock = (Clock if device == "cpu" else DeviceClock)(self.fused)
        self.rounds = QUICK_ROUNDS if quick else ROUNDS
        self.sizes = dict(SIZES[device])
        if quick:
            rows, columns = self.sizes[OUT_OF_CACHE]
            self.sizes[OUT_OF_CACHE] = (rows // QUICK_DIVISOR, columns)
        self.rows: list[Row] = []
        self.copies: dict[str, list[float]] = {_copied(size): [] for size in self.sizes}
        self._arrays = {  # written once, since memory that never was is not read
            size: [self.fused.zeros((prod(shape),)) + 1 for _ in range(2)]
            for size, shape in self.sizes.items()
            if size == _copied(size)
        }

    def measure(self, case: Case, size: str) -> None:
        """Check one operation at one size, then time it."""
        shape = case.shape(*self.sizes[size])
        check(case, shape, self.fused)
        seconds, copied = self._seconds(case, size, shape)
        moved, middle = case.bytes_moved(self.fused, shape), median(seconds["fused"])
        rates = [copied / s for s in seconds["copy"]]
        shares = [moved / s / r for s, r in zip(seconds["fused"], rates, strict=True)]
        self.copies[_copied(size)] += rates
        self.rows.append(
            {
                "operation": case.operation,
                "variant": case.variant,
                "size": size,
                "shape": list(shape),
                "elements": prod(shape),
                "bytes": moved,
                "device": self.device,
                "plain": {"seconds": summary(seconds["plain"])},
                "fused": {
                    "seconds": summary(seconds["fused"]),
                    "ns_per_element": 1e9 * middle / prod(shape),
                    "gb_per_s": moved / middle / 1e9,
                    "of_stream": median(shares),
                },
                "ratio": paired_ratio(seconds["plain"], seconds["fused"]),
            }
        )

    def _seconds(
        self, case: Case, size: str, shape: tuple[int, ...]
    ) -> tuple[dict[str, list[float]], int]:
        """Return the seconds of plain formula, kernel and copy by rounds, and the copy's bytes."""
        make = Maker(self.fused, self.fused.workspace_order, steady=True)
        arguments = case.arguments(make, *shape)
        target, source = self._arrays[_copied(size)]
        calls: dict[str, tuple[Backend, Callable[[], None]]] = {
            "plain": (self.plain, self.plain.bind(case.operation, *arguments)),
            "fused": (self.fused, self.fused.bind(case.operation, *arguments)),
            "copy": (self.plain, partial(self.fused.xp.copyto, target, source)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        with np.errstate(all="ignore"), self.fused.threads_for(2 * prod(shape)):
            timed = {
                name: Timed(self.clock, backend, call, make, size == OUT_OF_CACHE)
                for name, (backend, call) in calls.items()
            }
            for _ in range(self.rounds):
                for name, own in timed.items():
                    seconds[name].append(own.seconds())
        return seconds, 2 * source.nbytes

    def environment(self) -> dict[str, Any]:
        """Return what was run where and how, and the copy's speed at each size."""
        return describe(self.fused) | {
            "cpu": cpu_model(),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
            "stream_gb_per_s": {
                size: median(rates) / 1e9 for size, rates in self.copies.items() if rates
            },
            "rounds": self.rounds,
        }


def _copied(size: str) -> str:
    """Return the size of the copy to compare with; one that is small would time calls."""
    return "in cache" if size == "small" else size


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; exits 2 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="about a minute: less of everything")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the results here")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw shares and speed-ups")
    options = parser.parse_args(arguments)
    try:
        check_plot(options.plot)
        check_folders(options.out, options.plot)
    except ValueError as error:
        parser.error(str(error))
    return options


def run(options: argparse.Namespace) -> None:
    """Measure, write JSON and figure, print the table."""
    bench = Bench(options.device, options.quick)
    for size in bench.sizes:
        for case in CASES:
            say(f"{size}: {case.operation} {case.variant}")
            bench.measure(case, size)
    environment = bench.environment()
    if options.out:
        results = {"environment": environment, "rows": bench.rows}
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    if options.plot:
        plot_kernels(bench.rows, options.plot)
    speeds = ", ".join(f"{s} {v:.1f}" for s, v in environment["stream_gb_per_s"].items())
    where = environment.get("gpu", environment["cpu"])
    kernels = f"; kernels: {environment['kernels']}" if "kernels" in environment else ""
    print(f"a copy, GB/s: {speeds}; {where}{kernels}\n")
    print(kernel_table(bench.rows))


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code, see `exit_code_of`."""
    options = parse(arguments)
    return exit_code_of(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
