"""The state of a training between two steps: all that it takes to go on from there, to the bit.

Shuffles and dropout are functions of seed, epoch and step, and a schedule's table is one of the
step, so there is no generator to save: parameters, what the optimizer and callbacks remember, how
far the epoch has come, and the history are everything.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .engine import Progress
from .events import Callback

if TYPE_CHECKING:
    from .trainer import Trainer

# Nested dicts of what JSON can hold, and of NumPy arrays; under "parameters" one for each name.
State = dict[str, Any]


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


def put_state(trainer: "Trainer", state: Mapping[str, Any]) -> None:
    """Give a trainer a state, but for what belongs to the epoch under way and to callbacks.

    Raises ValueError, before anything is changed, when the state is of another network, optimizer,
    schedule or other callbacks.
    """
    model, optimizer = trainer.model, trainer.optimizer
    optimizer.bind(model.flat, model.backend)
    arrays = {f"parameter {p.name}": p.value for p in model.parameters}
    arrays |= {f"the optimizer's {name}": array for name, array in optimizer.arrays.items()}
    given = {f"parameter {name}": array for name, array in state["parameters"].items()}
    given |= {f"the optimizer's {name}": array for name, array in state["optimizer"].items()}
    if given.keys() != arrays.keys():
        different = ", ".join(sorted(given.keys() ^ arrays.keys()))
        raise ValueError(f"the state is of another network or optimizer: {different}")
    for name, array in arrays.items():
        if given[name].shape != array.shape or given[name].dtype != array.dtype:
            raise ValueError(
                f"the state is of another network: {name} is {given[name].dtype} "
                f"{given[name].shape}, not {array.dtype} {array.shape}"
            )
    remembered = {name for name, callback in _named(trainer.callbacks) if callback.state()}
    if remembered != state["callbacks"].keys():
        different = ", ".join(sorted(remembered ^ state["callbacks"].keys()))
        raise ValueError(f"the state is of other callbacks: {different}")
    trainer.schedule.load_state(state["schedule"])
    for name, array in arrays.items():
        array[...] = model.backend.asarray(given[name], array.dtype)
    trainer.epoch, optimizer.steps = int(state["epoch"]), int(state["step"])
    epoch, step = state["began"]
    trainer.began = int(epoch), int(step)
    trainer.history[:] = [dict(record) for record in state["history"]]


def put_callback_states(trainer: "Trainer", state: Mapping[str, Any]) -> None:
    """Give callbacks the states that they had."""
    for name, callback in _named(trainer.callbacks):
        if name in state["callbacks"]:
            callback.load_state(state["callbacks"][name])


def progress_of(state: Mapping[str, Any]) -> tuple[Progress, float] | None:
    """Return how far the epoch had come and the seconds it had taken; None between two epochs."""
    found = state["progress"]
    if found is None:
        return None
    sums = (np.asarray(found[name], np.float64) for name in ("losses", "correct"))
    return Progress(int(found["position"]), *sums), float(found["seconds"])


def _named(callbacks: list[Callback]) -> list[tuple[str, Callback]]:
    """Return callbacks with the names of their classes, numbered where there are several."""
    seen: dict[str, int] = {}
    named = []
    for callback in callbacks:
        name = type(callback).__name__
        seen[name] = seen.get(name, 0) + 1
        named.append((name if seen[name] == 1 else f"{name} {seen[name]}", callback))
    return named
