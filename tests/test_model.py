"""Sequential: what it makes of the layers it is given, forward, backward and features."""

import tracemalloc

import numpy as np
import pytest

from gpumlp.backend import ACTIVATIONS, Backend
from gpumlp.initializers import initialize
from gpumlp.layers import Activation, Dense, Dropout, Identity, ReLU, Sigmoid, Tanh
from gpumlp.losses import SoftmaxCrossEntropy
from gpumlp.model import EVALUATION_ROWS, Sequential, multilayer_perceptron
from gpumlp.parameters import Sink
from gpumlp.randomness import dropout_keys

FP64 = Backend(np, "float64")


def batch(rows=6, columns=4, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns))


def network(dropout=0.0, backend=FP64):
    return multilayer_perceptron([4, 7, 5, 3], "gelu", backend=backend, dropout=dropout, seed=1)


# ------------------------------------------------------------ forward, backward


def test_forward_is_one_layer_after_another():
    model, a = network(), batch()
    expected = a
    for layer in model.layers:
        expected = layer.forward(expected)
    np.testing.assert_array_equal(model.forward(a), expected)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_backward_matches_finite_differences(dropout):
    """Along one random direction of all parameters and the input."""
    model, x, labels = network(dropout), batch(), np.array([0, 1, 2, 0, 1, 2])
    loss = SoftmaxCrossEntropy(backend=FP64)
    keys = model.dropout_keys(4) if dropout else None
    loss.forward(model.forward(x, keys=keys), labels)
    dx = model.backward(loss.backward())
    rng, values = np.random.default_rng(3), model.flat.values
    along, along_x = rng.normal(size=values.shape), rng.normal(size=x.shape)
    slope = float((along * model.flat.gradients).sum() + (along_x * dx).sum())
    origin, costs, eps = values.copy(), [], 1e-6
    for sign in (1, -1):
        values[...] = origin + sign * eps * along
        z = model.forward(x + sign * eps * along_x, keys=keys)
        costs.append(loss.forward(z, labels))
    assert slope == pytest.approx((costs[0] - costs[1]) / (2 * eps), rel=1e-6)


def test_gradients_are_written_not_added():
    model, x, da = network(), batch(), batch(6, 3)
    for _ in range(2):
        model.forward(x)
        model.backward(da)
        first = model.flat.gradients.copy()
    model.forward(x)
    model.backward(da)
    np.testing.assert_array_equal(model.flat.gradients, first)


def test_backward_sends_every_gradient_where_it_is_told():
    model, x, da = network(), batch(), batch(6, 3)
    model.forward(x)
    model.backward(da)
    expected = [-2 * parameter.gradient for parameter in model.parameters]
    sinks = {p.name: Sink(np.zeros(p.shape), -2.0, 0.0) for p in model.parameters}
    model.forward(x)
    assert model.backward(da, into=lambda p: sinks[p.name], input_gradient=False) is None
    for sink, array in zip(sinks.values(), expected, strict=True):
        np.testing.assert_allclose(sink.array, array, rtol=1e-12)


def test_a_second_forward_does_not_overwrite_an_earlier_result():
    model, x = network(dropout=0.5), batch()
    result = model.forward(x, keys=model.dropout_keys(0))
    kept, inputs = result.copy(), x.copy()
    dx = model.backward(np.ones_like(result))
    kept_dx = dx.copy()
    model.forward(batch(seed=5), keys=model.dropout_keys(1))
    model.backward(2 * np.ones_like(result))
    np.testing.assert_array_equal(result, kept)
    np.testing.assert_array_equal(dx, kept_dx)
    np.testing.assert_array_equal(x, inputs)


@pytest.mark.parametrize("convert", [np.ndarray.tolist, np.float64, np.float16])
def test_forward_takes_lists_and_other_types_and_casts_to_its_own(convert):
    model = network(backend="cpu")
    x = np.round(batch(), 1).astype(np.float16)
    result = model.forward(convert(x))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, model.forward(x.astype(np.float32)), rtol=1e-6)


def test_a_wrong_width_is_refused_with_both_numbers():
    for call in (network().forward, network().features, network().predict):
        with pytest.raises(ValueError, match=r"\(B, 4\), got \(6, 9\)"):
            call(batch(columns=9))


