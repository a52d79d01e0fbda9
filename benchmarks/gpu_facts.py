"""What a GPU allows at best, and what CuPy does there: `python benchmarks/gpu_facts.py`.

Each question is asked by itself, and a failure is an answer, too. The floors of a training step
follow from these: bytes / bandwidth, operations / ceiling, calls x time of a graph's node.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from rounds import exit_code_of, say

from gpumlp import get_backend
from gpumlp.backend import PRECISIONS
from gpumlp.backend.cuda import CudaBackend
from gpumlp.environment import describe

REPEATS = 20


class Facts:
    """Questions to one device; `answers` by question."""

    def __init__(self, backend: CudaBackend) -> None:
        self.backend, self.cupy = backend, backend.xp
        self.answers: dict[str, Any] = {}

    def ask(self, question: str, find: Callable[[], Any]) -> None:
        """Keep what `find` returns, or why it does not."""
        try:
            self.answers[question] = find()
        except Exception as error:  # whatever it is, the next question is asked
            self.answers[question] = f"{type(error).__name__}: {error}"[:200]
        say(f"{question}: {self.answers[question]}")

    def seconds(self, work: Callable[[], Any]) -> float:
        """Return the median time of some work by the device's clock."""
        cuda, times = self.cupy.cuda, []
        for _ in range(REPEATS + 3):
            began, ended = cuda.Event(), cuda.Event()
            began.record()
            work()
            ended.record()
            ended.synchronize()
            times.append(1e-3 * float(cuda.get_elapsed_time(began, ended)))
        return median(times[3:])

    def host_seconds(self, work: Callable[[], Any], times: int = 200) -> float:
        """Return how long the host needs to hand over some work."""
        self.backend.synchronize()
        began = perf_counter()
        for _ in range(times):
            work()
        elapsed = perf_counter() - began
        self.backend.synchronize()
        return elapsed / times

    def cupys_product_in_a_capture(self) -> str:
        """Whether CuPy still refuses what made us bind cuBLASLt."""
        a, out, stream = self.backend.zeros((64, 64)), self.backend.zeros((64, 64)), self.stream()
        self.cupy.matmul(a, a, out=out)
        self.backend.synchronize()
        with stream:
            stream.begin_capture()
            try:
                self.cupy.matmul(a, a, out=out)
            finally:
                stream.end_capture()
        return "works"

    def stream(self) -> Any:
        """A stream that can be captured."""
        return self.cupy.cuda.Stream(non_blocking=True)

    def copy_tb_per_s(self, nbytes: int) -> float:
        """Bytes read and written per second by a copy, in TB/s."""
        source, target = (self.backend.zeros((nbytes // 4,)) for _ in range(2))
        moved = float(2 * source.nbytes)
        return round(moved / self.seconds(lambda: self.cupy.copyto(target, source)) / 1e12, 3)

    def product_tflops(self, precision: str, n: int) -> float:
        """Operations per second of an n x n product, in TFLOP/s."""
        backend = get_backend(self.backend.name, precision)
        numbers = np.random.default_rng(0).standard_normal((n, n), dtype=np.float32)
        a, b, out = (backend.asarray(numbers) for _ in range(3))
        call = backend.bind("matmul", out, backend.operand(a), backend.operand(b).T)
        return round(2 * n**3 / self.seconds(call) / 1e12, 1)

    def microseconds_per_node(self, nodes: int, branches: int = 1) -> float:
        """Time of a small kernel in a graph of so many that wait for each other."""
        w = [self.backend.zeros((256,)) for _ in range(branches)]
        calls = [self.backend.bind("scale", w[i % branches], 1.0) for i in range(nodes)]
        graph = self.backend._capture.graph(calls)  # type: ignore[arg-type]
        return round(1e6 * self.seconds(graph.launch) / nodes, 3)

    def microseconds_per_launch(self, nodes: int) -> float:
        """What the host needs to launch a graph."""
        w = self.backend.zeros((256,))
        calls = [self.backend.bind("scale", w, 1.0) for _ in range(nodes)]
        graph = self.backend._capture.graph(calls)  # type: ignore[arg-type]
        graph.launch()
        return round(1e6 * self.host_seconds(graph.launch), 2)

    def microseconds_per_kernel(self) -> float:
        """What the host needs to launch one kernel through CuPy."""
        return round(
            1e6 * self.host_seconds(self.backend.bind("scale", self.backend.zeros((256,)), 1.0)), 2
        )


def find_facts(backend: CudaBackend) -> dict[str, Any]:
    """Ask everything; return the answers."""
    facts = Facts(backend)
    facts.ask("CuPy's product in a capture", facts.cupys_product_in_a_capture)
    for name, nbytes in (("1 GiB", 2**30), ("16 MiB, in cache", 2**24)):
        facts.ask(f"copy of {name}, TB/s", lambda n=nbytes: facts.copy_tb_per_s(n))  # type: ignore[misc]
    products = [(precision, 8192) for precision in PRECISIONS if precision != "fp64"]
    for precision, n in (*products, ("fp32", 1024), ("bf16", 1024)):
        facts.ask(
            f"product {n} cubed {precision}, TFLOP/s",
            lambda p=precision, n=n: facts.product_tflops(p, n),  # type: ignore[misc]
        )
    for nodes in (10, 100):
        facts.ask(
            f"us per node, {nodes} that wait for each other",
            lambda n=nodes: facts.microseconds_per_node(n),  # type: ignore[misc]
        )
    facts.ask("us per node, 100 in two chains", lambda: facts.microseconds_per_node(100, 2))
    for nodes in (1, 100, 1000):
        facts.ask(
            f"us of the host to launch a graph of {nodes}",
            lambda n=nodes: facts.microseconds_per_launch(n),  # type: ignore[misc]
        )
    facts.ask("us of the host to launch a kernel", facts.microseconds_per_kernel)
    return facts.answers


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code, see `exit_code_of`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the answers here")
    options = parser.parse_args(arguments)

    def run() -> None:
        backend = get_backend(options.device)
        if not isinstance(backend, CudaBackend):
            parser.error(f"--device {options.device}: these are questions to a GPU")
        answers = find_facts(backend)
        if options.out:
            facts = {"environment": describe(backend), "answers": answers}
            options.out.write_text(json.dumps(facts, indent=1) + "\n")
        print("\n".join(f"{question:<48}{answer}" for question, answer in answers.items()))

    return exit_code_of(run)


if __name__ == "__main__":
    sys.exit(main())
