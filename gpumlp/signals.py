"""Stop a run cleanly on SIGINT (Ctrl-C) and SIGTERM."""

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from .events import Callback
from .trainer import Trainer


class StopOnSignal(Callback):
    """A context in which SIGINT and SIGTERM do no harm; also the trainer's callback.

    While it trains, the training is interrupted after the steps, or the block of rows of a
    validation, under way, and what follows (saving) is finished; a second signal kills the
    process. Before and after, where nothing is lost that cannot be done again, it ends by
    SystemExit. `exit_code` is 130 after SIGINT and 143 after SIGTERM if that ended training, as
    `trainer.stop_reason` then says, and else 0. Does nothing outside the main thread, where Python
    allows no handlers.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self._received: signal.Signals | None = None
        self._training = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def on_train_begin(self, trainer: Trainer) -> None:
        """From now on a signal waits for the step under way."""
        self._training = True

    def on_progress(self, trainer: Trainer) -> None:
        """Interrupt the trainer, unless it stops anyway."""
        if self._received is not None:
            trainer.interrupt(self._received.name)
            if trainer.interrupted:
                self.exit_code = 128 + self._received

    def on_train_end(self, trainer: Trainer) -> None:
        """From now on a signal ends the process, as one does that came too late for training."""
        self._training = False
        ends_well = sys.exception() is None  # else that is what has to be said
        if ends_well and self._received is not None and not trainer.interrupted:
            raise SystemExit(128 + self._received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._training:
            raise SystemExit(128 + number)
        self._received = signal.Signals(number)
        for each in self._previous:
            signal.signal(each, signal.SIG_DFL)
