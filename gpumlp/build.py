"""Build network, loss, optimizer, schedule and trainer from a configuration."""

from collections.abc import Callable, Iterable
from dataclasses import fields
from itertools import pairwise

from . import schedules
from .backend import Array, Backend
from .callbacks import BestEpoch, EarlyStopping
from .config import Config
from .events import Callback
from .layers import Dense
from .losses import LOSSES, BinaryCrossEntropy, Huber, Loss, SoftmaxCrossEntropy
from .model import Sequential
from .optimizers import OPTIMIZERS, Optimizer
from .trainer import Trainer


def build_network(config: Config, n_in: int, n_out: int, backend: Backend) -> Sequential:
    """Return the network: the configured hidden layers and a linear output layer.

    >>> from gpumlp.backend import get_backend
    >>> from gpumlp.config_file import load_config
    >>> build_network(load_config("digits", ["model.hidden=[32]"]), 64, 10, get_backend("cpu"))
    Sequential(Dense(64, 32, 'sigmoid'), Dense(32, 10, 'identity'))
    """
    hidden = config.model.hidden_layers
    sizes = [n_in, *(layer.units for layer in hidden)]
    layers = [
        Dense(
            before,
            after,
            layer.activation,
            backend,
            init=layer.init,
            init_gain=layer.init_gain,
            bias=layer.bias,
            dropout=layer.dropout,
            weight_decay=layer.weight_decay,
            max_norm=layer.max_norm,
        )
        for (before, after), layer in zip(pairwise(sizes), hidden, strict=True)
    ]
    output = Dense(sizes[-1], n_out, backend=backend, init=config.model.init)
    return Sequential(*layers, output, seed=config.seed)


def build_loss(config: Config, backend: Backend) -> Loss:
    """Return the loss; its output function (softmax, sigmoid, ...) belongs to it."""
    loss = LOSSES[config.loss_name]
    section = config.loss
    if loss is SoftmaxCrossEntropy or loss is BinaryCrossEntropy:
        return loss(section.reduction, section.label_smoothing, backend)
    if loss is Huber:
        return Huber(section.reduction, section.delta, backend)
    return loss(section.reduction, backend)


def build_optimizer(config: Config) -> Optimizer:
    """Return the optimizer with those of the section's keys that it takes."""
    optimizer = OPTIMIZERS[config.optimizer.name]
    return optimizer(**{f.name: getattr(config.optimizer, f.name) for f in fields(optimizer)})


def build_schedule(config: Config, rows: int) -> schedules.Schedule:
    """Return the schedule for a training part of so many rows."""
    section, steps = config.schedule, steps_per_epoch(config, rows)
    total = steps * config.train.epochs
    if config.train.max_steps is not None:
        total = min(total, config.train.max_steps)
    every = section.every_epochs * steps
    schedule: schedules.Schedule
    match section.name:
        case "constant":
            schedule = schedules.Constant()
        case "step":
            schedule = schedules.Step(every=every, gamma=section.gamma)
        case "exponential":
            schedule = schedules.Exponential(gamma=section.gamma, every=every)
        case "cosine":
            schedule = schedules.Cosine(total, section.floor)
        case "onecycle":
            schedule = schedules.OneCycle(total, section.peak_fraction)
        case "plateau":
            schedule = schedules.Plateau(
                factor=section.factor,
                patience=section.patience,
                min_delta=section.min_delta,
                cooldown=section.cooldown,
            )
    if section.warmup_steps:
        schedule = schedules.Warmup(schedule, section.warmup_steps)
    return schedule


def steps_per_epoch(config: Config, rows: int) -> int:
    """Return the number of updates in an epoch over so many rows."""
    if config.train.batch_size == "full":
        return 1
    return -(-rows // (config.train.batch_size * config.train.accumulate))


def best_epoch(config: Config) -> list[Callback]:
    """Return what knows the best epoch, where it is to be saved and early stopping does not."""
    wanted = config.checkpoint.keep_best and config.data.val is not None
    return [BestEpoch()] if wanted and config.early_stopping is None else []


def build_trainer(
    config: Config,
    network: Sequential,
    rows: int,
    callbacks: Iterable[Callback] = (),
    class_weight: Array | None = None,
    unscale: Callable[[Array], Array] | None = None,
) -> Trainer:
    """Return the trainer of a network for a training part of so many rows.

    `class_weight` and `unscale`, which depend on the data, are the trainer's.
    """
    stopping = config.early_stopping
    early = [] if stopping is None else [EarlyStopping(**stopping.model_dump())]
    return Trainer(
        network,
        build_loss(config, network.backend),
        build_optimizer(config),
        schedule=build_schedule(config, rows),
        batch_size=config.train.batch_size,
        accumulate=config.train.accumulate,
        shuffle=config.train.shuffle,
        seed=config.seed,
        engine=config.train.engine,
        metrics=config.metrics,
        class_weight=class_weight,
        unscale=unscale,
        callbacks=[*early, *callbacks],
    )
