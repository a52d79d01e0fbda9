"""GraphEngine: records a step once for each batch size, then replays the recorded calls."""

from collections.abc import Callable

import numpy as np

from ..backend import Plan, RecordingBackend, Workspace
from .step import TrainingStep


class GraphEngine:
    """Replays a plan: the operations of a step, bound to fixed memory; no layer code runs again."""

    name = "graph"

    def __init__(self, step: TrainingStep) -> None:
        self._step = step
        self._workspace = Workspace(step.backend)
        # at most two sizes occur: the full batch, and the rest at the end of an epoch
        self._plans: dict[int, Callable[[int], None]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the memory that steps work on."""
        return self._workspace.nbytes

    def run(self, n: int) -> None:
        """Run the next n steps of the epoch."""
        self._step.refresh()
        with np.errstate(all="ignore"):
            for rows, steps in self._step.batches.take(n):
                if rows not in self._plans:
                    self._plans[rows] = self._record(rows)
                    steps -= 1
                self._plans[rows](steps)

    def _record(self, rows: int) -> Callable[[int], None]:
        """Run a step, and return what runs it again n times."""
        plan: Plan = []
        self._workspace.position = 0
        self._step(RecordingBackend(self._step.backend, self._workspace, plan), rows)
        return self._step.backend.replay(plan)
