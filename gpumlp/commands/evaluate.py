"""`gpumlp evaluate`: loss and metrics of a model on any data with targets, as a gate on request."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.prepare import Part, prepare
from ..data.sources import load_labelled
from ..data.targets import Targets
from ..data.types import Array
from ..data.weights import class_weights
from ..errors import CheckFailed, ConfigError, DataError
from ..metrics import confusion_matrix, select
from ..optimizers import SGD
from ..run_folder import to_json
from ..saved_model import SavedModel
from ..trainer import Trainer
from ..wording import count, number
from .model_and_rows import add_model_arguments, check_width, open_model

SHOWN_CLASSES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate` to a parser."""
    add_model_arguments(parser, "the run's test part, or what there is")
    parser.add_argument(
        "--target",
        metavar="NAME|FILE",
        help="column or array of the targets, or a file of them; default: the run's",
    )
    parser.add_argument("--metrics", metavar="A,B", help="instead of the run's")
    for name, what in (("min", "least"), ("max", "greatest")):
        parser.add_argument(
            f"--{name}",
            action="append",
            default=[],
            metavar="METRIC=VALUE",
            help=f"the {what} value that is good enough, otherwise exit code 7; repeatable",
        )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


@dataclass(frozen=True)
class Gate:
    """A bound of a metric."""

    metric: str
    bound: float
    least: bool

    def failed(self, results: dict[str, float]) -> str | None:
        """Return what is wrong, if something is; nan is never good enough."""
        value = results[self.metric]
        good = value >= self.bound if self.least else value <= self.bound
        relation = ">=" if self.least else "<="
        return None if good else f"{self.metric} is {value:.6g}, wanted {relation} {self.bound:g}"


def run(options: argparse.Namespace) -> int:
    """Evaluate, print, and raise CheckFailed for a gate that is not passed."""
    model = open_model(options)
    names = None if options.metrics is None else options.metrics.split(",")
    gates = read_gates(options.min, True) + read_gates(options.max, False)
    shown = list(model.config.metrics if names is None else names)
    wanted = list(dict.fromkeys([*shown, *(g.metric for g in gates if g.metric != "loss")]))
    select(model.targets.task, wanted, model.targets.outputs)  # or ConfigError, before any data
    part, source, weight = labelled_part(model, options.data, options.target)
    trainer = Trainer(
        model.network,
        model.loss,
        SGD(),
        metrics=wanted,
        class_weight=weight,
        unscale=None if model.target_scaler is None else model.target_scaler.inverse,
    )
    results = trainer.evaluate(part.x, part.y, part.sample_weight)
    classes = by_class(model.targets, part.y, np.asarray(trainer_output(trainer, part)))
    if options.json:
        found = {"data": source, "rows": len(part.x), **results}
        print(to_json(found | ({"classes": classes} if classes else {}), indent=2))
    else:
        print(report(source, len(part.x), results, classes))
    failed = [problem for gate in gates if (problem := gate.failed(results))]
    if failed:
        raise CheckFailed(f"{source}: {'; '.join(failed)}")
    return 0


def trainer_output(trainer: Trainer, part: Part) -> Array:
    """Return the network's predictions for a part, on the host."""
    return np.asarray(trainer.model.backend.to_numpy(trainer.predict(part.x)))


def read_gates(given: Sequence[str], least: bool) -> list[Gate]:
    """Return the bounds of --min or --max; ConfigError for what is no METRIC=VALUE.

    >>> read_gates(["accuracy=0.9"], True)
    [Gate(metric='accuracy', bound=0.9, least=True)]
    """
    gates = []
    for text in given:
        metric, equals, value = text.partition("=")
        try:
            bound = float(value)
        except ValueError:
            bound = float("nan")
        if not equals or np.isnan(bound):
            option = "--min" if least else "--max"
            raise ConfigError(f'{option} "{text}": must be METRIC=VALUE, as in accuracy=0.9')
        gates.append(Gate(metric.strip(), bound, least))
    return gates


