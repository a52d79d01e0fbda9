"""How n training steps are run: `engine.run(n)`, nothing more.

`eager` calls the step's code again for each step; `graph` records it once for each batch size and
replays the recorded calls. Both run the one source in `step.py` and give the same bits.
"""

from typing import Protocol

from .eager import EagerEngine
from .graph import GraphEngine
from .step import Batches, Progress, TrainingStep

__all__ = [
    "ENGINES",
    "Batches",
    "EagerEngine",
    "Engine",
    "GraphEngine",
    "Progress",
    "TrainingStep",
    "get_engine",
]


class Engine(Protocol):
    """Runs steps; the trainer sees to it that n never goes past the end of an epoch."""

    name: str

    @property
    def nbytes(self) -> int:
        """Bytes of the memory that steps work on."""

    def run(self, n: int) -> None:
        """Run the next n steps of the epoch."""


ENGINES: dict[str, type[EagerEngine] | type[GraphEngine]] = {
    "eager": EagerEngine,
    "graph": GraphEngine,
}


def get_engine(name: str, step: TrainingStep) -> Engine:
    """Return the engine of that name for a step; "auto" takes the fastest this device can run.

    Raises ValueError for an unknown name.
    """
    if name == "auto":
        name = "graph"
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; choose auto, {', '.join(ENGINES)}")
    return ENGINES[name](step)
