"""Plots of a regression: residuals are true less predicted values, whatever these are."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gpumlp.plots import Predictions
from gpumlp.plots.regression import _bins, predicted_against_true, residuals
from gpumlp.plots.style import our_style, png

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.fixture(autouse=True)
def style():
    with our_style():
        yield


def predictions(target, prediction, **more):
    return Predictions("test", np.array(target, float), np.array(prediction, float), **more)


def test_residuals_are_true_less_predicted_values_in_the_units_of_the_data():
    figure = residuals("run", predictions([1, 2, 4], [[1], [1], [6]], unscale=lambda a: 10 * a))
    over, often = figure.axes
    assert over.collections[0].get_offsets().tolist() == [[10, 0], [10, 10], [60, -20]]
    assert often.get_title() == "mean -3.33, standard deviation 12.5"
    assert sum(bar.get_height() for bar in often.patches) == 3
    assert "residuals (test part)" in figure.get_suptitle()
    png(figure)


def test_each_output_has_its_residuals_four_at_most():
    target = np.arange(30.0).reshape(5, 6)
    assert len(residuals("run", predictions(target, target + 1)).axes) == 8
    titles = [a.get_title() for a in residuals("run", predictions(target, target + 1)).axes]
    assert titles[:4:2] == ["output 1", "output 2"]
    assert titles[1].startswith("mean -1,")


def test_residuals_that_are_not_finite_are_left_out():
    figure = residuals("run", predictions([[1, 1], [2, 2]], [[np.nan, np.nan], [1, np.inf]]))
    first, second = figure.axes[0], figure.axes[2]
    assert first.collections[0].get_offsets().tolist() == [[1, 1]]
    assert second.get_title() == "output 2"
    assert figure.axes[3].get_title() == "no finite value"
    png(figure)
    assert residuals("run", predictions([1, 2], [[np.nan], [np.inf]])) is None


def test_the_score_counts_sample_weights_as_the_metric_does():
    target, prediction = [0, 1, 2, 3], [[0], [1], [2], [9]]
    (plain,) = predicted_against_true("run", predictions(target, prediction)).axes
    weighted = predictions(target, prediction, sample_weight=np.array([1, 1, 1, 0.0]))
    (axes,) = predicted_against_true("run", weighted).axes
    assert plain.get_title() == "R² = -6.200"
    assert axes.get_title() == "R² = 1.000"


@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(-1e150, 1e150)))
@example(np.array([5e-324, 0.0]))
def test_all_residuals_lie_in_a_bin(values):
    edges = _bins(values)
    assert (np.diff(edges) > 0).all()
    assert np.histogram(values, edges)[0].sum() == len(values)
    assert 6 <= len(edges) <= 41


@pytest.mark.parametrize("value", [0.0, 3.0, 1e-300, 1e300])
def test_equal_residuals_are_drawn(value):
    png(residuals("run", predictions([value] * 3, np.zeros((3, 1)))))
