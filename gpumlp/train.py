"""`python -m gpumlp.train --config NAME|PATH`: parse, load, build, fit, report."""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from . import __version__
from .callbacks import ProgressBar
from .config import Config
from .config_file import config_text, dump_config, load_config, shipped_configs
from .console import guarded
from .dry_run import dry_run, dry_run_report
from .environment import describe
from .errors import ConfigError, DivergedError, FileError, GpumlpError
from .experiment import Experiment
from .plots import plots_wanted, write_plots
from .report import details, introduction, profile_table, result
from .run_folder import RunFolder, check_free, default_path, log_callbacks, to_json
from .signals import StopOnSignal
from .tensorboard import check_tensorboard
from .trainer import Trainer

Say = Callable[[str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train` to a parser."""
    add_config_arguments(parser, required=True)
    parser.add_argument(
        "--run-dir",
        type=Path,
        metavar="DIR",
        help="the run folder to make; default: runs/NAME-TIME-xxxx",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --run-dir")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, run one step, say what it will take; write nothing",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="afterwards, say where the time of a step goes and how fast it could be",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the configuration with every default"
    )
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("-q", "--quiet", action="store_true", help="show the result only")
    loudness.add_argument(
        "-v", "--verbose", action="store_true", help="show versions, threads and where files are"
    )
    parser.add_argument("--no-progress", action="store_true", help="lines instead of a bar")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def add_config_arguments(parser: argparse.ArgumentParser, required: bool) -> None:
    """Add --config, --set, --device and --seed to a parser."""
    parser.add_argument(
        "--config",
        required=required,
        metavar="NAME|PATH",
        help=f"a TOML file, or one that ships: {', '.join(shipped_configs())}",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, as in optimizer.lr=0.01; VALUE is TOML; repeatable",
    )
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--seed", metavar="N", help="another seed than the config's")


def overrides(options: argparse.Namespace) -> list[str]:
    """Return what --set, --device and --seed override."""
    given = list(options.set)
    given += [f"device={json.dumps(options.device)}"] if options.device is not None else []
    given += [f"seed={options.seed}"] if options.seed is not None else []
    return given


def train(config: Config, options: argparse.Namespace, say: Say) -> tuple[dict[str, Any], int]:
    """Run one training; return its summary and the exit code."""
    with StopOnSignal() as signals:
        path = options.run_dir or default_path(config.name)
        check_free(path, options.overwrite)
        plots = plots_wanted(config.log.plots)
        if config.log.tensorboard:
            check_tensorboard()
        experiment = Experiment.build(config)
        environment = describe(experiment.backend) | {
            "data_sha256": experiment.data.fingerprint,
            "set": overrides(options),
        }
        source = config_text(options.config)
        folder = RunFolder.create(path, config, source, environment, options.overwrite)
        part = experiment.data.train
        callbacks = [
            *log_callbacks(folder, config.log, part.x, part.y, part.sample_weight),
            signals,
        ]
        if not options.quiet:
            callbacks.append(ProgressBar(bar=not options.no_progress))
        try:
            for line in introduction(experiment):
                say(line)
                folder.log(line)
            if options.verbose:
                say(details(environment, path))
            trainer = experiment.trainer(callbacks)
            summary = fit_and_save(experiment, trainer, folder)
            if options.profile and summary["status"] == "done":
                add_profile(experiment, trainer, folder, summary, say)
            if plots:
                draw(experiment, trainer, folder, say)
        except (GpumlpError, MemoryError, OSError) as error:
            with suppress(FileError):
                folder.log(str(error))
            raise
        except Exception as error:
            folder.log(traceback.format_exc())
            log = folder.path / "run.log"
            raise GpumlpError(f"a bug in gpumlp: {error!r}; the traceback is in {log}") from error
        return summary, signals.exit_code


def fit_and_save(experiment: Experiment, trainer: Trainer, folder: RunFolder) -> dict[str, Any]:
    """Fit, save the model, evaluate all parts, write and return the summary."""
    began, model_file = perf_counter(), folder.path / "model.safetensors"
    results: dict[str, dict[str, float]] = {}
    try:
        experiment.fit(trainer)
        seconds = perf_counter() - began
        experiment.saved_model(trainer).save(model_file)
        results = experiment.evaluate(trainer)
    except DivergedError as error:
        model_file.unlink(missing_ok=True)
        trainer.stop_reason = str(error)
        folder.write_summary(experiment.summary("diverged", trainer, {}, perf_counter() - began))
        raise
    status = "interrupted" if trainer.stop_reason in ("SIGINT", "SIGTERM") else "done"
    summary = experiment.summary(status, trainer, results, seconds)
    summary["run_dir"] = str(folder.path)
    folder.write_summary(summary)
    folder.log(f"{status}: {to_json(results)}")
    return summary


def add_profile(
    experiment: Experiment, trainer: Trainer, folder: RunFolder, summary: dict[str, Any], say: Say
) -> None:
    """Add to the summary where a step's time goes; what goes wrong there is said, and no more."""
    try:
        summary["profile"] = experiment.profile(trainer).as_json()
        folder.write_summary(summary)
    except Exception as error:
        folder.log(traceback.format_exc())
        say(f"warning: no profile: {error}")


def draw(experiment: Experiment, trainer: Trainer, folder: RunFolder, say: Say) -> None:
    """Write the plots; what goes wrong there is said, and the run is done all the same."""
    try:
        place = folder.path / "plots"
        write_plots(place, experiment.config.name, trainer, experiment.predictions(trainer))
    except Exception as error:
        folder.log(traceback.format_exc())
        say(f"warning: no plots: {error}")


def run(options: argparse.Namespace) -> int:
    """Train, print the result on stdout, and return the exit code."""

    def say(text: str) -> None:
        if not options.quiet:
            print(text, file=sys.stderr, flush=True)

    if options.overwrite and options.run_dir is None:
        raise ConfigError("--overwrite needs --run-dir, which says what to replace")
    config = load_config(options.config, overrides(options))
    if options.print_config:
        print(dump_config(config), end="")
        return 0
    if options.dry_run and options.profile:
        raise ConfigError("--profile needs a training, and --dry-run does none: give one of them")
    if options.dry_run:
        experiment = Experiment.build(config)
        found = dry_run(experiment)
        print(to_json(found) if options.json else dry_run_report(experiment, found))
        return 0
    summary, code = train(config, options, say)
    if "profile" in summary and not options.json:
        print(profile_table(summary["profile"]))
    print(to_json(summary) if options.json else result(summary), flush=True)
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m gpumlp.train`."""
    parser = argparse.ArgumentParser(
        prog="python -m gpumlp.train",
        description="Train a multilayer perceptron from one TOML file.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gpumlp {__version__}")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    return guarded(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
