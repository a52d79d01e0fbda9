"""Layers alone: forward and backward, what they keep, and what they refuse."""

import numpy as np
import pytest

import gpumlp
from gpumlp.backend import ACTIVATIONS, Backend, get_backend
from gpumlp.initializers import initialize
from gpumlp.layers import Activation, Dense, Dropout, Layer
from gpumlp.parameters import Sink

FP64 = Backend(np, "float64")
KEY = np.array(123456789, np.uint32)
every_activation = pytest.mark.parametrize("name", ACTIVATIONS)


def batch(rows=6, columns=4, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns))


def dense(name="sigmoid", **options):
    """A layer of 4 inputs and 3 units in float64, with biases that are not zero."""
    layer = Dense(4, 3, name, FP64, **{"seed": 1} | options)
    if layer.bias is not None:
        layer.bias.value[...] = [0.3, -0.2, 0.1]
    return layer


# ------------------------------------------------------------ forward, backward


@pytest.mark.parametrize("bias", [True, False])
def test_dense_is_x_times_w_transposed_plus_b(bias):
    layer, x = dense("identity", bias=bias), batch()
    b = layer.bias.value if bias else 0
    np.testing.assert_allclose(layer.forward(x), x @ layer.weight.value.T + b, rtol=1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("bias", [True, False])
@every_activation
def test_backward_matches_finite_differences(name, bias, rate):
    """Along one random direction of W, b and x together."""
    layer, x, da = dense(name, bias=bias, dropout=rate), batch(), batch(6, 3, seed=2)
    key = KEY if rate else None
    layer.forward(x, key=key)
    dx = layer.backward(da)
    values = [parameter.value for parameter in layer.parameters]
    gradients = [parameter.gradient.copy() for parameter in layer.parameters]
    rng = np.random.default_rng(3)
    directions = [rng.normal(size=array.shape) for array in (*values, x)]
    slope = sum(float((d * g).sum()) for d, g in zip(directions, [*gradients, dx], strict=True))
    origin, sums, eps = [array.copy() for array in (*values, x)], [], 1e-6
    for sign in (1, -1):
        moved = [o + sign * eps * d for o, d in zip(origin, directions, strict=True)]
        for value, new in zip(values, moved[:-1], strict=True):
            value[...] = new
        sums.append(float((da * layer.forward(moved[-1], key=key)).sum()))
    assert slope == pytest.approx((sums[0] - sums[1]) / (2 * eps), rel=1e-6)
    assert slope


def test_backward_writes_where_it_is_told():
    layer, x, da = dense(), batch(), batch(6, 3, seed=2)
    layer.forward(x)
    layer.backward(da)
    expected = {p.name: 5 * np.ones(p.shape) - 2 * p.gradient for p in layer.parameters}
    arrays = {p.name: 10 * np.ones(p.shape) for p in layer.parameters}
    layer.weight.gradient[...] = 77
    layer.forward(x)
    layer.backward(da, into=lambda parameter: Sink(arrays[parameter.name], -2.0, 0.5))
    for name, array in arrays.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-12)
    assert (layer.weight.gradient == 77).all()


def test_the_input_gradient_is_of_the_weights_before_their_change():
    layer, x, da = dense(), batch(), batch(6, 3, seed=2)
    layer.forward(x)
    expected = layer.backward(da)
    dx = layer.backward(da, into=lambda parameter: Sink(parameter.value, -1.0, 1.0))
    np.testing.assert_array_equal(dx, expected)


@pytest.mark.parametrize("layer", [dense(), Activation("gelu", FP64), Dropout(0.5, FP64)], ids=repr)
def test_without_input_gradient_backward_returns_none(layer):
    x = batch()
    da = np.ones_like(layer.forward(x, key=KEY))
    assert layer.backward(da).shape == x.shape
    assert layer.backward(da, input_gradient=False) is None


def layers_of_each_kind():
    return [dense(name) for name in ACTIVATIONS] + [
        *(Activation(name, FP64) for name in ACTIVATIONS),
        Dropout(0.5, FP64),
        dense("relu", dropout=0.5),
    ]


@pytest.mark.parametrize("layer", layers_of_each_kind(), ids=repr)
def test_a_second_call_overwrites_neither_an_earlier_result_nor_its_input(layer):
    x, other = batch(), batch(seed=8)
    inputs = x.copy()
    a = layer.forward(x, key=KEY)
    kept = a.copy()
    da = np.ones_like(a)
    dx = layer.backward(da)
    kept_dx = dx.copy()
    layer.forward(other, key=KEY)
    layer.backward(2 * da)
    np.testing.assert_array_equal(a, kept)
    np.testing.assert_array_equal(dx, kept_dx)
    np.testing.assert_array_equal(x, inputs)
    assert (da == 1).all()


