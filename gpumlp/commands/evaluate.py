"""`gpumlp evaluate`: loss and metrics of a trained model on any data, and a gate on request."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

from ..build import build_trainer
from ..console import show
from ..data.prepare import Part, prepare_other
from ..data.sources import is_file, kind_of, load_any
from ..errors import CheckFailed, ConfigError, DataError
from ..metrics import METRICS, select
from ..per_class import ClassScore, class_scores, class_table
from ..run_folder import to_json
from ..saved_model import SavedModel
from ..suggestions import did_you_mean, nearest_name
from ..trainer import Trainer
from ..wording import count, number
from .model_and_rows import add_model_arguments, label_names, model_of, prepared_as_trained

FEW_CLASSES = 20  # whose scores fit a screen


@dataclass(frozen=True)
class Limit:
    """What a metric must reach, --min, or must not exceed, --max."""

    metric: str
    bound: float
    at_least: bool

    def __str__(self) -> str:
        return f"{self.metric} {'>=' if self.at_least else '<='} {self.bound:g}"

    def holds(self, value: float) -> bool:
        """Return whether a value passes; NaN never does."""
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Subject:
    """Rows to evaluate, and where they come from."""

    source: str
    part_name: str | None
    part: Part

    @property
    def title(self) -> str:
        """The source in words."""
        return f"{self.part_name} part of {self.source}" if self.part_name else self.source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate` to a parser."""
    add_model_arguments(parser, "the run's own test part, else its val part, else its train part")
    parser.add_argument(
        "--target",
        action="append",
        metavar="NAME|FILE",
        help="column or array of the targets in --data, or beside npy and IDX a file; "
        "default: as in training; repeatable for several columns",
    )
    parser.add_argument(
        "--metrics", metavar="A,B", help="metrics to compute; default: those of the configuration"
    )
    for option, words in (("--min", "at least"), ("--max", "at most")):
        parser.add_argument(
            option,
            action="append",
            default=[],
            metavar="METRIC=VALUE",
            help=f"exit 7 unless the metric is {words} that; repeatable",
        )
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help=f"precision, recall and F1 of each class, also of more than {FEW_CLASSES}",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(options: argparse.Namespace) -> int:
    """Print loss and metrics; raise CheckFailed when a limit does not hold."""
    if options.target is not None and options.data is None:
        raise ConfigError("--target needs --data; a run's own parts have their targets")
    model = model_of(options)
    limits = limits_of(options, model)
    names = metrics_of(options, model, limits)
    subject = subject_of(options, model)
    trainer = trainer_of(model, names)
    values, scores = evaluated(model, trainer, subject)
    failed = [limit for limit in limits if not limit.holds(values[limit.metric])]
    shown = scores if options.verbose or len(scores) <= FEW_CLASSES else []
    about = {
        "run": str(options.run),
        "data": subject.source,
        **({} if subject.part_name is None else {"part": subject.part_name}),
        "rows": len(subject.part.x),
        "metrics": values,
        **({"classes": [score._asdict() for score in scores]} if scores else {}),
        "failed": [str(limit) for limit in failed],
    }
    show(to_json(about) if options.json else report(subject, values, shown))
    if failed:
        raise CheckFailed(failure(subject, failed, values))
    return 0


def limits_of(options: argparse.Namespace, model: SavedModel) -> list[Limit]:
    """Return what --min and --max ask for; raises ConfigError for what cannot be asked."""
    limits = []
    for option, given in (("--min", options.min), ("--max", options.max)):
        for text in given:
            name, _, value = text.partition("=")
            try:
                bound = float(value)
            except ValueError:
                bound = float("nan")
            if isnan(bound):
                raise ConfigError(f"{option} {text}: must be METRIC=NUMBER, as in accuracy=0.98")
            check_metric(f"{option} {text}", name.strip(), model)
            limits.append(Limit(name.strip(), bound, option == "--min"))
    return limits


