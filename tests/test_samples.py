"""Samples: data that do not fit are refused with the array, the row and the column."""

import tracemalloc

import numpy as np
import pytest

from gpumlp.losses import BinaryCrossEntropy, MeanSquaredError, Poisson, SoftmaxCrossEntropy
from gpumlp.model import multilayer_perceptron
from gpumlp.samples import BLOCK_ROWS, as_samples, loss_weights

ROWS = 30
RNG = np.random.default_rng(5)
X = RNG.normal(size=(ROWS, 4))
LABELS = RNG.integers(0, 3, ROWS)
WEIGHTS = RNG.integers(0, 4, ROWS).astype(np.float64)
MODEL = multilayer_perceptron([4, 3])
NAN, INF = float("nan"), float("inf")


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


def test_arrays_of_the_right_type_are_taken_without_a_copy():
    x, y, weight = X.astype(np.float32), RNG.random((ROWS, 3), np.float32), np.ones(ROWS, "f4")
    taken = as_samples(MODEL, MeanSquaredError(), x, y, weight)
    assert taken.x is x
    assert taken.target is y
    assert taken.sample_weight is taken.loss_weight is weight


def test_bytes_stay_bytes_and_other_numbers_are_scaled_at_once():
    x, y = RNG.integers(0, 256, (ROWS, 4), np.uint8), np.zeros((ROWS, 3))
    taken = as_samples(MODEL, MeanSquaredError(), x, y, scale=0.5)
    assert taken.x is x
    assert taken.scale == 0.5
    for dtype in (np.float32, np.int64, "f8"):
        taken = as_samples(MODEL, MeanSquaredError(), x.astype(dtype), y, scale=0.5)
        np.testing.assert_array_equal(taken.x, np.float32(0.5) * x)
        assert (taken.x.dtype, taken.scale) == (np.float32, 1.0)


def test_what_overflows_when_scaled_is_named():
    with pytest.raises(ValueError, match=r"^x · input_scale has inf at row 0, column 0"):
        as_samples(MODEL, MeanSquaredError(), np.full((2, 4), 1e30), np.zeros((2, 3)), scale=1e30)


def test_the_place_of_nan_is_found_in_many_rows():
    x = np.zeros((10_000, 4))
    x[9_876, 3] = NAN
    with pytest.raises(ValueError, match=r"^x has nan at row 9876, column 3"):
        as_samples(MODEL, MeanSquaredError(), x, np.zeros((10_000, 3)))


def test_the_last_row_is_looked_at_where_it_begins_a_block():
    x = np.zeros((BLOCK_ROWS + 1, 4))
    x[-1, 2] = NAN
    with pytest.raises(ValueError, match=rf"^x has nan at row {BLOCK_ROWS}, column 2"):
        as_samples(MODEL, MeanSquaredError(), x, np.zeros((len(x), 3)))


