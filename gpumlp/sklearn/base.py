"""What both estimators share: data in, network, training, hidden features out, pickling."""

import warnings
from itertools import pairwise
from operator import is_
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.metrics import get_scorer
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ..backend import Array, Backend, get_backend
from ..layers import Dense
from ..losses import Loss
from ..model import Sequential
from ..samples import as_class_weight, as_samples
from ..trainer import Trainer
from .lbfgs import fit_lbfgs
from .parameters import activations, check_parameters, dropout_rates, hidden_sizes
from .rows import Part, checked, checked_rows, on_gpu, weights_of
from .solvers import (
    EpochFactor,
    Progress,
    Scorer,
    Terms,
    check_finite,
    decay,
    fit_batches,
    optimizer_of,
    start_counting,
    start_scoring,
)

SMALL = 2**17  # rows · parameters up to which float64 costs milliseconds
NOT_PICKLED = ("_network", "_exposed", "_trainer")


def takes_batches(estimator: Any) -> bool:
    """Return whether an estimator can be trained piece by piece; AttributeError if not."""
    if estimator.solver == "lbfgs":
        raise AttributeError("partial_fit is for the solvers adam and sgd, not for lbfgs")
    return True


class MultilayerPerceptron(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """The network of an estimator, and how it is trained; a subclass knows targets and loss."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    # ------------------------------------------------------------------ what a subclass decides

    def _encode(self, y: Any, first: bool, classes: Any = None) -> Any:
        """Return checked targets as the loss takes them, NumPy (N,) or (N, K).

        The first call decides what classes there are: those given, or those in y.
        """
        raise NotImplementedError

    def _loss(self, backend: Backend | str = "cpu") -> Loss:
        raise NotImplementedError

    def _terms(self, part: Part) -> Terms:
        raise NotImplementedError

    def _class_weight(self, y: Any) -> Any:
        return None

    def _stratify(self, target: Any) -> Any:
        return None

    _metric = ""  # the default score, of gpumlp's metrics

    # ---------------------------------------------------------------------------------- training

    def fit(self, X: Any, y: Any, sample_weight: Any = None, validation: Any = None) -> Self:
        """Train the network.

        Args:
            X: rows (N, D): NumPy, pandas, sparse (made dense batch by batch) or CuPy.
            y: targets (N,) or (N, K).
            sample_weight: (N,), >= 0.
            validation: (X, y) of a validation part of one's own: its scores and losses are kept
                after each epoch, and with `early_stopping` decide instead of a part of X.

        Raises ValueError for data and parameters that do not fit, and when training diverges.
        """
        return self._fit(X, y, sample_weight, validation, incremental=False)

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        validation: Any,
        incremental: bool,
        classes: Any = None,
    ) -> Self:
        check_parameters(self)
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        if validation is not None and self.solver == "lbfgs":
            raise ValueError('validation needs solver="adam" or "sgd": lbfgs has no epochs')
        first = not (hasattr(self, "coefs_") and (self.warm_start or incremental))
        part = self._part(X, y, sample_weight, first, classes)
        rng = check_random_state(self.random_state)
        if first:
            self._start(part, rng)
        model = self._net()
        self._check_shape(part.target)
        if self.solver == "lbfgs":
            self._fit_lbfgs(part)
        else:
            held = None if validation is None else self._held_out(validation)
            self._fit_batches(part, held, rng, incremental)
        check_finite(model)
        self._expose(model)
        return self

    def _part(self, X: Any, y: Any, sample_weight: Any, first: bool, classes: Any = None) -> Part:
        X, y = checked(self, X, y, first, numeric=self._metric == "r2")
        target = self._encode(y, first, classes)
        return Part(X, y, target, weights_of(sample_weight, len(target)))

    def _check_shape(self, target: Any) -> None:
        """Raise ValueError when a model that is trained further would have another shape."""
        if self._outputs(target) != self.n_outputs_:
            raise ValueError(f"y has {self._outputs(target)} outputs, not {self.n_outputs_}")
        now, then = hidden_sizes(self.hidden_layer_sizes), [len(b) for b in self.intercepts_[:-1]]
        if now != then:
            raise ValueError(f"hidden_layer_sizes is {now}, but what is trained further has {then}")

    def _start(self, part: Part, rng: np.random.RandomState) -> None:
        """Make the network, its parameters drawn as scikit-learn draws them."""
        start_counting(self)
        X, rows = part.x, len(part.target)
        self.n_outputs_ = self._outputs(part.target)
        sizes = [X.shape[1], *hidden_sizes(self.hidden_layer_sizes), self.n_outputs_]
        parameters = sum((a + 1) * b for a, b in pairwise(sizes))
        small = np.dtype(X.dtype) == np.float64 and rows * parameters <= SMALL
        precision = self.precision
        if precision == "auto":
            precision = "fp64" if small or self.solver == "lbfgs" else "fp32"
        device: Any = self.device
        if on_gpu(X) and device == "auto":
            device = f"cuda:{X.device.id}"
        backend = get_backend(device, None if isinstance(device, Backend) else precision)
        self._network = self._build(sizes, backend)
        factor = 2.0 if self.activation == "logistic" else 6.0
        for a, b, layer in zip(sizes[:-1], sizes[1:], self._network.layers, strict=True):
            assert isinstance(layer, Dense)
            assert layer.bias is not None
            bound = np.sqrt(factor / (a + b))
            layer.weight.value[...] = backend.asarray(rng.uniform(-bound, bound, (a, b)).T)
            layer.bias.value[...] = backend.asarray(rng.uniform(-bound, bound, b))
        self.n_layers_ = len(sizes)
        self.__dict__.pop("_trainer", None)
        self._expose(self._network)

    def _build(self, sizes: list[int], backend: Backend) -> Sequential:
        names = [*activations(self.activation, len(sizes) - 2), "identity"]
        rates = [*dropout_rates(self.dropout, len(sizes) - 2), 0.0]
        layers = [
            Dense(a, b, name, backend, init="zeros", dropout=rate)
            for (a, b), name, rate in zip(pairwise(sizes), names, rates, strict=True)
        ]
        return Sequential(*layers)

    def _fit_batches(
        self, part: Part, held: Part | None, rng: np.random.RandomState, incremental: bool
    ) -> None:
        model = self._net()
        if self.early_stopping and held is None:
            part, held = self._split(part, rng)
        rows = self._rows = len(part.target)
        batch = min(200, rows) if self.batch_size == "auto" else min(int(self.batch_size), rows)
        if self.batch_size != "auto" and self.batch_size > rows:
            clipped = f"Got batch_size={self.batch_size} and {rows} samples: it is clipped"
            warnings.warn(clipped, stacklevel=4)
        terms = self._terms(part)
        trainer = self._trainer_of(model, terms, part.y, incremental, rng)
        trainer.batch_size, trainer.shuffle = batch, bool(self.shuffle)
        trainer.optimizer.weight_decay = decay(self.alpha, terms, rows, batch, part.weight)
        self.n_iter_ = 0
        score, held_terms = None, terms
        if held is not None:
            start_scoring(self)
            score, held_terms = self._scorer(held), self._terms(held)
        progress = Progress(self, terms, held_terms, score, incremental)
        fit_batches(trainer, progress, part, held)

    def _trainer_of(
        self,
        model: Sequential,
        terms: Terms,
        y: Any,
        incremental: bool,
        rng: np.random.RandomState,
    ) -> Trainer:
        """Return the trainer of the last `partial_fit`, or a new one."""
        kept = self.__dict__.get("_trainer")
        if incremental and kept is not None and kept.model is model:
            return kept  # type: ignore[no-any-return]
        # the first draws after those that scikit-learn makes, too
        model.seed = seed = int(rng.randint(2**31 - 1))
        self._trainer = Trainer(
            model,
            self._loss(model.backend),
            optimizer_of(self, terms),
            schedule=EpochFactor(),
            seed=seed,
            metrics=[self._metric],
            class_weight=self._class_weight(y),
        )
        return self._trainer

    def _split(self, part: Part, rng: np.random.RandomState) -> tuple[Part, Part]:
        """Set a validation part aside, the rows that scikit-learn would take."""
        train, held = train_test_split(
            np.arange(len(part.target)),
            random_state=rng,
            test_size=self.validation_fraction,
            stratify=self._stratify(part.target),
        )
        if len(held) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        backend = self._net().backend
        return part.take(train, backend), part.take(held, backend)

    def _held_out(self, validation: Any) -> Part:
        if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
            raise ValueError("validation must be (X, y) or (X, y, sample_weight)")
        X, y, weight = (*validation, None)[:3]
        return self._part(X, y, weight, first=False)

    def _scorer(self, held: Part) -> Scorer:
        """Return what scores the network as it is on the validation part, given its record."""
        if self.scoring in (None, "loss"):  # measured by the trainer
            return lambda record: float(record[f"val_{self._metric}"])
        scorer = get_scorer(self.scoring)
        extra = {} if held.weight is None else {"sample_weight": held.weight}
        return lambda record: float(scorer(self, held.x, held.y, **extra))

    def _fit_lbfgs(self, part: Part) -> None:
        model = self._net()
        self._rows = len(part.target)
        loss = self._loss(model.backend)
        class_weight = as_class_weight(model, loss.task(model.n_out), self._class_weight(part.y))
        data = as_samples(model, loss, part.x, part.target, part.weight, class_weight=class_weight)
        fit_lbfgs(self, model, loss, data, self._terms(part))

    # ------------------------------------------------------------------------------- predictions

    def _output(self, X: Any) -> Array:
        """Return y of the network for rows X: probabilities, rates or values (N, K)."""
        model = self._net()
        z = model.predict(self._rows_to_predict(X))
        return self._out(self._loss(model.backend).link(z, model.backend), X)

    def transform(self, X: Any) -> Array:
        """Return the activations of layer `feature_layer` for rows X: (N, units).

        0 is the input, 1 the first hidden layer, ...; -1 the output before softmax or sigmoid, -2
        the last hidden layer.
        """
        rows = self._rows_to_predict(X)
        return self._out(self._net().features(rows, self.feature_layer), X)

    @property
    def _n_features_out(self) -> int:
        sizes = [self.n_features_in_, *(len(b) for b in self.intercepts_)]
        return int(sizes[self.feature_layer])

    def _rows_to_predict(self, X: Any) -> Any:
        check_is_fitted(self)
        return checked_rows(self, X)

    def _out(self, values: Array, X: Any) -> Array:
        """Return results where X lies."""
        stays = on_gpu(X) and self._net().backend.name != "cpu"
        return values if stays else np.asarray(self._net().backend.to_numpy(values))

    # --------------------------------------------------------------------------------- the network

    def _net(self) -> Sequential:
        """Return the network; it is made again from `coefs_` where these are other arrays now.

        As they are after unpickling, or where somebody put them there.
        """
        check_is_fitted(self)
        network, exposed = self.__dict__.get("_network"), self.__dict__.get("_exposed", ())
        same = all(map(is_, [*self.coefs_, *self.intercepts_], exposed))
        if network is None or not same:
            network = self._network = self._rebuilt()
            self._expose(network)
        return network

    def _rebuilt(self) -> Sequential:
        sizes = [self.n_features_in_, *(len(b) for b in self.intercepts_)]
        doubles = self.coefs_[0].dtype == np.float64
        precision = "fp64" if doubles else self.precision.replace("auto", "fp32")
        device: Any = self.device
        backend = get_backend(device, None if isinstance(device, Backend) else precision)
        network = self._build(sizes, backend)
        for layer, w, b in zip(network.layers, self.coefs_, self.intercepts_, strict=True):
            assert isinstance(layer, Dense)
            assert layer.bias is not None
            layer.weight.value[...] = backend.asarray(np.ascontiguousarray(w.T))
            layer.bias.value[...] = backend.asarray(b)
        return network

    def _expose(self, model: Sequential) -> None:
        """Set coefs_ (n_in, n_out) and intercepts_: on a CPU views, which training writes."""
        to_numpy = model.backend.to_numpy
        layers = [layer for layer in model.layers if isinstance(layer, Dense)]
        self.coefs_ = [to_numpy(layer.weight.value).T for layer in layers]
        self.intercepts_ = [
            to_numpy(layer.bias.value) for layer in layers if layer.bias is not None
        ]
        self._exposed = [*self.coefs_, *self.intercepts_]

    def _outputs(self, target: Any) -> int:
        """Return how many outputs targets like these ask of the network."""
        return 1 if target.ndim == 1 else int(target.shape[1])

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        return {key: value for key, value in state.items() if key not in NOT_PICKLED}


partial_fit_available = available_if(takes_batches)
