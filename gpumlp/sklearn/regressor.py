"""MLPRegressor: values, one or several a row."""

from typing import Any, Self

import numpy as np
from scipy.special import xlogy
from sklearn.base import RegressorMixin
from sklearn.utils.validation import column_or_1d

from ..backend import Array, Backend
from ..losses import Loss, MeanAbsoluteError, MeanSquaredError, Poisson
from .base import MultilayerPerceptron, partial_fit_available
from .rows import Part
from .solvers import Terms

LOSSES: dict[str, type[Loss]] = {
    "squared_error": MeanSquaredError,
    "absolute_error": MeanAbsoluteError,
    "poisson": Poisson,
}


class MLPRegressor(RegressorMixin, MultilayerPerceptron):  # type: ignore[misc]
    """A multilayer perceptron for values: scikit-learn's estimator, trained by gpumlp.

    Args:
        loss: "squared_error" (half the square), "poisson" (half the deviance, the prediction is
            e^z), or "absolute_error".
        hidden_layer_sizes, activation, ..., max_fun: as in `MLPClassifier`.
        dropout, scoring, feature_layer, device, precision: as there; scores are R².

    Attributes as there, without `classes_`.

    >>> x = [[0.0], [1.0], [2.0], [3.0]]
    >>> model = MLPRegressor(hidden_layer_sizes=(), solver="lbfgs", alpha=0, random_state=0)
    >>> model.fit(x, [1.0, 3.0, 5.0, 7.0]).predict([[4.0]]).round(3)
    array([9.])
    """

    _metric = "r2"

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: Any = 0.0,
        scoring: Any = None,
        feature_layer: int = -2,
        device: Any = "auto",
        precision: str = "auto",
    ) -> None:
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.dropout = dropout
        self.scoring = scoring
        self.feature_layer = feature_layer
        self.device = device
        self.precision = precision

    @partial_fit_available  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, validation: Any = None
    ) -> Self:
        """Train for one epoch on these rows, with the optimizer's state of the last call.

        Arguments and errors are those of `fit`.
        """
        return self._fit(X, y, sample_weight, validation, incremental=True)

    def predict(self, X: Any) -> Array:
        """Return the predicted values, (N,) or (N, K)."""
        y = self._output(X)
        return y[:, 0] if y.shape[1] == 1 else y

    # ------------------------------------------------------------------------------------ targets

    @property
    def out_activation_(self) -> str:
        """What the output layer's z go through: "identity" or "exp"."""
        return "exp" if self.loss == "poisson" else "identity"

    def _encode(self, y: Any, first: bool, classes: Any = None) -> Any:
        y = np.asarray(y, np.float64)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if self.loss == "poisson" and y.min() < 0:
            raise ValueError(f'loss="poisson" needs y >= 0, got {y.min():g}')
        return y.reshape(len(y), -1)

    def _loss(self, backend: Backend | str = "cpu") -> Loss:
        return LOSSES[self.loss](backend=backend)

    def _terms(self, part: Part) -> Terms:
        outputs = part.target.shape[1]
        if self.loss == "squared_error":
            return Terms(gradient=2 / outputs, loss=0.5)
        if self.loss == "absolute_error":
            return Terms(gradient=1 / outputs)
        t = part.target  # of half the deviance ours leaves out what does not depend on the network
        best = np.average(xlogy(t, t) - t, weights=part.weight, axis=0).sum()
        return Terms(gradient=1 / outputs, loss=outputs, constant=float(best))
