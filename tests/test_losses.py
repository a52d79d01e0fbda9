"""Losses: sample loss, cost and total as the notes define them, and the laws of sample weights."""

import numpy as np
import pytest

from gpumlp import (
    SGD,
    BinaryCrossEntropy,
    Dense,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    Poisson,
    Sequential,
    SoftmaxCrossEntropy,
    Trainer,
    get_backend,
)
from gpumlp.losses import LOSSES, Loss

DOUBLE = get_backend("cpu", "fp64")
ROWS, OUTPUTS = 7, 3


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def cross_entropy(z, t, e):
    t = np.eye(z.shape[1])[t] if t.ndim == 1 else t
    return -(((1 - e) * t + e / z.shape[1]) * np.log(softmax(z))).sum(axis=1)


def bce(z, t, e):
    t, y = (1 - e) * t + e / 2, 1 / (1 + np.exp(-z))
    return (-t * np.log(y) - (1 - t) * np.log(1 - y)).mean(axis=1)


def huber(z, t, delta):
    d = abs(z - t)
    return np.where(d <= delta, d**2 / 2, delta * (d - delta / 2)).mean(axis=1)


def labels(rng):
    return rng.integers(OUTPUTS, size=ROWS)


def soft(rng):
    return rng.dirichlet(np.ones(OUTPUTS), ROWS)


def bits(rng):
    return rng.integers(2, size=(ROWS, OUTPUTS)).astype(float)


def values(rng):
    return rng.normal(size=(ROWS, OUTPUTS))


def counts(rng):
    return rng.integers(5, size=(ROWS, OUTPUTS)).astype(float)


CASES = {  # name -> class, arguments, targets, sample losses
    "labels": (SoftmaxCrossEntropy, {}, labels, lambda z, t: cross_entropy(z, t, 0)),
    "labels, smoothed": (
        SoftmaxCrossEntropy,
        {"label_smoothing": 0.1},
        labels,
        lambda z, t: cross_entropy(z, t, 0.1),
    ),
    "soft": (SoftmaxCrossEntropy, {}, soft, lambda z, t: cross_entropy(z, t, 0)),
    "soft, smoothed": (
        SoftmaxCrossEntropy,
        {"label_smoothing": 0.2},
        soft,
        lambda z, t: cross_entropy(z, t, 0.2),
    ),
    "bce": (BinaryCrossEntropy, {}, bits, lambda z, t: bce(z, t, 0)),
    "bce, smoothed": (
        BinaryCrossEntropy,
        {"label_smoothing": 0.1},
        bits,
        lambda z, t: bce(z, t, 0.1),
    ),
    "mse": (MeanSquaredError, {}, values, lambda z, t: ((z - t) ** 2).mean(axis=1)),
    "mae": (MeanAbsoluteError, {}, values, lambda z, t: abs(z - t).mean(axis=1)),
    "huber": (Huber, {"delta": 0.8}, values, lambda z, t: huber(z, t, 0.8)),
    "poisson": (Poisson, {}, counts, lambda z, t: (np.exp(z) - t * z).mean(axis=1)),
}

every_case = pytest.mark.parametrize("case", CASES)
both_reductions = pytest.mark.parametrize("reduction", ["mean", "sum"])


def make(case, rng, reduction="mean", backend=DOUBLE):
    """Return a loss, outputs z and targets."""
    cls, arguments, targets, _ = CASES[case]
    z = 2 * rng.normal(size=(ROWS, OUTPUTS))
    return cls(reduction, backend=backend, **arguments), z, targets(rng)


# ------------------------------------------------------------------ the three quantities


def test_the_table_of_cases_has_every_loss():
    assert {cls for cls, *_ in CASES.values()} == set(LOSSES.values())


