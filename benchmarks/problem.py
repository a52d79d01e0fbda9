"""What every contender solves: a network, its data, its first weights, the order of its batches."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from gpumlp.data.builtin import load_builtin
from gpumlp.data.mnist import load_mnist
from gpumlp.randomness import permutation

Weights = list[tuple[np.ndarray, np.ndarray]]  # per layer: W (n_out, n_in) and b (n_out,)

# a(z) of hidden layers, and da/dz from a
ACTIVATIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda a: a * (1 - a)),
    "tanh": (np.tanh, lambda a: 1 - a * a),
    "relu": (lambda z: np.maximum(z, 0), lambda a: (a > 0).astype(a.dtype)),
}
EPOCH_ROWS = 60_000
DATA_BYTES = 2**28


@dataclass(frozen=True)
class Net:
    """Layer sizes and a batch size, written `784-30-10@10`."""

    sizes: tuple[int, ...]
    batch: int

    @classmethod
    def parse(cls, text: str) -> "Net":
        """Return the net of a text; ValueError says what is wrong with it."""
        if not re.fullmatch(r"[1-9]\d*(-[1-9]\d*)+@[1-9]\d*", text):
            raise ValueError(
                f"unknown net {text!r}: expected layer sizes and a batch size, as in 784-30-10@10"
            )
        layers, batch = text.split("@")
        sizes = tuple(map(int, layers.split("-")))
        if sizes[-1] < 3:
            raise ValueError(f"net {text!r}: it needs at least 3 outputs, one for each class")
        return cls(sizes, int(batch))

    @property
    def name(self) -> str:
        """The layers alone, as in `784-30-10`."""
        return "-".join(map(str, self.sizes))

    def __str__(self) -> str:
        return f"{self.name}@{self.batch}"

    def flops(self, rows: int) -> int:
        """Return the operations of the matrix products of one pass over `rows` rows.

        Forward, weight gradient and input gradient are 2 operations per weight and row each; the
        first layer needs no input gradient.
        """
        weights = sum(a * b for a, b in pairwise(self.sizes))
        return rows * (6 * weights - 2 * self.sizes[0] * self.sizes[1])

    def rows(self, at_most: int = EPOCH_ROWS) -> int:
        """Return the rows of the data: 60,000, fewer where they are wide, at least 8 batches."""
        return max(8 * self.batch, min(at_most, DATA_BYTES // (4 * self.sizes[0])))


@dataclass(frozen=True)
class Problem:
    """Data for a net, float32 and the same in every process: synthetic, or real images."""

    net: Net
    rows: int
    optimizer: str  # "sgd" or "adam", plain
    device: str
    seed: int = 0
    data: str = "synthetic"  # or "mnist", "digits"
    lr: float = 1e-3  # small, so that the widest net stays finite however long it is timed
    activation: str = "sigmoid"  # of ACTIVATIONS
    precision: str = "fp32"  # of gpumlp's: what matrix products read

    @property
    def eps(self) -> float:
        """Adam's ε: below every gradient that counts, since scikit-learn adds it elsewhere.

        Its ε / √(1 - β₂ᵗ) is 30 times ours in the first step, by which the usual 1e-8 shows.
        """
        return 1e-10

    @cached_property
    def x(self) -> npt.NDArray[np.float32]:
        """Rows: uniform in [0, 1), or pixels."""
        if self.data != "synthetic":
            return load_images(self.data)[0][: self.rows]
        generator = np.random.default_rng([self.seed, 1])
        return generator.random((self.rows, self.net.sizes[0]), dtype=np.float32)

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """A class for each row: uniform, or what the image shows."""
        if self.data != "synthetic":
            return load_images(self.data)[1][: self.rows]
        generator = np.random.default_rng([self.seed, 2])
        return generator.integers(0, self.net.sizes[-1], self.rows)

    def weights(self) -> Weights:
        """Return the first weights: W uniform in ±√(6 / (n_in + n_out)), b = 0."""
        generator = np.random.default_rng([self.seed, 3])
        layers = []
        for n_in, n_out in pairwise(self.net.sizes):
            limit = (6 / (n_in + n_out)) ** 0.5
            w = generator.uniform(-limit, limit, (n_out, n_in)).astype(np.float32)
            layers.append((w, np.zeros(n_out, np.float32)))
        return layers

    def loss(self, weights: Weights) -> float:
        """Return the mean cross-entropy of the first rows in float64."""
        z = self.forward(self.x[:256], weights)[-1]
        shifted = z - z.max(axis=1, keepdims=True)
        log_y = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return float(-log_y[np.arange(len(z)), self.labels[:256]].mean())

    def accuracy(self, weights: Weights) -> float:
        """Return the share of test images that the network gets right."""
        _, _, x, labels = load_images(self.data)
        return float((self.forward(x, weights)[-1].argmax(axis=1) == labels).mean())

    def trained(self, steps: int) -> Weights:
        """Return the weights after so many steps of gradient descent, by the plain formulas.

        Arithmetic is float64; between steps weights are float32, as every contender keeps them.
        """
        weights, batch = self.weights(), self.net.batch
        order = permutation(self.rows, self.seed, 0)
        for step in range(steps):
            rows = order[step * batch : (step + 1) * batch]
            *inputs, z = self.forward(self.x[rows], weights)
            y = np.exp(z - z.max(axis=1, keepdims=True))
            dz = y / y.sum(axis=1, keepdims=True)
            dz[np.arange(batch), self.labels[rows]] -= 1
            dz /= batch
            for k in reversed(range(len(weights))):
                (w, b), a = weights[k], inputs[k]
                new_w, new_b = w - self.lr * (dz.T @ a), b - self.lr * dz.sum(axis=0)
                weights[k] = new_w.astype(np.float32), new_b.astype(np.float32)
                dz = dz @ w.astype(np.float64) * ACTIVATIONS[self.activation][1](a)
        return weights

    def forward(self, x: np.ndarray, weights: Weights) -> list[np.ndarray]:
        """Return the inputs of all layers in float64 and the last z."""
        values = [x.astype(np.float64)]
        for w, b in weights:
            z = values[-1] @ w.astype(np.float64).T + b
            values.append(ACTIVATIONS[self.activation][0](z))
        return [*values[:-1], z]


@cache
def load_images(data: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return training x (N, D) in [0, 1], labels (N,), test x, labels of "mnist" or "digits".

    Raises gpumlp's DataError where MNIST is not found.
    """
    if data == "mnist":
        (x, y), (x_test, y_test) = load_mnist(None)
    else:
        images, labels = load_builtin("digits")
        order = np.random.default_rng(0).permutation(len(images))
        (x_test, x), (y_test, y) = ((a[order[:360]], a[order[360:]]) for a in (images, labels))
    top = np.float32(x.max())
    parts = [images.reshape(len(images), -1).astype(np.float32) / top for images in (x, x_test)]
    return parts[0], y.astype(np.int64), parts[1], y_test.astype(np.int64)


def update_norms(before: Weights, after: Weights) -> list[float]:
    """Return ‖ΔW‖, ‖Δb‖ layer after layer: how far training has moved each parameter."""
    return [
        float(np.linalg.norm(new.astype(np.float64) - old))
        for pair in zip(before, after, strict=True)
        for old, new in zip(*pair, strict=True)
    ]
