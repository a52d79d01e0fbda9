"""KernelBackend: how an operation becomes a kernel; which one it is, `fused` says.

A device adds `kernel`: how a kernel is bound to arguments. Where an operation's arrays are not what
its kernel takes (another type, a strided view), the plain formula of `Backend` runs.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from typing import Any

import numpy as np

from .activations import Array
from .base import Backend, Call, Plan
from .geometry import SUMS
from .operations import OPERATIONS


class CallSequence(tuple[Call, ...]):
    """Several calls as one, in order."""

    def __call__(self) -> None:
        """Run them."""
        for call in self:
            call()


def flat(plan: Sequence[Call]) -> Iterator[Call]:
    """Yield the calls of a plan with sequences taken apart."""
    for call in plan:
        yield from call if isinstance(call, CallSequence) else (call,)


def together(calls: list[Call | None]) -> Call | None:
    """Return calls as one; None if any is missing."""
    there = [call for call in calls if call is not None]
    if len(calls) == 1:
        return calls[0]
    return CallSequence(there) if len(there) == len(calls) else None


class KernelBackend(Backend):
    """Operations as kernels.

    `_bind_NAME` takes what the operation NAME takes, and returns a kernel bound to it, or None
    where only the plain formula will do. Kernels check nothing, so shapes are checked there.
    """

    formulas: type[Backend] = Backend  # the plain ones, as this array library spells them
    kernel_operand: np.dtype[Any] = np.dtype("float32")  # the type `operand` of the kernels

    def kernel(self, name: str, **arguments: Any) -> Call | None:
        """Return a kernel bound to arguments by name; None where this backend has no kernels.

        Arguments are arrays (or None) and numbers; a number where the kernel reads from memory
        becomes an array.
        """
        raise NotImplementedError

    def bind(self, name: str, *args: Any, **kwargs: Any) -> Call:
        """As in `Backend`: a kernel where the operation has one for these arguments."""
        binder = getattr(self, f"_bind_{name}", None)
        call: Call | None = binder(*args, **kwargs) if binder else None
        return call or partial(getattr(self.formulas, name), self, *args, **kwargs)

    def calls(self, plan: Plan) -> list[Call]:
        """As in `Backend`; what stands for several calls is taken apart."""
        return [*flat(plan)]

    def _tickets(self) -> Array | None:
        """Return zeroed counters by which a kernel's blocks know which of them is the last."""
        return self.zeros((SUMS,), np.uint32)

    def _fits(self, shape: tuple[int, ...], *arrays: Array | None) -> bool:
        """Whether kernels take these arrays: that shape, float32, contiguous in this order."""
        return all(
            array.shape == shape and array.dtype == np.float32 and self._in_order(array)
            for array in arrays
            if array is not None
        )

    def _in_order(self, array: Array) -> bool:
        in_fortran_order = array.ndim == 2 and self.workspace_order == "F"
        return bool(array.flags.f_contiguous if in_fortran_order else array.flags.c_contiguous)


def _fused(name: str) -> Callable[..., None]:
    @wraps(getattr(Backend, name))
    def operation(self: KernelBackend, *args: Any, **kwargs: Any) -> None:
        self.bind(name, *args, **kwargs)()

    return operation


for _name in OPERATIONS:
    setattr(KernelBackend, _name, _fused(_name))
