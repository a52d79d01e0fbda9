"""Stop a training run cleanly on SIGINT (Ctrl-C) and SIGTERM."""

import signal
from types import FrameType
from typing import Any

from .trainer import Callback, Trainer


class StopOnSignal(Callback):
    """On the first signal training ends after the steps under way; a second one kills the process.

    `exit_code` is None, or what the process should exit with: 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_begin(self, trainer: Trainer) -> None:
        """Take over the signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)

    def on_progress(self, trainer: Trainer) -> None:
        """Ask the trainer to stop."""
        if self.exit_code is not None:
            trainer.stop(signal.Signals(self.exit_code - 128).name)

    def on_train_end(self, trainer: Trainer) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.exit_code = 128 + number
        signal.signal(number, signal.SIG_DFL)
