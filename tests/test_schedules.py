"""The schedules against PyTorch, against their formulas, and cut into chunks."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumlp.schedules import Constant, Cosine, Exponential, OneCycle, Plateau, Step, Warmup

STEPS = 50


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is the oracle here")


def reduced_plateau():
    plateau = Plateau(factor=0.3, patience=0)
    plateau.observe(1.0)
    plateau.observe(2.0)
    return plateau


SCHEDULES = {
    "constant": Constant(),
    "step": Step(every=7, gamma=0.3),
    "exponential": Exponential(gamma=0.9, every=3),
    "cosine": Cosine(total_steps=90, floor=0.1),
    "onecycle": OneCycle(total_steps=97),
    "plateau": reduced_plateau(),
    "warmup": Warmup(Cosine(total_steps=80), warmup_steps=13),
}

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def torch_factors(torch, make_scheduler, steps=STEPS):
    """The learning rate of each step, which PyTorch sets before the update, at a base of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make_scheduler(torch.optim.lr_scheduler, optimizer)
    factors = []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


def test_step_equals_step_lr_of_pytorch(torch):
    expected = torch_factors(torch, lambda lr, o: lr.StepLR(o, step_size=7, gamma=0.3))
    np.testing.assert_allclose(Step(7, 0.3).table(0, STEPS), expected, rtol=1e-12)


def test_exponential_equals_exponential_lr_of_pytorch(torch):
    expected = torch_factors(torch, lambda lr, o: lr.ExponentialLR(o, gamma=0.9))
    np.testing.assert_allclose(Exponential(0.9, 1).table(0, STEPS), expected, rtol=1e-12)


def test_cosine_equals_cosine_annealing_lr_of_pytorch(torch):
    expected = torch_factors(
        torch, lambda lr, o: lr.CosineAnnealingLR(o, T_max=STEPS, eta_min=0.1), STEPS + 1
    )
    np.testing.assert_allclose(Cosine(STEPS, 0.1).table(0, STEPS + 1), expected, rtol=1e-12)


@pytest.mark.parametrize("total", [4, 10, 49, 50])
def test_one_cycle_equals_one_cycle_lr_of_pytorch_with_its_defaults(torch, total):
    expected = torch_factors(
        torch, lambda lr, o: lr.OneCycleLR(o, max_lr=1.0, total_steps=total), total
    )
    ours = OneCycle(total, end=1 / 25 * 1e-4).table(0, total)
    np.testing.assert_allclose(ours, expected, rtol=1e-10)


def test_one_cycle_equals_one_cycle_lr_of_pytorch_with_other_ends(torch):
    expected = torch_factors(
        torch,
        lambda lr, o: lr.OneCycleLR(
            o, max_lr=1.0, total_steps=STEPS, pct_start=0.5, div_factor=10, final_div_factor=100
        ),
    )
    ours = OneCycle(STEPS, peak_fraction=0.5, start=0.1, end=1e-3).table(0, STEPS)
    np.testing.assert_allclose(ours, expected, rtol=1e-10)


@pytest.mark.parametrize("greater_is_better", [False, True])
@pytest.mark.parametrize("cooldown", [0, 2])
@pytest.mark.parametrize("patience", [0, 1, 3])
def test_plateau_equals_reduce_lr_on_plateau_of_pytorch(
    torch, greater_is_better, cooldown, patience
):
    values = np.random.default_rng(1).normal(size=60).cumsum() / 3
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode="max" if greater_is_better else "min",
        factor=0.5,
        patience=patience,
        threshold=0.05,
        threshold_mode="abs",
        cooldown=cooldown,
        min_lr=0.01,
    )
    ours = Plateau(0.5, patience, 0.05, 0.01, cooldown, greater_is_better)
    seen = set()
    for value in values:
        theirs.step(value)
        ours.observe(value)
        (factor,) = ours.table(0, 1)
        assert factor == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        seen.add(factor)
    assert len(seen) > 2, "the values never made the schedule move"


@every_schedule
@given(cuts=st.lists(st.integers(0, 100), max_size=6).map(sorted))
def test_a_table_has_the_same_bits_in_any_chunks(schedule, cuts):
    edges = [0, *cuts, 100]
    chunks = [schedule.table(a, b - a) for a, b in itertools.pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(chunks), schedule.table(0, 100))


@every_schedule
def test_a_table_has_the_same_bits_row_by_row(schedule):
    rows = [schedule.table(s, 1)[0] for s in range(100)]
    np.testing.assert_array_equal(rows, schedule.table(0, 100))


@every_schedule
def test_factors_are_float64_and_within_zero_and_one(schedule):
    table = schedule.table(0, 200)
    assert table.dtype == np.float64
    assert table.shape == (200,)
    assert ((table >= 0) & (table <= 1)).all()


def test_a_late_step_is_as_exact_as_an_early_one():
    late = 10**12
    assert Step(every=10**12, gamma=0.5).table(late - 1, 2).tolist() == [1.0, 0.5]


def test_cosine_stays_at_its_floor_after_the_end():
    np.testing.assert_array_equal(Cosine(10, floor=0.25).table(10, 5), 0.25)


def test_one_cycle_peaks_at_the_base_learning_rate_and_stays_at_its_end():
    table = OneCycle(total_steps=20, peak_fraction=0.25, start=0.1, end=0.01).table(0, 25)
    assert table[0] == pytest.approx(0.1)
    assert table.argmax() == 4
    assert table[4] == 1
    np.testing.assert_allclose(table[19:], 0.01)
    assert (np.diff(table[:5]) > 0).all()
    assert (np.diff(table[4:20]) < 0).all()


