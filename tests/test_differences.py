"""Central differences: right on functions that can be done by hand, silent at kinks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumlp import Dense, MeanAbsoluteError, MeanSquaredError, Sequential, get_backend
from gpumlp.gradients.differences import TOLERANCE, Cost, H, relative_error

DOUBLE = get_backend("cpu", "fp64")


def make(activation="identity", loss=MeanSquaredError, x=((2.0,),), target=((1.0,),), **arguments):
    """A line with one input: a = σ(3 x + 0.5)."""
    model = Sequential(Dense(1, 1, activation, DOUBLE))
    for parameter, value in zip(model.parameters, (3.0, 0.5), strict=True):
        parameter.value[...] = value
    return Cost(model, loss(backend=DOUBLE), np.array(x), np.array(target), **arguments)


def test_the_difference_of_a_square_is_its_derivative():
    cost = make()
    weight, bias = cost.model.parameters
    assert cost.value() == 5.5**2
    assert cost.derivative(weight, (0, 0)) == pytest.approx(2 * 5.5 * 2, rel=1e-9)
    assert cost.derivative(bias, (0,)) == pytest.approx(2 * 5.5, rel=1e-9)


def test_a_difference_leaves_the_parameters_as_they_were():
    cost = make()
    before = cost.model.flat.values.copy()
    cost.derivative(cost.model.parameters[0], (0, 0))
    cost.along(np.ones_like(before))
    np.testing.assert_array_equal(cost.model.flat.values, before)


def test_the_penalty_belongs_to_the_cost():
    cost = make()
    weight = cost.model.parameters[0]
    plain = cost.derivative(weight, (0, 0))
    cost = make(penalty=lambda: 0.05 * float(weight.value[0, 0]) ** 2)
    weight = cost.model.parameters[0]
    assert cost.derivative(weight, (0, 0)) == pytest.approx(plain + 0.3, rel=1e-9)


def test_a_direction_gives_the_sum_of_what_its_entries_give():
    cost = make("tanh")
    weight, bias = cost.model.parameters
    direction = np.zeros_like(cost.model.flat.values)
    weight.view(direction)[...], bias.view(direction)[...] = 0.6, -0.8
    parts = 0.6 * cost.derivative(weight, (0, 0)) - 0.8 * cost.derivative(bias, (0,))
    assert cost.along(direction) == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize(
    ("activation", "loss", "x", "target"),
    [
        ("relu", MeanSquaredError, -0.5 / 3, 1.0),
        ("leaky_relu", MeanSquaredError, -0.5 / 3, 1.0),
        ("elu", MeanSquaredError, -0.5 / 3 + 1e-7, 1.0),
        ("identity", MeanAbsoluteError, 2.0, 6.5),
    ],
)
def test_no_difference_is_taken_across_a_kink(activation, loss, x, target):
    cost = make(activation, loss, [[x]], [[target]])
    gradient = np.ones((1, 1))
    for parameter, index in zip(cost.model.parameters, [(0, 0), (0,)], strict=True):
        assert cost.derivative(parameter, index) is None
    compared = cost.compare(cost.model.parameters[0], (0, 0), gradient)
    assert compared.skipped
    assert np.isnan(compared.error)
    aside = make(activation, loss, [[x + 0.1]], [[target]])
    assert aside.derivative(aside.model.parameters[0], (0, 0))


def test_a_smooth_loss_has_no_kink_at_its_target():
    cost = make("identity", MeanSquaredError, [[2.0]], [[6.5]])
    assert cost.derivative(cost.model.parameters[0], (0, 0)) == pytest.approx(0, abs=1e-4)


def test_kinks_of_rows_without_weight_do_not_count():
    rows = {"x": [[-0.5 / 3], [1.0]], "target": [[1.0], [1.0]]}
    cost = make("relu", **rows)
    assert cost.derivative(cost.model.parameters[1], (0,)) is None
    cost = make("relu", **rows, weight=np.array([0.0, 1.0]))
    assert cost.derivative(cost.model.parameters[1], (0,)) == pytest.approx(5.0, rel=1e-8)


def test_an_l1_penalty_has_a_kink_at_a_weight_of_zero_but_not_at_a_bias():
    cost = make(l1=True)
    weight, bias = cost.model.parameters
    cost.model.flat.values[...] = 0
    assert cost.derivative(weight, (0, 0)) is None
    assert cost.derivative(bias, (0,)) == pytest.approx(-2.0, rel=1e-8)


def test_no_z_moves_by_more_than_the_step_however_large_the_inputs():
    cost = make(x=[[1e4], [-3e4]], target=[[0.0], [0.0]])
    weight, bias = cost.model.parameters
    assert cost.step(weight)[0, 0] == pytest.approx(H / 3e4)
    assert cost.step(bias)[0] == H
    curved = make("tanh", x=[[2e4]], target=[[0.0]])
    curved.model.parameters[0].value[...] = 1e-5
    z = 0.2 + 0.5
    expected = 2 * np.tanh(z) * (1 - np.tanh(z) ** 2) * 2e4
    assert curved.derivative(curved.model.parameters[0], (0, 0)) == pytest.approx(
        expected, rel=1e-8
    )


def test_an_entry_that_rounding_dominates_does_not_count_as_wrong():
    cost = make()
    weight = cost.model.parameters[0]
    exact = np.array([[22.0]])
    assert cost.compare(weight, (0, 0), exact).error < TOLERANCE
    assert cost.compare(weight, (0, 0), exact * (1 + 1e-5)).error > TOLERANCE


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.floats(0, 1e9))
def test_the_relative_error_is_symmetric_and_at_most_two(analytic, numeric, scale):
    error = relative_error(analytic, numeric, scale)
    assert 0 <= error <= 2
    assert error == relative_error(numeric, analytic, scale)
    assert (error == 0) == (analytic == numeric) or abs(analytic - numeric) < 1e-290
