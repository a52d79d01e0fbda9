"""EagerEngine: runs the step's code anew each time, on a workspace that is used again."""

import numpy as np

from ..backend import RecordingBackend, Workspace
from .step import TrainingStep


class EagerEngine:
    """Calls every layer, loss and optimizer at each step: easiest to debug and to profile."""

    name = "eager"

    def __init__(self, step: TrainingStep) -> None:
        self._step = step
        self._workspace = Workspace(step.backend)

    @property
    def nbytes(self) -> int:
        """Bytes of the memory that steps work on."""
        return self._workspace.nbytes

    def run(self, n: int) -> None:
        """Run the next n steps of the epoch."""
        self._step.refresh()
        backend = RecordingBackend(self._step.backend, self._workspace)
        # a diverging run is found by the trainer's check of the loss, not by warnings of NumPy
        with np.errstate(all="ignore"):
            for rows, steps in self._step.batches.take(n):
                for _ in range(steps):
                    self._workspace.position = 0
                    self._step(backend, rows)
