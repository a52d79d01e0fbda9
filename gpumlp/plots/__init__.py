"""Plots of a finished training, as PNG files: how it went, where it is wrong, what it learned."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from ..errors import ConfigError
from ..files import file_errors, write_atomically
from ..gradients.norms import GradientNorms
from ..trainer import Trainer
from .epochs import gradient_norms, history, learning_rate
from .model import Predictions, confusion, first_layer, predicted_against_true
from .style import our_style, png

__all__ = ["Predictions", "plots_wanted", "write_plots"]


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


def write_plots(
    folder: Path, name: str, trainer: Trainer, predictions: Predictions | None = None
) -> list[Path]:
    """Write the figures of a run as PNG files into `folder`, and return their paths.

    `name` is the run's, for the titles. The same run gives the same bytes. Raises FileError.
    """
    records = trainer.history
    norms = [c.initial for c in trainer.callbacks if isinstance(c, GradientNorms)]
    to_numpy = trainer.model.backend.to_numpy
    weights = [to_numpy(p.value) for p in trainer.model.parameters if p.is_weight]
    if predictions is not None:
        target, prediction = to_numpy(predictions.target), to_numpy(predictions.prediction)
        predictions = replace(predictions, target=target, prediction=prediction)
    with our_style():
        figures = {
            "history": history(name, records, trainer.best_epoch),
            "learning_rate": learning_rate(name, records),
            "gradient_norms": gradient_norms(name, records, norms[0] if norms else {}),
            "first_layer": first_layer(name, weights),
        }
        if predictions is not None and trainer.task in ("multiclass", "binary"):
            figures["confusion_matrix"] = confusion(name, predictions)
        elif predictions is not None and trainer.task == "regression":
            figures["predictions"] = predicted_against_true(name, predictions)
        with file_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        written = []
        for stem, figure in figures.items():
            if figure is not None:
                written.append(folder / f"{stem}.png")
                write_atomically(written[-1], png(figure))
    return written
