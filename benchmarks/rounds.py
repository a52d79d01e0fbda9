"""Check that all contenders train the same thing, then time them in interleaved rounds."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from time import sleep
from typing import Any

from problem import EPOCH_ROWS, Net
from report import OURS, Row, cpu_model, make_rows
from worker import Worker, WorkerError

from gpumlp import GpumlpError, get_backend
from gpumlp.environment import describe

CHECK_STEPS = 3
PARAMETER_TOLERANCE = 1e-3  # relative, of how far those steps moved each parameter
LOSS_TOLERANCE = 1e-4  # relative; float32 leaves 1e-9 with SGD, 2e-5 with Adam
# times these: what contenders differ by that round the same numbers in other places
LOOSER = {"fp32": 1.0, "tf32": 20.0, "bf16": 160.0, "fp16": 20.0, "bf16x3": 2.0, "bf16x6": 1.0}
# seconds in which a contender's idle threads stop spinning before the next one runs: OpenBLAS's
# (NumPy's and SciPy's) were seen to take 0.12
PAUSE = 0.15
QUICK_ROWS = 3_000
LONGEST_EPOCH = 15.0  # seconds of the first one with compilation, see `Bench`
LONGEST_TURN = 1.5  # seconds of a turn of steps, unless a single step takes longer


class CheckError(Exception):
    """A peer does not train what gpumlp trains."""


def check(
    net: Net,
    replies: Mapping[str, Mapping[str, Any]],
    steps: int = CHECK_STEPS,
    looser: float = 1.0,
) -> None:
    """Compare each contender's first steps with gpumlp's; raises CheckError."""
    ours = replies[OURS]
    for system, reply in replies.items():
        loss_error = abs(reply["loss"] / ours["loss"] - 1)
        pairs = zip(reply["norms"], ours["norms"], strict=True)
        error = max(abs(theirs - own) / own for theirs, own in pairs)
        # written so that NaN fails
        if not (loss_error < looser * LOSS_TOLERANCE and error < looser * PARAMETER_TOLERANCE):
            raise CheckError(
                f"{net}: {system} does not train what gpumlp trains: after {steps} steps the "
                f"loss is {reply['loss']:.8g} against {ours['loss']:.8g}, and the distance that a "
                f"parameter moved differs by up to {error:.2%}"
            )


class Bench:
    """The workers, and what was measured with them: `rows`, `starts` and `peak`.

    Without a number of rounds it takes 9. Where by the first of them these would take longer than
    `patience` seconds, the slowest contenders are left out of the others, and of the results; so is
    from the start who needs longer than `LONGEST_EPOCH` for one. So a run ends in time, and the
    quickest peer is always compared with. Quick: 3 rounds.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        device: str,
        quick: bool,
        rounds: int | None,
        precision: str = "fp32",
    ) -> None:
        self.workers = {worker.system: worker for worker in workers}
        self.device, self.quick, self.precision = device, quick, precision
        self.turn = 0.05 if quick else 0.2  # seconds that a contender steps in a round
        self.rounds = rounds or (3 if quick else 9)
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
        problem["precision"] = self.precision
        self._measure_peak()
        engines, steps, epochs, replies = {}, {}, {}, {}
        for system, worker in self.workers.items():
            say(f"{net} {optimizer}: build {system}")
            built = worker.ask("build", **problem)
            engines[system] = built["engine"]
            if built["kernels"]:
                worker.about["kernels"] = built["kernels"]
            replies[system] = worker.ask("check", steps=CHECK_STEPS)
            warm_up = replies[system]["seconds"]
            if "step" in whats:
                steps[system] = self._steps_per_turn(worker, rows // net.batch)
                warm_up += worker.ask("run", steps=steps[system])["seconds"]
            if "epoch" in whats:
                epochs[system] = worker.ask("epoch")["seconds"]
                warm_up += epochs[system]
            start = {"net": str(net), "optimizer": optimizer, "system": system}
            start |= {"build_seconds": built["seconds"], "warm_up_seconds": warm_up}
            self.starts.append(start)
        check(net, replies, looser=LOOSER[self.precision])
        for what in whats:
            say(f"{net} {optimizer}: {self.rounds} rounds of {what}s")
            seconds = self._rounds(what, steps) if what == "step" else self._epochs(epochs)
            common = {"optimizer": optimizer, "precision": self.precision}
            common["device"] = self.device
            samples = net.batch if what == "step" else rows
            self._timed.append((common | {"what": what}, net, samples, seconds, engines))

    def _measure_peak(self) -> None:
        """Look again before each net, because a busy machine shows its peak now and then only."""
        n = 8192 if self.device == "cuda" else 2048
        what = {"device": self.device, "precision": self.precision, "n": n}
        reply = self.workers[OURS].ask("peak", **what, for_seconds=0.5)
        self.peak = max(self.peak, 1e9 * float(reply["gflops"]))

    def _steps_per_turn(self, worker: Worker, at_most: int) -> int:
        """Return how many steps fill a turn; the quickest of a few tries counts.

        At least 3, fewer only where these take longer than the longest turn.
        """
        pace = float("inf")
        for _ in range(5):
            pace = min(pace, worker.ask("run", steps=CHECK_STEPS)["seconds"] / CHECK_STEPS)
            if pace * CHECK_STEPS > self.turn:
                break
        fewest = max(1, min(CHECK_STEPS, int(LONGEST_TURN / pace)))
        return max(fewest, min(int(self.turn / pace), at_most))

    def _epochs(self, first: Mapping[str, float]) -> dict[str, list[float]]:
        """Return seconds of one epoch by rounds; `first`: each system's in the warm-up."""
        units = {}
        for system, seconds in first.items():
            if system == OURS or seconds <= LONGEST_EPOCH or self.patience == float("inf"):
                units[system] = 1
            else:
                say(f"{system} is left out of the epochs: the first took {seconds:.3g} s")
        return self._rounds("epoch", units)

    def _rounds(self, what: str, units: Mapping[str, int]) -> dict[str, list[float]]:
        """Return seconds of one step or epoch by rounds; `units`: how many each system takes."""
        turns: dict[str, list[float]] = {system: [] for system in units}
        for done in range(self.rounds):
            if done == 1:
                for system in self._too_slow({s: own[0] for s, own in turns.items()}):
                    say(f"{system} is left out of the {what}s: {turns[system][0]:.3g} s a round")
                    del turns[system]
            for system in turns:
                sleep(PAUSE)
                worker = self.workers[system]
                reply = (
                    worker.ask("epoch")
                    if what == "epoch"
                    else worker.ask("run", steps=units[system])
                )
                turns[system].append(reply["seconds"])
        return {system: [s / units[system] for s in own] for system, own in turns.items()}

    def _too_slow(self, turns: Mapping[str, float]) -> list[str]:
        """Return the systems without which all rounds end in time, the slowest first.

        Neither gpumlp nor its quickest peer is among them.
        """
        total, left_out = sum(turns.values()), []
        *slower, _ = sorted(turns.keys() - {OURS}, key=lambda name: -turns[name]) or [OURS]
        for system in slower:
            if self.rounds * total > self.patience:
                left_out.append(system)
                total -= turns[system]
        return left_out

    def environment(self) -> dict[str, Any]:
        """Return what was run where and how."""
        return environment_of(self.device, self.workers) | {
            "peak_gflops": self.peak / 1e9,
            "rounds": self.rounds,
            "quick": self.quick,
            "data_rows": self.data_rows,
            "starts": self.starts,
        }


def environment_of(device: str, workers: Mapping[str, Worker]) -> dict[str, Any]:
    """Return the machine, our device, and what each contender says of itself."""
    return describe(get_backend(device)) | {
        "cpu": cpu_model(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "systems": {system: worker.about for system, worker in workers.items()},
    }


def exit_code_of(run: Callable[[], None]) -> int:
    """Run a benchmark; where it fails, say why. Returns the exit code.

    1: a contender failed, 3: its data, 5: no device, 6: no file, 7: something is computed wrongly.
    """
    try:
        run()
    except (WorkerError, CheckError, GpumlpError, OSError) as error:
        say(str(error))
        codes = {WorkerError: 1, CheckError: 7}
        return codes.get(type(error), getattr(error, "exit_code", 6))
    return 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