# ---------------------------------------------------------------- what stands alone


@every_activation
def test_an_activation_alone_is_that_of_a_dense_layer(name):
    folded, linear, alone = dense(name), dense("identity"), Activation(name, FP64)
    x, da = batch(), batch(6, 3, seed=2)
    np.testing.assert_array_equal(alone.forward(linear.forward(x)), folded.forward(x))
    np.testing.assert_array_equal(linear.backward(alone.backward(da)), folded.backward(da))
    for mine, its in zip(linear.parameters, folded.parameters, strict=True):
        np.testing.assert_array_equal(mine.gradient, its.gradient)
        assert mine.gradient.any()


def test_dropout_alone_is_that_of_a_dense_layer():
    folded, linear, alone = dense(dropout=0.4), dense(), Dropout(0.4, FP64)
    x, da = batch(), batch(6, 3, seed=2)
    out = folded.forward(x, key=KEY, first_row=2)
    np.testing.assert_array_equal(alone.forward(linear.forward(x), key=KEY, first_row=2), out)
    np.testing.assert_array_equal(linear.backward(alone.backward(da)), folded.backward(da))
    np.testing.assert_array_equal(linear.weight.gradient, folded.weight.gradient)


NAMED = {
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "ReLU": "relu",
    "LeakyReLU": "leaky_relu",
    "ELU": "elu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Softplus": "softplus",
    "Identity": "identity",
}


@pytest.mark.parametrize("title", NAMED)
def test_each_named_activation_is_the_activation_of_that_name(title):
    kind = getattr(gpumlp, title)
    assert kind(FP64).activation is ACTIVATIONS[NAMED[title]]
    assert kind(FP64).backend is FP64
    assert kind.__name__ == title


def test_every_activation_has_a_named_class():
    assert sorted(NAMED.values()) == sorted(ACTIVATIONS)


def test_dropout_is_off_without_a_key():
    x = batch()
    layer = Dropout(0.5, FP64)
    layer.forward(x, key=KEY)
    np.testing.assert_array_equal(layer.forward(x), x)
    np.testing.assert_array_equal(layer.backward(x), x)


def test_dropout_keeps_the_mean_and_drops_at_its_rate():
    x = np.ones((2000, 100))
    out = Dropout(0.3, FP64).forward(x, key=KEY)
    assert set(np.unique(out)) == {0.0, 1 / 0.7}
    assert out.mean() == pytest.approx(1, abs=0.01)
    # no unit and no row is treated differently: five standard deviations of a mean
    np.testing.assert_allclose((out == 0).mean(axis=0), 0.3, rtol=0, atol=5 * (0.21 / 2000) ** 0.5)
    np.testing.assert_allclose((out == 0).mean(axis=1), 0.3, rtol=0, atol=5 * (0.21 / 100) ** 0.5)


def test_dropouts_mask_depends_on_key_row_and_unit_only():
    layer, x = Dropout(0.5, FP64), np.ones((8, 5))
    whole = layer.forward(x, key=KEY)
    np.testing.assert_array_equal(layer.forward(x[3:], key=KEY, first_row=3), whole[3:])
    np.testing.assert_array_equal(layer.forward(x[:, :2], key=KEY), whole[:, :2])
    assert not np.array_equal(layer.forward(x, key=np.array(5, np.uint32)), whole)
    assert not np.array_equal(layer.forward(x, key=KEY, first_row=1), whole)


def test_backward_of_dropout_uses_the_mask_of_forward():
    layer = Dropout(0.5, FP64)
    out = layer.forward(np.ones((8, 5)), key=KEY, first_row=4)
    np.testing.assert_array_equal(layer.backward(np.ones((8, 5))), out)


# ------------------------------------------------------------------ parameters


def test_parameters_are_drawn_from_seed_and_layer():
    for seed, number in ((0, 0), (0, 1), (3, 1)):
        layer = Dense(4, 3, init="he_normal")
        layer.initialize(seed, number)
        expected = initialize("he_normal", 3, 4, seed, number).astype(np.float32)
        np.testing.assert_array_equal(layer.weight.value, expected)


def test_a_gain_multiplies_the_drawn_weights():
    weight = Dense(4, 3, init_gain=4.0, seed=11).weight.value
    np.testing.assert_array_equal(weight, 4 * Dense(4, 3, seed=11).weight.value)


def test_a_seed_draws_at_once_with_layer_number_zero():
    layer = Dense(4, 3, seed=11)
    assert layer.drawn
    expected = initialize("glorot_uniform", 3, 4, 11, 0).astype(np.float32)
    np.testing.assert_array_equal(layer.weight.value, expected)


