"""Out of memory: what is free, what training takes, and the largest batch that would fit."""

from collections.abc import Callable
from functools import wraps
from math import prod
from traceback import clear_frames
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from .backend import Array, Backend
from .engine import Batches
from .engine.footprint import StepBytes, prediction_bytes, step_bytes
from .errors import DeviceError
from .wording import size

if TYPE_CHECKING:
    from .trainer import Trainer

P = ParamSpec("P")
R = TypeVar("R")
USABLE = 0.9  # of what is free: the rest is lost between blocks, or somebody else's by then


class Needs(NamedTuple):
    """Bytes that training takes and does not have yet: data, parameters, and a step of a batch."""

    data: int
    parameters: int
    step: StepBytes


def largest_batch(free: int, needs: Needs) -> int:
    """Return the largest batch that fits into so many bytes, rounded down; 0 where none does.

    Of its binary digits two stay: 1, 2, 3, 4, 6, 8, 12, 16, 24 ...

    >>> needs = Needs(data=500_000, parameters=300_000, step=StepBytes(50_000, 1_000))
    >>> [largest_batch(free, needs) for free in (1_000_000, 2_000_000, 20_000_000, 900_000)]
    [48, 768, 16384, 0]
    """
    left = USABLE * free - needs.data - needs.parameters
    if left < needs.step.of(1):
        return 0
    rows = int((left - needs.step.fixed) / needs.step.per_row)
    unit = 1 << max(0, rows.bit_length() - 2)
    return rows // unit * unit


def parameter_bytes(trainer: "Trainer") -> int:
    """Return the bytes of parameters, gradients, optimizer state, and copies of them.

    One is of an epoch's start, without gradients (see `engine.divergence`), and in a low precision
    there is what matrix products read.
    """
    slots, values = len(trainer.optimizer.slots), trainer.model.flat.values
    backend = trainer.model.backend
    parts = 0 if backend.operand_format is None else backend.precision.parts
    operand = parts * int(values.size) * backend.operand_dtype.itemsize
    return int(values.nbytes) * (3 + 2 * slots) + operand


def explained(text: Callable[..., str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator for methods of a trainer: a MemoryError becomes a DeviceError that helps.

    `text(trainer, free, ...)` is what it says of the method's arguments, with so many bytes free
    (None where unknown) after all that the method had taken was given back.
    """

    def decorate(method: Callable[P, R]) -> Callable[P, R]:
        @wraps(method)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return method(*args, **kwargs)
            except MemoryError as error:
                trainer: Any = args[0]
                clear_frames(error.__traceback__)  # they hold what was allocated
                for layer in trainer.model.layers:
                    layer.forget()
                backend = trainer.model.backend
                free, why = backend.free_memory(), str(error).rstrip(".")
                said = f"out of memory on {backend.name}{f' ({why})' if why else ''}"
                said += "" if free is None else f"; {size(free)} free"
                try:
                    helps = text(trainer, free, *args[1:], **kwargs)
                except MemoryError:
                    helps = "Fewer rows, a smaller batch_size or smaller layers take less"
                raise DeviceError(f"{said}. {helps}") from None

        return call

    return decorate


def of_training(
    trainer: "Trainer",
    free: int | None,
    x: Array,
    y: Array,
    *,
    sample_weight: Array | None = None,
    validation: tuple[Array, ...] | None = None,
    **_: Any,
) -> str:
    """Return what training takes, and the batch size that would fit."""
    model, optimizer, count = trainer.model, trainer.optimizer, len(x)
    like, whole = _like(trainer, x, y, sample_weight), trainer.batch_size == "full"
    rows = count if trainer.batch_size == "full" else min(int(trainer.batch_size), count)
    data = _to_load(trainer, like, x, y, sample_weight) + 8 * count  # and the order of the rows
    if validation is not None:
        data += _to_load(trainer, _like(trainer, *validation), *validation)
        data += prediction_bytes(model, len(validation[0]), like.x.shape[1])
    step = step_bytes(model, trainer.loss, optimizer, like, whole or rows == count)
    values = int(model.flat.values.nbytes)
    held = 2 * values + sum(int(array.nbytes) for array in optimizer.state.values())
    parameters = parameter_bytes(trainer)
    gathered = step_bytes(model, trainer.loss, optimizer, like)
    needs = Needs(data, parameters - held, gathered)
    said = (
        f"Training takes {size(data)} for data, {size(parameters)} for parameters, gradients, "
        f"optimizer state and copies ({size(held)} are there already), and about "
        f"{size(step.of(rows))} for a step of {rows:,} rows"
    )
    return f"{said}: {_advice(free, needs, rows, trainer.accumulate)}"


def _advice(free: int | None, needs: Needs, rows: int, accumulate: int) -> str:
    if free is None:
        return "a smaller batch_size takes less"
    if needs.data > USABLE * free:
        return "the data alone do not fit; fewer rows or columns do, or images as bytes (uint8)"
    if needs.data + needs.parameters > USABLE * free:
        return "the parameters do not fit; smaller layers do"
    fits = largest_batch(free, needs)
    if not fits:
        return "not even a batch of one row fits; smaller layers do, or fewer rows of data"
    if fits >= rows:  # something else was in the way
        return f"with nothing else in memory it fits; try batch_size {max(1, rows // 2)}"
    return (
        f"the largest batch_size that fits is about {fits} "
        f"(with accumulate {-(-rows * accumulate // fits)} the updates are the same)"
    )


def of_prediction(
    trainer: "Trainer", free: int | None, x: Array, y: Array = None, weight: Array | None = None
) -> str:
    """Return what evaluating or predicting all rows of x at once takes."""
    rows, columns = np.shape(x)
    data = trainer.model.backend.dtype.itemsize * columns * rows
    outputs = prediction_bytes(trainer.model, rows, columns)
    return (
        f"{rows:,} rows take {size(data)}, and predicting them about {size(outputs)}: "
        "fewer rows at a time take less"
    )


def _like(trainer: "Trainer", x: Array, y: Array, weight: Array | None = None) -> Batches:
    """Return batches of one row, with the types and columns that training on these data has."""
    host = Backend(np, trainer.model.backend.dtype.name)
    kind = np.uint8 if getattr(x, "dtype", None) == np.uint8 else host.dtype
    labels = np.zeros((1, *np.shape(y)[1:]), np.asarray(y[:0]).dtype if _listed(y) else y.dtype)
    one = host.zeros((1,))
    classes = trainer.class_weight is not None
    return Batches(
        x=np.zeros((1, *np.shape(x)[1:]), kind),
        target=trainer.loss.as_target(labels, host),
        weight=one if classes or weight is not None else None,
        size=1,
        accumulate=trainer.accumulate,
        shuffle=False,
        seed=0,
        count_weight=one if classes else None,
        scale=trainer.input_scale,
    )


def _listed(array: Array) -> bool:
    return not hasattr(array, "dtype")


def _to_load(
    trainer: "Trainer", like: Batches, x: Array, y: Array, weight: Array | None = None
) -> int:
    """Return the bytes of data that are not on the device, in the type wanted, already."""
    backend, total = trainer.model.backend, 0
    for given, one in ((x, like.x), (y, like.target), (weight, like.weight)):
        if one is None:
            continue
        there = isinstance(given, backend.xp.ndarray) and given.dtype == one.dtype
        if not there or (given is x and trainer.input_scale != 1 and one.dtype != np.uint8):
            total += len(x) * prod(one.shape) * one.itemsize
    return total
