"""Draw the plots of a run from its folder: its metrics, its model, and its data if unchanged."""

from ..data.prepare import prepare
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
        predictions = _predictions(run, run.model)
    except GpumlpError as error:
        lacking = f"without its data no plot of predictions can be drawn: {error}"
    else:
        if predictions is None:
            lacking = "its data have changed since, so predictions are not drawn"
    return draw(pictured.with_network(run.model.network, predictions)), lacking


def _predictions(run: RunFiles, model: SavedModel) -> Predictions | None:
    """Return what the model says of the test part, or what there is; None for other data.

    Raises DataError and FileError for data that cannot be read.
    """
    config, backend = model.config, model.network.backend
    data = prepare(config.data, config.model.task, config.seed, backend.dtype)
    if data.fingerprint != run.environment.get("data_sha256") or data.targets != model.targets:
        return None
    parts = {"test": data.test, "val": data.val, "train": data.train}
    name, part = next((name, part) for name, part in parts.items() if part is not None)
    y = model.loss.link(model.network.predict(part.x), backend)
    unscale = None if model.target_scaler is None else model.target_scaler.inverse
    classes, weight = model.targets.classes, part.sample_weight
    return Predictions(name, part.y, y, classes, unscale, weight, part.x)
