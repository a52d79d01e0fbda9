"""MLPClassifier: classes by softmax, two classes or several labels by sigmoids."""

from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

from ..backend import Array, Backend
from ..data.targets import class_indices
from ..losses import BinaryCrossEntropy, Loss, SoftmaxCrossEntropy
from .base import MultilayerPerceptron, partial_fit_available
from .rows import Part, on_gpu
from .solvers import Terms


class MLPClassifier(ClassifierMixin, MultilayerPerceptron):  # type: ignore[misc]
    """A multilayer perceptron for classes: scikit-learn's estimator, trained by gpumlp.

    Args:
        hidden_layer_sizes: units of each hidden layer; a number is one layer, () none.
        activation: "relu", "logistic", "tanh", "identity", or any other of gpumlp; a list gives
            each hidden layer its own.
        solver: "adam", "sgd", or "lbfgs": SciPy's, on all rows at once.
        alpha: L2 penalty, divided by the number of rows of a batch, as in scikit-learn.
        batch_size: rows of a batch; "auto" is min(200, N).
        learning_rate: for sgd: "constant", "invscaling" (by the rows seen to the power of
            `power_t`), or "adaptive" (a fifth, whenever training no longer gets better).
        learning_rate_init, power_t: see there.
        max_iter: epochs at most; for lbfgs iterations.
        shuffle: a new order of the rows in each epoch.
        random_state: draws parameters (the same as scikit-learn), validation part, order, dropout.
        tol, n_iter_no_change: training ends when the loss (with early stopping, the score) got no
            better by tol in more than so many epochs; tol is also the gradient where lbfgs ends.
        verbose: print each epoch's loss.
        warm_start: `fit` goes on from what the last one found.
        momentum, nesterovs_momentum: for sgd.
        early_stopping: stop by the score of a validation part, and keep the best epoch.
        validation_fraction: part of the rows for that, unless `fit` is given one.
        beta_1, beta_2, epsilon: for adam.
        max_fun: for lbfgs: evaluations of the loss at most.
        class_weight: None, "balanced", or class → weight in the loss.
        dropout: probability that a hidden unit is dropped in training; a list gives each layer its.
        scoring: what early stopping looks at: None (accuracy), "loss", a name of scikit-learn's
            scorers, or a callable (estimator, X, y) → score.
        feature_layer: the layer that `transform` returns; -2 is the last hidden one.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
        precision: "auto" computes in float32, but in float64 for lbfgs and for float64 rows where
            rows times parameters are 2^17 at most; or any of gpumlp's precisions.

    Attributes as in scikit-learn (`coefs_`, `intercepts_`, `classes_`, `loss_curve_`, `best_loss_`,
    `n_iter_`, `t_`, `validation_scores_` ...), `validation_loss_curve_`, and `class_weight_` (C,).

    >>> x, y = [[0.0], [1.0], [2.0], [3.0]], ["no", "no", "yes", "yes"]
    >>> model = MLPClassifier((4,), solver="lbfgs", random_state=0).fit(x, y)
    >>> model.predict([[0.2], [2.8]]).tolist()
    ['no', 'yes']
    """

    _metric = "accuracy"

    def __init__(
        self,
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
        class_weight: Any = None,
        dropout: Any = 0.0,
        scoring: Any = None,
        feature_layer: int = -2,
        device: Any = "auto",
        precision: str = "auto",
    ) -> None:
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
        self.class_weight = class_weight
        self.dropout = dropout
        self.scoring = scoring
        self.feature_layer = feature_layer
        self.device = device
        self.precision = precision

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    @partial_fit_available  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None, validation: Any = None
    ) -> Self:
        """Train for one epoch on these rows, with the optimizer's state of the last call.

        `classes` are all classes there will be, needed in the first call; the rest is as in `fit`.

        Raises ValueError as `fit` does, for a class that is not among them, and for
        class_weight="balanced", which needs all rows.
        """
        if self.class_weight == "balanced":
            raise ValueError('class_weight="balanced" needs all rows: give the weights themselves')
        known = self.classes_ if hasattr(self, "coefs_") else None
        if known is None and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        if classes is not None:
            classes = np.unique(np.asarray(classes))
            if known is not None and not np.array_equal(known, classes):
                raise ValueError(f"classes={classes} is not the same as in the first call: {known}")
        return self._fit(X, y, sample_weight, validation, incremental=True, classes=classes)

    def predict(self, X: Any) -> Array:
        """Return the most probable class of each row (N,); for several labels 0 and 1 (N, K)."""
        y = self._output(X)
        if self._multilabel:
            return (y > 0.5).astype(np.int64)
        index = class_indices(y)
        if on_gpu(index) and self.classes_.dtype.kind in "biuf":
            return self._net().backend.asarray(self.classes_, self.classes_.dtype)[index]
        return self.classes_[self._net().backend.to_numpy(index)]

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, or of each label: (N, C), in `classes_`' order."""
        y = self._output(X)
        if y.shape[1] > 1 or self._multilabel:
            return y
        both = self._net().backend.xp if on_gpu(y) else np
        return both.concatenate([1 - y, y], axis=1)

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithms of `predict_proba`."""
        y = self.predict_proba(X)
        with np.errstate(divide="ignore"):
            return (self._net().backend.xp if on_gpu(y) else np).log(y)

    # ------------------------------------------------------------------------------------ targets

    @property
    def out_activation_(self) -> str:
        """What the output layer's z go through: "softmax" or "logistic"."""
        return "logistic" if self.n_outputs_ == 1 or self._multilabel else "softmax"

    def _encode(self, y: Any, first: bool, classes: Any = None) -> Any:
        y = y.toarray() if hasattr(y, "toarray") else np.asarray(y)
        kind = type_of_target(y)  # takes a millisecond, so it is asked once
        if not kind.startswith("multi") and kind != "binary":
            check_classification_targets(y)  # says what it is instead
        labels = kind == "multilabel-indicator"
        if y.ndim == 2 and not labels:
            if y.shape[1] > 1:
                raise ValueError(f"y has {y.shape[1]} columns of classes, not one")
            y = column_or_1d(y, warn=True)
        found = np.arange(y.shape[1]) if labels else np.unique(y)
        if first:
            self.classes_, self._multilabel = found if classes is None else classes, labels
        if labels != self._multilabel:
            raise ValueError("y is one class a row in one place and several labels in another")
        if labels:
            return (y != 0).astype(np.float64)
        self._check_classes(found)
        index = np.searchsorted(self.classes_, y)
        return index.astype(np.float64)[:, None] if len(self.classes_) == 2 else index

    def _check_classes(self, found: Any) -> None:
        """Raise ValueError unless these classes of y are among those of the model."""
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs at least 2 classes; y has 1 class: {found[0]!r}")
        new = np.setdiff1d(found, self.classes_)
        if len(new):
            raise ValueError(f"`y` has classes not in `self.classes_`: {new}, not {self.classes_}")

    def _outputs(self, target: Any) -> int:
        return len(self.classes_) if target.ndim == 1 else int(target.shape[1])

    def _loss(self, backend: Backend | str = "cpu") -> Loss:
        loss = SoftmaxCrossEntropy if self.out_activation_ == "softmax" else BinaryCrossEntropy
        return loss(backend=backend)

    def _terms(self, part: Part) -> Terms:
        labels = self.n_outputs_ if self._multilabel else 1
        return Terms(gradient=1 / labels, loss=labels)

    def _class_weight(self, y: Any) -> Any:
        self.class_weight_ = None if self.class_weight is None else self._weights_of_classes(y)
        return self.class_weight_

    def _weights_of_classes(self, y: Any) -> Any:
        if self._multilabel:
            raise ValueError("class_weight needs one class a row, y has several labels")
        if isinstance(self.class_weight, dict):
            unknown = [c for c in self.class_weight if c not in self.classes_.tolist()]
            if unknown:
                raise ValueError(
                    f"class_weight names {unknown[0]!r}, which is no class; "
                    f"the classes are {self.classes_.tolist()}"
                )
        return compute_class_weight(self.class_weight, classes=self.classes_, y=np.asarray(y))

    def _stratify(self, target: Any) -> Any:
        return None if self._multilabel else target
