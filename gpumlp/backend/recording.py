"""RecordingBackend: runs operations on memory that is used again, and can keep each bound call.

Layers, losses and optimizers call operations on the backend they are handed. Handed a recording
backend, the same code leaves behind a plan, a list of calls bound to fixed arrays; replaying the
plan is the same step again. One source serves eager, recorded and (on a GPU) captured steps.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from .activations import Array
from .base import Backend, Order, Plan
from .operations import OPERATIONS


class Workspace:
    """The memory of a step: the i-th request after a rewind always gets the i-th buffer.

    Every step makes the same requests in the same order, so after the first step of the largest
    batch nothing is allocated any more; a smaller batch carves its arrays from the same buffers.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._buffers: list[Array] = []
        self._scratch = backend.empty((0,), np.uint8)
        self.position = 0

    def empty(self, shape: tuple[int, ...], dtype: Any, order: Order) -> Array:
        """Return the next array."""
        size = prod(shape) * np.dtype(dtype).itemsize
        if self.position == len(self._buffers):
            self._buffers.append(self._backend.empty((size,), np.uint8))
        elif len(self._buffers[self.position]) < size:
            # plans recorded on the old buffer keep it alive through their bound arrays
            self._buffers[self.position] = self._backend.empty((size,), np.uint8)
        buffer = self._buffers[self.position]
        self.position += 1
        return _carve(buffer, size, shape, dtype, order)

    def scratch(self, like: Array) -> Array:
        """Return the one scratch memory, which every operation of a step shares."""
        if len(self._scratch) < like.nbytes:
            self._scratch = self._backend.empty((like.nbytes,), np.uint8)
        order: Order = "C" if like.flags.c_contiguous else "F"
        return _carve(self._scratch, like.nbytes, like.shape, like.dtype, order)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(sum(map(len, self._buffers)) + len(self._scratch))


def _carve(buffer: Array, size: int, shape: tuple[int, ...], dtype: Any, order: Order) -> Array:
    flat = buffer[:size].view(dtype)
    return flat.reshape(shape) if order == "C" else flat.reshape(shape[::-1]).T


class RecordingBackend(Backend):
    """A backend's operations on a workspace's memory; with a `plan`, each call is kept in it.

    >>> import numpy
    >>> backend = Backend(numpy)
    >>> recorder = RecordingBackend(backend, Workspace(backend), plan=[])
    >>> z = backend.asarray([[0.0, 0.0]])
    >>> y = recorder.empty(z.shape)
    >>> recorder.softmax(y, z)
    >>> z[0, 1] = 50
    >>> for call in recorder.plan: call()
    >>> y.tolist()
    [[1.9287498933537385e-22, 1.0]]
    """

    def __init__(self, target: Backend, workspace: Workspace, plan: Plan | None = None) -> None:
        super().__init__(target.xp, target.dtype.name, target.precision)
        self.operand_dtype, self.early_update = target.operand_dtype, target.early_update
        self.name = target.name
        self.workspace_order = target.workspace_order
        self.target = target
        self.workspace = workspace
        self.plan = plan

    def empty(self, shape: tuple[int, ...], dtype: Any = None, order: Order | None = None) -> Array:
        """Return the workspace's next array, in the memory order the backend prefers."""
        return self.workspace.empty(shape, dtype or self.dtype, order or self.workspace_order)

    def scratch(self, like: Array) -> Array:
        """Return the workspace's scratch memory."""
        return self.workspace.scratch(like)

    @property
    def operand_format(self) -> str | None:
        """As the target says."""
        return self.target.operand_format


def _recorded(name: str) -> Callable[..., None]:
    def method(self: RecordingBackend, *args: Any, **kwargs: Any) -> None:
        call = self.target.bind(name, *args, **kwargs)
        call()
        if self.plan is not None:
            self.plan.append(call)

    method.__name__ = name
    method.__doc__ = getattr(Backend, name).__doc__
    return method


for _name in OPERATIONS:
    setattr(RecordingBackend, _name, _recorded(_name))
