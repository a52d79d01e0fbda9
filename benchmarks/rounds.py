"""Check that all contenders train the same thing, then time them in interleaved rounds."""

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from time import perf_counter, sleep
from typing import Any

from problem import EPOCH_ROWS, Net
from report import OURS, Row, cpu_model, make_rows
from worker import Worker

from gpumlp import get_backend
from gpumlp.environment import describe

CHECK_STEPS = 3
PARAMETER_TOLERANCE = 1e-3  # relative, of how far those steps moved each parameter
LOSS_TOLERANCE = 1e-4  # relative; float32 leaves 1e-9 with SGD, 2e-5 with Adam
PAUSE = 0.05  # seconds in which a contender's idle threads stop spinning before the next one runs
QUICK_ROWS = 3_000


class CheckError(Exception):
    """A peer does not train what gpumlp trains."""


def check(net: Net, replies: Mapping[str, Mapping[str, Any]], steps: int = CHECK_STEPS) -> None:
    """Compare each contender's first steps with gpumlp's; raises CheckError."""
    ours = replies[OURS]
    for system, reply in replies.items():
        loss_error = abs(reply["loss"] / ours["loss"] - 1)
        pairs = zip(reply["norms"], ours["norms"], strict=True)
        error = max(abs(theirs - own) / own for theirs, own in pairs)
        # written so that NaN fails
        if not (loss_error < LOSS_TOLERANCE and error < PARAMETER_TOLERANCE):
            raise CheckError(
                f"{net}: {system} does not train what gpumlp trains: after {steps} steps the "
                f"loss is {reply['loss']:.8g} against {ours['loss']:.8g}, and the distance that a "
                f"parameter moved differs by up to {error:.2%}"
            )


class Bench:
    """The workers, and what was measured with them: `rows`, `starts` and `peak`.

    Without a number of rounds it takes 9, but stops after 3 or more once they have taken two
    minutes, so that a busy machine ends in time; quick: 3, or fewer after five seconds.
    """

    def __init__(
        self, workers: Sequence[Worker], device: str, quick: bool, rounds: int | None
    ) -> None:
        self.workers = {worker.system: worker for worker in workers}
        self.device, self.quick = device, quick
        self.turn = 0.05 if quick else 0.2  # seconds that a contender steps in a round
        self.rounds = rounds or (3 if quick else 9)
        self.fewest_rounds = 1 if quick else 3
        self.patience = float("inf") if rounds else 5.0 if quick else 120.0
        self.peak = 0.0  # operations per second of a large product, the most that was seen
        self.starts: list[Row] = []
        self.data_rows: dict[str, int] = {}
        self._timed: list[tuple[Row, Net, int, dict[str, list[float]], dict[str, str]]] = []

    @property
    def rows(self) -> list[Row]:
        """What was timed so far, with floors by the peak seen so far."""
        return [row for timed in self._timed for row in make_rows(*timed, self.peak)]

    def measure(self, net: Net, optimizer: str, whats: Sequence[str]) -> None:
        """Build one net in every worker, check, and time steps and epochs."""
        rows = self.data_rows[str(net)] = net.rows(QUICK_ROWS if self.quick else EPOCH_ROWS)
        problem = {"net": str(net), "rows": rows, "optimizer": optimizer, "device": self.device}
        self._measure_peak()
        engines, steps, replies = {}, {}, {}
        for system, worker in self.workers.items():
            say(f"{net} {optimizer}: build {system}")
            built = worker.ask("build", **problem)
            engines[system] = built["engine"]
            replies[system] = worker.ask("check", steps=CHECK_STEPS)
            warm_up = replies[system]["seconds"]
            if "step" in whats:
                steps[system] = self._steps_per_turn(worker, rows // net.batch)
                warm_up += worker.ask("run", steps=steps[system])["seconds"]
            if "epoch" in whats:
                warm_up += worker.ask("epoch")["seconds"]
            start = {"net": str(net), "optimizer": optimizer, "system": system}
            start |= {"build_seconds": built["seconds"], "warm_up_seconds": warm_up}
            self.starts.append(start)
        check(net, replies)
        for what in whats:
            say(f"{net} {optimizer}: {self.rounds} rounds of {what}s")
            seconds = self._rounds(steps if what == "step" else None)
            common = {"optimizer": optimizer, "precision": "fp32", "device": self.device}
            samples = net.batch if what == "step" else rows
            self._timed.append((common | {"what": what}, net, samples, seconds, engines))

    def _measure_peak(self) -> None:
        """Look again before each net, because a busy machine shows its peak now and then only."""
        n = 8192 if self.device == "cuda" else 2048
        reply = self.workers[OURS].ask("peak", device=self.device, n=n, for_seconds=0.5)
        self.peak = max(self.peak, 1e9 * float(reply["gflops"]))

    def _steps_per_turn(self, worker: Worker, at_most: int) -> int:
        """Return how many steps fill a turn, at least 3; the quickest of a few tries counts."""
        pace = float("inf")
        for _ in range(5):
            pace = min(pace, worker.ask("run", steps=CHECK_STEPS)["seconds"] / CHECK_STEPS)
            if pace * CHECK_STEPS > self.turn:
                break
        return max(CHECK_STEPS, min(int(self.turn / pace), at_most))

    def _rounds(self, steps: Mapping[str, int] | None) -> dict[str, list[float]]:
        """Return each system's seconds of one step (of one epoch without `steps`), by rounds."""
        seconds: dict[str, list[float]] = {system: [] for system in self.workers}
        began = perf_counter()
        for done in range(self.rounds):
            if done >= self.fewest_rounds and perf_counter() - began > self.patience:
                say(f"stopped after {done} rounds: this machine is slow or busy")
                break
            for system, worker in self.workers.items():
                sleep(PAUSE)
                if steps is None:
                    seconds[system].append(worker.ask("epoch")["seconds"])
                else:
                    n = steps[system]
                    seconds[system].append(worker.ask("run", steps=n)["seconds"] / n)
        return seconds

    def environment(self) -> dict[str, Any]:
        """Return what was run where and how."""
        return describe(get_backend(self.device)) | {
            "cpu": cpu_model(),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
            "systems": {system: worker.about for system, worker in self.workers.items()},
            "peak_gflops": self.peak / 1e9,
            "rounds": self.rounds,
            "quick": self.quick,
            "data_rows": self.data_rows,
            "starts": self.starts,
        }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