@every_case
@both_reductions
@pytest.mark.parametrize("weighted", [False, True])
def test_sample_losses_cost_and_total_are_those_of_the_notes(
    backend, rng, case, reduction, weighted
):
    loss, z, target = make(case, rng, reduction, backend)
    weight = rng.uniform(0, 2, ROWS) if weighted else None
    returned = loss.forward(backend.asarray(z), target, weight)
    expected, w = CASES[case][3](z, target), np.ones(ROWS) if weight is None else weight
    tolerance = 32 * float(np.finfo(backend.dtype).eps)
    np.testing.assert_allclose(backend.to_numpy(loss.sample_losses), expected, tolerance, tolerance)
    assert loss.total == pytest.approx((w * expected).sum(), rel=tolerance)
    assert loss.cost == pytest.approx((w * expected).sum() / w.sum(), rel=tolerance)
    assert returned == (loss.cost if reduction == "mean" else loss.total)


@every_case
@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_of_the_total_is_that_of_the_cost_times_the_sum_of_weights(
    rng, case, weighted
):
    loss, z, target = make(case, rng)
    weight = rng.uniform(0.1, 2, ROWS) if weighted else None
    gradients = {}
    for reduction in ("mean", "sum"):
        loss = CASES[case][0](reduction, backend=DOUBLE, **CASES[case][1])
        loss.forward(z, target, weight)
        gradients[reduction] = loss.backward()
    n = ROWS if weight is None else weight.sum()
    np.testing.assert_allclose(gradients["sum"], gradients["mean"] * n, rtol=1e-12, atol=1e-15)


@every_case
def test_forward_changes_neither_outputs_nor_targets_nor_weights(rng, case):
    loss, z, target = make(case, rng)
    given = (z, target, rng.uniform(0, 2, ROWS))
    before = [array.copy() for array in given]
    loss.forward(*given)
    for array, old in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, old)


def test_labels_and_their_one_hot_rows_are_the_same_target(rng):
    loss, z, target = make("labels, smoothed", rng)
    cost, dz = loss.forward(z, target), loss.backward()
    assert loss.forward(z, np.eye(OUTPUTS)[target]) == cost
    np.testing.assert_array_equal(loss.backward(), dz)


@pytest.mark.parametrize("cls", [BinaryCrossEntropy, MeanSquaredError, Huber, Poisson])
def test_one_output_takes_targets_with_one_dimension(rng, cls):
    loss, z, t = cls(backend=DOUBLE), rng.normal(size=(ROWS, 1)), rng.uniform(0, 1, ROWS)
    assert loss.forward(z, t) == loss.forward(z, t[:, None])


@pytest.mark.parametrize(
    ("cls", "formula"),
    [
        (SoftmaxCrossEntropy, softmax),
        (BinaryCrossEntropy, lambda z: 1 / (1 + np.exp(-z))),
        (Poisson, np.exp),
        (MeanSquaredError, lambda z: z),
    ],
)
def test_link_turns_outputs_into_predictions(rng, cls, formula):
    z = rng.normal(size=(ROWS, OUTPUTS))
    before = z.copy()
    np.testing.assert_allclose(cls(backend=DOUBLE).link(z, DOUBLE), formula(z), rtol=1e-12)
    np.testing.assert_array_equal(z, before)


# ---------------------------------------------------------------- laws of sample weights


@every_case
@both_reductions
def test_a_weight_of_k_is_a_row_repeated_k_times_and_zero_is_an_absent_row(rng, case, reduction):
    loss, z, target = make(case, rng, reduction)
    times = np.array([1, 3, 0, 2, 1, 0, 5])
    cost, dz, total = loss.forward(z, target, times), loss.backward(), loss.total
    rows = np.repeat(np.arange(ROWS), times)
    assert loss.forward(z[rows], target[rows]) == pytest.approx(cost, rel=1e-12)
    assert loss.total == pytest.approx(total, rel=1e-12)
    repeated = np.zeros_like(z)
    np.add.at(repeated, rows, loss.backward())
    np.testing.assert_allclose(dz, repeated, rtol=1e-12, atol=1e-15)
    assert (dz[times == 0] == 0).all()


