"""How many bytes a training step takes for a number of rows, found without taking them.

The step's own code is run with operations that do nothing, and the memory it asks for is counted,
for a few sizes of the batch. Its arrays are as long as the batch or do not depend on it, so these
counts tell the rest.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np

from ..backend import OPERATIONS, Backend, RecordingBackend, Workspace
from ..losses import Loss
from ..model import EVALUATION_ROWS, Sequential
from ..optimizers import Optimizer
from .step import Batches, TrainingStep

ROWS = 2048  # of the largest batch that is tried


@dataclass(frozen=True)
class StepBytes:
    """Bytes of a step: fixed + per_row · rows of a batch, but no less than `least`.

    (All operations share one scratch memory, and for small batches that is as large as W.)
    """

    fixed: float
    per_row: float
    least: int = 0

    def of(self, rows: int) -> int:
        """Return the bytes of a batch of so many rows.

        >>> StepBytes(1000, 40).of(64)
        3560
        """
        return max(self.least, round(self.fixed + self.per_row * rows))


class IdleBackend(RecordingBackend):
    """A recording backend whose operations do nothing; its workspace is memory nobody touches."""

    def __init__(self, backend: Backend) -> None:
        host = Backend(np, backend.dtype.name, backend.precision)
        super().__init__(host, Workspace(host))
        self.operand_dtype, self._format = backend.operand_dtype, backend.operand_format
        self.workspace_order = backend.workspace_order

    @property
    def operand_format(self) -> str | None:
        """As the backend that it stands for says."""
        return self._format


def _idle(name: str) -> Callable[..., None]:
    @wraps(getattr(Backend, name))
    def method(self: IdleBackend, *args: Any, **kwargs: Any) -> None:
        pass

    return method


for _name in OPERATIONS:
    setattr(IdleBackend, _name, _idle(_name))


def step_bytes(
    model: Sequential, loss: Loss, optimizer: Optimizer, like: Batches, whole: bool = False
) -> StepBytes:
    """Return the bytes of a training step; what it is given stays as it is.

    `like` are batches of the types, columns and accumulation of the training, of any number of
    rows; with `whole` a step uses all data at once, and nothing is gathered.
    """
    least, few, many = (
        _bytes(model, loss, optimizer, like, rows, whole) for rows in (1, ROWS // 2, ROWS)
    )
    per_row = (many - few) / (ROWS - ROWS // 2)
    return StepBytes(many - per_row * ROWS, per_row, least)


def _bytes(
    model: Sequential, loss: Loss, optimizer: Optimizer, like: Batches, rows: int, whole: bool
) -> int:
    backend = IdleBackend(model.backend)
    count = rows if whole else 2 * rows * like.accumulate
    x, target, weight, count_weight = (
        None if array is None else np.empty((count, *array.shape[1:]), array.dtype)
        for array in (like.x, like.target, like.weight, like.count_weight)
    )
    batches = Batches(
        x=x,
        target=target,
        weight=weight,
        size=rows,
        accumulate=like.accumulate,
        shuffle=False,
        seed=0,
        count_weight=count_weight,
    )
    idle = copy(model)
    idle.backend, idle.layers = backend.target, [copy(layer) for layer in model.layers]
    training = TrainingStep(idle, loss, copy(optimizer), batches)
    training(backend, batches.effective)
    return backend.workspace.nbytes + training.row_bytes


def prediction_bytes(model: Sequential, rows: int, columns: int) -> int:
    """Return the bytes that predicting so many rows takes, besides the rows."""
    backend = IdleBackend(model.backend)
    block = np.empty((min(rows, EVALUATION_ROWS), columns), backend.dtype)
    for layer in [copy(layer) for layer in model.layers]:
        block = layer.forward(block, backend=backend)
    outputs = rows * int(block.shape[1]) * backend.dtype.itemsize
    return backend.workspace.nbytes + 2 * outputs  # by blocks, then in one piece
