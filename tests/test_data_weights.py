"""A class's weight: what the configuration names, or what makes all classes weigh the same."""

import numpy as np
import pytest

from gpumlp.data.targets import Targets
from gpumlp.data.weights import class_weights
from gpumlp.errors import DataError

THREE = Targets("multiclass", ("a", "b", "c"), 3)
TWO = Targets("binary", ("no", "yes"), 1)


def test_without_weights_there_are_none():
    assert class_weights(np.array([0, 1]), THREE, None, "float32") is None


@pytest.mark.parametrize(
    ("targets", "y", "expected"),
    [
        (THREE, [0, 0, 0, 1, 1, 2], [6 / 9, 6 / 6, 6 / 3]),
        (THREE, [0, 0, 1, 1], [4 / 6, 4 / 6, 4 / 3]),  # a class without rows as if it had one
        (TWO, [[0.0], [1.0], [1.0], [1.0]], [4 / 2, 4 / 6]),
    ],
)
def test_balanced_classes_weigh_the_same_and_all_rows_their_number(targets, y, expected):
    weights = class_weights(np.array(y), targets, "balanced", "float64")
    np.testing.assert_allclose(weights, expected, 1e-15)


def test_classes_that_are_not_named_weigh_1():
    weights = class_weights(np.array([0, 1, 2]), THREE, {"c": 0.0, "a": 2.5}, "float32")
    assert weights.dtype == np.float32
    assert weights.tolist() == [2.5, 1.0, 0.0]


def test_a_column_of_labels_is_taken_and_several_are_refused():
    assert class_weights(np.zeros((2, 1)), TWO, {"no": 3.0}, "float64").tolist() == [3.0, 1.0]
    with pytest.raises(DataError, match="several columns"):
        class_weights(np.zeros((2, 2)), THREE, "balanced", "float64")


def test_an_unknown_class_is_named_with_those_there_are():
    with pytest.raises(DataError, match='names "d", which is no class; the classes are a, b, c'):
        class_weights(np.array([0]), THREE, {"a": 1.0, "d": 1.0}, "float64")
