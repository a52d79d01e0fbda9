"""Checkpoints: the state of a training in files, written while it goes on, to resume from.

`last.safetensors` is the newest, `last-1.safetensors` the one before; each is a whole model file
(see `saved_model`), with the state of the training besides. `best.safetensors` is a model file.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from .backend import Array
from .callbacks import BestEpoch
from .engine.watch import is_finite
from .errors import FileError
from .events import Callback, Record
from .files import file_errors, make_folder
from .tensor_file import NET, read_tensors, write_tensors
from .trainer import Trainer
from .training_state import State

TRAINING = "training/"  # begins the names of all arrays but parameters
LAST = re.compile(r"last(?:-(\d{1,9}))?\.safetensors")
SHARE = 1 / 50  # of the time that saving by the clock may take
Content = tuple[dict[str, Array], dict[str, Any]]


class Checkpoints(Callback):
    """Save the state of a training, and at its end; the last one of the trainer's callbacks.

    Args:
        folder: where the files go; made when training starts.
        every_epochs, every_steps: save after each multiple of so many; None: not for this reason.
        every_seconds: save when so many seconds have passed, or more where saving takes longer than
            a fiftieth of the time.
        keep_last: how many generations of `last` there are.
        keep_best: whether the best epoch's parameters are saved, where a callback knows them.
        content: returns the arrays and facts of a model file, which go into every checkpoint.
        facts: what else to write down.

    Raises FileError when a file cannot be written; those that were there before are then whole.

    >>> import tempfile
    >>> from gpumlp.losses import MeanSquaredError
    >>> from gpumlp.model import multilayer_perceptron
    >>> from gpumlp.optimizers import SGD
    >>> def trainer(*callbacks):
    ...     model = multilayer_perceptron([1, 1])
    ...     return Trainer(model, MeanSquaredError(), SGD(), callbacks=callbacks)
    >>> folder = Path(tempfile.mkdtemp())
    >>> first = trainer(Checkpoints(folder, every_epochs=1))
    >>> _ = first.fit([[1.0], [2.0]], [1.0, 2.0], epochs=2)
    >>> [file.name for file in sorted(folder.iterdir())]
    ['last-1.safetensors', 'last.safetensors']
    >>> second, found = trainer(), newest_checkpoint(folder)
    >>> second.load_state(found.state)
    >>> second.epoch, second.history == first.history
    (2, True)
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        every_epochs: int | None = None,
        every_steps: int | None = None,
        every_seconds: float | None = None,
        keep_last: int = 2,
        keep_best: bool = True,
        content: Callable[[], Content] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.every_steps = Path(folder), every_steps
        self._every_epochs, self._every_seconds = every_epochs, every_seconds
        self._keep_last, self._keep_best = keep_last, keep_best
        self.content, self._facts = content, dict(facts or {})
        self._saved_at, self._cost, self._saved = 0.0, 0.0, (-1, -1)
        self._best: dict[str, Any] | None = None  # epoch and sha256 of the file of the best epoch

    def on_train_begin(self, trainer: Trainer) -> None:
        """Make the folder, and start the clock."""
        with file_errors(self.folder):
            make_folder(self.folder)
        self._saved_at, self._saved, self._best = perf_counter(), (-1, -1), None

    def on_step(self, trainer: Trainer) -> None:
        """Save."""
        self.save(trainer)

    def on_progress(self, trainer: Trainer) -> None:
        """Save where it is time, or where training is being broken off."""
        if trainer.interrupted or self._is_time():
            self.save(trainer)

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        """Save where it is time, or where training ends."""
        ends = trainer.step >= trainer.last_step or trainer.stop_reason is not None
        due = self._every_epochs is not None and trainer.epoch % self._every_epochs == 0
        if ends or due or self._is_time():
            self.save(trainer)

    def _is_time(self) -> bool:
        if self._every_seconds is None:
            return False
        return perf_counter() - self._saved_at >= max(self._every_seconds, self._cost / SHARE)

    def save(self, trainer: Trainer) -> None:
        """Save the state of now, unless it is saved already.

        Parameters that are not finite are of no use, and the last ones that were finite stay.
        """
        now = trainer.step, len(trainer.history)
        if now == self._saved or not is_finite(trainer.model.backend, trainer.model.flat.values):
            return
        began = perf_counter()
        model = self.content() if self.content else ({}, {})
        self._save_best(trainer, *model)
        tensors, facts = checkpoint_content(trainer, model)
        facts |= {**self._facts, "best": self._best, "choices": trainer.model.backend.choices}
        write_tensors(newest(self.folder), tensors, facts, self._keep_last)
        self._saved_at, self._saved = perf_counter(), now
        self._cost = self._saved_at - began

    def _save_best(
        self, trainer: Trainer, tensors: Mapping[str, Array], facts: Mapping[str, Any]
    ) -> None:
        """Write the best epoch's model, if there is one that was not written yet."""
        known = [c for c in trainer.callbacks if isinstance(c, BestEpoch) and c.values is not None]
        if not known or not self._keep_best:
            return
        best = known[0]
        if self._best is None or self._best["epoch"] != best.best_epoch:
            to_numpy = trainer.model.backend.to_numpy
            values = {
                f"{NET}{p.name}": to_numpy(p.view(best.values)) for p in trainer.model.parameters
            }
            path = self.folder / "best.safetensors"
            digest = write_tensors(path, {**tensors, **values}, {**self._facts, **facts})
            self._best = {"epoch": best.best_epoch, "sha256": digest}


