"""Read the gradient that a training step makes, wherever the step writes it."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..backend import Array, Backend
from ..build import build_loss, build_optimizer
from ..config import Config
from ..engine import Batches, TrainingStep, get_engine
from ..model import Sequential
from ..parameters import gradient_sink

LARGE_LR = 2.0**20


@dataclass(frozen=True)
class Batch:
    """Rows with their targets and weights, (B, D), (B,) or (B, K), and (B,) or None."""

    x: Array
    y: Array
    weight: Array | None


def engine_gradient(config: Config, network: Sequential, batch: Batch) -> tuple[str, Array]:
    """Return the name of the configured engine, and the gradient that its step makes of a batch.

    It is read where the optimizer lets the step write it (see `optimizers`): what was added there,
    divided by the sink's factor. Where that is W itself, a learning rate so large that W is small
    beside the step keeps all digits. The step runs twice, because the graph engine records the
    first one and replays it from then on.
    """
    backend, flat = network.backend, network.flat
    optimizer = replace(build_optimizer(config), lr=LARGE_LR, clip_norm=None)
    for parameter in network.parameters:
        parameter.max_norm = None  # applied after a step, and no part of the gradient
    batches = _batches(config, backend, batch)
    training = TrainingStep(network, build_loss(config, backend), optimizer, batches)
    engine = get_engine(config.train.engine, training)
    choose = optimizer.sink if training.writes_through else gradient_sink
    sinks = [choose(parameter) for parameter in network.parameters]
    start, before = flat.values.copy(), []
    for _ in range(2):
        flat.values[...] = start
        for buffer in (flat.gradients, *optimizer.state.values()):
            buffer[...] = 0
        before = [_on_host(backend, sink.array) for sink in sinks]
        training.begin_epoch(0, 0, np.ones(batches.steps))
        engine.run(1)
    gradient = np.zeros(flat.values.shape)
    for parameter, sink, old in zip(network.parameters, sinks, before, strict=True):
        added = _on_host(backend, sink.array) - old
        parameter.view(gradient)[...] = added / float(sink.alpha)
    flat.values[...] = start
    return engine.name, gradient


def _on_host(backend: Backend, array: Array) -> Any:
    return backend.to_numpy(array).astype(np.float64)


def _batches(config: Config, backend: Backend, batch: Batch) -> Batches:
    """Return the batch as training has it: gathered from the data, and cut into micro-batches."""
    rows, accumulate = len(batch.x), config.train.accumulate
    numbers = np.arange(rows)
    if config.train.batch_size != "full":
        numbers = np.append(numbers, 0)  # a row more than the step takes, or nothing is gathered
        accumulate = max(n for n in range(1, min(accumulate, rows) + 1) if rows % n == 0)
    weight = None if batch.weight is None else batch.weight[numbers]
    return Batches(
        x=backend.asarray(batch.x[numbers]),
        target=build_loss(config, backend).as_target(batch.y[numbers], backend),
        weight=None if weight is None else backend.asarray(weight),
        size=rows if config.train.batch_size == "full" else rows // accumulate,
        accumulate=accumulate,
        shuffle=False,
        seed=config.seed,
        host_weight=weight,
    )
