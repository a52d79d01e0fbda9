"""Which calls of a step may run at the same time: never two that touch the same memory."""

from itertools import combinations
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumlp.backend.cuda.launch import Span
from gpumlp.backend.cuda.schedule import Placed, dependencies, heights, schedule


def call(reads=(), writes=()):
    spans = [[Span(*span) for span in spans] for spans in (reads, writes)]
    return SimpleNamespace(reads=spans[0] + spans[1], writes=spans[1])


spans = st.tuples(st.integers(0, 20), st.integers(0, 5)).map(lambda s: (s[0], s[0] + s[1]))
some = st.lists(spans, max_size=3)
steps = st.lists(st.builds(call, some, some), max_size=14)


def overlap(one, other):
    return max(one.start, other.start) < min(one.end, other.end)


def conflict(first, second):
    """Whether the order of two calls matters."""
    return any(overlap(a, b) for a in first.writes for b in second.reads) or any(
        overlap(a, b) for a in first.reads for b in second.writes
    )


def ordered(placed):
    """For each call the earlier ones that are sure to be over when it begins."""
    before = []
    for number, place in enumerate(placed):
        own = [i for i in range(number) if placed[i].branch == place.branch]
        direct = {*own[-1:], *place.after}
        before.append(direct.union(*(before[i] for i in direct)))
    return before


@given(steps, st.integers(1, 4))
def test_of_two_calls_whose_order_matters_the_second_waits_for_the_first(calls, branches):
    before = ordered(schedule(calls, branches))
    for first, second in combinations(range(len(calls)), 2):
        if conflict(calls[first], calls[second]):
            assert first in before[second]


@given(steps)
def test_dependencies_are_those_of_the_definition_and_what_follows_from_them(calls):
    reached = []
    for needed in dependencies(calls):
        reached.append(needed.union(*(reached[i] for i in needed)))
    expected = []
    for number, second in enumerate(calls):
        direct = {i for i in range(number) if conflict(calls[i], second)}
        expected.append(direct.union(*(expected[i] for i in direct)))
    assert reached == expected


@given(steps, st.integers(1, 4))
def test_every_call_has_a_branch_and_waits_for_earlier_calls_of_others(calls, branches):
    placed = schedule(calls, branches)
    assert len(placed) == len(calls)
    for number, place in enumerate(placed):
        assert 0 <= place.branch < branches
        for earlier in place.after:
            assert earlier < number
            assert placed[earlier].branch != place.branch
    assert schedule(calls, branches) == placed


@given(steps)
def test_no_call_waits_for_what_it_is_behind_anyway(calls):
    placed = schedule(calls, 3)
    for number, place in enumerate(placed):
        for one in place.after:
            fewer = [*placed]
            fewer[number] = Placed(place.branch, tuple(i for i in place.after if i != one))
            assert one not in ordered(fewer)[number]


@given(steps)
def test_one_branch_is_the_order_of_the_program(calls):
    assert schedule(calls, 1) == [Placed(0, ())] * len(calls)


A, B, C, D, E = ((10 * i, 10 * i + 10) for i in range(5))


def test_calls_that_share_nothing_run_side_by_side():
    assert schedule([call([], [A]), call([], [B])], 2) == [Placed(0, ()), Placed(1, ())]


def test_two_that_only_read_do_not_wait_for_each_other():
    placed = schedule([call([], [A]), call([A], [B]), call([A], [C])], 2)
    assert placed == [Placed(0, ()), Placed(0, ()), Placed(1, (0,))]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (call([], [A]), call([A], [B])),  # it reads what was written
        (call([A], [B]), call([], [A])),  # it overwrites what is still to be read
        (call([], [A]), call([], [A])),  # the later value must stay
        (call([], [(0, 5)]), call([(4, 8)], [B])),  # a part is enough
    ],
)
def test_each_kind_of_conflict_is_one(first, second):
    assert dependencies([first, second]) == [set(), {0}]


def test_spans_that_only_touch_are_no_conflict():
    assert dependencies([call([], [(0, 5)]), call([(5, 9)], [])]) == [set(), set()]


def test_the_longest_path_stays_on_its_branch_and_short_ways_leave_it():
    calls = [
        call([], [A]),
        call([A], [B]),  # a short way, first in the program
        call([A], [C]),  # the long one
        call([C], [D]),
        call([D], [E]),
    ]
    assert heights(dependencies(calls)) == [3, 0, 2, 1, 0]
    assert [place.branch for place in schedule(calls, 2)] == [0, 1, 0, 0, 0]


def test_the_gradient_of_weights_runs_beside_the_layer_below():
    """The products dX and dW of a layer, then what the layer below makes of dX."""
    dz, w, dx, dw, below = A, B, C, D, E
    products = [call([], [dz]), call([dz, w], [dx]), call([dz], [dw])]
    rest = [call([dx], [below]), call([below], [])]
    main = Placed(0, ())
    assert schedule(products + rest, 2) == [main, main, Placed(1, (0,)), main, main]
    products[2] = call([dz], [w])  # W itself, so that dX must have read it
    assert schedule(products + rest, 2) == [main, main, Placed(1, (1,)), main, main]