def checkpoint_content(trainer: Trainer, model: Content) -> Content:
    """Return the arrays and facts of a checkpoint: those of the model, and the training's state."""
    state = trainer.state()
    state["history"] = np.frombuffer(json.dumps(state["history"]).encode(), np.uint8)
    tensors = {f"{NET}{name}": array for name, array in state.pop("parameters").items()}
    training: dict[str, Any] = {}
    for path, value in _leaves(state):
        if isinstance(value, np.ndarray):
            tensors[TRAINING + "/".join(path)] = value
        else:
            _put(training, path, value)
    return {**model[0], **tensors}, {**model[1], "training": training}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a checkpoint holds: the training's state, and the file's other facts."""

    path: Path
    state: State
    facts: dict[str, Any]


def newest(folder: Path) -> Path:
    """Return where the newest checkpoint of a folder lies."""
    return folder / "last.safetensors"


def newest_checkpoint(
    folder: Path | str, warn: Callable[[str], None] = lambda text: None
) -> Checkpoint | None:
    """Return the newest checkpoint of a folder that is whole; None where there never was one.

    `warn` is told of each newer one that is damaged. Raises FileError when all are.
    """
    problems = []
    for path in _generations(Path(folder)):
        try:
            checkpoint = read_checkpoint(path)
        except FileError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warn(f"{problem}; {path.name} serves instead")
        return checkpoint
    if problems:
        raise FileError("\n".join(["no checkpoint can be read", *problems]))
    return None


def _generations(folder: Path) -> list[Path]:
    """Return the checkpoints that there are, the newest first."""
    found = {}
    with file_errors(folder):
        for path in folder.iterdir() if folder.is_dir() else ():
            name = LAST.fullmatch(path.name)
            if name:
                found[int(name[1] or 0)] = path
    return [found[number] for number in sorted(found)]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises FileError when it is not what was saved, or no checkpoint."""
    tensors, facts = read_tensors(path, "checkpoint")
    try:
        state: State = facts["training"]
        for name in [name for name in tensors if name.startswith(TRAINING)]:
            _put(state, name.removeprefix(TRAINING).split("/"), tensors.pop(name))
        state["parameters"] = {
            name.removeprefix(NET): array for name, array in tensors.items() if name.startswith(NET)
        }
        state["history"] = json.loads(state["history"].tobytes())
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
        raise FileError(f"{path}: not a checkpoint") from None
    return Checkpoint(path, state, facts)


def _leaves(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """Yield (path, value) of each value in nested dicts; an empty dict is a value."""
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _put(table: dict[str, Any], path: Any, value: Any) -> None:
    for name in path[:-1]:
        table = table.setdefault(name, {})
    table[path[-1]] = value
