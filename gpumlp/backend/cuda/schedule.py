"""Which of a step's calls may run at the same time: each gets a branch, and calls to wait for.

Calls depend on each other through the memory that they read and write, which they state; so no
layer has to say what may overlap. The product that writes dW of a layer, for instance, ends up
beside the backward pass of the layer below.
"""

from collections.abc import Sequence
from typing import NamedTuple

from .launch import DeviceCall, Span


class Placed(NamedTuple):
    """Where a call runs, and the calls of other branches (by number) that must be over before."""

    branch: int
    after: tuple[int, ...]


class _Access(NamedTuple):
    span: Span
    call: int
    writes: bool


def dependencies(calls: Sequence[DeviceCall]) -> list[set[int]]:
    """Return for each call the earlier ones whose effects it must see, or that must not see its.

    Those are the last writers of what it reads, and the last readers and writers of what it writes.
    """
    accesses: list[_Access] = []
    found = []
    for number, call in enumerate(calls):
        needed = {
            access.call
            for span, written in _spans(call)
            for access in accesses
            if (written or access.writes) and _overlap(span, access.span)
        }
        found.append(needed)
        for written in call.writes:  # whoever needs what was there before needs this call, too
            accesses = [a for a in accesses if not _within(a.span, written)]
        accesses += [_Access(span, number, written) for span, written in _spans(call)]
    return found


def _spans(call: DeviceCall) -> list[tuple[Span, bool]]:
    """Return what a call reads, and what it writes, as pairs with whether it is written."""
    written = {*call.writes}
    found = [(span, span in written) for span in dict.fromkeys([*call.reads, *call.writes])]
    return [(span, writes) for span, writes in found if span.start < span.end]


def _overlap(one: Span, other: Span) -> bool:
    return one.start < other.end and other.start < one.end


def _within(inner: Span, outer: Span) -> bool:
    return outer.start <= inner.start and inner.end <= outer.end


def heights(needed: Sequence[set[int]]) -> list[int]:
    """Return for each call how many calls at least must follow it, one after another."""
    height = [0] * len(needed)
    for number in reversed(range(len(needed))):
        for earlier in needed[number]:
            height[earlier] = max(height[earlier], height[number] + 1)
    return height


def schedule(calls: Sequence[DeviceCall], branches: int) -> list[Placed]:
    """Place calls on so many branches, in their order.

    A call is followed, on its branch, by the one with most work behind it of those that need it;
    others go to a branch that is not kept for such a one.
    """
    needed = dependencies(calls)
    successor = _successors(needed)
    last = [-1] * branches  # number of each branch's last call
    # known[b][o]: the last call of branch o that branch b is known to come after
    known = [[-1] * branches for _ in range(branches)]
    at_end: list[list[int]] = []  # what was known when each call had been placed
    placed: list[Placed] = []
    for number, needs in enumerate(needed):
        mine = [b for b in range(branches) if last[b] in needs and successor[last[b]] == number]
        free = [b for b in range(branches) if successor.get(last[b], -1) <= number]
        branch = (
            max(mine, key=last.__getitem__)
            if mine
            else min(free or range(branches), key=last.__getitem__)
        )
        after = []
        for call in sorted(needs, reverse=True):
            other = placed[call].branch
            if other != branch and call > known[branch][other]:
                after.append(call)
                known[branch] = [*map(max, known[branch], at_end[call])]
        last[branch] = known[branch][branch] = number
        at_end.append([*known[branch]])
        placed.append(Placed(branch, tuple(sorted(after))))
    return placed


def _successors(needed: Sequence[set[int]]) -> dict[int, int]:
    """Return for each call the one of those that need it which has the most work behind it."""
    height, successor = heights(needed), dict[int, int]()
    for number, needs in enumerate(needed):
        for earlier in needs:
            best = successor.get(earlier)
            if best is None or height[number] > height[best]:
                successor[earlier] = number
    return successor
