"""Times steps of gpumlp on the CPU and on a GPU, net by net: checked first, in rounds A B A B."""

from collections.abc import Mapping
from functools import cached_property
from statistics import median
from time import perf_counter
from typing import Any

from grid import left_out_row, shape_of
from problem import Net, Problem, update_norms
from report import OURS, Row, make_rows, paired_ratio
from roofline import batch_bytes, floor_seconds, least_bytes
from rounds import CHECK_STEPS, QUICK_ROWS, Bench, CheckError, check, say
from worker import Worker, WorkerError

from gpumlp import get_backend
from gpumlp.environment import describe

CONTENDERS = {  # by device, gpumlp first
    "cpu": [OURS, "gpumlp-plain"],
    "cuda": [OURS, "gpumlp-cupy", "gpumlp-fed"],
}
VARIANTS = {  # what each is, and on the CPU its speed-up is over
    OURS: ("fused", OURS),
    "gpumlp-plain": ("plain", "gpumlp-plain"),
    "gpumlp-cupy": ("plain", "gpumlp-plain"),
    "gpumlp-fed": ("transfers", OURS),
}
ROUNDS = 5
# large enough that an update of a deep net's first layer is more than the rounding of its weights
LEARNING_RATE = 0.01
ROWS = 20_000  # of the data: 63 MB, more than a cache holds
CHECK_FLOPS = 2.5e11  # of the plain formulas; beyond that one step is compared
PRODUCT = {"cpu": 2048, "cuda": 8192}  # rows of the large product
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}  # of the large copy
CEILING_SECONDS = 0.4


