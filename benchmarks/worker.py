"""A contender in a process of its own: JSON lines over pipes, a command each, a reply each.

`Worker` is the parent's end; run as a script, this file is the other end. A worker that was asked
nothing waits in a read, so that only the one being timed runs.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from time import perf_counter, process_time
from typing import Any

# where each system's contender stands, and the package it needs
SYSTEMS = {
    "gpumlp": ("contenders", "Gpumlp", "gpumlp"),
    "gpumlp-plain": ("contenders", "GpumlpPlain", "gpumlp"),
    "gpumlp-numpy": ("contenders", "GpumlpNumpy", "gpumlp"),
    "gpumlp-trainer": ("contenders", "GpumlpTrainer", "gpumlp"),
    "gpumlp-eager": ("contenders", "GpumlpEager", "gpumlp"),
    "gpumlp-late": ("contenders", "GpumlpLate", "gpumlp"),
    "gpumlp-unforked": ("contenders", "GpumlpUnforked", "gpumlp"),
    "gpumlp-cupy": ("cuda_contenders", "GpumlpCupy", "gpumlp"),
    "gpumlp-fed": ("cuda_contenders", "GpumlpFed", "gpumlp"),
    "torch": ("torch_peer", "Torch", "torch"),
    "torch-1": ("torch_peer", "TorchOneThread", "torch"),
    "torch-compile": ("torch_peer", "TorchCompile", "torch"),
    "torch-graph": ("torch_peer", "TorchGraph", "torch"),
    "torch-graph-50": ("torch_peer", "TorchGraph50", "torch"),
    "jax": ("jax_peer", "Jax", "jax"),
    "jax-step": ("jax_peer", "JaxStep", "jax"),
    "jax-unroll-8": ("jax_peer", "JaxUnroll8", "jax"),
    "sklearn": ("sklearn_peer", "Sklearn", "sklearn"),
}


class WorkerError(Exception):
    """A contender failed; the text says which one and how."""


class Worker:
    """A system's process; `about` holds its versions, its threads and its import time.

    `script` is run as the other end, and calls `serve`.
    """

    def __init__(self, system: str, script: str = __file__) -> None:
        self.system = system
        self._process = subprocess.Popen(
            [sys.executable, script, system],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self.ask("describe")

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for its reply; raises WorkerError."""
        pipes = self._process.stdin, self._process.stdout
        assert pipes[0] is not None
        assert pipes[1] is not None
        try:
            print(json.dumps({"command": command, **arguments}), file=pipes[0], flush=True)
            line = pipes[1].readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"{self.system}: its process ended ({self._process.wait()})")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise WorkerError(f"{self.system}: {reply['error']}")
        return reply

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


class Served:
    """The worker's own end: its methods are the commands."""

    def __init__(self, system: str) -> None:
        began = perf_counter()
        module, name, _ = SYSTEMS[system]
        self.kind = getattr(import_module(module), name)
        self.about = self.kind.describe()
        self.about["import_seconds"] = perf_counter() - began
        self.contender: Any = None

    def describe(self) -> dict[str, Any]:
        """What Worker.about says."""
        about: dict[str, Any] = self.about
        return about

    def build(self, net: str, **fields: Any) -> dict[str, Any]:
        """Make data, network and optimizer; what was there before is dropped first."""
        from problem import Net, Problem

        self.contender = None
        problem = Problem(Net.parse(net), **fields)
        _ = problem.x, problem.labels
        began = perf_counter()
        self.contender = self.kind(problem)
        seconds = perf_counter() - began
        about = {"engine": self.contender.engine, "kernels": self.contender.kernels}
        return {"seconds": seconds} | about

    def check(self, steps: int) -> dict[str, Any]:
        """Train the first steps: the loss they lead to, and how far they moved each parameter."""
        from problem import update_norms

        seconds = self.run(steps)["seconds"]
        problem, weights = self.contender.problem, self.contender.weights()
        norms = update_norms(problem.weights(), weights)
        return {"loss": problem.loss(weights), "norms": norms, "seconds": seconds}

    def run(self, steps: int) -> dict[str, Any]:
        """Time so many steps of an epoch that is already begun."""
        self.contender.prepare(steps)
        self.contender.synchronize()
        began = perf_counter()
        self.contender.run(steps)
        return {"seconds": perf_counter() - began}

    def epoch(self) -> dict[str, Any]:
        """Time an epoch, by the clock and by what all threads of this process were busy."""
        began, busy = perf_counter(), process_time()
        self.contender.epoch()
        return {"seconds": perf_counter() - began, "cpu_seconds": process_time() - busy}

    def accuracy(self) -> dict[str, Any]:
        """Return the share of test images that the present weights get right."""
        began = perf_counter()
        accuracy = self.contender.problem.accuracy(self.contender.weights())
        return {"accuracy": accuracy, "seconds": perf_counter() - began}

    def peak(
        self, device: str, n: int, for_seconds: float, precision: str = "fp32"
    ) -> dict[str, Any]:
        """The most operations per second of products of n × n matrices."""
        from gpumlp import get_backend

        backend = get_backend(device, precision)
        a, b, out = (backend.zeros((n, n)) + 1 for _ in range(3))
        a, b = backend.operand(a), backend.operand(b)
        best, end = float("inf"), perf_counter() + for_seconds
        while best == float("inf") or perf_counter() < end:
            backend.synchronize()
            began = perf_counter()
            backend.matmul(out, a, b)
            backend.synchronize()
            best = min(best, perf_counter() - began)
        return {"gflops": 2e-9 * n**3 / best}

    def bandwidth(self, device: str, nbytes: int, for_seconds: float) -> dict[str, Any]:
        """The most bytes per second that copies of so many bytes read and write.

        On a CPU as many threads copy a part each as there are processors: one reaches less.
        """
        from gpumlp import get_backend

        backend = get_backend(device)
        parts = (os.cpu_count() or 1) if device == "cpu" else 1
        # written once, since memory that never was is not read
        arrays = [backend.zeros((nbytes // 4,)) + 1 for _ in range(2)]
        best, end = float("inf"), perf_counter() + for_seconds
        target, source = (backend.xp.array_split(array, parts) for array in arrays)
        with ThreadPoolExecutor(parts) as pool:
            while best == float("inf") or perf_counter() < end:
                backend.synchronize()
                began = perf_counter()
                if parts == 1:
                    backend.xp.copyto(arrays[0], arrays[1])
                else:
                    list(pool.map(backend.xp.copyto, target, source))
                backend.synchronize()
                best = min(best, perf_counter() - began)
        return {"gb_per_s": 2e-9 * arrays[1].nbytes / best}


def serve(system: str, kind: Callable[[str], Any] = Served) -> None:
    """Answer commands, which are the methods of a `kind`, until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    # what a library prints must not come between the replies
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    served: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            served = served or kind(system)
            reply = getattr(served, request.pop("command"))(**request)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