@every_case
def test_equal_weights_of_any_size_leave_the_cost_as_it_is(rng, case):
    loss, z, target = make(case, rng)
    cost, dz = loss.forward(z, target), loss.backward()
    assert loss.forward(z, target, np.full(ROWS, 1e-3)) == pytest.approx(cost, rel=1e-12)
    np.testing.assert_allclose(loss.backward(), dz, rtol=1e-12, atol=1e-15)


@every_case
@both_reductions
def test_weights_that_are_all_zero_give_zero_cost_and_zero_gradient(backend, rng, case, reduction):
    loss, z, target = make(case, rng, reduction, backend)
    assert loss.forward(z, target, np.zeros(ROWS)) == 0
    assert (loss.cost, loss.total) == (0, 0)
    assert (backend.to_numpy(loss.backward()) == 0).all()


def train(case, reduction, x, target, weight):
    cls, arguments, _, _ = CASES[case]
    layers = [Dense(4, 5, "tanh", DOUBLE), Dense(5, OUTPUTS, backend=DOUBLE)]
    trainer = Trainer(
        Sequential(*layers, seed=3),
        cls(reduction, backend=DOUBLE, **arguments),
        SGD(0.1 if reduction == "mean" else 0.01),
        batch_size="full",
    )
    history = trainer.fit(x, target, epochs=5, sample_weight=weight)
    return trainer.model.flat.values, np.array(history.column("loss"))


@every_case
@both_reductions
def test_training_with_weights_is_training_on_repeated_rows(rng, case, reduction):
    x, target = rng.normal(size=(ROWS, 4)), CASES[case][2](rng)
    times = np.array([2, 1, 0, 4, 0, 1, 1])
    rows = np.repeat(np.arange(ROWS), times)
    weighted, costs = train(case, reduction, x, target, times)
    repeated, expected = train(case, reduction, x[rows], target[rows], None)
    np.testing.assert_allclose(weighted, repeated, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(costs, expected, rtol=1e-9)


# --------------------------------------------------------------------- extreme outputs


@pytest.mark.parametrize("case", [case for case in CASES if case != "poisson"])
@pytest.mark.parametrize("largest", [1e2, 1e4])
def test_extreme_outputs_give_finite_losses_and_gradients(backend, rng, case, largest):
    loss, _, target = make(case, rng, backend=backend)
    z = np.tile([-largest, largest, 0.0], (ROWS, 1))
    assert np.isfinite(loss.forward(z, target))
    assert np.isfinite(backend.to_numpy(loss.backward())).all()
    assert (backend.to_numpy(loss.sample_losses) >= 0).all()


def test_a_class_that_is_all_but_excluded_costs_its_distance(backend):
    loss = SoftmaxCrossEntropy(backend=backend)
    assert loss.forward([[1e4, 0.0]], [1]) == 1e4
    assert loss.backward().tolist() == [[1.0, -1.0]]
    assert loss.forward([[1e4, 0.0]], [0]) == 0
    assert loss.backward().tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    "target", [[0, 1], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]], ids=["labels", "rows"]
)
def test_an_excluded_class_costs_nothing_unless_it_is_the_right_one(backend, target):
    """An output of -∞ is a probability of 0, and 0 log 0 is 0."""
    loss = SoftmaxCrossEntropy(backend=backend)
    z = [[0.0, 0.0, -np.inf], [1.0, 1.0, -np.inf]]
    assert loss.forward(z, target) == pytest.approx(np.log(2))
    expected = np.array([[-0.25, 0.25, 0.0], [0.25, -0.25, 0.0]])
    np.testing.assert_allclose(backend.to_numpy(loss.backward()), expected, atol=1e-7)
    assert loss.forward([[0.0, -np.inf]], [1]) == np.inf
    assert np.isnan(loss.forward([[0.0, np.nan]], [1]))


