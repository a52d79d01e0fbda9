"""What commands share that apply a trained model: the model, a device, and rows for it."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..data.prepare import Prepared
from ..data.sources import load_rows
from ..data.types import Array
from ..errors import ConfigError, DataError, FileError
from ..files import read_small
from ..model import EVALUATION_ROWS
from ..run_place import ENVIRONMENT
from ..saved_model import SavedModel, load_model

BLOCK_ROWS = 16 * EVALUATION_ROWS  # a multiple, so that the network sees the same blocks


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
    source = source_of(options, model)
    x, named = load_rows(source, model.config.data, model.columns)
    check_width(x, model, source)
    return x, named


def source_of(options: argparse.Namespace, model: SavedModel) -> str:
    """Return the source that --data names, or the run's own."""
    return model.config.data.source if options.data is None else str(options.data)


def check_width(x: Array, model: SavedModel, source: str) -> None:
    """Raise DataError unless rows have as many columns as those the model was trained on."""
    width = len(model.scaler.offset)
    if x.shape[1] != width:
        raise DataError(f"{source}: {x.shape[1]} columns, the training data has {width}")


def label_names(model: SavedModel) -> Sequence[str]:
    """Return the names of classes, or of several labels as their columns are called."""
    target = model.config.data.target
    columns = model.targets.task == "multilabel" and not isinstance(target, str)
    return target if columns else model.targets.classes


def in_blocks(compute: Callable[[Array], Array], x: Array) -> Array:
    """Return what `compute` makes of rows x, of which only some are scaled at a time.

    >>> in_blocks(lambda rows: rows * 2, np.arange(6).reshape(3, 2)).tolist()
    [[0, 2], [4, 6], [8, 10]]
    """
    return np.concatenate(
        [compute(x[start : start + BLOCK_ROWS]) for start in range(0, len(x), BLOCK_ROWS)]
    )


def prepare_again(model: SavedModel, run: Path, dtype: npt.DTypeLike) -> Prepared:
    """Return the data that the model of RUN was trained on, see `SavedModel.prepare_again`."""
    return model.prepare_again(_fingerprint(run), dtype)


def _fingerprint(run: Path) -> str | None:
    """Return the sha256 of the data that a run folder has kept, if it has."""
    folder = run if run.is_dir() else run.parent
    try:
        found = json.loads(read_small(folder / ENVIRONMENT))["data_sha256"]
    except (FileError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) else None
