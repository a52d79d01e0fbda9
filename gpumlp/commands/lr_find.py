"""`gpumlp lr-find`: find a learning rate by one short test (Smith 2015)."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from ..config_file import load_config
from ..console import show
from ..data.output import check_output
from ..errors import ConfigError
from ..experiment import Experiment
from ..json_text import to_json
from ..lr_finder import FEWEST_STEPS, HIGHEST, LOWEST, STEPS, LearningRates, find_lr
from ..plots import plots_wanted
from ..plots.rates import write_rates
from ..train import add_config_arguments, overrides
from ..wording import count, number

MOST_STEPS = 10**6
LINES = 12  # of the table, about

ENDINGS = {
    "rose": "the running average rose to 4 times its least",
    "not finite": "the next loss was not finite",
    "end of the range": "the end of the range",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `lr-find` to a parser."""
    add_config_arguments(parser, required=True)
    for option, name, default, what in (
        ("--from", "lowest", LOWEST, "first"),
        ("--to", "highest", HIGHEST, "last"),
    ):
        parser.add_argument(
            option,
            dest=name,
            type=float,
            default=default,
            metavar="RATE",
            help=f"the {what} learning rate; default: {default:g}",
        )
    parser.add_argument(
        "--steps",
        type=int,
        default=STEPS,
        metavar="N",
        help=f"from the first rate to the last, {FEWEST_STEPS} to {MOST_STEPS}; default: {STEPS}",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="a new .png file for a plot")
    parser.add_argument("--overwrite", action="store_true", help="replace the file in --out")
    parser.add_argument("--json", action="store_true", help="print all that was found as JSON")


def run(options: argparse.Namespace) -> int:
    """Test, plot if wanted, print the table and the rate; 0 also without a clear answer."""
    check(options)
    config = load_config(options.config, overrides(options))
    experiment = Experiment.build(config)
    train = experiment.data.train
    found = find_lr(
        experiment.trainer(),
        train.x,
        train.y,
        sample_weight=train.sample_weight,
        lowest=options.lowest,
        highest=options.highest,
        steps=options.steps,
    )
    if options.out is not None:
        write_rates(options.out, config.name, found)
    show(to_json(as_json(experiment, found)) if options.json else report(experiment, found))
    return 0


def check(options: argparse.Namespace) -> None:
    """Raise ConfigError for options that cannot be."""
    if not 0 < options.lowest < float("inf"):
        raise ConfigError(f"--from {options.lowest:g}: expected a number above 0")
    if not options.lowest < options.highest < float("inf"):
        raise ConfigError(f"--to {options.highest:g}: expected a number above --from")
    if not FEWEST_STEPS <= options.steps <= MOST_STEPS:
        raise ConfigError(f"--steps {options.steps}: expected {FEWEST_STEPS} to {MOST_STEPS}")
    if options.out is None:
        if options.overwrite:
            raise ConfigError("--overwrite needs --out, which says what to replace")
        return
    check_output(options.out, "--out", options.overwrite, [".png"])
    if not plots_wanted("auto"):
        raise ConfigError(
            '--out needs matplotlib, which is not installed; pip install "gpumlp[plot]"'
        )


def as_json(experiment: Experiment, found: LearningRates) -> dict[str, Any]:
    """Return what was found as values that JSON can hold; what was not found is absent."""
    config = experiment.config
    answers = {
        "steepest": found.steepest,
        "tenth": found.tenth,
        "suggestion": found.suggestion,
        "advice": found.advice or None,
    }
    return {
        "name": config.name,
        "optimizer": config.optimizer.name,
        "seed": config.seed,
        "device": experiment.backend.name,
        "precision": config.precision,
        "ending": found.ending,
        **{key: value for key, value in answers.items() if value is not None},
        "rates": found.rates.tolist(),
        "losses": found.losses.tolist(),
        "smoothed": found.smoothed.tolist(),
    }


def report(experiment: Experiment, found: LearningRates) -> str:
    """Return what was found for reading; the last line is the one to paste."""
    config, batch = experiment.config, experiment.config.train.batch_size
    batches = "the full batch" if batch == "full" else f"batches of {batch}"
    lines = [
        f"{config.name}: {config.optimizer.name}, {batches}, "
        f"{count(len(found.rates), 'step')} until {ENDINGS[found.ending]}"
    ]
    if len(found.rates):
        lines += ["", f"{'rate':>10} {'loss':>12} {'average':>12}", *_table(found), ""]
    if found.tenth is not None:
        lines.append(f"a tenth of the rate with the lowest average: {found.tenth:.3g}")
    if found.suggestion is None:
        return "\n".join([*lines, f"no clear answer: {found.advice} (--from, --to, --steps)"])
    return "\n".join(
        [
            *lines,
            "the rate at which the loss falls fastest, to paste:",
            f"--set optimizer.lr={found.suggestion:g}",
        ]
    )


def _table(found: LearningRates) -> list[str]:
    """Return some of the steps, evenly spaced, and those that matter."""
    last = len(found.rates) - 1
    marks = {int(found.smoothed.argmin()): "lowest"}
    if found.steepest is not None:
        marks[int(np.searchsorted(found.rates, found.steepest))] = "falls fastest"
    shown = {*np.linspace(0, last, min(LINES, last + 1)).astype(int).tolist(), *marks}
    return [
        f"{found.rates[i]:10.3g} {number(found.losses[i]):>12} {number(found.smoothed[i]):>12}"
        f"  {marks.get(i, '')}".rstrip()
        for i in sorted(shown)
    ]
