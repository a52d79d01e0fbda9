"""A dry run: what a training does, once, and what the whole will take of memory and disk."""

import sys
from dataclasses import replace
from typing import Any

from .build import best_epoch, steps_per_epoch
from .callbacks import format_record
from .checkpoints import checkpoint_content
from .events import Callback, Record
from .experiment import Experiment
from .gradients.norms import GradientNorms
from .json_text import to_json
from .out_of_memory import parameter_bytes
from .plots import draw, pictured, plots_wanted
from .report import introduction
from .run_folder import csv_line
from .tensor_file import file_size
from .tensorboard import check_tensorboard, event_size
from .trainer import Trainer
from .wording import count, number, size

OTHER = 4000  # bytes of configurations, environment and summary
PICTURED_EPOCHS = 50
TRAINED = 1.05  # there is more in pictures of a trained network
STAMP = len("2026-01-01T00:00:00Z ")


class CheckpointSize(Callback):
    """Notes the bytes of a checkpoint, and of the model in it, at the end of an epoch."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        """Note them."""
        model = self._experiment.saved_model(trainer).content()
        self.model = file_size(*model)
        self.checkpoint = file_size(*checkpoint_content(trainer, model))


def dry_run(experiment: Experiment) -> dict[str, Any]:
    """Do all once that a run does: a step, validation, evaluation, plots; nothing is written.

    Returns the first loss and estimates in bytes. Of "memory", "parameters" are those with
    gradients, optimizer state and copies, "data" the scaled parts, "batch" what a step works on,
    and "process" is the most that this process had, Python and libraries included (absent where
    the system does not say). Of "disk", "checkpoints" counts all generations.
    """
    config, network, train = experiment.config, experiment.network, experiment.data.train
    if config.log.tensorboard:
        check_tensorboard()
    callbacks = best_epoch(config)
    if config.log.gradient_norms:
        callbacks.append(GradientNorms(train.x, train.y, train.sample_weight))
    sizes = CheckpointSize(experiment)
    trainer = experiment.fit(experiment.trainer([*callbacks, sizes]), max_steps=1)
    experiment.evaluate(trainer)
    steps = steps_per_epoch(config, len(train.x))
    arrays = [
        a for part in experiment.data.parts.values() for a in (part.x, part.y, part.sample_weight)
    ]
    disk = _disk(experiment, trainer, sizes)
    return {
        "loss": trainer.history[0]["loss"],
        "parameters": network.flat.count,
        "steps_per_epoch": steps,
        "steps": min(steps * config.train.epochs, config.train.max_steps or float("inf")),
        "memory": {
            "parameters": parameter_bytes(trainer),
            "data": sum(array.nbytes for array in arrays if array is not None),
            "batch": trainer.workspace_bytes,
            **_process_memory(),
        },
        "disk": disk,
    }


def _disk(experiment: Experiment, trainer: Trainer, sizes: CheckpointSize) -> dict[str, int]:
    """Return the bytes of what a run writes, which is all there but for later epochs."""
    config, record, keep = experiment.config, trainer.history[0], experiment.config.checkpoint
    line = len(to_json(record)) + 1
    best = config.data.val is not None or config.early_stopping is not None
    log = STAMP + len(format_record(record, config.train.epochs)) + 1
    events = event_size(record) if config.log.tensorboard else 0
    each = log + events + line * config.log.jsonl + len(csv_line(record)) * config.log.csv
    plots = 0
    if plots_wanted(config.log.plots):
        found = pictured(config.name, trainer, experiment.predictions(trainer))
        found = replace(found, records=_made_up(record, config.train.epochs))
        plots = round(TRAINED * sum(map(len, draw(found).values())))
    return {
        "model": sizes.model,
        "checkpoints": keep.keep_last * (sizes.checkpoint + line * (config.train.epochs - 1))
        + (sizes.model if best and keep.keep_best else 0),
        "metrics": each * config.train.epochs,
        "plots": plots,
        "other": OTHER,
    }


def _made_up(record: Record, epochs: int) -> list[Record]:
    """Return a history for the size of its pictures: all numbers shrink from epoch to epoch."""
    return [
        {name: value * 0.9**epoch for name, value in record.items()} | {"epoch": epoch + 1}
        for epoch in range(min(epochs, PICTURED_EPOCHS))
    ]


def _process_memory() -> dict[str, int]:
    if sys.platform == "win32":
        return {}
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def dry_run_report(experiment: Experiment, found: dict[str, Any]) -> str:
    """Return a dry run's result for reading."""
    memory, disk = dict(found["memory"]), found["disk"]
    process = memory.pop("process", None)
    whole = f"{size(process)} with Python and libraries" if process else size(sum(memory.values()))
    epochs = experiment.config.train.epochs
    return "\n".join(
        [
            *introduction(experiment),
            f"first step: loss {number(found['loss'])}",
            f"training: {count(epochs, 'epoch')} of {count(found['steps_per_epoch'], 'step')}, "
            f"{count(found['steps'], 'step')} at most",
            f"memory: about {whole}",
            _parts(memory),
            f"disk: about {size(sum(disk.values()))}",
            _parts(disk),
            "dry run: all is well, nothing was written",
        ]
    )


def _parts(sizes: dict[str, int]) -> str:
    return "  " + ", ".join(f"{name} {size(value)}" for name, value in sizes.items() if value)
