"""`python -m gpumlp.train --config NAME|PATH`: parse, load, build, fit, report."""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from . import __version__
from .build import best_epoch
from .callbacks import ProgressBar
from .checkpoints import Checkpoints, newest
from .config import Config
from .config_file import config_text, dump_config, load_config, shipped_configs
from .console import guarded, show
from .dry_run import dry_run, dry_run_report
from .environment import describe
from .errors import ConfigError, DivergedError, FileError, GpumlpError, StateError
from .experiment import Experiment
from .json_text import to_json
from .plots import plots_wanted, write_plots
from .report import details, introduction, profile_table, result
from .resume import Resumed, config_of, config_sha256, finished_summary, resume_hint
from .run_folder import CHECKPOINTS, RunFolder, default_path, log_callbacks
from .run_place import LOG, check_free, is_run, restore
from .signals import StopOnSignal
from .tensorboard import check_tensorboard
from .trainer import Trainer
from .wording import count

Say = Callable[[str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train` to a parser."""
    add_config_arguments(parser, required=False)
    parser.add_argument(
        "--run-dir",
        type=Path,
        metavar="DIR",
        help="the run folder to make; default: runs/NAME-TIME-xxxx",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --run-dir")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="DIR",
        help="go on with the run in DIR, or in --run-dir if there is one; needs no --config",
    )
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


def train(
    config: Config, options: argparse.Namespace, path: Path, say: Say
) -> tuple[dict[str, Any], int]:
    """Run one training in the folder `path`, or go on with it; return its summary and exit code."""
    with StopOnSignal() as signals, ExitStack() as stack:
        resumed = None
        if options.resume is not None and is_run(path):
            folder = stack.enter_context(RunFolder.open(path, config.log))
            if (summary := finished_summary(path)) is not None:  # by now, by another process
                return summary, 0
            resumed = Resumed(folder, config, partial(warn, folder))
            stack.enter_context(resumed.threads())
        else:
            check_free(path, options.overwrite)
        plots_wanted(config.log.plots)
        if config.log.tensorboard:
            check_tensorboard()
        experiment = resumed.build() if resumed else Experiment.build(config)
        facts = experiment.data.facts
        environment = describe(experiment.backend) | {
            "config_sha256": config_sha256(config),
            "data_sha256": facts["sha256"],
            "data": facts,
            "set": overrides(options),
        }
        if resumed is None:
            source = config_text(options.config)
            folder = RunFolder.create(path, config, source, environment, options.overwrite)
            stack.enter_context(folder)
        else:
            resumed.check_data(experiment.data)
        with logged(folder, say):
            for line in introduction(experiment):
                say(line)
                folder.log(line)
            if options.verbose:
                say(details(environment, path))
            trainer = trainer_of(experiment, folder, signals, options)
            resumed_at = []
            if resumed is not None:
                resumed_at = resumed.go_on(trainer, environment)
                line = f"resumed at step {trainer.step:,}, after {count(trainer.epoch, 'epoch')}"
                say(line)
                folder.log(line)
            summary = fit_and_save(experiment, trainer, folder, resumed_at)
            if options.profile and summary["status"] == "done":
                add_profile(experiment, trainer, folder, summary, say)
            if plots_wanted(config.log.plots):
                draw(experiment, trainer, folder, say)
            folder.write_summary(summary)  # the last of all: a run without one is not done
    if summary["status"] == "interrupted":
        say(resume_hint(path))
    return summary, signals.exit_code


def trainer_of(
    experiment: Experiment, folder: RunFolder, signals: StopOnSignal, options: argparse.Namespace
) -> Trainer:
    """Return the trainer with all that watches it; checkpoints come last, when all is noted."""
    config, part = experiment.config, experiment.data.train
    callbacks = [
        *best_epoch(config),
        *log_callbacks(folder, config.log, part.x, part.y, part.sample_weight),
        signals,
    ]
    if not options.quiet:
        callbacks.append(ProgressBar(bar=not options.no_progress))
    checkpoints = Checkpoints(
        folder.path / CHECKPOINTS,
        **config.checkpoint.model_dump(),
        facts={"data": experiment.data.facts},
    )
    trainer = experiment.trainer([*callbacks, checkpoints])
    checkpoints.content = lambda: experiment.saved_model(trainer).content()
    return trainer


@contextmanager
def logged(folder: RunFolder, say: Say) -> Iterator[None]:
    """Write what ends a run early to its log, too; of a bug, say where the traceback is."""
    try:
        yield
    except SystemExit:
        say(f"stopped; {resume_hint(folder.path)}")
        raise
    except StateError as error:
        with suppress(FileError):
            folder.log(str(error))
        raise FileError(f"{newest(folder.path / CHECKPOINTS)}: {error}") from None
    except (GpumlpError, MemoryError, OSError) as error:
        with suppress(FileError):
            folder.log(str(error))
        raise
    except Exception as error:
        folder.log(traceback.format_exc())
        log = folder.path / LOG
        raise GpumlpError(f"a bug in gpumlp: {error!r}; the traceback is in {log}") from error


def warn(folder: RunFolder, text: str) -> None:
    """Say a warning, also to those who want to be told of results only, and log it."""
    print(f"warning: {text}", file=sys.stderr, flush=True)
    folder.log(f"warning: {text}")


def fit_and_save(
    experiment: Experiment, trainer: Trainer, folder: RunFolder, resumed_at: list[int]
) -> dict[str, Any]:
    """Fit, save the model, evaluate all parts, return the summary; of a diverged run, write it."""
    model_file = folder.path / "model.safetensors"
    place = {"run_dir": str(folder.path), "resumed_at": resumed_at}
    try:
        experiment.fit(trainer)
        experiment.saved_model(trainer).save(model_file)
        results = experiment.evaluate(trainer)
    except DivergedError as error:
        model_file.unlink(missing_ok=True)
        trainer.stop_reason = str(error)
        folder.write_summary(experiment.summary("diverged", trainer, {}) | place)
        raise
    status = "interrupted" if trainer.interrupted else "done"
    folder.log(f"{status}: {to_json(results)}")
    return experiment.summary(status, trainer, results) | place


def add_profile(
    experiment: Experiment, trainer: Trainer, folder: RunFolder, summary: dict[str, Any], say: Say
) -> None:
    """Add to the summary where a step's time goes; what goes wrong there is said, and no more."""
    try:
        summary["profile"] = experiment.profile(trainer).as_json()
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

    path = run_path(options)
    writes = not (options.print_config or options.dry_run)
    if path is not None and writes and restore(path):
        say(f"{path}: a process that was killed while replacing this run left it; it is back")
    if options.resume is not None and path is not None and is_run(path):
        config = config_of(path, options.config, overrides(options))
        summary = finished_summary(path)
        if summary is not None and not options.print_config:
            without = "; --profile needs one to train" if options.profile else ""
            say(f"{path}: is done already, and left as it is{without}")
            return report_result(summary, options)
    elif options.config is None:
        missing = "" if options.resume is None else f"{path}: no run folder is there; "
        raise ConfigError(f"{missing}--config is needed: a TOML file, or one that ships")
    else:
        config = load_config(options.config, overrides(options))
    if options.print_config:
        show(dump_config(config).removesuffix("\n"))
        return 0
    if options.dry_run and options.profile:
        raise ConfigError("--profile needs a training, and --dry-run does none: give one of them")
    if options.dry_run:
        experiment = Experiment.build(config)
        found = dry_run(experiment)
        show(to_json(found) if options.json else dry_run_report(experiment, found))
        return 0
    summary, code = train(config, options, path or default_path(config.name), say)
    report_result(summary, options)
    return code


def run_path(options: argparse.Namespace) -> Path | None:
    """Return the run folder that --run-dir or --resume name; ConfigError where they contradict."""
    if options.overwrite and options.run_dir is None:
        raise ConfigError("--overwrite needs --run-dir, which says what to replace")
    if options.resume is None:
        return options.run_dir  # type: ignore[no-any-return]
    if options.overwrite or options.dry_run:
        other = "--overwrite" if options.overwrite else "--dry-run"
        raise ConfigError(f"--resume goes on with a run, {other} does not: give one of them")
    given = [Path(name) for name in (options.resume, options.run_dir) if name]
    if not given:
        raise ConfigError("--resume needs a run folder: --resume DIR, or --run-dir DIR --resume")
    if len({name.resolve() for name in given}) > 1:
        raise ConfigError(f"--resume {given[0]} and --run-dir {given[1]} are two folders")
    return given[0]


def report_result(summary: dict[str, Any], options: argparse.Namespace) -> int:
    """Print a summary as it was asked for."""
    if "profile" in summary and not options.json:
        show(profile_table(summary["profile"]))
    show(to_json(summary) if options.json else result(summary))
    return 0


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
