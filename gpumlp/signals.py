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
    kind kills the process. `exit_code` is None, or what to exit with: 130 for SIGINT, 143 for
    SIGTERM. Does nothing outside the main thread, where Python allows no signal handlers.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None
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
        """Ask the trainer to stop."""
        if self.exit_code is not None:
            trainer.stop(signal.Signals(self.exit_code - 128).name)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.exit_code = 128 + number
        if not self._training:
            raise SystemExit(self.exit_code)
        signal.signal(number, signal.SIG_DFL)
