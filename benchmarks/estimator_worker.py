"""The process of one system in estimators.py: fits its MLPClassifier or MLPRegressor when asked."""

import sys
import warnings
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from worker import serve

from gpumlp.data.mnist import load_mnist

MODULES = {"gpumlp": "gpumlp.sklearn", "sklearn": "sklearn.neural_network"}  # of the estimators
TEST_SIZE = 0.25


class Parts(NamedTuple):
    """The rows to train on and those to test on."""

    x: np.ndarray
    x_test: np.ndarray
    y: np.ndarray
    y_test: np.ndarray


@lru_cache(maxsize=1)
def parts_of(data: str, seed: int) -> Parts:
    """Return a data set as both systems get it, float64.

    Of scikit-learn's sets a quarter of the rows, drawn from the seed and stratified by class, is
    for testing, and columns are standardized over the others. MNIST has its own test images, and
    pixels from 0 to 1.
    """
    if data == "mnist":
        (x, y), (x_test, y_test) = load_mnist(None)
        flat, flat_test = (images.reshape(len(images), -1) / 255 for images in (x, x_test))
        return Parts(flat, flat_test, y, y_test)
    sets, selection = import_module("sklearn.datasets"), import_module("sklearn.model_selection")
    x, y = getattr(sets, f"load_{data}")(return_X_y=True)
    stratify = y if y.dtype.kind == "i" else None
    x, x_test, y, y_test = selection.train_test_split(
        x, y, test_size=TEST_SIZE, random_state=seed, stratify=stratify
    )
    scaler = import_module("sklearn.preprocessing").StandardScaler().fit(x)
    return Parts(scaler.transform(x), scaler.transform(x_test), y, y_test)


class Estimators:
    """The worker's own end: its methods are the commands."""

    def __init__(self, system: str) -> None:
        began = perf_counter()
        self.module = import_module(MODULES[system])
        names = {"gpumlp": ["gpumlp"], "sklearn": ["scikit-learn", "scipy"]}[system]
        self.about: dict[str, Any] = {
            "versions": {name: version(name) for name in [*names, "numpy"]}
        }
        self.about |= {"import_seconds": perf_counter() - began}

    def describe(self) -> dict[str, Any]:
        """What Worker.about says."""
        from threadpoolctl import threadpool_info

        pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        return self.about | {"threads": max(pools, default=1)}

    def fit(self, data: str, estimator: str, parameters: dict[str, Any], seed: int) -> Any:
        """Fit once: seconds of the fit, score of the test part, number of epochs."""
        parts = parts_of(data, 0 if data == "mnist" else seed)  # the same for every seed
        network = getattr(self.module, estimator)(random_state=seed, **parameters)
        with warnings.catch_warnings():  # max_iter may come first; the number of epochs says so
            warnings.simplefilter("ignore", import_module("sklearn.exceptions").ConvergenceWarning)
            began = perf_counter()
            network.fit(parts.x, parts.y)
            seconds = perf_counter() - began
        return {
            "seconds": seconds,
            "score": float(network.score(parts.x_test, parts.y_test)),
            "iterations": int(network.n_iter_),
            "rows": [len(parts.x), len(parts.x_test)],
        }


if __name__ == "__main__":
    serve(sys.argv[1], Estimators)
