"""What evaluate, predict and features share: a model, a device, and rows for it."""

import argparse
from pathlib import Path

from ..data.sources import load_rows
from ..data.types import Array
from ..errors import ConfigError, DataError
from ..saved_model import SavedModel, load_model


def add_model_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """Add RUN, --data and --device; `default` says what is taken without --data."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder or model file")
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help="file, builtin:NAME or mnist, with the columns of the training data; "
        f"default: {default}",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def open_model(options: argparse.Namespace) -> SavedModel:
    """Return the model of RUN on the device; ConfigError for a device that cannot be."""
    try:
        return load_model(options.run, options.device)
    except ValueError as error:
        raise ConfigError(f"--device: {error}") from None


def open_rows(options: argparse.Namespace, model: SavedModel) -> tuple[Array, str]:
    """Return rows x (N, D), unscaled, of --data or the run's own source, and what these are."""
    source = options.data or model.config.data.source
    x, named = load_rows(source, model.config.data, model.columns)
    check_width(x, model, source)
    return x, named


def check_width(x: Array, model: SavedModel, source: str) -> None:
    """Raise DataError unless rows have as many columns as those the model was trained on."""
    width = len(model.scaler.offset)
    if x.shape[1] != width:
        raise DataError(f"{source}: {x.shape[1]} columns, the training data has {width}")
