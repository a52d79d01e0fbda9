"""`gpumlp verify-resume`: kill a training at random moments, resume it, compare the bits."""

import argparse
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from ..build import steps_per_epoch
from ..config import Config
from ..config_file import load_config
from ..console import show
from ..errors import CheckFailed, ConfigError
from ..experiment import Experiment
from ..json_text import to_json
from ..kills import Kill, Verification, verify
from ..train import add_config_arguments, overrides
from ..wording import count, duration

SIGNALS = {
    "kill": [getattr(signal, "SIGKILL", signal.SIGTERM)],
    "term": [signal.SIGTERM],
    "int": [signal.SIGINT],
}
SIGNALS["mixed"] = [one for many in SIGNALS.values() for one in many]
CHECKPOINTS = 40  # in a run, unless the configuration is told otherwise


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `verify-resume` to a parser."""
    add_config_arguments(parser, required=True)
    parser.add_argument(
        "--kills", type=int, default=10, metavar="N", help="trainings to kill (default: 10)"
    )
    parser.add_argument(
        "--signal",
        choices=SIGNALS,
        default="kill",
        help="kill -9 (the default), SIGTERM, SIGINT, or one of them each time",
    )
    parser.add_argument(
        "--moments", type=int, metavar="SEED", help="draw the same moments as another time"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="make the runs in a new folder, and keep them"
    )
    parser.add_argument("--json", action="store_true", help="print all kills as JSON")


def run(options: argparse.Namespace) -> int:
    """Kill and compare; print a line for each kill, then the result; raise CheckFailed."""
    if options.kills < 1:
        raise ConfigError(f"--kills {options.kills}: expected at least 1")
    config = load_config(options.config, overrides(options))
    arguments = ["--config", options.config]
    for override in [*_often(steps_of(config), overrides(options)), *overrides(options)]:
        arguments += ["--set", override]

    def said(kill: Kill) -> None:
        print(kill_line(kill), file=sys.stderr, flush=True)

    if options.keep is not None:
        try:
            options.keep.mkdir(parents=True)
        except FileExistsError:
            raise ConfigError(f"--keep {options.keep}: is there already") from None
    with tempfile.TemporaryDirectory(prefix="gpumlp-") as scratch:
        folder = options.keep or Path(scratch)
        signals = SIGNALS[options.signal]
        found = verify(arguments, folder, options.kills, signals, said, options.moments)
    text = to_json({"config": config.name, **asdict(found)}, indent=2)
    show(text if options.json else report(config.name, found))
    if found.differences:
        raise CheckFailed("\n".join(found.differences))
    return 0


def steps_of(config: Config) -> int:
    """Return how many steps a training has at most."""
    rows = len(Experiment.build(config).data.train.x)
    steps = steps_per_epoch(config, rows) * config.train.epochs
    return min(steps, config.train.max_steps or steps)


def _often(steps: int, given: list[str]) -> list[str]:
    """Return what makes checkpoints frequent, so that kills fall between them, and plots rare."""
    more = ["log.plots=false"]
    if not any(override.startswith("checkpoint") for override in given):
        more.append(f"checkpoint.every_steps={max(1, steps // CHECKPOINTS)}")
    return more


def kill_line(kill: Kill) -> str:
    """Return a kill for reading.

    >>> kill_line(Kill("SIGKILL", 0.53, -9, 82, 410))
    'SIGKILL after 0.530 s: exit code -9, checkpoint at step 410 (before: 82)'
    """

    def at(step: int | None) -> str:
        return "none" if step is None else f"{step}"

    place = "no checkpoint" if kill.after is None else f"checkpoint at step {kill.after}"
    return (
        f"{kill.signal} after {duration(kill.seconds)}: exit code {kill.code}, {place} "
        f"(before: {at(kill.before)})"
    )


def report(name: str, found: Verification) -> str:
    """Return the result for reading."""
    steps = {kill.after for kill in found.kills if kill.after is not None}
    return "\n".join(
        [
            f"{name}: {count(found.steps, 'step')}, {duration(found.seconds)} unbroken",
            f"{count(len(found.kills), 'kill')} in {count(found.runs, 'run')}, "
            f"checkpoints at {count(len(steps), 'different step')} left behind",
            "model, metrics, optimizer state: "
            + ("the same bits" if not found.differences else "NOT the same bits"),
        ]
    )
