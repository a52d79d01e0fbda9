"""`python -m gpumlp.train --config NAME|PATH`: parse, load, build, fit, report."""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

from . import __version__
from .backend import Array, Backend, get_backend
from .build import build_network, build_trainer
from .callbacks import ProgressBar
from .config import Config
from .config_file import config_text, load_config
from .console import guarded
from .data.prepare import Part, Prepared, prepare
from .data.weights import row_weights
from .environment import describe
from .errors import DeviceError, DivergedError, FileError, GpumlpError
from .model import Sequential
from .run_folder import RunFolder, check_free, default_path, to_json
from .saved_model import SavedModel
from .signals import StopOnSignal
from .trainer import Callback, Trainer

Say = Callable[[str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train` to a parser."""
    parser.add_argument(
        "--config", required=True, metavar="NAME|PATH", help="a TOML file, or a shipped config"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, as in optimizer.lr=0.01; VALUE is TOML; repeatable",
    )
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="the run folder to make")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --run-dir")
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--seed", metavar="N", help="another seed than the config's")
    parser.add_argument("-q", "--quiet", action="store_true", help="show the result only")
    parser.add_argument("--no-progress", action="store_true", help="lines instead of a bar")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def train(options: argparse.Namespace, say: Say) -> tuple[dict[str, Any], int]:
    """Run one training from parsed options; return its summary and the exit code."""
    overrides = list(options.set)
    overrides += [f"device={json.dumps(options.device)}"] if options.device is not None else []
    overrides += [f"seed={options.seed}"] if options.seed is not None else []
    with StopOnSignal() as signals:
        config = load_config(options.config, overrides)
        path = options.run_dir or default_path(config.name)
        check_free(path, options.overwrite)
        backend = get_backend(config.device, config.precision)
        data = prepare(config.data, config.model.task, config.seed, backend.dtype)
        weight = training_weights(config, data)
        network = build_network(config, data.train.x.shape[1], data.targets.outputs, backend)
        environment = describe(backend) | {"data_sha256": data.fingerprint, "set": overrides}
        source = config_text(options.config)
        folder = RunFolder.create(path, config, source, environment, options.overwrite)
        callbacks: list[Callback] = [folder, signals]
        if not options.quiet:
            callbacks.append(ProgressBar(bar=not options.no_progress))
        try:
            for line in introduction(config, data, network):
                say(line)
                folder.log(line)
            trainer = build_trainer(config, network, len(data.train.x), callbacks)
            summary = fit_and_save(config, data, weight, trainer, folder)
        except (GpumlpError, MemoryError, OSError) as error:
            with suppress(FileError):
                folder.log(str(error))
            raise
        except Exception as error:
            folder.log(traceback.format_exc())
            log = folder.path / "run.log"
            raise GpumlpError(f"a bug in gpumlp: {error!r}; the traceback is in {log}") from error
        return summary, signals.exit_code or 0


def training_weights(config: Config, data: Prepared) -> Array | None:
    """Return the weights of the training rows: sample weight times class weight, or None."""
    train = data.train
    weight = row_weights(train.y, data.targets, config.loss.class_weight, train.x.dtype)
    if weight is None or train.sample_weight is None:
        return train.sample_weight if weight is None else weight
    return weight * train.sample_weight


def fit_and_save(
    config: Config, data: Prepared, weight: Array | None, trainer: Trainer, folder: RunFolder
) -> dict[str, Any]:
    """Fit, save the model, evaluate all parts, write and return the summary."""
    train, val, began = data.train, data.val, perf_counter()
    model_file = folder.path / "model.safetensors"
    results: dict[str, dict[str, float]] = {}
    try:
        trainer.fit(
            train.x,
            train.y,
            epochs=config.train.epochs,
            max_steps=config.train.max_steps,
            sample_weight=weight,
            validation=None if val is None else (val.x, val.y, val.sample_weight),
        )
        seconds = perf_counter() - began
        model = SavedModel(config, trainer.model, trainer.loss, data.scaler, data.targets)
        model.save(model_file)
        for name, part in (("train", train), ("val", val), ("test", data.test)):
            if part is not None:
                results[name] = trainer.evaluate(part.x, part.y, part.sample_weight)
                if not isfinite(results[name]["loss"]):
                    model_file.unlink()
                    raise DivergedError(
                        f"the loss of the {name} part is {results[name]['loss']:g} "
                        f"after step {trainer.step}; try a smaller optimizer.lr (learning rate)"
                    )
    except DivergedError as error:
        trainer.stop_reason = str(error)
        folder.write_summary(_summary("diverged", config, trainer, {}, perf_counter() - began))
        raise
    status = "interrupted" if trainer.stop_reason in ("SIGINT", "SIGTERM") else "done"
    summary = _summary(status, config, trainer, results, seconds)
    summary["run_dir"] = str(folder.path)
    folder.write_summary(summary)
    folder.log(f"{status}: {to_json(results)}")
    return summary


def introduction(config: Config, data: Prepared, network: Sequential) -> list[str]:
    """Return what is about to be trained, on what, in two lines."""

    def rows(name: str, part: Part | None) -> str:
        return f", {len(part.x):,} {name}" if part is not None else ""

    sizes = [network.n_in, *(layer.n_out for layer in network.layers if hasattr(layer, "n_out"))]
    classes = f", {len(data.targets.classes)} classes" if data.targets.classes else ""
    return [
        f"{config.name}: {len(data.train.x):,} rows to train on{rows('val', data.val)}"
        f"{rows('test', data.test)}; {network.n_in} features{classes}",
        f"network {'-'.join(map(str, sizes))}, {network.flat.count:,} parameters; "
        f"{config.optimizer.name}, lr {config.optimizer.lr:g}; "
        f"{_device(config, network.backend)}, {config.precision}",
    ]


def _device(config: Config, backend: Backend) -> str:
    """Return the device, and with "auto" why it was chosen."""
    if config.device != "auto" or backend.name != "cpu":
        return backend.name
    try:
        get_backend("cuda")
    except DeviceError as error:
        return f"cpu (no CUDA: {str(error).split(';')[0]})"
    return backend.name


def _summary(
    status: str, config: Config, trainer: Trainer, results: dict[str, Any], seconds: float
) -> dict[str, Any]:
    training = sum(record["seconds"] for record in trainer.history)
    samples = sum(record["seconds"] * record["samples_per_s"] for record in trainer.history)
    return {
        "status": status,
        "name": config.name,
        "epochs": trainer.epoch,
        "steps": trainer.step,
        "best_epoch": trainer.best_epoch,
        "stop_reason": trainer.stop_reason,
        **results,
        "parameters": trainer.model.flat.count,
        "seconds": seconds,
        "samples_per_s": samples / training if training else 0.0,
        "device": trainer.model.backend.name,
        "precision": config.precision,
        "engine": trainer.engine,
        "seed": config.seed,
    }


def report(summary: dict[str, Any]) -> str:
    """Return the summary for reading.

    >>> print(report({"test": {"loss": 0.25, "accuracy": 0.9}, "status": "done", "epochs": 3,
    ...     "steps": 30, "seconds": 0.5, "samples_per_s": 6000.0, "stop_reason": None,
    ...     "best_epoch": None, "run_dir": "runs/digits"}))
    test   loss 0.2500  accuracy 0.9000
    done: 3 epochs, 30 steps in 0.5 s (6,000 samples/s)
    run folder: runs/digits
    """
    lines = [
        f"{part:5}  " + "  ".join(f"{name} {value:.4f}" for name, value in summary[part].items())
        for part in ("train", "val", "test")
        if part in summary
    ]
    reason = f" ({summary['stop_reason']})" if summary["stop_reason"] else ""
    best = f", parameters of epoch {summary['best_epoch']}" if summary["best_epoch"] else ""
    lines += [
        f"{summary['status']}{reason}: {_count(summary['epochs'], 'epoch')}, "
        f"{_count(summary['steps'], 'step')} in "
        f"{summary['seconds']:.1f} s ({summary['samples_per_s']:,.0f} samples/s){best}",
        f"run folder: {summary['run_dir']}",
    ]
    return "\n".join(lines)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def run(options: argparse.Namespace) -> int:
    """Train, print the result on stdout, and return the exit code."""

    def say(text: str) -> None:
        if not options.quiet:
            print(text, file=sys.stderr)

    summary, code = train(options, say)
    print(to_json(summary) if options.json else report(summary), flush=True)
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
