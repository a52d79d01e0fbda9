"""gpumlp on a GPU in two other ways: by the plain formulas, and with data that do not lie there."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from contenders import Gpumlp

from gpumlp.backend import Array, Backend
from gpumlp.backend.base import Order
from gpumlp.backend.cuda.backend import CupyFormulas, load_cupy
from gpumlp.randomness import permutation


class PlainCupy(CupyFormulas):
    """The plain formulas on CuPy's arrays: no kernels of ours, products by `cupy.matmul`."""

    name = "cuda:0"
    workspace_order: Order = "C"

    def to_numpy(self, array: Array) -> Any:
        """As in `Backend`; waits for the device."""
        return self.xp.asnumpy(array)

    def synchronize(self) -> None:
        """As in `Backend`."""
        self.xp.cuda.get_current_stream().synchronize()

    def threads_for(self, operations: float) -> AbstractContextManager[Any]:
        """Change nothing: products run on the GPU."""
        return nullcontext()


class GpumlpCupy(Gpumlp):
    """The plain formulas, an array operation of CuPy after the other: nothing fused or recorded."""

    wanted_engine = "eager"

    @staticmethod
    def choose_backend(device: str, precision: str) -> Backend:
        """As in `Gpumlp`."""
        return PlainCupy(load_cupy())


class GpumlpFed(Gpumlp):
    """Each step first brings its rows from the host's memory: what data on the device save.

    On the host the rows already lie in the epoch's order, in pinned memory: the copies are paid
    for, and not the work of a loader. On the device a step takes them from where they were put.
    """

    shuffle = False  # the rows arrive shuffled

    def resident(self) -> tuple[Array, Array]:
        """Return memory for the rows and labels of an epoch, empty so far."""
        self._pinned = [self._pinned_like(array) for array in (self.problem.x, self._labels)]
        self._on_device = [self.backend.zeros(a.shape, a.dtype) for a in self._pinned]
        return self._on_device[0], self._on_device[1]

    @property
    def _labels(self) -> np.ndarray:
        return self.problem.labels.astype(np.int64)

    def _pinned_like(self, array: np.ndarray) -> np.ndarray:
        memory = self.backend.xp.cuda.alloc_pinned_memory(array.nbytes)
        return np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)

    def begin_epoch(self) -> None:
        """As in `Gpumlp`; the host's rows are put in order, which is not timed."""
        order = permutation(self.problem.rows, self.problem.seed, self.epochs_begun)
        for pinned, array in zip(self._pinned, (self.problem.x, self._labels), strict=True):
            np.take(array, order, axis=0, out=pinned, mode="clip")
        super().begin_epoch()

    def take(self, n: int) -> None:
        """As in `Contender`: copy, step, copy, step, as the device gets to them."""
        stream = self.backend.xp.cuda.get_current_stream()
        for step in range(self.position, self.position + n):
            rows = slice(step * self.batch, (step + 1) * self.batch)
            for target, source in zip(self._on_device, self._pinned, strict=True):
                target[rows].set(source[rows], stream)
            super().take(1)