def test_a_network_without_hidden_layers_is_a_linear_model():
    model, x = multilayer_perceptron([4, 3], backend=FP64, seed=5), batch()
    assert [repr(layer) for layer in model.layers] == ["Dense(4, 3, 'identity')"]
    weight, bias = (parameter.value for parameter in model.parameters)
    bias[...] = [1, 2, 3]
    np.testing.assert_allclose(model.forward(x), x @ weight.T + bias, rtol=1e-12)
    dz = batch(6, 3, seed=1)
    np.testing.assert_allclose(model.backward(dz), dz @ weight, rtol=1e-12)
    np.testing.assert_allclose(model.parameters[0].gradient, dz.T @ x, rtol=1e-12)
    np.testing.assert_allclose(model.parameters[1].gradient, dz.sum(axis=0), rtol=1e-12)


# ---------------------------------------------------------------------- folding


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([Dense(2, 3), Sigmoid()], "Dense(2, 3, 'sigmoid')"),
        ([Dense(2, 3), Dropout(0.5)], "Dense(2, 3, 'identity', dropout=0.5)"),
        ([Dense(2, 3), Tanh(), Dropout(0.5)], "Dense(2, 3, 'tanh', dropout=0.5)"),
        ([Dense(2, 3, "tanh"), Dropout(0.5)], "Dense(2, 3, 'tanh', dropout=0.5)"),
        # dropout comes after σ in a Dense, so σ after dropout stays on its own
        (
            [Dense(2, 3), Dropout(0.5), Tanh()],
            "Dense(2, 3, 'identity', dropout=0.5), Activation('tanh')",
        ),
        ([Dense(2, 3, "relu"), Sigmoid()], "Dense(2, 3, 'relu'), Activation('sigmoid')"),
        ([Dense(2, 3), ReLU(), Sigmoid()], "Dense(2, 3, 'relu'), Activation('sigmoid')"),
        (
            [Dense(2, 3), Dropout(0.5), Dropout(0.2)],
            "Dense(2, 3, 'identity', dropout=0.5), Dropout(0.2)",
        ),
        ([Dense(2, 3), Identity(), Sigmoid()], "Dense(2, 3, 'sigmoid')"),
        ([Dense(2, 3), Dropout(0.0), Sigmoid()], "Dense(2, 3, 'sigmoid')"),
        (
            [Dense(2, 3), Sigmoid(), Dense(3, 4), ReLU()],
            "Dense(2, 3, 'sigmoid'), Dense(3, 4, 'relu')",
        ),
        (
            [Dropout(0.1), Sigmoid(), Dense(2, 3)],
            "Dropout(0.1), Activation('sigmoid'), Dense(2, 3, 'identity')",
        ),
    ],
    ids=str,
)
def test_activation_then_dropout_are_folded_into_the_dense_before(given, expected):
    assert repr(Sequential(*given)) == f"Sequential({expected})"


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_folded_and_standalone_layers_give_the_same_numbers(name, rate):
    x, da = batch(), batch(6, 3, seed=2)
    folded = Sequential(
        Dense(4, 3, backend=FP64), Activation(name, FP64), Dropout(rate, FP64), seed=3
    )
    key = folded.dropout_keys(7)[0:1].reshape(()) if rate else None
    dense = Dense(4, 3, backend=FP64, seed=3)
    alone = [dense, Activation(name, FP64), Dropout(rate, FP64)]
    out = x
    for layer in alone:
        out = layer.forward(out, key=key)
    keys = folded.dropout_keys(7) if rate else None
    np.testing.assert_array_equal(folded.forward(x, keys=keys), out)
    for layer in reversed(alone):
        da = layer.backward(da)
    np.testing.assert_array_equal(folded.backward(batch(6, 3, seed=2)), da)
    np.testing.assert_array_equal(folded.parameters[0].gradient, dense.weight.gradient)


def test_layers_that_are_not_folded_compute_in_their_place():
    x = batch()
    model = Sequential(
        Tanh(FP64), Dense(4, 3, "relu", FP64), Sigmoid(FP64), Dense(3, 2, "tanh", FP64)
    )
    first, second = (layer for layer in model.layers if isinstance(layer, Dense))
    a = np.maximum(np.tanh(x) @ first.weight.value.T, 0)
    expected = np.tanh(1 / (1 + np.exp(-a)) @ second.weight.value.T)
    np.testing.assert_allclose(model.forward(x), expected, rtol=1e-12)