def test_a_bit_that_is_all_but_certain_costs_nothing_or_its_distance(backend):
    loss = BinaryCrossEntropy(backend=backend)
    for z, t, cost, dz in ((1e4, 1, 0, 0), (1e4, 0, 1e4, 1), (-1e4, 0, 0, 0), (-1e4, 1, 1e4, -1)):
        assert loss.forward([[z]], [t]) == cost
        assert loss.backward().item() == pytest.approx(dz, abs=1.2e-38)


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_cross_entropy_does_not_depend_on_a_shift_of_a_row(rng, shift):
    loss, z, target = make("soft", rng)
    cost, dz = loss.forward(z, target), loss.backward()
    assert loss.forward(z + shift, target) == pytest.approx(cost, rel=1e-10)
    np.testing.assert_allclose(loss.backward(), dz, rtol=0, atol=1e-10)


# ----------------------------------------------------------------------- correct rows


def correct(loss, backend, z, target):
    target = loss.as_target(target, backend)
    _, count, _ = loss.apply(backend.asarray(z), target, 1.0, backend, count=True)
    return backend.to_numpy(count).tolist()


TIED = [[1, 1, 0], [0, 2, 2], [3, 3, 3], [0, 0, 1], [-1, -1, -1]]  # argmax 0, 1, 0, 2, 0


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([0, 1, 0, 2, 0], 1.0), ([1, 2, 1, 0, 2], 0.0), ([2, 0, 2, 1, 1], 0.0)],
)
def test_the_first_of_equal_outputs_is_the_answer(backend, labels, expected):
    loss = SoftmaxCrossEntropy(backend=backend)
    assert correct(loss, backend, TIED, np.array(labels)) == [expected] * 5
    assert correct(loss, backend, TIED, np.eye(3)[labels]) == [expected] * 5


def test_the_first_of_equally_likely_classes_is_the_target(backend):
    loss = SoftmaxCrossEntropy(backend=backend)
    target = [[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [1 / 3, 1 / 3, 1 / 3]]
    assert correct(loss, backend, np.eye(3)[[0, 1, 0]], target) == [1.0, 1.0, 1.0]
    assert correct(loss, backend, np.eye(3)[[1, 2, 1]], target) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("case", ["labels, smoothed", "soft, smoothed"])
def test_correct_rows_are_those_whose_largest_output_is_the_target(backend, rng, case):
    loss = make(case, rng, backend=backend)[0]
    z = np.round(rng.normal(size=(500, OUTPUTS)))  # with many ties
    rows = np.round(3 * rng.uniform(size=(500, OUTPUTS)))
    target = rows.argmax(axis=1) if case.startswith("labels") else rows
    expected = z.argmax(axis=1) == rows.argmax(axis=1)
    assert 0 < expected.sum() < 500
    assert correct(loss, backend, z, target) == expected.astype(float).tolist()


def test_a_row_of_bits_is_correct_when_every_output_is_on_its_targets_side(backend):
    loss = BinaryCrossEntropy(backend=backend)
    z = [[1, -1], [1, 1], [0, 0], [-1, 2]]
    assert correct(loss, backend, z, [[1, 0], [1, 0], [0, 0], [0.4, 0.6]]) == [1.0, 0.0, 1.0, 1.0]


def test_a_loss_without_right_and_wrong_counts_nothing():
    loss = MeanSquaredError(backend=DOUBLE)
    assert not loss.counts_correct
    z = np.zeros((2, 1))
    assert loss.apply(z, z, 1.0, DOUBLE, count=True)[1] is None


# -------------------------------------------------------------------------------- errors


@every_case
@both_reductions
def test_another_number_of_targets_is_refused(rng, case, reduction):
    loss, z, target = make(case, rng, reduction)
    with pytest.raises(ValueError, match=r"7.*6"):
        loss.forward(z, target[:-1])


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_backward_before_forward_says_so(loss):
    with pytest.raises(ValueError, match=r"\('mean'\): backward needs a forward pass before it"):
        loss().backward()


def test_softmax_of_one_output_is_refused():
    with pytest.raises(ValueError, match="softmax needs at least two outputs"):
        SoftmaxCrossEntropy().forward([[0.3]], [0])
    trainer = Trainer(Sequential(Dense(2, 1)), SoftmaxCrossEntropy(), SGD())
    with pytest.raises(ValueError, match="with one output use BinaryCrossEntropy"):
        trainer.fit(np.ones((4, 2)), np.zeros(4, int))


@every_case
@pytest.mark.parametrize("length", [1, ROWS - 1, ROWS + 1])
def test_another_number_of_weights_is_refused(rng, case, length):
    loss, z, target = make(case, rng)
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        loss.forward(z, target, np.ones(length))


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("labels")])
@pytest.mark.parametrize("outputs", [1, OUTPUTS - 1, OUTPUTS + 1])
def test_rows_of_another_width_are_refused(rng, case, outputs):
    loss, z, _ = make(case, rng)
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        loss.forward(z, np.ones((ROWS, outputs)))


