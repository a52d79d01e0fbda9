"""What the commands share that apply a trained model: the model, rows for it, a file to write."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..data.csv_file import read_csv
from ..data.frame import Frame
from ..data.output import Columns, check_output
from ..data.parquet_file import read_arrow
from ..data.prepare import Prepared, prepare
from ..data.sources import TABLES, kind_of, load_array, load_rows
from ..data.types import Array
from ..errors import ConfigError, DataError
from ..model import EVALUATION_ROWS
from ..saved_model import SavedModel, load_model

BLOCK_ROWS = 16 * EVALUATION_ROWS  # a multiple, so that the network sees the same blocks


def add_model_arguments(parser: argparse.ArgumentParser, default_data: str) -> None:
    """Add RUN, --data and --device; `default_data` says what is read without --data."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder or model file")
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help="file, builtin:NAME or mnist (its test part), with the columns of the training data, "
        f"in any order; default: {default_data}",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def add_output_arguments(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Add --out and --overwrite."""
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"a new .npy, .npz, .csv or .parquet file{more}",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file in --out")


def model_of(options: argparse.Namespace) -> SavedModel:
    """Return the model of RUN on the device of --device.

    Raises FileError for what is no model, ConfigError for an unknown device, and DeviceError for
    one that is not there.
    """
    try:
        return load_model(options.run, options.device)
    except ValueError as error:
        raise ConfigError(f"--device: {error}") from None


def rows_of(model: SavedModel, data: str | None) -> tuple[Array, str]:
    """Return unscaled rows for a model, of a source or else of what it was trained on; and whose.

    Raises DataError for rows that do not fit the model.
    """
    source = data or model.config.data.source
    x, _ = load_rows(source, model.config.data, model.columns)
    width = len(model.scaler.offset)
    if x.shape[1] != width:
        raise DataError(f"{source}: {x.shape[1]} columns, the training data has {width}")
    return x, source


def in_blocks(compute: Callable[[Array], Array], x: Array) -> Array:
    """Return what `compute` makes of the rows x, of which only some are scaled at a time.

    >>> in_blocks(lambda rows: rows * 2, np.arange(6).reshape(3, 2)).tolist()
    [[0, 2], [4, 6], [8, 10]]
    """
    return np.concatenate(
        [compute(x[start : start + BLOCK_ROWS]) for start in range(0, len(x), BLOCK_ROWS)]
    )


def kept_columns(source: str, names: Sequence[str]) -> Columns:
    """Return columns of a source as they are written there.

    Raises ConfigError, about --keep, for a source without columns, and DataError.
    """
    kind = kind_of(source)
    if kind == "csv":
        return read_csv(Path(source), source, names, names, verbatim=True).columns
    if kind == "parquet":
        return read_arrow(Path(source), source, names)
    if kind not in ("npy", "idx"):
        raise ConfigError(f"--keep: {source} has no columns with names; {', '.join(TABLES)} have")
    frame = Frame.from_array(load_array(kind, source), source)
    return dict(zip(names, frame.pick(names), strict=True))


def label_names(model: SavedModel) -> list[str]:
    """Return the names of the classes, or of the labels as their columns are called."""
    target = model.config.data.target
    if model.targets.task == "multilabel" and not isinstance(target, str):
        return list(target)
    return list(model.targets.classes)


def output_names(model: SavedModel) -> list[str]:
    """Return the names of a regression's outputs: prediction, and what the columns are called."""
    target, outputs = model.config.data.target, model.targets.outputs
    if not isinstance(target, str):
        return [f"prediction_{name}" for name in target]
    return ["prediction"] if outputs == 1 else [f"prediction_{i}" for i in range(outputs)]


def check_out(options: argparse.Namespace) -> None:
    """Raise ConfigError or FileError unless --out can be written."""
    check_output(options.out, "--out", options.overwrite)


def prepared_as_trained(model: SavedModel, run: Path, dtype: npt.DTypeLike) -> Prepared:
    """Return the parts of the data that a model was trained on, split and scaled again.

    Raises DataError where the data is not what it was, as far as scaling, classes and the
    fingerprint in the run folder tell.
    """
    config = model.config
    data = prepare(config.data, config.model.task, config.seed, dtype)
    own, saved = data.scaler.to_arrays(), model.scaler.to_arrays()
    same = own.keys() == saved.keys() and all(np.array_equal(own[k], saved[k]) for k in own)
    known = _fingerprint(run)
    if not same or data.targets != model.targets or known not in (None, data.fingerprint):
        raise DataError(
            f"{config.data.source}: not the data that {run} was trained on; it was changed since"
        )
    return data


def _fingerprint(run: Path) -> str | None:
    """Return the sha256 of the data that a run folder has, if it has one."""
    folder = run if run.is_dir() else run.parent
    try:
        environment = json.loads((folder / "env.json").read_text(encoding="utf-8"))
        found = environment["data_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None
