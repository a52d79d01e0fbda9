"""JAX as a contender: all steps of a turn in one compiled scan, or a compiled step for each."""

import os
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
from contenders import Contender
from problem import Problem, Weights

# of products of float32; in bf16 everything between the data and the logits is bfloat16
READS = {
    "fp32": "highest",
    "tf32": "tensorfloat32",
    "bf16": "highest",
    "bf16x3": "BF16_BF16_F32_X3",
    "bf16x6": "BF16_BF16_F32_X6",
}


def load_jax() -> Any:
    """Import JAX; on a GPU it would take three quarters of the memory for itself at once."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return import_module("jax")


class Jax(Contender):
    """JAX with all n steps in one compiled `lax.scan`; another n is compiled anew (untimed)."""

    engine = "scan"
    unroll = 1  # steps in one turn of the compiled loop

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.jax: Any = load_jax()
        # on a GPU its float32 products would read TF32 unless told otherwise
        if problem.precision not in READS:
            raise ValueError(f"JAX has no loss scaling, which {problem.precision} needs")
        self.jax.config.update("jax_default_matmul_precision", READS[problem.precision])
        self.device = self.jax.devices("cpu" if problem.device == "cpu" else "gpu")[0]
        self.x, self.labels = self._put(problem.x), self._put(problem.labels.astype(np.int32))
        parameters = self._put(problem.weights())
        zeros = self.jax.tree.map(self.jax.numpy.zeros_like, parameters)
        moments = (zeros, self.jax.tree.map(lambda a: a.copy(), zeros))
        self.state = (
            parameters,
            moments if problem.optimizer == "adam" else (),
            self._put(np.float32(0)),
        )
        self.scan = self.jax.jit(self._scan, donate_argnums=0)

    def _put(self, tree: Any) -> Any:
        return self.jax.device_put(tree, self.device)

    def _cost(self, parameters: Any, x: Any, labels: Any) -> Any:
        nn, jnp = self.jax.nn, self.jax.numpy
        activation = getattr(nn, self.problem.activation)
        if self.problem.precision == "bf16":
            x, parameters = self.jax.tree.map(lambda a: a.astype(jnp.bfloat16), (x, parameters))
        for w, b in parameters[:-1]:
            x = activation(x @ w.T + b)
        w, b = parameters[-1]
        log_y = nn.log_softmax((x @ w.T + b).astype(jnp.float32))
        return -jnp.take_along_axis(log_y, labels[:, None], axis=1).mean()

    def _step(self, state: Any, rows: Any, x: Any, labels: Any) -> Any:
        tree, lr = self.jax.tree, self.problem.lr
        parameters, moments, t = state
        g = self.jax.grad(self._cost)(parameters, x[rows], labels[rows])
        if not moments:
            return tree.map(lambda w, g: w - lr * g, parameters, g), (), t
        t = t + 1
        m = tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], g)
        v = tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, moments[1], g)
        scale, correction = lr / (1 - 0.9**t), (1 - 0.999**t) ** -0.5
        change = tree.map(lambda m, v: scale * m / (correction * v**0.5 + self.problem.eps), m, v)
        return tree.map(lambda w, d: w - d, parameters, change), (m, v), t

    def _scan(self, state: Any, order: Any, x: Any, labels: Any) -> Any:
        def body(state: Any, rows: Any) -> Any:
            return self._step(state, rows, x, labels), None

        return self.jax.lax.scan(body, state, order, unroll=self.unroll)[0]

    def set_order(self, order: np.ndarray) -> None:
        """As in `Contender`."""
        self.order, self.rest = np.split(order.astype(np.int32), [self.steps * self.batch])
        self.order = self.order.reshape(self.steps, self.batch)

    def _train(self, order: np.ndarray) -> None:
        self.state = self.scan(self.state, self._put(order), self.x, self.labels)

    def take(self, n: int) -> None:
        """As in `Contender`."""
        self._train(self.order[self.position : self.position + n])

    def epoch(self) -> None:
        """As in `Contender`."""
        self.begin_epoch()
        self._train(self.order)
        if len(self.rest):
            self._train(self.rest[None])
        self.position = self.steps
        self.synchronize()

    def synchronize(self) -> None:
        """As in `Contender`."""
        self.jax.block_until_ready(self.state)

    def weights(self) -> Weights:
        """As in `Contender`."""
        return [(np.array(w), np.array(b)) for w, b in self.state[0]]

    @staticmethod
    def describe() -> dict[str, Any]:
        """As in `Contender`; XLA has no setting for its threads, it takes all cores."""
        jax: Any = load_jax()
        jax.devices()
        return {"versions": {"jax": version("jax"), "jaxlib": version("jaxlib")}, "threads": None}


class JaxUnroll8(Jax):
    """The same with eight steps in each turn of the loop, which saves a GPU the loop's overhead."""

    engine = "scan-8"
    unroll = 8


class JaxStep(Jax):
    """JAX as most training loops use it: one compiled step, called for each batch.

    The epoch's order lies on the device and the step is told its number: as fast or faster than
    handing it the rows of the batch (measured).
    """

    engine = "jit"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.step = self.jax.jit(self._numbered, donate_argnums=0)

    def _numbered(self, state: Any, order: Any, i: Any, x: Any, labels: Any) -> Any:
        return self._step(state, order[i], x, labels)

    def set_order(self, order: np.ndarray) -> None:
        """As in `Contender`."""
        super().set_order(order)
        self.on_device = self._put(self.order)

    def take(self, n: int) -> None:
        """As in `Contender`."""
        for i in range(self.position, self.position + n):
            self.state = self.step(self.state, self.on_device, i, self.x, self.labels)

    def epoch(self) -> None:
        """As in `Contender`."""
        self.begin_epoch()
        self.take(self.steps)
        if len(self.rest):
            rest = self._put(self.rest[None])
            self.state = self.step(self.state, rest, 0, self.x, self.labels)
        self.position = self.steps
        self.synchronize()
