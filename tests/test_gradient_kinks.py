"""Rows near a kink: where rounding may choose the derivative, and nowhere else."""

import numpy as np
import pytest

from gpumlp import Activation, Dense, MeanAbsoluteError, MeanSquaredError, Sequential, get_backend
from gpumlp.gradients.kinks import near_kinks

DOUBLE = get_backend("cpu", "fp64")
SQUARED, ABSOLUTE = MeanSquaredError(backend=DOUBLE), MeanAbsoluteError(backend=DOUBLE)


def network(*layers):
    """Return layers of one unit of (activation, w, b)."""
    model = Sequential(*(Dense(1, 1, activation, DOUBLE) for activation, _, _ in layers))
    for layer, (_, w, b) in zip(model.layers, layers, strict=True):
        layer.weight.value[...] = w
        layer.bias.value[...] = b
    return model


def near(model, x, target=0.0, loss=SQUARED, keys=None):
    x = np.array(x)[:, None]
    return near_kinks(model, loss, x, np.zeros_like(x) + target, keys).tolist()


@pytest.mark.parametrize(
    ("activation", "kinked"),
    [("relu", True), ("leaky_relu", True), ("elu", False), ("tanh", False), ("identity", False)],
)
def test_only_an_activation_with_a_kink_has_rows_near_it(activation, kinked):
    found = near(network((activation, 1.0, 0.0)), [1.0, -1.0, 1e-6, -1e-6])
    assert found == [False, False, kinked, kinked]


def test_near_is_one_in_100_000_of_the_largest():
    model = network(("relu", 2.0, 0.0))
    assert near(model, [1.1e-5, 0.9e-5, 0.0, -1.0]) == [False, True, False, False]
    assert near(model, [1.1e-2, 0.9e-2, 0.0, -1000.0]) == [False, True, False, False]


def test_the_bias_is_part_of_what_lies_near():
    assert near(network(("relu", 1.0, -1.0)), [1 + 1e-7, 1e-7, 3.0]) == [True, False, False]


def test_layers_without_a_bias_have_kinks_too():
    model = Sequential(Dense(1, 1, "relu", DOUBLE, bias=False))
    model.layers[0].weight.value[...] = 1.0
    assert near(model, [1.0, 1e-6]) == [False, True]


def test_one_unit_near_is_enough():
    model = Sequential(Dense(1, 2, "relu", DOUBLE))
    model.layers[0].weight.value[...] = [[1.0], [0.5]]
    model.layers[0].bias.value[...] = [0.0, -0.5]
    assert near(model, [1 + 1e-7, 1e-7, 3.0]) == [True, True, False]


def test_later_layers_see_what_earlier_ones_make_of_the_rows():
    model = network(("identity", 1.0, 1.0), ("relu", 1.0, -3.0))
    assert near(model, [2 + 1e-7, 1e-7, 5.0]) == [True, False, False]
    model = network(("relu", 1.0, 1.0), ("identity", 1.0, 0.0))
    assert near(model, [-1 + 1e-7, 1e-7, 5.0]) == [True, False, False]


def test_the_absolute_error_has_a_kink_at_the_target():
    model = network(("identity", 1.0, 1.0))
    found = near(model, [1.0, 1 + 1e-6, 3.0, -5.0], 2.0, ABSOLUTE)
    assert found == [False, True, False, False]
    assert near(model, [1.0, 1 + 1e-6, 3.0], 2.0, SQUARED) == [False, False, False]


@pytest.mark.parametrize(("activation", "kinked"), [("relu", True), ("elu", False)])
def test_an_activation_alone_has_its_kinks(activation, kinked):
    model = Sequential(Dense(1, 1, "tanh", DOUBLE), Activation(activation, DOUBLE))
    model.layers[0].weight.value[...] = 1.0
    assert near(model, [1.0, -1.0, 1e-6, 0.0]) == [False, False, kinked, False]


@pytest.mark.parametrize(
    ("z", "target"), [(1000.0, 0.0), (0.0, 1000.0), (-1000.0, 0.0), (0.0, -1000.0)]
)
def test_near_the_target_is_measured_by_the_larger_of_both(z, target):
    model = network(("identity", 1.0, 0.0))
    x, y = np.array([[z], [9e-3], [1.1e-2]]), np.array([[target], [0.0], [0.0]])
    assert near_kinks(model, ABSOLUTE, x, y, None).tolist() == [False, True, False]


def test_dropout_has_the_mask_of_its_keys():
    units, rows = 50, np.arange(1.0, 41.0)[:, None]
    model = Sequential(Dense(1, units, "identity", DOUBLE, dropout=0.5))
    model.layers[0].weight.value[...] = 1.0
    keys = np.array([5], np.uint32)
    kept = model.layers[0].forward(rows, key=keys[0])
    target = np.where(kept > 0, 0.0, 1.0)  # where it is dropped, 0 is far from the target
    target[7, np.argmax(kept[7] > 0)] = 16.0 + 1e-6
    assert near_kinks(model, ABSOLUTE, rows, target, keys).tolist() == [r == 7 for r in range(40)]