def metrics_of(
    options: argparse.Namespace, model: SavedModel, limits: Sequence[Limit]
) -> list[str]:
    """Return the metrics to compute: those chosen or configured, and those that have a limit."""
    if options.metrics is None:
        names: list[str] = [*model.config.metrics]
    else:
        names = [name.strip() for name in options.metrics.split(",")]
        for name in names:
            check_metric("--metrics", name, model)
    names += [limit.metric for limit in limits]
    return [name for name in dict.fromkeys(names) if name != "loss"]


def check_metric(option: str, name: str, model: SavedModel) -> None:
    """Raise ConfigError, with the allowed names, unless a metric or the loss is called that."""
    task = model.config.model.task
    allowed = ["loss", *(metric for metric, about in METRICS.items() if task in about.tasks)]
    if name not in allowed:
        known = (
            f'"{name}" is not meant for {task}' if name in METRICS else f'unknown metric "{name}"'
        )
        near = did_you_mean(nearest_name(name, allowed))
        raise ConfigError(f"{option}: {known}; allowed: {', '.join(allowed)}{near}")
    if name != "loss":
        select(task, [name], model.targets.outputs)


def subject_of(options: argparse.Namespace, model: SavedModel) -> Subject:
    """Return the rows of --data, or of the run's own test part, else val, else train."""
    dtype = model.network.backend.dtype
    if options.data is None:
        data = prepared_as_trained(model, options.run, dtype)
        parts = {"test": data.test, "val": data.val, "train": data.train}
        name, part = next((name, part) for name, part in parts.items() if part is not None)
        return Subject(model.config.data.source, name, part)
    settings = model.config.data
    target = options.target and (options.target if len(options.target) > 1 else options.target[0])
    own_file = isinstance(settings.target, str) and is_file(settings.target)
    if own_file and target is None and kind_of(options.data) not in ("mnist", "builtin"):
        raise ConfigError(
            f"--data {options.data} needs --target NAME|FILE: the targets in training, "
            f"{settings.target}, are those of other rows"
        )
    table = load_any(settings, options.data, target, model.columns)
    width = len(model.scaler.offset)
    if table.x.shape[1] != width:
        raise DataError(
            f"{options.data}: {table.x.shape[1]} columns, the training data has {width}"
        )
    part = prepare_other(table, model.targets, model.scaler, model.target_scaler, dtype)
    return Subject(str(table.source), None, part)


def trainer_of(model: SavedModel, metrics: Sequence[str]) -> Trainer:
    """Return a trainer of the model, which evaluates as it did in training."""
    scaler = model.target_scaler
    trainer = build_trainer(
        model.config,
        model.network,
        1,
        class_weight=model.class_weight,
        unscale=None if scaler is None else scaler.inverse,
    )
    trainer.metrics = list(metrics)
    return trainer


def evaluated(
    model: SavedModel, trainer: Trainer, subject: Subject
) -> tuple[dict[str, float], list[ClassScore]]:
    """Return loss and metrics, and the scores of each class; raises DataError for wrong targets."""
    part, task = subject.part, model.config.model.task
    try:
        values = trainer.evaluate(part.x, part.y, part.sample_weight)
    except ValueError as error:  # targets that the loss does not take, weights that are all 0
        raise DataError(f"{subject.source}: {error}") from None
    if task == "regression":
        return values, []
    prediction = model.network.backend.to_numpy(trainer.predict(part.x))
    return values, class_scores(task, part.y, prediction, label_names(model), part.sample_weight)


def report(subject: Subject, values: dict[str, float], scores: Sequence[ClassScore]) -> str:
    """Return the result for reading."""
    lines = [
        f"{subject.title}: {count(len(subject.part.x), 'row')}",
        "  ".join(f"{name} {number(value)}" for name, value in values.items()),
    ]
    return "\n".join([*lines, *(["", class_table(scores)] if scores else [])])


def failure(subject: Subject, failed: Sequence[Limit], values: dict[str, Any]) -> str:
    """Return what was wanted and what was found."""
    lines = [f"  wanted {limit}, found {values[limit.metric]:.6g}" for limit in failed]
    return "\n".join([f"{subject.title}: {count(len(failed), 'check')} failed", *lines])
