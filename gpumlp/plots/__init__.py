"""Plots of a finished training, as PNG files: how it went, where it is wrong, what it learned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from ..errors import ConfigError
from ..events import Record
from ..files import file_errors, write_atomically
from ..gradients.norms import GradientNorms
from ..model import Sequential
from ..trainer import Trainer
from .classes import confusion, thresholds
from .epochs import gradient_norms, history, learning_rate
from .features import LayerFeatures, feature_planes, layer_features, shown_rows
from .predictions import Predictions
from .regression import predicted_against_true, residuals
from .style import Figure, our_style, png
from .weights import first_layer

__all__ = [
    "Pictured",
    "Predictions",
    "draw",
    "pictured",
    "plots_wanted",
    "write_files",
    "write_plots",
]


def plots_wanted(setting: bool | Literal["auto"]) -> bool:
    """Return whether `log.plots` asks for plots; "auto" does where matplotlib is installed.

    Raises ConfigError when it is true and matplotlib is missing.

    >>> plots_wanted(False)
    False
    """
    installed = setting is not False and find_spec("matplotlib") is not None
    if setting is True and not installed:
        raise ConfigError(
            "log.plots: true needs matplotlib, which is not installed; "
            'pip install "gpumlp[plot]", or log.plots = "auto"'
        )
    return installed


@dataclass(frozen=True, eq=False)
class Pictured:
    """What the plots of a run show, as far as it is known, in NumPy arrays.

    Args:
        name: of the run, for the titles.
        task: of the network; None where that is not known.
        records: one per epoch, as `Trainer.history` has them.
        best_epoch: that of early stopping, if there was any.
        initial_norms: as `GradientNorms.initial`.
        weights: the network's matrices (n_out, n_in), the first layer's first.
        predictions: of one part of the data.
        layers: what the layers make of some rows of that part, see `features.layer_features`.
    """

    name: str
    task: str | None
    records: Sequence[Record]
    best_epoch: int | None = None
    initial_norms: Mapping[str, float] = field(default_factory=dict)
    weights: Sequence[np.ndarray] = ()
    predictions: Predictions | None = None
    layers: Sequence[LayerFeatures] = ()

    def with_network(
        self, model: Sequential, predictions: Predictions | None, scale: float = 1.0
    ) -> "Pictured":
        """Return the same with what a network has learned; `scale` is what x is multiplied by."""
        to_numpy, layers = model.backend.to_numpy, list[LayerFeatures]()
        if predictions is not None:
            if predictions.x is not None:
                rows = predictions.x[shown_rows(len(predictions.x))]
                layers = layer_features(model, rows, scale)
            target, prediction = to_numpy(predictions.target), to_numpy(predictions.prediction)
            weight = predictions.sample_weight
            weight = None if weight is None else to_numpy(weight)
            predictions = replace(
                predictions, target=target, prediction=prediction, sample_weight=weight
            )
        weights = [to_numpy(p.value) for p in model.parameters if p.is_weight]
        return replace(self, weights=weights, predictions=predictions, layers=layers)


def pictured(name: str, trainer: Trainer, predictions: Predictions | None = None) -> Pictured:
    """Return what the plots of a trainer's run show; `name` is the run's, for the titles."""
    norms = [c.initial for c in trainer.callbacks if isinstance(c, GradientNorms)]
    return Pictured(
        name, trainer.task, trainer.history, trainer.best_epoch, norms[0] if norms else {}
    ).with_network(trainer.model, predictions, trainer.input_scale)


def write_plots(
    folder: Path, name: str, trainer: Trainer, predictions: Predictions | None = None
) -> list[Path]:
    """Write the figures of a run as PNG files into `folder`, and return their paths.

    The same run gives the same bytes. Raises FileError.
    """
    return write_files(folder, draw(pictured(name, trainer, predictions)))


def write_files(folder: Path, pictures: Mapping[str, bytes]) -> list[Path]:
    """Write PNG files into `folder`, which is made, and return their paths. Raises FileError."""
    with file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{stem}.png" for stem in pictures]
    for path, content in zip(written, pictures.values(), strict=True):
        write_atomically(path, content)
    return written


def draw(pictured: Pictured) -> dict[str, bytes]:
    """Return each figure for which enough is known, as PNG, by the name of its file."""
    with our_style():
        figures = {**_of_epochs(pictured), **_of_predictions(pictured)}
        return {stem: png(figure) for stem, figure in figures.items() if figure is not None}


def _of_epochs(pictured: Pictured) -> dict[str, Figure]:
    name, records = pictured.name, pictured.records
    return {
        "history": history(name, records, pictured.best_epoch),
        "learning_rate": learning_rate(name, records),
        "gradient_norms": gradient_norms(name, records, dict(pictured.initial_norms)),
        "first_layer": first_layer(name, pictured.weights),
    }


def _of_predictions(pictured: Pictured) -> dict[str, Figure]:
    name, task, predictions = pictured.name, pictured.task, pictured.predictions
    if predictions is None or task is None:
        return {}
    figures = {"features": feature_planes(name, task, predictions, pictured.layers)}
    if task in ("multiclass", "binary"):
        figures["confusion_matrix"] = confusion(name, predictions)
    if task == "binary":
        figures["thresholds"] = thresholds(name, predictions)
    if task == "regression":
        figures["predictions"] = predicted_against_true(name, predictions)
        figures["residuals"] = residuals(name, predictions)
    return figures
