"""`gpumlp predict`: classes, probabilities or values, a row for each row of the data."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..console import show
from ..data.frame import Text
from ..data.output import Column, check_output, csv_blocks, write_arrays, write_columns
from ..data.sources import load_cells
from ..data.targets import class_indices
from ..data.types import Array
from ..errors import ConfigError
from ..saved_model import SavedModel
from ..wording import count
from .model_and_rows import (
    add_model_arguments,
    in_blocks,
    label_names,
    open_model,
    open_rows,
    source_of,
)

WHAT = ("all", "classes", "probabilities")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `predict` to a parser."""
    add_model_arguments(parser, "what the run was trained on")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="a new .csv, .parquet, .npz or .npy file; - prints csv",
    )
    parser.add_argument(
        "--what", choices=WHAT, default="all", help="of a classification; default: all"
    )
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="COLUMN",
        help="a column of the data, such as a number of the row, to copy into csv or parquet; "
        "repeatable",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file in --out")


def run(options: argparse.Namespace) -> int:
    """Write the predictions and say what was written."""
    printed = str(options.out) == "-"
    if not printed:
        check_output(options.out, "--out", options.overwrite)
    table = printed or options.out.suffix.lower() in (".csv", ".parquet")
    if options.keep and not table:
        raise ConfigError(f"--keep: {options.out.suffix} holds numbers; write .csv or .parquet")
    model = open_model(options)
    if model.targets.task == "regression" and options.what != "all":
        raise ConfigError(f"--what {options.what}: a regression has values only")
    x, _ = open_rows(options, model)
    y = in_blocks(model.predict, x)
    if not table:
        write_arrays(options.out, as_arrays(model, y, options.what, options.out))
    else:
        source = source_of(options, model)
        kept = load_cells(source, model.config.data, _once(options.keep)) if options.keep else {}
        columns = as_columns(model, y, options.what)
        twice = [name for name in kept if name in columns]
        if twice:
            raise ConfigError(f"--keep {twice[0]}: the predictions have a column of that name")
        if printed:
            _print_csv(kept | columns)
            return 0
        write_columns(options.out, kept | columns)
    show(f"{options.out}: {count(len(y), 'row')}")
    return 0


def _once(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _print_csv(columns: dict[str, Column]) -> None:
    """Write csv to stdout, in UTF-8 as a file has it, whatever the terminal's encoding."""
    sys.stdout.flush()
    for block in csv_blocks(columns):
        sys.stdout.buffer.write(block.encode())
    sys.stdout.buffer.flush()


def as_columns(model: SavedModel, y: Array, what: str) -> dict[str, Column]:
    """Return predictions y, as `SavedModel.predict` returns them, as named columns.

    A column `class` and one p_NAME for each class; for several labels a column NAME of 0 and 1 for
    each, and p_NAME; in regression the names of the targets, or prediction.
    """
    task, names = model.targets.task, label_names(model)
    if task == "regression":
        return dict(zip(_value_names(model, y.shape[1]), y.T, strict=True))
    columns: dict[str, Column] = {}
    if what != "probabilities":
        if task == "multilabel":
            columns |= dict(zip(names, (y > 0.5).astype(np.int64).T, strict=True))
        else:
            columns["class"] = Text(tuple(names), class_indices(y))
    if what != "classes":
        for name, column in zip(names, _of_each_class(model, y).T, strict=True):
            if f"p_{name}" in columns:
                raise ConfigError(f'--what all: there is a label "p_{name}", too; ask for one kind')
            columns[f"p_{name}"] = column
    return columns


def as_arrays(model: SavedModel, y: Array, what: str, path: Path) -> dict[str, Array]:
    """Return predictions as arrays for an npz, or the one array of an npy.

    npz: `probabilities` (N, C) and `classes`, names (N,) or 0 and 1 (N, K); or `prediction` (N, K).
    npy: the probabilities or values, or with what = "classes" indices of classes.
    """
    task = model.targets.task
    if task == "regression":
        return {"prediction": y}
    single = path.suffix.lower() == ".npy"
    classes: Callable[[], Array] = lambda: (y > 0.5).astype(np.int64)  # noqa: E731
    if task != "multilabel":
        index = class_indices(y)
        classes = lambda: index if single else np.array(model.targets.decode(index))  # noqa: E731
    if what == "classes":
        return {"classes": classes()}
    arrays = {"probabilities": _of_each_class(model, y)}
    return arrays if single or what == "probabilities" else arrays | {"classes": classes()}


def _of_each_class(model: SavedModel, y: Array) -> Array:
    """Return probabilities (N, C): a binary model's are of its second class only."""
    return np.concatenate([1 - y, y], axis=1) if model.targets.task == "binary" else y


def _value_names(model: SavedModel, outputs: int) -> list[str]:
    target = model.config.data.target
    if not isinstance(target, str) and len(target) == outputs:
        return list(target)
    if isinstance(target, str) and outputs == 1 and model.columns.names:
        return [target]
    return ["prediction"] if outputs == 1 else [f"prediction_{i}" for i in range(outputs)]