# ------------------------------------------------------------------ construction


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "a network needs at least one layer"),
        ([Dense(2, 3), Dense(4, 1)], r"Dense\(4, 1.* cannot follow Dense\(2, 3.*sizes differ"),
        (
            [Dense(2, 3), Dropout(0.5), Tanh(), Dense(4, 1)],
            r"Dense\(4, 1.* cannot follow Dense\(2, 3",
        ),
        (
            [Dense(2, 3), Dense(3, 1, backend=FP64)],
            "layer 1 is on .*float64.*, layer 0 on .*float32",
        ),
        ([Dense(2, 3), Dropout(0.5), Tanh(FP64)], "layer 2 is on .*float64"),
    ],
)
def test_layers_that_do_not_fit_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        Sequential(*layers)


@pytest.mark.parametrize("wrong", [Dense(4, 1), Dense(3, 1, backend=FP64)])
def test_layers_that_were_refused_are_as_they_were(wrong):
    first = Dense(2, 3)
    with pytest.raises(ValueError, match=r"sizes differ|layer 3 is on"):
        Sequential(first, Tanh(), Dropout(0.5), wrong)
    assert repr(first) == "Dense(2, 3, 'identity')"
    assert first.dropout.rate == 0
    assert not first.drawn
    assert first.weight.name == "weight"


def test_parameters_are_drawn_from_the_seed_and_the_layers_place():
    model = Sequential(Dense(4, 5), Tanh(), Dense(5, 5, init="he_normal"), Dense(5, 3), seed=8)
    draws = [("glorot_uniform", 5, 4), ("he_normal", 5, 5), ("glorot_uniform", 3, 5)]
    for i, (layer, (name, n_out, n_in)) in enumerate(zip(model.layers, draws, strict=True)):
        expected = initialize(name, n_out, n_in, seed=8, layer=i).astype(np.float32)
        np.testing.assert_array_equal(layer.weight.value, expected)
        assert not layer.bias.value.any()


def test_the_seed_of_a_layer_goes_before_that_of_the_network():
    model = Sequential(Dense(4, 5), Dense(5, 3, seed=77), seed=8)
    expected = initialize("glorot_uniform", 3, 5, seed=77, layer=0).astype(np.float32)
    np.testing.assert_array_equal(model.layers[1].weight.value, expected)


def test_parameters_are_named_by_their_layer():
    model = Sequential(Dense(4, 5), Tanh(), Dense(5, 3, "relu", bias=False), ReLU(), Dense(3, 2))
    names = [parameter.name for parameter in model.parameters]
    assert names == ["0.weight", "0.bias", "1.weight", "3.weight", "3.bias"]
    again = Sequential(*model.layers[1:])
    assert [parameter.name for parameter in again.parameters] == [
        "0.weight",
        "2.weight",
        "2.bias",
    ]


def test_the_network_knows_its_sizes_and_its_dropout():
    model = Sequential(Dropout(0.1), Dense(4, 5), Dense(5, 3), Tanh())
    assert (model.n_in, model.n_out, model.has_dropout) == (4, 3, True)
    assert Sequential(Dense(1, 1), Dropout(0.1)).has_dropout
    model = Sequential(Tanh(), Dropout(0.0))
    assert (model.n_in, model.n_out, model.has_dropout) == (None, None, False)


def test_multilayer_perceptron_has_hidden_layers_alike_and_a_linear_output():
    model = multilayer_perceptron([4, 6, 5, 2], "relu", dropout=0.3, init="normal", seed=4)
    assert repr(model) == (
        "Sequential(Dense(4, 6, 'relu', dropout=0.3), Dense(6, 5, 'relu', dropout=0.3), "
        "Dense(5, 2, 'identity'))"
    )
    assert {layer.init for layer in model.layers} == {"normal"}
    expected = initialize("normal", 2, 5, seed=4, layer=2).astype(np.float32)
    np.testing.assert_array_equal(model.layers[2].weight.value, expected)


# -------------------------------------------------------------------- dropout


def test_dropout_keys_are_those_of_seed_and_step():
    model = network(dropout=0.5)
    np.testing.assert_array_equal(model.dropout_keys(9), dropout_keys(1, 3, 9, 1)[0], strict=True)
    np.testing.assert_array_equal(model.dropout_keys(9, seed=6), dropout_keys(6, 3, 9, 1)[0])


