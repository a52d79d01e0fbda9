"""Stop a run cleanly on SIGINT (Ctrl-C) and SIGTERM."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from .trainer import Callback, Trainer


class StopOnSignal(Callback):
    """A context in which SIGINT and SIGTERM do no harm; also the trainer's callback.

    Before training a signal ends the process by SystemExit. From its first step on, training ends
    after the steps under way, and what follows (saving) is finished; a second signal of the same
    kind kills the process. `exit_code` is 130 if SIGINT ended training and 143 if SIGTERM did, as
    `trainer.stop_reason` then says, and else 0: a signal that comes when training has ended by
    itself changes nothing. Does nothing outside the main thread, where Python allows no handlers.
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
        """Ask the trainer to stop, unless it does so anyway."""
        if self._received is None or trainer.stop_reason or trainer.step >= trainer.last_step:
            return
        trainer.stop(self._received.name)
        self.exit_code = 128 + self._received

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._training:
            raise SystemExit(128 + number)
        self._received = signal.Signals(number)
        signal.signal(number, signal.SIG_DFL)
