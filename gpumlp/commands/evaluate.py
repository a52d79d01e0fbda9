"""`gpumlp evaluate`: loss and metrics of a model on any data with targets, as a gate on request."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..console import show
from ..data.prepare import Part, prepare_other
from ..data.sources import KINDS, is_file, kind_of, load_labelled
from ..data.targets import Targets, class_indices
from ..data.types import Array
from ..errors import CheckFailed, ConfigError, DataError
from ..json_text import to_json
from ..metrics import select
from ..optimizers import SGD
from ..saved_model import SavedModel
from ..trainer import Trainer
from ..wording import count, number
from .model_and_rows import add_model_arguments, check_width, label_names, open_model, prepare_again

SHOWN_CLASSES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate` to a parser."""
    add_model_arguments(parser, "the run's test part, or what there is")
    parser.add_argument(
        "--target",
        action="append",
        metavar="NAME|FILE",
        help="column or array of the targets, or for npy and IDX a file of them; repeatable where "
        "there are several columns; default: the run's",
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
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help=f"show the table of classes even if there are more than {SHOWN_CLASSES}",
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
    names = None if options.metrics is None else [n.strip() for n in options.metrics.split(",")]
    gates = read_gates(options.min, True) + read_gates(options.max, False)
    shown = [*(model.config.metrics if names is None else names), *(g.metric for g in gates)]
    wanted = [name for name in dict.fromkeys(shown) if name != "loss"]  # which is always there
    select(model.targets.task, wanted, model.targets.outputs)  # or ConfigError, before any data
    part, source = labelled_part(model, options)
    trainer = Trainer(
        model.network,
        model.loss,
        SGD(),
        metrics=wanted,
        class_weight=model.class_weight,
        unscale=None if model.target_scaler is None else model.target_scaler.inverse,
    )
    try:
        results = trainer.evaluate(part.x, part.y, part.sample_weight)
    except ValueError as error:  # targets that the loss does not take, weights that are all 0
        raise DataError(f"{source}: {error}") from None
    classes = by_class(model.targets, part.y, trainer_output(trainer, part), label_names(model))
    if options.json:
        found = {"data": source, "rows": len(part.x), **results}
        show(to_json(found | ({"classes": classes} if classes else {}), indent=2))
    else:
        show(report(source, len(part.x), results, classes, options.verbose))
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


def labelled_part(model: SavedModel, options: argparse.Namespace) -> tuple[Part, str]:
    """Return scaled rows with targets, and what they are.

    Without --data they are the run's own test part, or what there is, from the run's source.
    """
    data, target, dtype = options.data, options.target, model.network.backend.dtype
    if data is None and target is not None:
        raise ConfigError("--target belongs to --data; the run's own part has its own")
    settings = model.config.data
    if data is None:
        name, part = prepare_again(model, options.run, dtype).last_part
        return part, f"{settings.source}, {name} part"
    if target is not None:
        target = target[0] if len(target) == 1 else tuple(target)
        settings = settings.model_copy(update={"target": target})
    elif is_file(settings.target) and kind_of(data) in KINDS.values():
        raise ConfigError(
            f"--data {data} needs --target NAME|FILE: the targets in training, "
            f"{settings.target}, are those of other rows"
        )
    table = load_labelled(data, settings, model.columns)
    check_width(table.x, model, data)
    part = prepare_other(table, model.targets, model.scaler, model.target_scaler, dtype)
    return part, data


def by_class(
    targets: Targets, y: Array, prediction: Array, names: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Return rows, precision, recall and F1 of each class or label; nothing in a regression.

    Rows count once, whatever their weight; a ratio without any row is nan.
    """
    if targets.task == "regression":
        return []
    names = targets.classes if names is None else names
    true, predicted = (_membership(targets.task, array, len(names)) for array in (y, prediction))
    right, rows, found = ((true & predicted).sum(axis=0), true.sum(axis=0), predicted.sum(axis=0))
    with np.errstate(invalid="ignore"):
        columns = {
            "rows": rows,
            "precision": right / found,
            "recall": right / rows,
            "f1": 2 * right / (rows + found),
        }
    return [
        {"class": name, **{key: column[i].item() for key, column in columns.items()}}
        for i, name in enumerate(names)
    ]


def _membership(task: str, array: Array, classes: int) -> Array:
    """Return whether each row is of each class, bool (N, C)."""
    if task == "multilabel":
        return np.asarray(array > 0.5)
    return np.asarray(class_indices(array)[:, None] == np.arange(classes))


def report(
    source: str,
    rows: int,
    results: dict[str, float],
    classes: list[dict[str, Any]],
    every: bool = False,
) -> str:
    """Return the result for reading.

    >>> print(report("new.csv", 3, {"loss": 0.25, "accuracy": 1.0}, []))
    new.csv: 3 rows
    loss 0.2500  accuracy 1.0000
    """
    lines = [
        f"{source}: {count(rows, 'row')}",
        "  ".join(f"{name} {number(value)}" for name, value in results.items()),
    ]
    if 0 < len(classes) <= (len(classes) if every else SHOWN_CLASSES):
        names = [_shown(one["class"]) for one in classes]
        width = max(len("class"), *map(len, names))
        lines.append(f"{'class':{width}}  {'rows':>8}  precision  recall      f1")
        lines += [
            f"{name:{width}}  {one['rows']:8,}  {one['precision']:9.4f}  "
            f"{one['recall']:6.4f}  {one['f1']:6.4f}"
            for name, one in zip(names, classes, strict=True)
        ]
    return "\n".join(lines)


def _shown(name: str) -> str:
    """Return a name on one line, not too long, and without what a terminal would obey."""
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)
    return plain if len(plain) <= 40 else f"{plain[:37]}..."
