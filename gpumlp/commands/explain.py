"""`gpumlp explain`: every quantity of backpropagation for one sample, beside differences."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import get_backend
from ..build import build_loss, build_network
from ..config import Config
from ..config_file import load_config
from ..console import show
from ..data.prepare import Prepared, prepare
from ..errors import ConfigError, DataError
from ..gradients.explain import COMPARED, explain
from ..gradients.report import Sample, report
from ..losses import Loss
from ..model import Sequential
from ..saved_model import load_model
from .model_and_rows import prepare_again


@dataclass(frozen=True)
class Subject:
    """A network to look at, its data, and where its parameters come from."""

    config: Config
    network: Sequential
    loss: Loss
    data: Prepared
    origin: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `explain` to a parser."""
    parser.add_argument("run_folder", nargs="?", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument(
        "--config", metavar="NAME|PATH", help="instead of RUN: a config, before training"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of --config; VALUE is TOML; repeatable",
    )
    parser.add_argument(
        "--sample",
        required=True,
        type=int,
        metavar="I",
        help="row of the data source, counted from 0",
    )
    parser.add_argument("--layer", type=int, metavar="K", help="this layer only; 1 is the first")
    parser.add_argument("--all", action="store_true", help="every unit and weight (slow if many)")


def run(options: argparse.Namespace) -> int:
    """Explain one sample on stdout."""
    if (options.run_folder is None) == (options.config is None):
        raise ConfigError("explain needs either RUN or --config NAME|PATH, and not both")
    if options.run_folder is not None and options.set:
        raise ConfigError("--set needs --config; a run keeps its own configuration")
    subject = _untrained(options) if options.run_folder is None else _trained(options.run_folder)
    number = len(subject.network.layers)
    if options.layer is not None and not 1 <= options.layer <= number:
        raise ConfigError(f"--layer {options.layer}: the network has layers 1 to {number}")
    sample = find_sample(subject, options.sample)
    entries = None if options.all else COMPARED
    try:
        layers = explain(subject.network, subject.loss, sample.x, sample.target, entries)
    except ValueError as error:  # a target that the loss does not take
        raise DataError(f"{subject.config.data.source}: row {options.sample}: {error}") from None
    chosen = layers if options.layer is None else [layers[options.layer - 1]]
    lines = report(subject.config, sample, layers, chosen, whole=options.all)
    show("\n".join(lines))
    return 0


def _untrained(options: argparse.Namespace) -> Subject:
    config = load_config(options.config, options.set)
    double = get_backend("cpu", "fp64")
    data = prepare(config.data, config.model.task, config.seed, np.float64)
    network = build_network(config, data.train.x.shape[1], data.targets.outputs, double)
    origin = f"before training, parameters drawn from seed {config.seed} (θ⁰)"
    return Subject(config, network, build_loss(config, double), data, origin)


def _trained(folder: Path) -> Subject:
    model = load_model(folder)
    config, double = model.config, get_backend("cpu", "fp64")
    data = prepare_again(model, folder, np.float64)
    origin = f"parameters as trained in {folder}"
    return Subject(config, model.network, build_loss(config, double), data, origin)


def find_sample(subject: Subject, row: int) -> Sample:
    """Return a row of the main source, from whichever part it went to.

    Raises ConfigError for a row that does not exist.
    """
    data, config = subject.data, subject.config
    parts: dict[str, Any] = {"training": data.train, "validation": data.val, "test": data.test}
    total = 0
    for name, part in parts.items():
        if part is None or part.rows is None:  # a file of its own
            continue
        total += len(part.rows)
        for place in np.flatnonzero(part.rows == row):
            title = f"{config.name}: row {row} of {config.data.source} ({name} part)"
            return Sample(
                title,
                subject.origin,
                part.x[place],
                part.y[place],
                data.targets,
                data.target_scaler,
                subject.loss,
            )
    raise ConfigError(f"--sample {row}: {config.data.source} has rows 0 to {total - 1}")
