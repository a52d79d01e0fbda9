"""scikit-learn as a contender: MLPClassifier, by partial_fit."""

from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
from contenders import Contender
from problem import Problem, Weights


class Sklearn(Contender):
    """scikit-learn's MLPClassifier without momentum and penalty.

    A step is one whole `partial_fit` call on a batch, the only way to make a single update: with
    the checks of its input and of the labels that a call makes. An epoch is one `partial_fit` call
    on all rows with its own batches and its own shuffle, so there those checks weigh nothing.
    """

    engine = "partial_fit"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        network: Any = import_module("sklearn.neural_network")
        self.network = network.MLPClassifier(
            problem.net.sizes[1:-1],
            activation={"sigmoid": "logistic"}.get(problem.activation, problem.activation),
            solver=problem.optimizer,
            alpha=0.0,
            batch_size=self.batch,
            learning_rate="constant",
            learning_rate_init=problem.lr,
            epsilon=problem.eps,
            momentum=0.0,
            nesterovs_momentum=False,
            shuffle=False,
            random_state=problem.seed,
        )
        # the first call makes the arrays, then ours go in, and the optimizer starts afresh
        classes = np.arange(problem.net.sizes[-1])
        first = slice(self.batch)
        self.network.partial_fit(problem.x[first], problem.labels[first], classes=classes)
        for i, (w, b) in enumerate(problem.weights()):
            self.network.coefs_[i][...] = w.T
            self.network.intercepts_[i][...] = b
        del self.network._optimizer

    def set_order(self, order: np.ndarray) -> None:
        """As in `Contender`."""
        self.order = order

    def take(self, n: int) -> None:
        """As in `Contender`."""
        x, labels, start = self.problem.x, self.problem.labels, self.position * self.batch
        for i in range(start, start + n * self.batch, self.batch):
            rows = self.order[i : i + self.batch]
            self.network.partial_fit(x.take(rows, 0), labels.take(rows))

    def epoch(self) -> None:
        """As in `Contender`."""
        self.network.shuffle = True
        self.network.partial_fit(self.problem.x, self.problem.labels)
        self.network.shuffle = False

    def weights(self) -> Weights:
        """As in `Contender`."""
        pairs = zip(self.network.coefs_, self.network.intercepts_, strict=True)
        return [(w.T.copy(), b.copy()) for w, b in pairs]

    @staticmethod
    def describe() -> dict[str, Any]:
        """As in `Contender`; its products are NumPy's and SciPy's."""
        from threadpoolctl import threadpool_info

        import_module("sklearn.neural_network")
        blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        versions = {name: version(name) for name in ("scikit-learn", "numpy", "scipy")}
        return {"versions": versions, "threads": max(blas, default=1)}
