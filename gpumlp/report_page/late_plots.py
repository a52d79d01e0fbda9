"""Draw the plots of a run from its folder: its metrics, its model, and its data if unchanged."""

from ..errors import GpumlpError
from ..plots import Pictured, Predictions, draw
from ..saved_model import SavedModel
from .run_reading import RunFiles


def draw_late(run: RunFiles) -> tuple[dict[str, bytes], str]:
    """Return the plots as PNG by the name of their file, and what is lacking, or "".

    Gradient norms before the first step are in no file, so that plot begins with epoch 1. Needs
    matplotlib.
    """
    task = None if run.config is None else run.config.model.task
    pictured = Pictured(run.name, task, run.records, run.best_epoch)
    if run.model is None:
        drawn = draw(pictured)
        what = "only the course of training can be drawn" if drawn else "there is nothing to draw"
        return drawn, f"without a model {what}"
    predictions, lacking = None, ""
    try:
        predictions = _predictions(run.model, run.environment.get("data_sha256"))
    except GpumlpError as error:
        lacking = f"without its data no plot of predictions can be drawn: {error}"
    return draw(pictured.with_network(run.model.network, predictions)), lacking


def _predictions(model: SavedModel, fingerprint: str | None) -> Predictions:
    """Return what the model says of the test part, or what there is.

    Raises DataError and FileError for data that cannot be read or are other ones now.
    """
    backend = model.network.backend
    name, part = model.prepare_again(fingerprint, backend.dtype).last_part
    y = model.loss.link(model.network.predict(part.x), backend)
    unscale = None if model.target_scaler is None else model.target_scaler.inverse
    classes, weight = model.targets.classes, part.sample_weight
    return Predictions(name, part.y, y, classes, unscale, weight, part.x)
