"""The state of a training between two steps: all that it takes to go on from there, to the bit.

Shuffles and dropout are functions of seed, epoch and step, and a schedule's table is one of the
step, so there is no generator to save: parameters, what the optimizer and callbacks remember, how
far the epoch has come, and the history are everything.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import inf
from types import MappingProxyType
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


class Fit(NamedTuple):
    """What a `fit` under way has come to, besides parameters, optimizer, schedule and history.

    `began` is the epoch and the step that it started from. `progress` says how far its epoch has
    come, in `epoch_seconds`; None between two epochs.
    """

    began: tuple[int, int]
    seconds: float = 0.0
    best_epoch: int | None = None
    stop_reason: str | None = None
    progress: Progress | None = None
    epoch_seconds: float = 0.0
    callbacks: Mapping[str, Mapping[str, Any]] = MappingProxyType({})


def take_state(trainer: "Trainer") -> State:
    """Return the state of a trainer; on a CPU its arrays are the trainer's own, not copies."""
    to_numpy, fit = trainer.model.backend.to_numpy, trainer.fit_under_way
    under_way = None
    if fit is not None:
        progress = None if fit.progress is None else fit.progress._asdict()
        under_way = fit._asdict() | {"began": list(fit.began), "progress": progress}
    return {
        "made": _made(trainer),
        "parameters": {p.name: to_numpy(p.value) for p in trainer.model.parameters},
        "optimizer": {name: to_numpy(a) for name, a in trainer.optimizer.arrays.items()},
        "schedule": trainer.schedule.state(),
        "epoch": trainer.epoch - (trainer.under_way is not None),
        "step": trainer.step,
        "history": [dict(record) for record in trainer.history],
        "fit": under_way,
    }


def callback_states(trainer: "Trainer") -> dict[str, dict[str, Any]]:
    """Return what those callbacks remember that remember anything."""
    states = {name: callback.state() for name, callback in _named(trainer.callbacks)}
    return {name: state for name, state in states.items() if state}


def put_state(trainer: "Trainer", state: Mapping[str, Any]) -> Fit | None:
    """Give a trainer a state, but for what it returns, which belongs to the next `fit`.

    Raises StateError, before anything is changed, when the state is none, or of a trainer that was
    made otherwise.
    """
    model, optimizer = trainer.model, trainer.optimizer
    optimizer.bind(model.flat, model.backend)
    arrays = {f"parameter {p.name}": p.value for p in model.parameters}
    arrays |= {f"the optimizer's {name}": array for name, array in optimizer.arrays.items()}
    with _state_errors():
        _check_made(_made(trainer), state["made"])
        given = {f"parameter {name}": array for name, array in state["parameters"].items()}
        given |= {f"the optimizer's {name}": array for name, array in state["optimizer"].items()}
        _check_arrays(arrays, given)
        epoch, step = _whole(state["epoch"]), _whole(state["step"])
        history = [_record(record) for record in state["history"]]
        if len(history) != epoch:
            raise StateError(f"the state is none: epoch {epoch}, with a history of {len(history)}")
        fit = None if state["fit"] is None else _fit(state["fit"], epoch, step)
        if fit is not None and callback_states(trainer).keys() != fit.callbacks.keys():
            different = ", ".join(sorted(callback_states(trainer).keys() ^ fit.callbacks.keys()))
            raise StateError(f"the state is of other callbacks: {different}")
        trainer.schedule.load_state(state["schedule"])
    for name, array in arrays.items():
        array[...] = model.backend.asarray(given[name], array.dtype)
    trainer.epoch, optimizer.steps, trainer.history[:] = epoch, step, history
    return fit


def put_callback_states(trainer: "Trainer", states: Mapping[str, Mapping[str, Any]]) -> None:
    """Give callbacks the states that they had. Raises StateError when they are none."""
    for name, callback in _named(trainer.callbacks):
        if name in states:
            with _state_errors(f" of {name}"):
                callback.load_state(states[name])


def _made(trainer: "Trainer") -> dict[str, Any]:
    """Return how a trainer is made, as far as its kind of training depends on it."""
    return {
        "layers": [repr(layer) for layer in trainer.model.layers],
        "loss": type(trainer.loss).__name__,
        "optimizer": type(trainer.optimizer).__name__,
        "schedule": type(trainer.schedule).__name__,
        "batch_size": trainer.batch_size,
        "accumulate": trainer.accumulate,
        "shuffle": trainer.shuffle,
        "seed": trainer.seed,
    }


def _check_made(made: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    different = [f"{k} {given[k]!r}, not {made[k]!r}" for k in made if given[k] != made[k]]
    if different:
        raise StateError(f"the state is of another training: {'; '.join(different)}")


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


def _fit(found: Mapping[str, Any], epoch: int, step: int) -> Fit:
    """Return the `fit` of a state that has come to an epoch and a step."""
    began, progress = (_whole(found["began"][0]), _whole(found["began"][1])), None
    if found["progress"] is not None:
        sums = (np.asarray(found["progress"][name], np.float64) for name in ("losses", "correct"))
        progress = Progress(_whole(found["progress"]["position"]), *sums)
    if began[0] > epoch or began[1] > step - (progress.position if progress else 0):
        raise StateError(f"the state is none: epoch {epoch}, step {step}, but began at {began}")
    best_epoch, reason = found["best_epoch"], found["stop_reason"]
    return Fit(
        began,
        _seconds(found["seconds"]),
        None if best_epoch is None else _whole(best_epoch),
        None if reason is None else str(reason),
        progress,
        _seconds(found["epoch_seconds"]),
        {name: dict(remembered) for name, remembered in found["callbacks"].items()},
    )


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


def _seconds(value: Any) -> float:
    if not 0 <= value < inf:
        raise StateError(f"the state is none: {value!r} seconds")
    return float(value)


def _record(given: Mapping[str, Any]) -> Record:
    record = dict(given)
    for name in OF_EVERY_EPOCH:
        if not isinstance(record[name], int | float):
            raise StateError(f"the state is none: {name} {record[name]!r} in the history")
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
