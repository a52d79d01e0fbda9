"""Callbacks: early stopping and the progress bar; derive your own from `events.Callback`."""

import os
import sys
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from math import inf, isnan
from typing import Any

from .backend import Array
from .events import Callback, Record
from .metrics import METRICS
from .trainer import Trainer
from .wording import duration, number

TERMINAL_LINES = 100
HIDDEN = (
    *("epoch", "step", "lr", "seconds", "samples_per_s", "total_loss", "penalty"),
    *("loss_scale", "skipped_steps"),
)


def greater_is_better(monitor: str) -> bool:
    """Return whether a quantity of the history, such as "val_accuracy", should grow.

    >>> greater_is_better("val_accuracy"), greater_is_better("val_loss")
    (True, False)
    """
    metric = METRICS.get(monitor.removeprefix("val_"))
    return metric is not None and metric.greater_is_better


@dataclass
class BestEpoch(Callback):
    """Know in which epoch a monitored quantity was best, and keep that epoch's parameters.

    Args:
        monitor: a quantity of the history, such as "val_loss" or "val_accuracy".
        min_delta: the least change that counts as improvement.

    Attributes:
        best_epoch: the best epoch so far, 0 before the first one.
        values: the network's flat buffer of values then, or None.

    Raises ValueError at the end of the first epoch when the history has no such quantity.
    """

    monitor: str = "val_loss"
    _: KW_ONLY
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        self.sign = -1.0 if greater_is_better(self.monitor) else 1.0
        self._reset()

    def _reset(self) -> None:
        self.best, self.best_epoch, self.waited = inf, 0, 0
        self.values: Array = None

    def on_train_begin(self, trainer: Trainer) -> None:
        """Forget what an earlier `fit` did."""
        self._reset()
        self._model = trainer.model

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        """Compare with the best epoch so far."""
        if self.monitor not in record:
            known = ", ".join(record)
            raise ValueError(f'cannot monitor "{self.monitor}"; the history has {known}')
        value = self.sign * record[self.monitor]
        if value < self.best - self.min_delta or self.best_epoch == 0:
            self.best = inf if isnan(value) else value
            self.best_epoch, self.waited = trainer.epoch, 0
            if self.values is None:
                self.values = trainer.model.flat.values.copy()
            self.values[...] = trainer.model.flat.values
        else:
            self.waited += 1

    def state(self) -> dict[str, Any]:
        """Return the best value, its epoch, the epochs since, and the parameters."""
        facts = {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited}
        if self.values is None:
            return facts
        return facts | {"values": self._model.backend.to_numpy(self.values)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` returned."""
        self._reset()
        self.best, self.best_epoch = float(state["best"]), int(state["best_epoch"])
        self.waited = int(state["waited"])
        if "values" in state:
            given, values = state["values"], self._model.flat.values
            if (given.shape, given.dtype) != (values.shape, values.dtype):
                raise ValueError(f"the best epoch's parameters are {given.dtype} {given.shape}")
            self.values = self._model.backend.asarray(given).copy()


@dataclass
class EarlyStopping(BestEpoch):
    """Stop when a monitored quantity has not improved for `patience` epochs (Prechelt 1998).

    Args:
        monitor: a quantity of the history, such as "val_loss" or "val_accuracy".
        patience: epochs without improvement to wait for.
        restore_best: give the model the parameters of the best epoch at the end.
        min_delta: the least change that counts as improvement.

    Raises ValueError at the end of the first epoch when the history has no such quantity.
    """

    patience: int = 10
    restore_best: bool = True

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        """Compare with the best epoch so far."""
        super().on_epoch_end(trainer, record)
        trainer.best_epoch = self.best_epoch
        if self.waited >= self.patience:
            trainer.stop(
                f"{self.monitor} has not improved on epoch {self.best_epoch} "
                f"for {self.waited} epoch{'' if self.waited == 1 else 's'}"
            )

    def on_train_end(self, trainer: Trainer) -> None:
        """Restore the best epoch's parameters."""
        if self.restore_best and self.values is not None:
            trainer.model.flat.values[...] = self.values


class ProgressBar(Callback):
    """A table with a line for each epoch, and on a terminal a tqdm bar below it; on stderr.

    A terminal gets about 100 lines at most, and the columns that fit its width. `bar=False` writes
    every line and no bar there too.
    """

    def __init__(self, bar: bool = True) -> None:
        self._on_terminal = bar and sys.stderr.isatty()
        self._bar: Any = None
        self._columns: list[str] = []

    def on_train_begin(self, trainer: Trainer) -> None:
        """Open the bar."""
        from tqdm import tqdm  # a third of what importing gpumlp took

        self._columns = []
        self._bar = tqdm(
            total=trainer.last_step,
            initial=trainer.step,
            unit="step",
            disable=not self._on_terminal,
            dynamic_ncols=True,
            leave=False,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}",
        )

    def on_progress(self, trainer: Trainer) -> None:
        """Move the bar."""
        where = f"epoch {trainer.epoch}/{trainer.last_epoch}  loss {number(trainer.running_loss)}"
        self._bar.set_description_str(where, refresh=False)
        self._bar.update(trainer.step - self._bar.n)

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        """Write the epoch's line, above the bar on a terminal."""
        epochs = trainer.last_epoch
        every = -(-epochs // TERMINAL_LINES) if self._on_terminal else 1
        last = trainer.step >= trainer.last_step or trainer.stop_reason is not None
        if not self._columns:
            width = os.get_terminal_size(sys.stderr.fileno()).columns if self._on_terminal else None
            self._columns = _fitting(shown_columns(record), len(_place(epochs, epochs)), width)
            place = " " * len(_place(epochs, epochs))
            self._write("  ".join([place, *map(_head, self._columns), "    time"]))
        elif record["epoch"] % every and not last:
            return
        cells = [f"{number(record[name]):>{len(_head(name))}}" for name in self._columns]
        place = _place(record["epoch"], epochs)
        self._write("  ".join([place, *cells, f"{duration(record['seconds']):>8}"]))

    def on_train_end(self, trainer: Trainer) -> None:
        """Close the bar."""
        if self._bar is not None:  # an earlier callback may have failed before it was opened
            self._bar.close()

    @staticmethod
    def _write(line: str) -> None:
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)


def shown_columns(record: Record) -> list[str]:
    """Return the names of a record that people want to see after each epoch.

    >>> shown_columns({"epoch": 1, "lr": 0.1, "loss": 0.5, "grad_norm_1": 0.6, "val_loss": 0.6})
    ['loss', 'val_loss']
    """
    return [name for name in record if name not in HIDDEN and not name.startswith("grad_norm")]


def format_record(record: Record, epochs: int) -> str:
    """Return an epoch's line of the history for reading.

    >>> format_record({"epoch": 3, "loss": 0.25, "val_accuracy": 0.9, "seconds": 1.5}, 20)
    'epoch  3/20  loss 0.2500  val_accuracy 0.9000  1.5 s'
    """
    shown = [f"{name} {number(record[name])}" for name in shown_columns(record)]
    return "  ".join([_place(record["epoch"], epochs), *shown, duration(record["seconds"])])


def _head(name: str) -> str:
    return f"{name:>10}"


def _place(epoch: int, epochs: int) -> str:
    return f"epoch {epoch:{len(str(epochs))}}/{epochs}"


def _fitting(names: list[str], place: int, width: int | None) -> list[str]:
    """Return the first of the columns, as many as fit between place and time; at least one."""
    room = inf if width is None else float(width) - place - len("      time")
    fitting: list[str] = []
    for name in names:
        room -= len(_head(name)) + 2
        if room >= 0 or not fitting:
            fitting.append(name)
    return fitting