def test_targets_with_one_dimension_for_several_outputs_are_refused(rng):
    loss, z, _ = make("mse", rng)
    with pytest.raises(ValueError, match="shape"):
        loss.forward(z, np.zeros(ROWS))


@pytest.mark.parametrize("label", [-1, OUTPUTS, 255])
def test_a_label_that_is_no_class_is_refused(rng, label):
    loss, z, target = make("labels", rng)
    target[2] = label
    with pytest.raises(ValueError, match=f"{label}"):
        loss.forward(z, target)


@pytest.mark.parametrize("target", [[0.0, 1.0], ["a", "b"], [None, 1]], ids=str)
def test_labels_that_are_no_whole_numbers_are_refused(target):
    with pytest.raises(ValueError, match="integers"):
        SoftmaxCrossEntropy().forward([[0.0, 1.0]] * 2, target)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64, bool])
def test_labels_may_be_whole_numbers_of_any_type(dtype):
    loss = SoftmaxCrossEntropy()
    z, target = [[0.0, 1.0], [2.0, 0.0]], [1, 0]
    assert loss.forward(z, np.array(target, dtype)) == loss.forward(z, target)


@pytest.mark.parametrize("cls", LOSSES.values())
@pytest.mark.parametrize("reduction", ["none", "", "Mean"])
def test_an_unknown_reduction_is_refused(cls, reduction):
    with pytest.raises(ValueError, match="reduction"):
        cls(reduction)


@pytest.mark.parametrize("cls", [SoftmaxCrossEntropy, BinaryCrossEntropy])
@pytest.mark.parametrize("smoothing", [-0.1, 1.0, np.nan])
def test_a_label_smoothing_out_of_range_is_refused(cls, smoothing):
    with pytest.raises(ValueError, match="label_smoothing"):
        cls(label_smoothing=smoothing)


@pytest.mark.parametrize("delta", [0, -1.0, np.nan])
def test_a_delta_that_is_not_above_zero_is_refused(delta):
    with pytest.raises(ValueError, match="delta"):
        Huber(delta=delta)


def test_the_base_class_computes_nothing():
    with pytest.raises(NotImplementedError):
        Loss().forward([[0.0]], [[0.0]])


@pytest.mark.parametrize(
    ("loss", "target", "said"),
    [
        (BinaryCrossEntropy(), [0.0, 1.5], r"in \[0, 1\], got 0 to 1\.5"),
        (BinaryCrossEntropy(), [-0.5, 1.0], r"in \[0, 1\], got -0\.5 to 1"),
        (Poisson(), [-1.0, 3.0], r"in \[0, inf\], got -1 to 3"),
    ],
)
def test_a_target_beyond_either_end_of_the_range_is_refused(loss, target, said):
    with pytest.raises(ValueError, match=said):
        loss.forward([[0.0], [0.0]], target)


def test_target_rows_that_do_not_sum_to_one_are_refused():
    with pytest.raises(ValueError, match="sum to 1"):
        SoftmaxCrossEntropy().forward([[1.0, 2.0, 3.0]], [[1.0, 1.0, 0.0]])
