"""Save an estimator, or a pipeline that scales first, as a model file that every command reads."""

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.validation import check_is_fitted

from ..config_file import parse_config
from ..data.features import Features
from ..data.scaling import Scaler
from ..data.sources import ARRAYS
from ..data.targets import NO_TEXT, Targets
from ..saved_model import SavedModel
from .base import MultilayerPerceptron
from .classifier import MLPClassifier
from .parameters import activations, dropout_rates, hidden_sizes

LOSSES = {"squared_error": "mse", "absolute_error": "mae", "poisson": "poisson"}


def save_model(model: Any, path: str | Path, target: str = "label") -> SavedModel:
    """Write a fitted estimator to a safetensors file, and return what it holds.

    Args:
        model: an `MLPClassifier`, an `MLPRegressor`, or a Pipeline of one after a StandardScaler
            or MinMaxScaler, whose numbers are saved as the model's scaling.
        path: the file; `gpumlp predict`, `evaluate`, `export` ... take it like a run folder.
        target: name of the target's column in the files that `evaluate` will be given.

    Raises ValueError for a pipeline with other steps, NotFittedError, and FileError.

    >>> import tempfile
    >>> x, y = [[0.0], [1.0], [2.0], [3.0]], ["no", "no", "yes", "yes"]
    >>> model = MLPClassifier((4,), solver="lbfgs", random_state=0).fit(x, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     saved = save_model(model, f"{folder}/model.safetensors")
    >>> saved.classify(np.array([[0.2], [2.8]]))
    ['no', 'yes']
    """
    steps = [step for _, step in model.steps] if isinstance(model, Pipeline) else [model]
    *before, estimator = steps
    if not isinstance(estimator, MultilayerPerceptron):
        raise ValueError(f"only gpumlp's estimators can be saved, not {type(estimator).__name__}")
    check_is_fitted(estimator)
    before = [step for step in before if step not in (None, "passthrough")]
    width = estimator.coefs_[0].shape[0]
    scaler = Scaler("none", np.zeros(width), np.ones(width))
    if before:
        if len(before) > 1:
            raise ValueError("one step of scaling can be saved with a model, not several")
        scaler = _scaler(before[0], width)
    names = getattr(steps[0], "feature_names_in_", ())
    network = estimator._net()
    saved = SavedModel(
        parse_config(_config(estimator, target), "the estimator"),
        network,
        estimator._loss(network.backend),
        scaler,
        _targets(estimator),
        Features(tuple(map(str, names))),
        class_weight=getattr(estimator, "class_weight_", None),
    )
    saved.save(Path(path))
    return saved


def _scaler(step: Any, width: int) -> Scaler:
    """Return x -> (x - offset) · factor of a fitted step of scikit-learn's."""
    check_is_fitted(step)
    if isinstance(step, StandardScaler):
        offset = np.zeros(width) if step.mean_ is None else step.mean_
        factor = np.ones(width) if step.scale_ is None else 1 / step.scale_
        return Scaler("standard", np.asarray(offset, np.float64), np.asarray(factor, np.float64))
    if isinstance(step, MinMaxScaler) and not step.clip:
        # x · scale + min = (x - (-min / scale)) · scale
        factor = np.asarray(step.scale_, np.float64)
        return Scaler("minmax", -np.asarray(step.min_, np.float64) / factor, factor)
    raise ValueError(
        f"{step!r} cannot be saved with a model; StandardScaler and MinMaxScaler (without clip) can"
    )


def _task(estimator: MultilayerPerceptron) -> str:
    if not isinstance(estimator, MLPClassifier):
        return "regression"
    if estimator._multilabel:
        return "multilabel"
    return "binary" if estimator.n_outputs_ == 1 else "multiclass"


def _targets(estimator: MultilayerPerceptron) -> Targets:
    task, outputs = _task(estimator), estimator.n_outputs_
    classes = getattr(estimator, "classes_", np.empty(0))
    whole = classes.dtype.kind == "f" and (classes == np.floor(classes)).all()
    names = classes.astype(np.int64) if whole else classes
    texts = tuple(map(str, names.tolist()))
    if any(map(NO_TEXT.search, texts)):
        raise ValueError("a class name holds what no file can: NUL, or half a character")
    return Targets(task, texts, outputs)


def _config(estimator: MultilayerPerceptron, target: str) -> dict[str, Any]:
    """Return the configuration of a network like the estimator's, trained on arrays."""
    hidden = hidden_sizes(estimator.hidden_layer_sizes)
    layers = [
        {"units": units, "activation": name, "dropout": rate}
        for units, name, rate in zip(
            hidden,
            activations(estimator.activation, len(hidden)),
            dropout_rates(estimator.dropout, len(hidden)),
            strict=True,
        )
    ]
    loss = LOSSES.get(getattr(estimator, "loss", ""), "auto")
    precision = estimator._net().backend.precision.name
    return {
        "name": type(estimator).__name__,
        "precision": precision,
        "data": {"source": ARRAYS, "scale": "none", "target": target},
        "model": {"task": _task(estimator)} | ({"layers": layers} if hidden else {"hidden": []}),
        "loss": {"name": loss},
    }
