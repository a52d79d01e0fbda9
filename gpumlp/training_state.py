"""The state of a training between two steps: all that it takes to go on from there, to the bit.

Shuffles and dropout are functions of seed, epoch and step, and a schedule's table is one of the
step, so there is no generator to save: parameters, what the optimizer and callbacks remember, how
far the epoch has come, and the history are everything.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .engine import Progress
from .errors import StateError
from .events import Callback, Record

if TYPE_CHECKING:
    from .trainer import Trainer

# Nested dicts of what JSON can hold, and of NumPy arrays; under "parameters" one for each name.
State = dict[str, Any]
LARGEST = 2**53  # number of steps or epochs
OF_EVERY_EPOCH = ("epoch", "step", "lr", "loss", "seconds", "samples_per_s")


class Resumption(NamedTuple):
    """What `fit` goes on with: of a state, what belongs to the `fit` that was under way.

    `progress` says how far the epoch had come, in `epoch_seconds`; it is None between two epochs.
    """

    progress: Progress | None
    epoch_seconds: float
    seconds: float
    best_epoch: int | None
    stop_reason: str | None
    callbacks: dict[str, dict[str, Any]]


def take_state(trainer: "Trainer") -> State:
    """Return the state of a trainer; on a CPU its arrays are the trainer's own, not copies."""
    to_numpy = trainer.model.backend.to_numpy
    under_way = trainer.under_way
    progress = None
    if under_way is not None:
        progress = under_way.progress._asdict() | {"seconds": trainer.epoch_seconds}
    return {
        "parameters": {p.name: to_numpy(p.value) for p in trainer.model.parameters},
        "optimizer": {name: to_numpy(a) for name, a in trainer.optimizer.arrays.items()},
        "schedule": trainer.schedule.state(),
        "epoch": trainer.epoch - (progress is not None),
        "step": trainer.step,
        "began": list(trainer.began),
        "seconds": trainer.seconds,
        "best_epoch": trainer.best_epoch,
        "stop_reason": None if trainer.interrupted else trainer.stop_reason,
        "history": [dict(record) for record in trainer.history],
        "progress": progress,
        "callbacks": {name: c.state() for name, c in _named(trainer.callbacks) if c.state()},
    }


def put_state(trainer: "Trainer", state: Mapping[str, Any]) -> Resumption:
    """Give a trainer a state, but for what it returns, which belongs to the next `fit`.

    Raises StateError, before anything is changed, when the state is none, or of another network,
    optimizer, schedule or other callbacks.
    """
    model, optimizer = trainer.model, trainer.optimizer
    optimizer.bind(model.flat, model.backend)
    arrays = {f"parameter {p.name}": p.value for p in model.parameters}
    arrays |= {f"the optimizer's {name}": array for name, array in optimizer.arrays.items()}
    with _state_errors():
        given = {f"parameter {name}": array for name, array in state["parameters"].items()}
        given |= {f"the optimizer's {name}": array for name, array in state["optimizer"].items()}
        _check_arrays(arrays, given)
        resumption = _resumption(state)
        remembered = {name for name, callback in _named(trainer.callbacks) if callback.state()}
        if remembered != resumption.callbacks.keys():
            different = ", ".join(sorted(remembered ^ resumption.callbacks.keys()))
            raise StateError(f"the state is of other callbacks: {different}")
        epoch, step = _whole(state["epoch"]), _whole(state["step"])
        first = step - (resumption.progress.position if resumption.progress else 0)
        began = _whole(state["began"][0]), _whole(state["began"][1])
        history = [_record(record) for record in state["history"]]
        if first < 0 or began > (epoch, step) or began[1] > step:
            raise StateError(f"the state is none: step {step}, of a training since step {began[1]}")
        trainer.schedule.load_state(state["schedule"])
    for name, array in arrays.items():
        array[...] = model.backend.asarray(given[name], array.dtype)
    trainer.epoch, optimizer.steps, trainer.began = epoch, step, began
    trainer.history[:] = history
    return resumption


def _check_arrays(arrays: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    if given.keys() != arrays.keys():
        different = ", ".join(sorted(given.keys() ^ arrays.keys()))
        raise StateError(f"the state is of another network or optimizer: {different}")
    for name, array in arrays.items():
        if given[name].shape != array.shape or given[name].dtype != array.dtype:
            raise StateError(
                f"the state is of another network: {name} is {given[name].dtype} "
                f"{given[name].shape}, not {array.dtype} {array.shape}"
            )


def _resumption(state: Mapping[str, Any]) -> Resumption:
    progress, seconds, found = None, 0.0, state["progress"]
    if found is not None:
        sums = (np.asarray(found[name], np.float64) for name in ("losses", "correct"))
        progress, seconds = Progress(_whole(found["position"]), *sums), float(found["seconds"])
    best_epoch, reason = state["best_epoch"], state["stop_reason"]
    return Resumption(
        progress,
        seconds,
        float(state["seconds"]),
        None if best_epoch is None else _whole(best_epoch),
        None if reason is None else str(reason),
        {name: dict(remembered) for name, remembered in state["callbacks"].items()},
    )


def put_callback_states(trainer: "Trainer", states: Mapping[str, Mapping[str, Any]]) -> None:
    """Give callbacks the states that they had. Raises StateError when they are none."""
    for name, callback in _named(trainer.callbacks):
        if name in states:
            with _state_errors(f" of {name}"):
                callback.load_state(states[name])


@contextmanager
def _state_errors(of: str = "") -> Iterator[None]:
    """Turn what a made-up state raises into a StateError."""
    try:
        yield
    except StateError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise StateError(f"the state{of} is none: {error!r}") from error


def _whole(value: Any) -> int:
    if isinstance(value, bool) or int(value) != value or not 0 <= value <= LARGEST:
        raise StateError(f"the state is none: {value!r} steps or epochs")
    return int(value)


def _record(given: Mapping[str, Any]) -> Record:
    record = dict(given)
    for name in OF_EVERY_EPOCH:
        record[name] + 0.0
    return record


def _named(callbacks: list[Callback]) -> list[tuple[str, Callback]]:
    """Return callbacks with the names of their classes, numbered where there are several."""
    seen: dict[str, int] = {}
    named = []
    for callback in callbacks:
        name = type(callback).__name__
        seen[name] = seen.get(name, 0) + 1
        named.append((name if seen[name] == 1 else f"{name} {seen[name]}", callback))
    return named