@pytest.mark.parametrize("look", [lambda d: d.parameters, lambda d: d.forward(np.zeros((1, 4)))])
def test_without_a_seed_they_are_drawn_from_seed_zero_when_first_looked_at(look):
    layer = Dense(4, 3)
    assert not layer.drawn
    look(layer)
    assert layer.drawn
    np.testing.assert_array_equal(layer.weight.value, Dense(4, 3, seed=0).weight.value)


def test_initialize_sets_the_bias_to_zero_and_draws_again():
    layer = dense()
    first = layer.weight.value.copy()
    layer.weight.value[...] = 9
    layer.initialize(1, 0)
    np.testing.assert_array_equal(layer.weight.value, first)
    assert not layer.bias.value.any()


def test_parameters_know_their_name_shape_and_options():
    layer = Dense(4, 3, weight_decay=0.5, max_norm=2.0)
    weight, bias = layer.parameters
    assert (weight.name, weight.shape, bias.name, bias.shape) == ("weight", (3, 4), "bias", (3,))
    assert (weight.weight_decay, weight.max_norm) == (0.5, 2.0)
    assert Dense(4, 3, bias=False).parameters[1:] == []
    assert Activation("relu").parameters == Dropout(0.5).parameters == []


# --------------------------------------------------------------- what is taken, what refused


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.tolist(),
        lambda x: x.astype(np.float64),
        lambda x: x.astype(np.float16),
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=0)[::2],
    ],
    ids=["list", "float64", "float16", "Fortran order", "strided"],
)
def test_forward_and_backward_take_lists_and_other_types_and_orders(make):
    x, da = np.round(batch(), 1).astype(np.float16), np.round(batch(6, 3), 1).astype(np.float16)
    layer = Dense(4, 3, "tanh", seed=1)
    expected = layer.forward(x.astype(np.float32))
    dx = layer.backward(da.astype(np.float32))
    gradient = layer.weight.gradient.copy()
    result = layer.forward(make(x))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    np.testing.assert_allclose(layer.backward(make(da)), dx, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(layer.weight.gradient, gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(6, 5), (4,), (2, 3, 4)])
def test_a_wrong_shape_is_refused_with_both_shapes(shape):
    with pytest.raises(ValueError, match=r"takes batches of shape \(B, 4\), got ") as error:
        dense().forward(np.zeros(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_in": 0}, "at least one input and one unit, got 0, 3"),
        ({"n_out": 0}, "at least one input and one unit, got 4, 0"),
        ({"activation": "relo"}, "unknown activation 'relo'; choose from identity, sigmoid"),
        ({"init": "magic", "seed": 0}, "unknown initializer 'magic'"),
        ({"dropout": 1.0}, r"dropout rate must lie in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"dropout rate must lie in \[0, 1\), got -0.1"),
        ({"weight_decay": -1.0}, "weight_decay must be >= 0, got -1.0"),
        ({"max_norm": 0.0}, "max_norm must be > 0, got 0.0"),
        ({"init_gain": 0.0}, "init_gain must be a positive number, got 0.0"),
        ({"init_gain": float("inf")}, "init_gain must be a positive number, got inf"),
        ({"backend": "tpu"}, "unknown device 'tpu'"),
    ],
)
def test_values_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        Dense(**{"n_in": 4, "n_out": 3} | options)


def test_a_layer_must_say_what_forward_and_backward_are():
    class Half(Layer):
        def _forward(self, x, key, first_row, backend):
            self._kept = x
            return x

    with pytest.raises(NotImplementedError):
        Layer().forward([[1.0]])
    half = Half()
    half.forward([[1.0]])
    with pytest.raises(NotImplementedError):
        half.backward([[1.0]])


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (Dense(4, 3, "relu"), "Dense(4, 3, 'relu')"),
        (Dense(4, 3, dropout=0.5), "Dense(4, 3, 'identity', dropout=0.5)"),
        (Activation("tanh"), "Activation('tanh')"),
        (Dropout(0.25), "Dropout(0.25)"),
    ],
)
def test_layers_are_printed_as_they_are_written(layer, text):
    assert repr(layer) == text


def test_the_backend_is_the_one_given():
    backend = get_backend("cpu", "fp64")
    layer = Dense(4, 3, backend=backend)
    assert layer.backend is backend
    assert layer.dropout.backend is backend
    assert layer.forward(batch()).dtype == np.float64


@pytest.mark.parametrize("layer", [Dense(2, 3), Activation("sigmoid"), Dropout(0.5)], ids=repr)
def test_backward_before_forward_says_what_is_missing(layer):
    with pytest.raises(ValueError, match="needs a forward pass"):
        layer.backward(np.ones((1, 3)))