def test_finite_data_are_checked_without_memory_of_their_size():
    x, y = np.zeros((200_000, 4), np.float32), np.zeros((200_000, 3), np.float32)
    tracemalloc.start()
    as_samples(MODEL, MeanSquaredError(), x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000


def test_weights_may_be_tiny_or_those_of_a_single_row():
    for weight in (1e-3 / ROWS, np.arange(ROWS) == 4):
        weight = np.zeros(ROWS, np.float32) + weight
        taken = as_samples(MODEL, SoftmaxCrossEntropy(), X, LABELS, weight)
        np.testing.assert_array_equal(taken.sample_weight, weight)


def test_weights_that_are_all_but_nothing_are_weights_all_the_same():
    """Their mean would be 0, in float32."""
    weight = changed(np.zeros(ROWS, np.float32), 0, 1e-45)
    taken = as_samples(MODEL, SoftmaxCrossEntropy(), X, LABELS, weight)
    assert taken.sample_weight[0] > 0


@pytest.mark.parametrize("target", [[[0.0], [1.0], [0.5]], [[0.25], [1.0], [0.0]]])
def test_one_soft_target_among_labels_has_no_class_and_so_no_class_weight(target):
    with pytest.raises(ValueError, match="class_weight needs one label per row"):
        loss_weights(np.array(target), None, np.array([1.0, 2.0]))


def test_weights_may_be_bytes_and_count_as_numbers():
    """In bytes 255 + 1 is 0."""
    weight = np.full(ROWS, 255, np.uint8)
    taken = as_samples(MODEL, SoftmaxCrossEntropy(), X, LABELS, weight)
    assert taken.sample_weight.dtype == np.float32
    assert taken.loss_weight.dtype == np.float32


def test_lists_will_do():
    taken = as_samples(MODEL, SoftmaxCrossEntropy(), X.tolist(), LABELS.tolist(), WEIGHTS.tolist())
    np.testing.assert_array_equal(taken.x, X.astype(np.float32))
    np.testing.assert_array_equal(taken.target, LABELS)
    np.testing.assert_array_equal(taken.sample_weight, WEIGHTS)


@pytest.mark.parametrize(
    ("x", "y", "weight", "message"),
    [
        (X, LABELS[:-1], None, "y has 29 rows, x has 30"),
        (X, LABELS, WEIGHTS[:-2], r"sample_weight must have shape \(30,\), got \(28,\)"),
        (X, LABELS, WEIGHTS[:, None], r"sample_weight must have shape \(30,\), got \(30, 1\)"),
        (X, LABELS, 2.0, r"sample_weight must have shape \(30,\), got \(\)"),
        (X, LABELS, changed(WEIGHTS, 3, INF), r"sample_weight has inf at row 3 \(counted from 0\)"),
        (X, LABELS, changed(WEIGHTS, 4, NAN), "sample_weight has nan at row 4"),
        (X, LABELS, changed(WEIGHTS, 4, -1), "sample_weight must be >= 0, got -1"),
        (X, LABELS, 0 * WEIGHTS, "sample_weight must not be 0 for every row"),
        (X, LABELS, np.full(ROWS, 3e38), "sample_weight: too big"),
        (X[:0], LABELS[:0], None, "x has no rows"),
        (X[:, :3], LABELS, None, r"x must have shape \(N, 4\), got \(30, 3\)"),
        (X[0], LABELS, None, r"x must have shape \(N, 4\), got \(4,\)"),
        (3, LABELS, None, r"x must have shape \(N, 4\), got \(\)"),
        (None, LABELS, None, "x must be an array of numbers: got object"),
        (X + 1j, LABELS, None, "x must be an array of numbers: got complex128"),
        ([[1], [1, 2]], LABELS, None, "x must be an array of numbers: "),
        (X.astype(str), LABELS, None, "x must be an array of numbers: got <U"),
        (changed(X, (7, 2), NAN), LABELS, None, r"x has nan at row 7, column 2 \(counted from 0\)"),
        (changed(X, (29, 3), -INF), LABELS, None, "x has -inf at row 29, column 3"),
        (changed(X, (5, 0), 1e300), LABELS, None, "x has inf at row 5, column 0"),
        (X, LABELS.astype(float), None, "y: labels must be integers, got float64"),
        (X, LABELS + 1, None, r"y: labels must lie in 0\.\.2, got 1\.\.3"),
        (X, changed(np.eye(3)[LABELS], (6, 1), NAN), None, "y has nan at row 6, column 1"),
        (X, None, None, "y has no rows, x has 30"),
        (X, 3, None, "y has no rows, x has 30"),
    ],
)
def test_data_that_do_not_fit_are_refused(x, y, weight, message):
    with pytest.raises(ValueError, match=f"^part {message}"):
        as_samples(MODEL, SoftmaxCrossEntropy(), x, y, weight, part="part ")


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        (MeanSquaredError(), changed(X[:, :3], (2, 1), INF), "y has inf at row 2, column 1"),
        (MeanSquaredError(), X[:, :2], r"y: outputs have shape \(30, 3\), targets \(30, 2\)"),
        (MeanSquaredError(), LABELS.astype(str), "y: "),
        (Poisson(), X[:, :3], r"y: targets of Poisson\('mean'\) lie in \[0, inf\]"),
        (BinaryCrossEntropy(), X[:, :3] + 2, "y: targets of BinaryCrossEntropy"),
    ],
)
def test_targets_that_the_loss_does_not_take_are_refused(loss, y, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        as_samples(MODEL, loss, X, y)