def test_each_layer_has_its_own_mask_and_each_step_too():
    model = Sequential(*(Dropout(0.5, FP64) for _ in range(3)))
    x = np.ones((8, 8))
    masks = [
        model.layers[i].forward(x, key=model.dropout_keys(step)[i]) != 0
        for i in range(3)
        for step in range(2)
    ]
    assert len({mask.tobytes() for mask in masks}) == 6
    whole = model.forward(x, keys=model.dropout_keys(0)) != 0
    np.testing.assert_array_equal(whole, masks[0] & masks[2] & masks[4])


def test_a_part_of_a_batch_has_its_part_of_the_masks():
    model, x = network(dropout=0.5), batch(8)
    keys = model.dropout_keys(2)
    whole = model.forward(x, keys=keys)
    part = model.forward(x[5:], keys=keys, first_row=5)
    np.testing.assert_allclose(part, whole[5:], rtol=1e-12)
    assert not np.allclose(model.forward(x[5:], keys=keys), whole[5:])


# -------------------------------------------------------------------- features


def test_features_are_the_activations_of_a_layer():
    model, x = network(dropout=0.5), batch()
    expected = [x]
    for layer in model.layers:
        expected.append(layer.forward(expected[-1]))
    for i in range(4):
        for index in (i, i - 4):
            features = model.features(x, index)
            np.testing.assert_allclose(features, expected[i], rtol=1e-12)
            assert features.flags.c_contiguous
    np.testing.assert_array_equal(model.features(x), model.features(x, 2))
    np.testing.assert_array_equal(model.predict(x), model.features(x, -1))


@pytest.mark.parametrize("layer", [4, -5, 100])
def test_features_of_a_layer_that_is_not_there_raise(layer):
    with pytest.raises(IndexError, match=rf"layer must lie in -4\.\.3, got {layer}"):
        network().features(batch(), layer)


@pytest.mark.parametrize("rows", [1, EVALUATION_ROWS, EVALUATION_ROWS + 1, 2 * EVALUATION_ROWS + 9])
@pytest.mark.parametrize("layer", [0, -2, -1])
def test_features_in_chunks_are_those_of_one_batch(rows, layer):
    model, x = multilayer_perceptron([2, 3, 2], backend=FP64), batch(rows, 2)
    expected = model.forward(x) if layer == -1 else model.layers[0].forward(x)
    expected = x if layer == 0 else expected
    np.testing.assert_allclose(model.features(x, layer), expected, rtol=1e-12)


def test_features_in_chunks_need_the_memory_of_one_chunk():
    width, chunks = 64, 5
    model, x = multilayer_perceptron([1, width, 1]), np.zeros((chunks * EVALUATION_ROWS, 1), "f4")
    tracemalloc.start()
    model.predict(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * EVALUATION_ROWS * width * 4


@pytest.mark.parametrize(
    ("rows", "chunks"), [(1, 1), (EVALUATION_ROWS, 1), (EVALUATION_ROWS + 1, 2)]
)
def test_after_each_chunk_there_is_a_pause(rows, chunks):
    calls = []
    network().predict(np.zeros((rows, 4)), between=lambda: calls.append(1))
    assert len(calls) == chunks


def test_features_of_no_rows_are_no_rows():
    model = network()
    assert [model.features(np.zeros((0, 4)), i).shape for i in range(4)] == [
        (0, 4),
        (0, 7),
        (0, 5),
        (0, 3),
    ]


def test_features_take_lists():
    model, x = network(), batch()
    np.testing.assert_array_equal(model.features(x.tolist()), model.features(x))


def test_features_are_not_the_users_own_array():
    model, x = network(), batch()
    model.features(x, 0)[...] = 0
    assert x.all()
    first = model.features(x)
    kept = first.copy()
    model.features(2 * x)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_features_between_forward_and_backward_disturb_nothing(dropout):
    def gradients(between):
        model = Sequential(
            Dropout(dropout, FP64), *network(dropout).layers, Tanh(FP64), Dropout(dropout, FP64)
        )
        model.forward(batch(), keys=model.dropout_keys(3) if dropout else None)
        between(model)
        dx = model.backward(np.ones((6, 3)))
        return np.concatenate([model.flat.gradients, dx.ravel()])

    alone = gradients(lambda model: None)
    np.testing.assert_array_equal(gradients(lambda model: model.features(batch(3))), alone)
    np.testing.assert_array_equal(gradients(lambda model: model.predict(batch(9))), alone)
