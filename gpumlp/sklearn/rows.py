"""Rows as users give them, on the host or on a GPU, dense or sparse, with targets and weights."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import validate_data

from ..backend import Array, Backend


def on_gpu(x: Any) -> bool:
    """Return whether x lies in the memory of a CUDA device, as CuPy's arrays do."""
    return hasattr(x, "__cuda_array_interface__")


def to_host(array: Any) -> Any:
    """Return an array of a GPU as NumPy's; anything else as it is."""
    return array.get() if on_gpu(array) else array


class Part(NamedTuple):
    """Rows with their targets: `y` as given, `target` (N,) or (N, K) as the loss takes them."""

    x: Any
    y: Any
    target: Any
    weight: Any

    def take(self, rows: Array, backend: Backend) -> "Part":
        """Return some of the rows."""
        x = self.x[rows] if not on_gpu(self.x) else self.x.take(backend.asarray(rows, np.int64), 0)
        weight = None if self.weight is None else self.weight[rows]
        return Part(x, self.y[rows], self.target[rows], weight)


def weights_of(sample_weight: Any, rows: int) -> Any:
    """Return sample weights as NumPy (N,), or None."""
    if sample_weight is None:
        return None
    weight = np.asarray(to_host(sample_weight), np.float64)
    if weight.ndim == 0:
        weight = np.full(rows, float(weight))
    if weight.shape != (rows,):
        raise ValueError(f"sample_weight must have shape ({rows},), got {weight.shape}")
    if not weight.any():
        raise ValueError("sample_weight is zero for every row")
    return weight


def checked(estimator: Any, X: Any, y: Any, first: bool, numeric: bool) -> tuple[Any, Any]:
    """Return X (N, D) and y after scikit-learn's checks, which set `n_features_in_` at first.

    What lies on a GPU stays there, unless the estimator's device is the CPU.
    """
    if estimator.device == "cpu":
        X = to_host(X)
    if not on_gpu(X):
        return validate_data(  # type: ignore[no-any-return]
            estimator,
            X,
            y,
            reset=first,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            dtype=(np.float64, np.float32),
            y_numeric=numeric,
        )
    X, y = _on_device(estimator, X, first), to_host(y)
    if len(y) != len(X):
        raise ValueError(f"X has {len(X)} rows, y has {len(y)}")
    return X, y


def checked_rows(estimator: Any, X: Any) -> Any:
    """Return X (N, D) to predict, after the same checks."""
    if estimator.device == "cpu":
        X = to_host(X)
    if on_gpu(X):
        return _on_device(estimator, X, first=False)
    return validate_data(
        estimator, X, reset=False, accept_sparse=["csr", "csc"], dtype=(np.float64, np.float32)
    )


def _on_device(estimator: Any, X: Any, first: bool) -> Any:
    """Return rows on a GPU, with scikit-learn's check of their number of features."""
    if X.ndim != 2 or not X.size:
        raise ValueError(f"X must have rows and columns, its shape is {X.shape}")
    if first:
        estimator.n_features_in_ = X.shape[1]
    elif X.shape[1] != estimator.n_features_in_:
        raise ValueError(
            f"X has {X.shape[1]} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input."
        )
    return X
