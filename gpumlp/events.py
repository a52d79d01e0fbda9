"""What a trainer tells of itself: the history of its epochs, and the events that callbacks get."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .trainer import Trainer

Record = dict[str, Any]  # of an epoch: names and numbers


class History(list[Record]):
    """One record per epoch: a dict of numbers.

    >>> History([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]).column("loss")
    [0.5, 0.25]
    """

    def column(self, name: str) -> list[Any]:
        """Return one quantity over the epochs; KeyError when no epoch has it."""
        if not any(name in record for record in self):
            raise KeyError(name)
        return [record.get(name) for record in self]


class Callback:
    """What the trainer calls at its events; does nothing, override what you need.

    A callback may read the trainer (`trainer.history`, `trainer.model`, `trainer.step` ...), end
    the run with `trainer.stop(reason)`, or break it off, to be resumed, with `trainer.interrupt`.
    `every_steps` makes the trainer stop at each multiple of that many steps for `on_step`.
    """

    every_steps: int | None = None

    def on_train_begin(self, trainer: "Trainer") -> None:
        """Before the first step of a `fit`."""

    def on_epoch_begin(self, trainer: "Trainer") -> None:
        """Before the first step of an epoch."""

    def on_step(self, trainer: "Trainer") -> None:
        """After each multiple of `every_steps` steps."""

    def on_progress(self, trainer: "Trainer") -> None:
        """Several times a second: between two steps, or two blocks of rows of a validation."""

    def on_epoch_end(self, trainer: "Trainer", record: Record) -> None:
        """After an epoch and its validation; `record` is its line of the history."""

    def on_train_end(self, trainer: "Trainer") -> None:
        """After the last step, also of a run that was stopped."""

    def state(self) -> dict[str, Any]:
        """Return what a resumed run must remember: what JSON can hold, and NumPy arrays.

        Its keys are always the same ones; {} for nothing to remember.
        """
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` returned; called after `on_train_begin`.

        Whatever it raises for what `state` never returned ends `fit` as a StateError.
        """