class DeviceBench(Bench):
    """The contenders of one device or two; `rows` are those of all nets and batches so far.

    A contender that fails or computes something else is left out of that net and batch: `failures`
    are these errors, `left_out` says so in the results.

    Args:
        workers: by device and system.
        quick: less of everything.
        rounds: None: 5, or 3 where it is quick.
        seconds: after so many no further net or batch is begun.
    """

    def __init__(
        self,
        workers: Mapping[tuple[str, str], Worker],
        quick: bool,
        rounds: int | None,
        seconds: float = float("inf"),
    ) -> None:
        super().__init__([], "cpu", quick, rounds)
        self.contenders = {f"{system} on {device}": (device, system) for device, system in workers}
        self.workers = {f"{system} on {device}": w for (device, system), w in workers.items()}
        self.rounds = rounds or (3 if quick else ROUNDS)
        self.patience, self.end = float("inf"), perf_counter() + seconds
        devices = list(dict.fromkeys(device for device, _ in workers))
        self.peaks, self.bandwidths = (dict.fromkeys(devices, 0.0) for _ in range(2))
        self.failures: list[WorkerError | CheckError] = []
        self.left_out: list[dict[str, Any]] = []
        self._engines: dict[str, str] = {}
        self._cells: list[tuple[Net, dict[str, list[float]], dict[str, str]]] = []

    @property
    def rows(self) -> list[Row]:
        """Those of all that was timed so far, with floors by the ceilings seen so far."""
        return [row for cell in self._cells for row in self._rows_of(*cell)]

    def measure_batch(self, net: Net) -> None:
        """Build one net in every worker, check, and time its steps; or say that time is up."""
        if perf_counter() > self.end:
            self._leave_out(net, "the time was up")
            return
        if not any(net.name == cell[0].name for cell in self._cells):
            self._measure_ceilings()
        rows = self.data_rows[str(net)] = net.rows(QUICK_ROWS if self.quick else ROWS)
        say(f"{net}: check, then {self.rounds} round{'s' * (self.rounds > 1)}")
        check_steps = CHECK_STEPS if CHECK_STEPS * net.flops(net.batch) <= CHECK_FLOPS else 1
        expected = reference(Problem(net, rows, "sgd", "cpu", lr=LEARNING_RATE), check_steps)
        steps = {}
        for name in self.workers:
            try:
                steps[name] = self._start(name, net, rows, expected, check_steps)
            except (WorkerError, CheckError) as error:
                self.failures.append(error)
                self._leave_out(net, str(error), name)
        try:
            self._cells.append((net, self._rounds("step", steps), dict(self._engines)))
        except WorkerError as error:
            self.failures.append(error)
            self._leave_out(net, str(error))

    def _start(
        self, name: str, net: Net, rows: int, expected: Mapping[str, Any], check_steps: int
    ) -> int:
        """Build a net in a worker and compare its first steps; return how many fill a turn."""
        worker, device = self.workers[name], self.contenders[name][0]
        problem = {"net": str(net), "rows": rows, "optimizer": "sgd", "device": device}
        built = worker.ask("build", **problem, lr=LEARNING_RATE)
        self._engines[name] = built["engine"]
        if built["kernels"]:
            worker.about["kernels"] = built["kernels"]
        found = worker.ask("check", steps=check_steps)
        check(net, {OURS: expected, name: found}, check_steps)
        steps = self._steps_per_turn(worker, rows // net.batch)
        warm_up = found["seconds"] + worker.ask("run", steps=steps)["seconds"]
        start = {"net": str(net), "optimizer": "sgd", "system": name}
        self.starts.append(start | {"build_seconds": built["seconds"], "warm_up_seconds": warm_up})
        return steps

    def _measure_ceilings(self) -> None:
        """Look again before each net, because a busy machine shows its best now and then only."""
        for device in self.peaks:
            self._look_again(device, self.peaks, "peak", "gflops", n=PRODUCT[device])
            what = "bandwidth", "gb_per_s"
            self._look_again(device, self.bandwidths, *what, nbytes=COPY_BYTES[device])

    def _look_again(
        self, device: str, best: dict[str, float], command: str, key: str, **asked: int
    ) -> None:
        """Keep the most that was seen; a ceiling that cannot be measured is 0, and no floor."""
        worker = self.workers[f"{OURS} on {device}"]
        seconds = CEILING_SECONDS / (4 if self.quick else 1)
        try:
            reply = worker.ask(command, device=device, for_seconds=seconds, **asked)
            best[device] = max(best[device], 1e9 * float(reply[key]))
        except WorkerError as error:
            say(f"the {command} of {device} is not known: {error}")
            self.failures.append(error)

    def _leave_out(self, net: Net, why: str, system: str | None = None) -> None:
        say(f"{net}: {system or 'all'} left out: {why}")
        self.left_out.append(left_out_row(net, why, system))

    def _rows_of(
        self, net: Net, seconds: Mapping[str, list[float]], engines: Mapping[str, str]
    ) -> list[Row]:
        """Return a row for each contender of a net and batch.

        Besides: variant, width, depth, flops and bytes of a step, intensity (flops / bytes), and
        speed_up: seconds on the CPU / these, of the same variant in the same rounds. Where a step
        brings its batch along: transfer_bytes, and transfer_seconds that it takes longer for it.
        """
        flops, moved = net.flops(net.batch), least_bytes(net)
        about = shape_of(net) | {"flops": flops, "bytes": moved, "intensity": flops / moved}
        rows = []
        for device, peak in self.peaks.items():
            pairs = [(name, system) for name, (d, system) in self.contenders.items() if d == device]
            own = {system: seconds[name] for name, system in pairs if name in seconds}
            if OURS not in own:
                continue
            common = {"optimizer": "sgd", "precision": "fp32", "device": device, "what": "step"}
            of_system = {system: engines[name] for name, system in pairs if system in own}
            about["floor_seconds"] = floor_seconds(flops, moved, peak, self.bandwidths[device])
            for row in make_rows(common, net, net.batch, own, of_system, peak or 1.0):
                variant, base = VARIANTS[row["system"]]
                row |= about | {"variant": variant, "speed_up": None}
                if (on_cpu := seconds.get(f"{base} on cpu")) is not None:
                    row["speed_up"] = paired_ratio(on_cpu, own[row["system"]])
                if variant == "transfers":
                    row |= {"transfer_bytes": batch_bytes(net)}
                    row["transfer_seconds"] = longer(own[row["system"]], own[OURS])
                rows.append(row)
        return rows

    def environment(self) -> dict[str, Any]:
        """As in `Bench`, with both devices' ceilings, and the GPU where there is one."""
        facts = super().environment()
        if "cuda" in self.peaks:
            facts |= self._gpu
        facts["peak_gflops"] = {device: peak / 1e9 for device, peak in self.peaks.items()}
        facts["bandwidth_gb_per_s"] = {device: b / 1e9 for device, b in self.bandwidths.items()}
        return facts | {"left_out": self.left_out}

    @cached_property
    def _gpu(self) -> dict[str, Any]:
        """What the GPU is; asked once, as a backend of its own takes memory there."""
        cuda = describe(get_backend("cuda"))
        return {key: cuda[key] for key in ("gpu", "cuda_runtime", "cuda_driver")}


def longer(theirs: list[float], ours: list[float]) -> float:
    """Return the median over the rounds of their seconds - ours."""
    return median(a - b for a, b in zip(theirs, ours, strict=True))


def reference(problem: Problem, steps: int) -> dict[str, Any]:
    """Return what a worker's check replies, computed by the plain formulas in float64."""
    weights = problem.trained(steps)
    return {"loss": problem.loss(weights), "norms": update_norms(problem.weights(), weights)}
