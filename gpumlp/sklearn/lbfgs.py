"""Solver "lbfgs": SciPy's L-BFGS-B on the flat parameter vector, with the gradient of all rows.

The rows pass through the network some thousand at a time, so memory does not grow with them.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from ..backend import Array, RecordingBackend, Workspace
from ..losses import Loss
from ..model import Sequential
from ..parameters import accumulating_sink, gradient_sink
from ..samples import Samples
from .solvers import Terms

BLOCK_ROWS = 8192
Vector = npt.NDArray[np.float64]


class Objective:
    """Loss and gradient of all rows as functions of the flat parameters, float64 (P,).

    Args:
        model, loss: the network and its loss.
        data: the rows.
        alpha: of the penalty alpha / 2 · ‖W‖² / (weight of all rows).
        terms: of the loss.
    """

    def __init__(
        self, model: Sequential, loss: Loss, data: Samples, alpha: float, terms: Terms
    ) -> None:
        self.model, self.loss, self.data, self.terms = model, loss, data, terms
        backend = model.backend
        self.backend = RecordingBackend(backend, Workspace(backend))
        weight = data.loss_weight
        if weight is None:
            weight = backend.xp.ones((len(data.x),), backend.dtype)
        self.weight = weight
        self.sum = float(weight.sum(dtype="float64"))
        self.alpha = alpha / self.sum

    def __call__(self, values: Vector) -> tuple[float, Vector]:
        """Return the loss and its gradient in scikit-learn's terms."""
        flat, backend = self.model.flat, self.model.backend
        flat.values[...] = backend.asarray(values)
        factor = self.weight / (self.sum * self.terms.gradient)
        total = 0.0
        with np.errstate(all="ignore"):  # a line search may look far away
            for start in range(0, len(self.data.x), BLOCK_ROWS):
                total += self._block(slice(start, start + BLOCK_ROWS), factor)
            weights = slice(flat.weights_end)
            gradient: Vector = np.asarray(backend.to_numpy(flat.gradients), np.float64).copy()
            gradient[weights] += self.alpha * values[weights]
            penalty = self.alpha / 2 * float(values[weights] @ values[weights])
        loss = total / self.sum * self.terms.loss + self.terms.constant + penalty
        return loss, gradient

    def _block(self, rows: slice, factor: Array) -> float:
        """Add the gradient of some rows to that of those before; return Σ w l."""
        backend, data = self.backend, self.data
        backend.workspace.position = 0
        x = self.model.backend.asarray(data.x[rows])
        z = self.model.forward(x, backend=backend)
        losses, _, dz = self.loss.apply(z, data.target[rows], factor[rows], backend)
        into = gradient_sink if rows.start == 0 else accumulating_sink
        self.model.backward(dz, into=into, input_gradient=False, backend=backend)
        return float((losses * self.weight[rows]).sum(dtype="float64"))


def fit_lbfgs(estimator: Any, model: Sequential, loss: Loss, data: Samples, terms: Terms) -> None:
    """Minimize, and set the estimator's `n_iter_` and `loss_`."""
    objective = Objective(model, loss, data, estimator.alpha, terms)
    start = np.asarray(model.backend.to_numpy(model.flat.values), np.float64).copy()
    largest = model.operations_of_largest_product(min(len(data.x), BLOCK_ROWS))
    with model.backend.threads_for(largest):
        found = minimize(
            objective,
            start,
            method="L-BFGS-B",
            jac=True,
            callback=_printed() if estimator.verbose else None,
            options={
                "maxfun": estimator.max_fun,
                "maxiter": estimator.max_iter,
                "gtol": estimator.tol,
            },
        )
    model.flat.values[...] = model.backend.asarray(found.x)
    estimator.n_iter_ = min(int(found.nit), int(estimator.max_iter))
    estimator.loss_ = float(found.fun)
    if found.status != 0:
        warnings.warn(
            f"lbfgs failed to converge after {found.nit} iteration(s) (status={found.status}): "
            f"{found.message}. Increase max_iter ({estimator.max_iter}) or scale the data.",
            ConvergenceWarning,
            stacklevel=4,
        )


def _printed() -> Callable[..., None]:
    count = 0

    def show(intermediate_result: Any) -> None:
        nonlocal count
        count += 1
        print(f"Iteration {count}, loss = {intermediate_result.fun:.8f}")

    return show