def labelled_part(
    model: SavedModel, data: str | None, target: str | None
) -> tuple[Part, str, Array | None]:
    """Return scaled rows with targets, what they are, and the weights of the classes, if any.

    Without `data` they are the run's own test part, or what there is, from the run's source.
    """
    if data is None and target is not None:
        raise ConfigError("--target belongs to --data; the run's own part has its own")
    own = model.config.data
    if data is None:
        return _own_part(model)
    settings = own if target is None else own.model_copy(update={"target": target})
    table = load_labelled(data, settings, model.columns)
    check_width(table.x, model, data)
    dtype = model.network.backend.dtype
    y = model.targets.encode(table.y, table.target_source)
    if model.target_scaler is not None:
        y = model.target_scaler.transform(y, np.float64, source=table.target_source)
    x = model.scaler.transform(table.x, dtype, source=table.source)
    weight = model.config.loss.class_weight
    # what "balanced" was belongs to the training part, which is not here
    given = None if isinstance(weight, str) else class_weights(y, model.targets, weight, dtype)
    return Part(x, y, table.sample_weight, None), data, given


def _own_part(model: SavedModel) -> tuple[Part, str, Array | None]:
    config, dtype = model.config, model.network.backend.dtype
    prepared = prepare(config.data, config.model.task, config.seed, dtype)
    same = prepared.targets == model.targets and all(
        np.array_equal(mine, now)
        for mine, now in (
            (model.scaler.offset, prepared.scaler.offset),
            (model.scaler.factor, prepared.scaler.factor),
        )
    )
    if not same:
        raise DataError(
            f"{config.data.source}: is not what the model was trained on any more; name it with "
            "--data, if it is what you mean"
        )
    parts = {"test": prepared.test, "val": prepared.val, "train": prepared.train}
    name, part = next((name, part) for name, part in parts.items() if part is not None)
    weight = class_weights(prepared.train.y, model.targets, config.loss.class_weight, dtype)
    return part, f"{config.data.source}, {name} part", weight


def by_class(targets: Targets, y: Array, prediction: Array) -> list[dict[str, Any]]:
    """Return rows, precision, recall and F1 of each class; nothing where there are none.

    Rows count once, whatever their weight; a ratio without any row is nan.
    """
    if targets.task not in ("multiclass", "binary"):
        return []
    true, predicted = (_labels(array) for array in (y, prediction))
    matrix = confusion_matrix(true, predicted, len(targets.classes))
    right, rows, found = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore"):
        columns = {
            "rows": rows,
            "precision": right / found,
            "recall": right / rows,
            "f1": 2 * right / (rows + found),
        }
    return [
        {"class": name, **{key: column[i].item() for key, column in columns.items()}}
        for i, name in enumerate(targets.classes)
    ]


def _labels(array: Array) -> Array:
    if array.ndim == 2 and array.shape[1] > 1:
        return np.asarray(array.argmax(axis=1))
    return (array.reshape(-1) > 0.5).astype(np.int64) if array.ndim == 2 else array


def report(source: str, rows: int, results: dict[str, float], classes: list[dict[str, Any]]) -> str:
    """Return the result for reading.

    >>> print(report("new.csv", 3, {"loss": 0.25, "accuracy": 1.0}, []))
    new.csv: 3 rows
    loss 0.2500  accuracy 1.0000
    """
    lines = [
        f"{source}: {count(rows, 'row')}",
        "  ".join(f"{name} {number(value)}" for name, value in results.items()),
    ]
    if 0 < len(classes) <= SHOWN_CLASSES:
        width = max(len("class"), *(len(one["class"]) for one in classes))
        lines.append(f"{'class':{width}}  {'rows':>8}  precision  recall      f1")
        lines += [
            f"{one['class']:{width}}  {one['rows']:8,}  {one['precision']:9.4f}  "
            f"{one['recall']:6.4f}  {one['f1']:6.4f}"
            for one in classes
        ]
    return "\n".join(lines)
