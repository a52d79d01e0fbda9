"""A dry run: one step, and what the whole training will take in time, memory and on disk."""

from typing import Any

from .build import steps_per_epoch
from .experiment import Experiment
from .out_of_memory import parameter_bytes
from .report import introduction
from .run_folder import to_json
from .wording import count, number, size


def dry_run(experiment: Experiment) -> dict[str, Any]:
    """Run one training step and return its loss and the estimates; writes nothing.

    Sizes are in bytes: "parameters" with gradients, optimizer state and copies, "data" the scaled
    parts, "batch" what a step works on; "model" and "metrics" are files of the run folder.
    """
    config, network, train = experiment.config, experiment.network, experiment.data.train
    trainer = experiment.fit(experiment.trainer(), max_steps=1)
    record = trainer.history[0]
    steps = steps_per_epoch(config, len(train.x))
    arrays = [
        a for part in experiment.data.parts.values() for a in (part.x, part.y, part.sample_weight)
    ]
    flat = network.flat
    one_value = flat.values.itemsize
    return {
        "loss": record["loss"],
        "parameters": flat.count,
        "steps_per_epoch": steps,
        "steps": min(steps * config.train.epochs, config.train.max_steps or float("inf")),
        "memory": {
            "parameters": parameter_bytes(trainer),
            "data": sum(array.nbytes for array in arrays if array is not None),
            "batch": trainer.workspace_bytes,
        },
        "disk": {
            "model": flat.count * one_value + 16 * train.x.shape[1] + 4096,
            "metrics": 3 * config.train.epochs * len(to_json(record)),
        },
    }


def dry_run_report(experiment: Experiment, found: dict[str, Any]) -> str:
    """Return a dry run's result for reading."""
    memory, disk = found["memory"], found["disk"]
    epochs = experiment.config.train.epochs
    return "\n".join(
        [
            *introduction(experiment),
            f"first step: loss {number(found['loss'])}",
            f"training: {count(epochs, 'epoch')} of {count(found['steps_per_epoch'], 'step')}, "
            f"{count(found['steps'], 'step')} at most",
            f"memory: about {size(sum(memory.values()))} (data {size(memory['data'])}, "
            f"parameters {size(memory['parameters'])}, batch {size(memory['batch'])})",
            f"disk: about {size(sum(disk.values()))} (model {size(disk['model'])}, "
            f"metrics {size(disk['metrics'])})",
            "dry run: all is well, nothing was written",
        ]
    )
