"""Hidden features in a plane: principal components are right, and every odd layer can be drawn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from gpumlp.layers import Dense
from gpumlp.model import Sequential, multilayer_perceptron
from gpumlp.plots import Predictions
from gpumlp.plots.features import (
    LayerFeatures,
    feature_planes,
    layer_features,
    principal_components,
    shown_rows,
)
from gpumlp.plots.style import CLASSES, our_style, png

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.fixture(autouse=True)
def style():
    with our_style():
        yield


def of_classes(count, rows=60):
    """Predictions of so many classes, and one layer in which they are apart."""
    target = np.arange(rows) % count
    names = [f"class {i}" for i in range(count)]
    values = np.stack([np.cos(target), np.sin(target), np.arange(rows) / rows], axis=1)
    layers = [LayerFeatures("input (3 values)", values)]
    return Predictions("test", target, np.eye(count)[target], names, x=values), layers


# --------------------------------------------------------------------------- the mathematics


@given(
    arrays(
        np.float64,
        array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.integers(-8, 8).map(float),
    )
)
def test_components_are_those_of_the_singular_value_decomposition(values):
    scores, shares = principal_components(values)
    u, s, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    total = (s**2).sum()
    for i in range(min(2, len(s))):
        if s[i] ** 2 <= 1e-12 * total:
            continue
        assert shares[i] == pytest.approx(s[i] ** 2 / total, abs=1e-9)
        assert np.linalg.norm(scores[:, i]) == pytest.approx(s[i])
        alone = all(abs(s[i] - other) > 1e-3 * s[i] for j, other in enumerate(s) if j != i)
        if alone:  # equal variances leave the direction open
            assert np.allclose(abs(scores[:, i]), abs(u[:, i] * s[i]), atol=1e-6 * s[0])
    assert scores.shape == (len(values), 2)
    assert 0 <= shares.sum() <= 1 + 1e-12


@pytest.mark.parametrize("shape", [(40, 5), (5, 40)])
def test_components_do_not_depend_on_the_sign_that_the_library_happened_to_take(shape, rng):
    values = rng.normal(size=shape)
    scores, _ = principal_components(values)
    centred = values - values.mean(axis=0)
    for component in scores.T:
        axis = component @ centred  # along which the rows were projected
        assert axis[abs(axis).argmax()] > 0


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_components_of_very_small_and_large_values_are_as_exact(scale, rng):
    values = rng.normal(size=(20, 4))
    scores, shares = principal_components(scale * values)
    assert np.allclose(scores / scale, principal_components(values)[0])
    assert np.allclose(shares, principal_components(values)[1])


@pytest.mark.parametrize("value", [0.0, 0.1, 1e300])
def test_equal_rows_have_no_variance(value):
    scores, shares = principal_components(np.full((7, 3), value))
    assert shares.tolist() == [0, 0]
    assert not scores.any()


# --------------------------------------------------------------------------- which layers, rows


def test_input_and_hidden_layers_are_shown_the_output_is_not(rng):
    model, x = multilayer_perceptron([4, 7, 5, 3]), rng.normal(size=(6, 4)).astype(np.float32)
    layers = layer_features(model, 2 * x, scale=0.5)
    names = ["input (4 values)", "hidden layer 1 of 2 (7 units)", "hidden layer 2 of 2 (5 units)"]
    assert [layer.name for layer in layers] == names
    for i, layer in enumerate(layers):
        assert np.allclose(layer.values, model.features(x, i), atol=1e-6)


def test_of_many_layers_the_first_and_last_are_shown():
    model = multilayer_perceptron([2, *[3] * 9, 1])
    shown = [layer.name.split(" of ")[0] for layer in layer_features(model, np.ones((2, 2)))]
    hidden = [f"hidden layer {i}" for i in (1, 2, 7, 8, 9)]
    assert shown == ["input (2 values)", *hidden]


def test_a_perceptron_has_its_input_only():
    layers = layer_features(Sequential(Dense(1, 2)), np.ones((3, 1)))
    assert [layer.name for layer in layers] == ["input (1 value)"]


@pytest.mark.parametrize("rows", [0, 1, 2000, 2001, 70_000])
def test_at_most_2000_rows_are_shown_from_all_of_them(rows):
    chosen = np.arange(rows)[shown_rows(rows)]
    assert min(rows, 1000) <= len(chosen) <= 2000
    assert rows == 0 or chosen[-1] >= rows - 1 - rows / 1000


# --------------------------------------------------------------------------- the drawing


@pytest.mark.parametrize("classes", [2, 7, 8, 21])
def test_each_class_has_its_own_mark_and_a_name(classes):
    figure = feature_planes("run", "multiclass", *of_classes(classes))
    (axes,) = figure.axes
    marks = {
        (tuple(points.get_facecolor()[0]), points.get_paths()[0].vertices.tobytes())
        for points in axes.collections
    }
    assert len(marks) == classes
    assert sum(len(points.get_offsets()) for points in axes.collections) == 60
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.texts] == [f"class {i}" for i in range(classes)]
    # where colours repeat, names stand in the picture, too
    assert len(axes.texts) == (classes if classes > len(CLASSES) else 0)
    png(figure)
    box = legend.get_window_extent()
    assert box.y0 >= 0
    assert box.y1 <= figure.bbox.height


def test_more_classes_than_marks_are_a_scale_of_colours():
    figure = feature_planes("run", "multiclass", *of_classes(22))
    axes, bar = figure.axes
    assert not figure.legends
    assert bar.get_ylabel() == "class (its number, counted from 0)"
    assert axes.collections[0].get_clim() == (0, 21)
    png(figure)


def test_values_of_a_regression_are_a_scale_in_the_units_of_the_data(rng):
    x = rng.normal(size=(100, 3))
    values = np.append(np.arange(99.0), 1e6)[:, None]
    layers = [LayerFeatures("input", x), LayerFeatures("hidden layer 1 of 1", x[:, :1])]
    predictions = Predictions("val", values, values, unscale=lambda a: a + 1, x=x)
    figure = feature_planes("run", "regression", predictions, layers)
    first, second, bar = figure.axes
    assert bar.get_ylabel() == "true value"
    assert first.collections[0].get_array().tolist() == [*range(1, 100), 1e6 + 1]
    assert first.collections[0].get_clim()[1] < 101  # one far value does not hide the others
    assert second.get_title() == "hidden layer 1 of 1\n100% + 0% of the variance"
    assert not second.collections[0].get_offsets()[:, 1].any()
    assert "rows as layers see them (val part)" in figure.get_suptitle()
    png(figure)


def test_rows_of_several_labels_are_coloured_by_how_many_they_have(rng):
    target = rng.integers(0, 2, (30, 4)).astype(float)
    layers = [LayerFeatures("input", rng.normal(size=(30, 3)))]
    figure = feature_planes("run", "multilabel", Predictions("test", target, target), layers)
    assert figure.axes[0].collections[0].get_array().tolist() == target.sum(axis=1).tolist()
    assert figure.axes[1].get_ylabel() == "number of labels"


def test_layers_that_say_nothing_are_drawn_as_such():
    predictions, _ = of_classes(2, rows=4)
    nan = np.full((4, 2), np.nan)
    half = np.array([[0, 0], [np.nan, 1], [1, 0], [2, 0]])
    layers = [
        LayerFeatures(name, v) for name, v in (("a", np.ones((4, 3))), ("b", nan), ("c", half))
    ]
    figure = feature_planes("run", "binary", predictions, layers)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["a\nall rows alike", "b\nno finite value", "c\n100% + 0% of the variance"]
    assert sum(len(points.get_offsets()) for points in figure.axes[2].collections) == 3
    png(figure)


def test_without_names_classes_are_numbers():
    target = np.array([0, 1, 1])
    predictions = Predictions("test", target, np.eye(2)[target])
    layers = [LayerFeatures("input", np.arange(6.0).reshape(3, 2))]
    assert not feature_planes("run", "multiclass", predictions, layers).legends


def test_without_rows_or_layers_there_is_no_plot():
    predictions, _ = of_classes(2)
    assert feature_planes("run", "multiclass", predictions, []) is None
    assert (
        feature_planes("run", "multiclass", predictions, [LayerFeatures("a", np.ones((0, 2)))])
        is None
    )
