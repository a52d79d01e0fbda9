"""GraphEngine: records a step once for each batch size, then replays the recorded calls."""

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
        self._plans: dict[int, Plan] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the memory that steps work on."""
        return self._workspace.nbytes

    def run(self, n: int) -> None:
        """Run the next n steps of the epoch."""
        with np.errstate(all="ignore"):
            for rows in self._step.batches.take(n):
                plan = self._plans.get(rows)
                if plan is None:
                    self._record(rows)
                else:
                    for call in plan:
                        call()

    def _record(self, rows: int) -> None:
        plan: Plan = []
        self._workspace.position = 0
        self._step(RecordingBackend(self._step.backend, self._workspace, plan), rows)
        self._plans[rows] = plan
