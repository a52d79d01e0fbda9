"""Kernels that write what they compute as matrix products read it, too, in the same pass.

A recorded step in bf16 or fp16 has a kernel that computes a matrix, then one that rounds it for the
products that read it. The first can do both, which saves a pass over memory; and where nobody else
reads the matrix itself, it need not be written. The numbers are the same, bit for bit.
"""

from collections.abc import Callable, Sequence

from ..activations import Array
from .launch import DeviceCall, KernelCall, Span, span_of

OUTPUT = {"bias_activation_forward": "a", "bias_activation_backward": "dz"}  # which is copied
Bind = Callable[..., KernelCall]


def with_copies(calls: Sequence[DeviceCall], bind: Bind) -> list[DeviceCall]:
    """Return a step's calls with rounding done where the numbers are computed.

    `bind` returns a kernel bound to its arguments: bind(name, arguments).
    """
    left: list[DeviceCall | None] = [*calls]
    for i, call in enumerate(calls):
        if isinstance(call, KernelCall) and call.name == "split" and _parts(call) == 1:
            j = _writer(left, i, span_of(call.arguments["x"]))
            if j is not None:
                left[j], left[i] = _copying(left[j], call, bind), None
    kept = [call for call in left if call is not None]
    return [_without_unread(kept, i, bind) for i in range(len(kept))]


def _parts(split: KernelCall) -> int:
    return sum(split.arguments[name] is not None for name in ("high", "middle", "low"))


def _writer(calls: Sequence[DeviceCall | None], i: int, span: Span) -> int | None:
    """Return which kernel before call i computes the matrix there, if it can copy it."""
    for j in reversed(range(i)):
        call = calls[j]
        if call is None or not _overlap(call.writes, span):
            continue
        if isinstance(call, KernelCall) and call.name in OUTPUT:
            output = call.arguments[OUTPUT[call.name]]
            free = call.arguments["copy"] is None
            return j if output is not None and span_of(output) == span and free else None
        return None
    return None


def _copying(call: DeviceCall | None, split: KernelCall, bind: Bind) -> KernelCall:
    assert isinstance(call, KernelCall)
    copied = {"copy": split.arguments["high"], "format": split.arguments["format"]}
    return bind(call.name, call.arguments | copied)


def _without_unread(calls: Sequence[DeviceCall], i: int, bind: Bind) -> DeviceCall:
    """Return call i without its dz, where that has a copy and no other call touches it."""
    call = calls[i]
    if not isinstance(call, KernelCall) or call.name != "bias_activation_backward":
        return call
    dz: Array | None = call.arguments["dz"]
    if dz is None or call.arguments["copy"] is None:
        return call
    own = [a for name, a in call.arguments.items() if name != "dz" and hasattr(a, "strides")]
    span = span_of(dz)
    if _overlap([span_of(a) for a in own], span):  # dz is da itself
        return call
    if any(_overlap(other.reads, span) for other in calls if other is not call):
        return call
    return bind(call.name, call.arguments | {"dz": None})


def _overlap(spans: Sequence[Span], other: Span) -> bool:
    return any(span.start < other.end and other.start < span.end for span in spans)
