"""`gpumlp predict`: classes, probabilities or values of rows, written for other programs."""

import argparse
import sys
from dataclasses import dataclass

import numpy as np

from ..data.frame import Text
from ..data.output import Columns, csv_blocks, write_output
from ..data.types import Array
from ..errors import ConfigError
from ..saved_model import SavedModel
from ..wording import count
from .model_and_rows import (
    add_model_arguments,
    add_output_arguments,
    check_out,
    in_blocks,
    kept_columns,
    label_names,
    model_of,
    output_names,
    rows_of,
)

WHAT = ("all", "classes", "probabilities")


@dataclass(frozen=True)
class Predictions:
    """What is written: columns by name for tables, arrays for npz, the first of them as npy."""

    columns: Columns
    arrays: dict[str, Array]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `predict` to a parser."""
    add_model_arguments(parser, "what the run was trained on")
    add_output_arguments(parser, ", or - for csv on stdout; npy holds numbers only")
    parser.add_argument(
        "--what",
        choices=WHAT,
        default="all",
        help="of a classifier: the most probable class, the probability of each, or both (default)",
    )
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="COLUMN",
        help="copy a column of the data, such as an id, to csv or parquet; repeatable",
    )


def run(options: argparse.Namespace) -> int:
    """Write the predictions and say what was written."""
    to_stdout = str(options.out) == "-"
    if not to_stdout:
        check_out(options)
    if options.keep and not to_stdout and options.out.suffix.lower() not in (".csv", ".parquet"):
        raise ConfigError(f"--keep needs csv or parquet; --out {options.out} holds numbers only")
    model = model_of(options)
    if model.targets.task == "regression" and options.what != "all":
        raise ConfigError(f"--what {options.what}: a regression has neither; leave it out")
    x, source = rows_of(model, options.data)
    kept = kept_columns(source, list(dict.fromkeys(options.keep))) if options.keep else {}
    found = predictions(model, in_blocks(model.predict, x), options.what, options.out.suffix)
    both = [name for name in kept if name in found.columns]
    if both:
        raise ConfigError(f"--keep {both[0]}: predict writes a column of that name itself")
    columns = {**kept, **found.columns}
    if to_stdout:
        _to_stdout(columns)
        return 0
    write_output(options.out, columns, found.arrays)
    sys.stdout.write(f"{options.out}: {count(len(x), 'row')}, {', '.join(_few(columns))}\n")
    return 0


def predictions(model: SavedModel, y: Array, what: str, suffix: str) -> Predictions:
    """Return what is asked for of a model's output y (N, K), as columns and as arrays.

    An npz has the names of classes where an npy, which holds one array of numbers, has indices.
    """
    if model.targets.task == "regression":
        columns = dict(zip(output_names(model), y.T, strict=True))
        return Predictions(columns, {"prediction": y[:, 0] if y.shape[1] == 1 else y})
    names = label_names(model)
    if model.targets.task == "binary":
        y = np.concatenate([1 - y, y], axis=1)
    if model.targets.task == "multilabel":
        chosen: Array = (y > 0.5).astype(np.uint8)
        labels = [name if name != str(i) else f"label_{i}" for i, name in enumerate(names)]
        classes: Columns = dict(zip(labels, chosen.T, strict=True))
    else:
        chosen = y.argmax(axis=1)
        classes = {"class": Text(tuple(names), chosen)}
        if suffix.lower() == ".npz":
            chosen = np.array(names)[chosen]
    probabilities = {f"p_{name}": column for name, column in zip(names, y.T, strict=True)}
    both = [name for name in classes if name in probabilities]
    if what == "all" and both:
        raise ConfigError(
            f'--what all: "{both[0]}" would be two columns; write classes and probabilities apart'
        )
    columns = {
        **(classes if what != "probabilities" else {}),
        **(probabilities if what != "classes" else {}),
    }
    arrays = {"probabilities": y, "classes": chosen}
    if what != "all":
        arrays = {what: arrays[what]}
    return Predictions(columns, {**arrays, "names": np.array(names)})


def _to_stdout(columns: Columns) -> None:
    """Write csv as UTF-8, as a file has it."""
    sys.stdout.flush()
    for block in csv_blocks(columns):
        sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()


def _few(columns: Columns, most: int = 6) -> list[str]:
    names = list(columns)
    return names if len(names) <= most else [*names[: most - 1], f"... {names[-1]}"]