@pytest.mark.parametrize("total", [1, 2, 3])
def test_one_cycle_of_very_few_steps_begins_at_its_peak(total):
    assert OneCycle(total).table(0, total)[0] == 1


def test_warmup_multiplies_a_schedule_that_counts_from_step_zero_too():
    inner = Step(every=2, gamma=0.5)
    expected = [1 / 4, 2 / 4, 3 / 4 * 0.5, 0.5, 0.25, 0.25]
    np.testing.assert_array_equal(Warmup(inner, 4).table(0, 6), expected)


def test_warmup_of_one_step_changes_nothing():
    np.testing.assert_array_equal(Warmup(Cosine(9), 1).table(0, 9), Cosine(9).table(0, 9))


def test_warmup_passes_observations_and_state_to_its_schedule():
    schedule = Warmup(Plateau(factor=0.5, patience=0), warmup_steps=2)
    schedule.observe(1.0)
    schedule.observe(1.0)
    np.testing.assert_array_equal(schedule.table(0, 3), [0.25, 0.5, 0.5])
    fresh = Warmup(Plateau(factor=0.5, patience=0), warmup_steps=2)
    fresh.load_state(schedule.state())
    np.testing.assert_array_equal(fresh.table(0, 3), [0.25, 0.5, 0.5])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_plateau_counts_a_value_that_is_not_finite_as_bad(bad):
    for first in ([], [3.0]):
        plateau = Plateau(factor=0.5, patience=1)
        for value in (*first, bad, bad):
            plateau.observe(value)
        assert plateau.table(0, 1)[0] == 0.5
        plateau.observe(2.0)
        assert plateau.state()["best"] == 2.0


def test_defaults_are_those_that_are_documented():
    defaults = {"factor": 0.1, "patience": 10, "min_delta": 0.0, "minimum": 0.0, "cooldown": 0}
    assert Plateau() == Plateau(**defaults, greater_is_better=False)
    assert Plateau().state() == {"scale": 1.0, "best": None, "bad": 0, "resting": 0}
    assert OneCycle(9) == OneCycle(9, peak_fraction=0.3, start=1 / 25, end=1e-4)


def test_plateau_never_falls_below_its_minimum():
    plateau = Plateau(factor=0.1, patience=0, minimum=0.05)
    for _ in range(5):
        plateau.observe(1.0)
    assert plateau.table(0, 1)[0] == 0.05


@given(st.lists(st.floats(), max_size=20), st.lists(st.floats(), max_size=20))
def test_plateau_goes_on_from_its_state_as_if_unbroken(before, after):
    unbroken = Plateau(factor=0.5, patience=1, min_delta=0.1, cooldown=1)
    for value in before:
        unbroken.observe(value)
    resumed = Plateau(factor=0.5, patience=1, min_delta=0.1, cooldown=1)
    resumed.load_state(json.loads(json.dumps(unbroken.state(), allow_nan=False)))
    for value in after:
        unbroken.observe(value)
        resumed.observe(value)
    assert resumed == unbroken


def test_a_schedule_without_state_ignores_observations():
    schedule = Cosine(10)
    before = schedule.table(0, 10)
    schedule.observe(math.nan)
    schedule.load_state(schedule.state())
    np.testing.assert_array_equal(schedule.table(0, 10), before)


@pytest.mark.parametrize("schedule", [Cosine(10), Plateau()])
def test_the_state_of_another_schedule_is_refused(schedule):
    with pytest.raises(ValueError, match="has no state"):
        schedule.load_state({"epoch": 3})


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Step(0, 0.5), "every"),
        (lambda: Step(1, 0.0), "gamma"),
        (lambda: Exponential(math.nan, 1), "gamma"),
        (lambda: Exponential(0.5, 0), "every"),
        (lambda: Cosine(0), "total_steps"),
        (lambda: Cosine(1, floor=1.5), "floor"),
        (lambda: OneCycle(0), "total_steps"),
        (lambda: OneCycle(9, peak_fraction=1.0), "peak_fraction"),
        (lambda: OneCycle(9, start=-0.1), "start"),
        (lambda: OneCycle(9, end=2.0), "end"),
        (lambda: Plateau(factor=1.0), "factor"),
        (lambda: Plateau(patience=-1), "patience"),
        (lambda: Plateau(min_delta=math.nan), "min_delta"),
        (lambda: Plateau(minimum=2.0), "minimum"),
        (lambda: Plateau(cooldown=-1), "cooldown"),
        (lambda: Warmup(Constant(), 0), "warmup_steps"),
        (lambda: Step(2.5, 0.5), "every"),
        (lambda: Step("3", 0.5), "every"),
        (lambda: Step(1, "0.5"), "gamma"),
        (lambda: Exponential(math.inf, 1), "gamma"),
        (lambda: Cosine(10.5), "total_steps"),
        (lambda: Cosine(1, floor=None), "floor"),
        (lambda: Plateau(patience=1.5), "patience"),
        (lambda: Plateau(min_delta=math.inf), "min_delta"),
        (lambda: Warmup(Constant(), True), "warmup_steps"),
        (lambda: Constant().table(-1, 5), "first_step"),
        (lambda: Constant().table(0, -5), "steps"),
    ],
)
def test_a_value_out_of_range_is_named(make, name):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        make()
