"""What a contender is, and gpumlp as one: one epoch begun on resident data, n steps of it run.

Every contender gathers its batches by the same permutation, from data that already lies on the
device, and makes one update per batch.
"""

from importlib.metadata import version
from typing import Any

import numpy as np
from problem import Problem, Weights

from gpumlp import SGD, Adam, SoftmaxCrossEntropy, Trainer, get_backend, multilayer_perceptron
from gpumlp.backend import Array, Backend, CpuBackend
from gpumlp.engine import Batches, TrainingStep, get_engine
from gpumlp.environment import describe
from gpumlp.randomness import permutation


class Contender:
    """One library training one problem; `take`, `epoch` and `weights` are what a library adds."""

    engine = ""
    kernels: str | None = None  # of gpumlp: "native" or "numpy"

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.batch = problem.net.batch
        self.steps = problem.rows // self.batch  # full batches of an epoch
        self.epochs_begun = self.position = 0

    def begin_epoch(self) -> None:
        """Draw the next epoch's order."""
        order = permutation(self.problem.rows, self.problem.seed, self.epochs_begun)
        self.epochs_begun += 1
        self.position = 0
        self.set_order(order)

    def prepare(self, n: int) -> None:
        """See to it that an epoch is begun which has n full batches left."""
        if self.epochs_begun == 0 or self.position + n > self.steps:
            self.begin_epoch()

    def run(self, n: int) -> None:
        """Run the next n steps of the epoch and wait for the device."""
        self.take(n)
        self.position += n
        self.synchronize()

    def set_order(self, order: np.ndarray) -> None:
        """Bring an epoch's row numbers (rows,) to where `take` uses them."""
        raise NotImplementedError

    def take(self, n: int) -> None:
        """Run n steps from `position` on."""
        raise NotImplementedError

    def epoch(self) -> None:
        """Run a whole epoch: shuffle, all batches with the smaller last one, and wait."""
        raise NotImplementedError

    def synchronize(self) -> None:
        """Wait for the device."""

    def weights(self) -> Weights:
        """Return the present weights on the host."""
        raise NotImplementedError

    @staticmethod
    def describe() -> dict[str, Any]:
        """Return versions and threads."""
        raise NotImplementedError


class Gpumlp(Contender):
    """TrainingStep and engine "auto", as the trainer runs them.

    Unlike its peers it also adds up every row's loss and whether it was right: the running numbers
    a trainer shows are part of its step.
    """

    wanted_engine = "auto"
    shuffle = True  # on the device

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        backend = self.backend = self.choose_backend(problem.device, problem.precision)
        self.kernels = describe(backend).get("kernels")
        sizes, activation = problem.net.sizes, problem.activation
        model = self.model = multilayer_perceptron(sizes, activation, backend=backend)
        values = [array for layer in problem.weights() for array in layer]
        for parameter, value in zip(model.parameters, values, strict=True):
            parameter.value[...] = backend.asarray(value)
        self.loss = SoftmaxCrossEntropy(backend=backend)
        adam = problem.optimizer == "adam"
        self.optimizer = Adam(problem.lr, eps=problem.eps) if adam else SGD(problem.lr)
        self.load()

    @staticmethod
    def choose_backend(device: str, precision: str) -> Backend:
        """Return what computes."""
        return get_backend(device, precision)

    def load(self) -> None:
        """Bring the data to the device, and make what runs steps."""
        x, target = self.resident()
        batches = Batches(
            x=x,
            target=target,
            weight=None,
            size=self.batch,
            accumulate=1,
            shuffle=self.shuffle,
            seed=self.problem.seed,
        )
        self.training = TrainingStep(self.model, self.loss, self.optimizer, batches)
        self.runner = get_engine(self.wanted_engine, self.training)
        self.engine = self.runner.name

    def resident(self) -> tuple[Array, Array]:
        """Return all rows and their targets on the device."""
        x, labels = self.problem.x, self.problem.labels
        return self.backend.asarray(x), self.loss.as_target(labels, self.backend)

    def begin_epoch(self) -> None:
        """The training step draws the order itself."""
        factors = np.ones(self.training.batches.steps)
        self.training.begin_epoch(self.epochs_begun, self.training.optimizer.steps, factors)
        self.epochs_begun += 1
        self.position = 0

    def take(self, n: int) -> None:
        """As in `Contender`."""
        largest = self.model.operations_of_largest_product(self.batch)
        with self.backend.threads_for(largest):
            self.runner.run(n)
        self.training.optimizer.steps += n

    def epoch(self) -> None:
        """What `Trainer` does in an epoch, but for looking at the loss several times a second."""
        self.begin_epoch()
        self.run(self.training.batches.steps)
        self.training.sums()

    def synchronize(self) -> None:
        """As in `Contender`."""
        self.backend.synchronize()

    def weights(self) -> Weights:
        """As in `Contender`."""
        values = [self.backend.to_numpy(p.value).copy() for p in self.model.parameters]
        return list(zip(values[::2], values[1::2], strict=True))

    @staticmethod
    def describe() -> dict[str, Any]:
        """As in `Contender`."""
        from threadpoolctl import threadpool_info

        blas = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
        return {
            "versions": {"numpy": version("numpy")},
            "threads": max((pool["num_threads"] for pool in blas), default=1),
        }


class GpumlpPlain(Gpumlp):
    """The plain formulas: no native kernels, and products by `numpy.matmul`."""

    @staticmethod
    def choose_backend(device: str, precision: str) -> Backend:
        """As in `Gpumlp`."""
        return Backend(np)


class GpumlpNumpy(Gpumlp):
    """What is used where gpumlp was installed without a compiler."""

    @staticmethod
    def choose_backend(device: str, precision: str) -> Backend:
        """As in `Gpumlp`."""
        return CpuBackend(kernels=False)


class GpumlpEager(Gpumlp):
    """The step's code run anew each time: what recording it saves."""

    wanted_engine = "eager"


class GpumlpUnforked(Gpumlp):
    """CUDA graphs in which one call runs after another: what a second branch saves."""

    @staticmethod
    def choose_backend(device: str, precision: str) -> Backend:
        """As in `Gpumlp`."""
        backend = get_backend(device, precision)
        backend.branches = 1  # type: ignore[attr-defined]  # which a CUDA backend has
        return backend


class GpumlpLate(Gpumlp):
    """All layers updated after the backward pass: what updating large ones during it saves."""

    @staticmethod
    def choose_backend(device: str, precision: str) -> Backend:
        """As in `Gpumlp`."""
        backend = get_backend(device, precision)
        backend.early_update = float("inf")
        return backend


class GpumlpTrainer(Gpumlp):
    """gpumlp as its users run it: each turn and each epoch is one `Trainer.fit`.

    So what a `fit` does before its first step and at the end of an epoch is timed, too.
    """

    engine = "Trainer"

    def load(self) -> None:
        """As in `Gpumlp`."""
        problem = self.problem
        self.x, self.labels = self.backend.asarray(problem.x), problem.labels
        self.trainer = Trainer(
            self.model, self.loss, self.optimizer, batch_size=self.batch, seed=problem.seed
        )

    def prepare(self, n: int) -> None:
        """Nothing: each `fit` begins an epoch."""

    def take(self, n: int) -> None:
        """As in `Contender`."""
        self.trainer.fit(self.x, self.labels, epochs=1, max_steps=n)

    def epoch(self) -> None:
        """As in `Contender`."""
        self.trainer.fit(self.x, self.labels, epochs=1)
