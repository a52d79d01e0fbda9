"""The flat buffer: its order, its padding, and that copies of a network have one of their own."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumlp.backend import Backend, get_backend
from gpumlp.layers import Dense, Dropout
from gpumlp.losses import SoftmaxCrossEntropy
from gpumlp.model import Sequential, multilayer_perceptron
from gpumlp.optimizers import OPTIMIZERS, SGD, Adam
from gpumlp.parameters import (
    ALIGNMENT,
    FlatParameters,
    Parameter,
    accumulating_sink,
    gradient_sink,
)
from gpumlp.trainer import Trainer

COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
}
every_copy = pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)

X = np.random.default_rng(1).normal(size=(20, 4)).astype(np.float32)
LABELS = np.arange(20) % 3


def network(**options):
    return Sequential(Dense(4, 5, "tanh", **options), Dense(5, 3, **options), seed=2)


def fit(model, optimizer=None, epochs=1, **options):
    trainer = Trainer(model, SoftmaxCrossEntropy(), optimizer or SGD(0.5), batch_size=8, **options)
    trainer.fit(X, LABELS, epochs=epochs)
    return trainer


def padding(flat):
    """Which entries of a flat buffer belong to no parameter."""
    mask = np.ones(flat.values.shape, bool)
    for parameter in flat.parameters:
        mask[parameter.start : parameter.start + parameter.size] = False
    return mask


# ------------------------------------------------------------------- layout


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20), st.booleans()), max_size=6))
def test_all_weights_come_before_all_biases_each_at_a_multiple_of_64(layers):
    parameters = []
    for n_out, n_in, bias in layers:
        parameters.append(Parameter("weight", (n_out, n_in)))
        parameters.extend([Parameter("bias", (n_out,))] if bias else [])
    flat = FlatParameters(get_backend("cpu"), parameters)
    weights = [p for p in parameters if p.is_weight]
    biases = [p for p in parameters if not p.is_weight]
    assert flat.parameters == weights + biases  # within each kind in the order given
    end = 0
    for parameter in flat.parameters:
        assert parameter.start % ALIGNMENT == 0
        assert end <= parameter.start < end + ALIGNMENT
        end = parameter.start + parameter.size
    assert flat.values.shape == flat.gradients.shape
    assert end <= len(flat.values) < end + ALIGNMENT
    assert len(flat.values) % ALIGNMENT == 0
    assert flat.count == sum(n_out * n_in + bias * n_out for n_out, n_in, bias in layers)
    assert flat.weights_end == (biases[0].start if biases else len(flat.values))


def test_value_and_gradient_are_views_of_the_buffers_and_do_not_overlap():
    model = network()
    for i, parameter in enumerate(model.parameters):
        parameter.value[...] = i + 1
        parameter.gradient[...] = -i - 1
    for i, parameter in enumerate(model.parameters):
        assert parameter.value.shape == parameter.shape
        assert (parameter.value == i + 1).all()
        assert (parameter.gradient == -i - 1).all()
    flat = model.flat
    np.testing.assert_array_equal(flat.values, -flat.gradients)
    assert np.count_nonzero(flat.values) == flat.count == 4 * 5 + 5 + 5 * 3 + 3
    assert not flat.values[padding(flat)].any()


def test_sinks_write_or_add_to_the_gradient():
    parameter = network().parameters[0]
    for sink, expected in ((gradient_sink, (1.0, 0.0)), (accumulating_sink, (1.0, 1.0))):
        array, alpha, beta = sink(parameter)
        assert (alpha, beta) == expected
        assert array.shape == parameter.shape
        assert np.shares_memory(array, parameter.flat.gradients)


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_padding_stays_zero_in_training(name, clip_norm):
    model = network(max_norm=1.5, dropout=0.2)
    optimizer = OPTIMIZERS[name](weight_decay=0.1, l1=0.01, clip_norm=clip_norm)
    fit(model, optimizer, epochs=3)
    empty = padding(model.flat)
    assert empty.sum() > 64
    for buffer in (model.flat.values, model.flat.gradients, *optimizer.state.values()):
        assert not buffer[empty].any()


# ------------------------------------------------------------------- ranges


def ranges(decays, common, bias=True):
    """The decay ranges of layers with these overrides, as (first layer, end layer, decay)."""
    layers = [Dense(8, 8, bias=bias, weight_decay=decay) for decay in decays]
    flat = Sequential(*layers).flat
    return [
        (part.start // ALIGNMENT, part.stop // ALIGNMENT, decay)
        for part, decay in flat.decay_ranges(common)
    ]


@pytest.mark.parametrize(
    ("decays", "common", "expected"),
    [
        ((None, None, None), 0.0, []),
        ((None, None, None), 0.1, [(0, 3, 0.1)]),
        ((None, 0.1, None), 0.1, [(0, 3, 0.1)]),
        ((None, 0.0, None), 0.1, [(0, 1, 0.1), (2, 3, 0.1)]),
        ((0.5, None, None), 0.1, [(0, 1, 0.5), (1, 3, 0.1)]),
        ((None, None, 0.5), 0.0, [(2, 3, 0.5)]),
        ((0.5, 0.2, 0.2), 0.1, [(0, 1, 0.5), (1, 3, 0.2)]),
        ((0.0, 0.0, 0.0), 0.1, []),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_decay_ranges_are_the_fewest_and_leave_biases_out(decays, common, expected, bias):
    assert ranges(decays, common, bias) == expected


# ------------------------------------------------------------------- copies


@every_copy
def test_a_copied_layer_reads_its_own_buffer(duplicate):
    layer = Dense(4, 3, "tanh", seed=5)
    before = layer.forward(X)
    twin = duplicate(layer)
    np.testing.assert_array_equal(twin.forward(X), before)
    for parameter in twin.parameters:
        assert np.shares_memory(parameter.value, twin.weight.flat.values)
    twin.weight.flat.values[...] = 0
    assert not twin.forward(X).any()
    np.testing.assert_array_equal(layer.forward(X), before)
    layer.weight.value[...] = 7
    assert not twin.forward(X).any()


@every_copy
@pytest.mark.parametrize("trained", [False, True])
def test_a_copied_network_reads_and_trains_its_own_buffer(duplicate, trained):
    model = network(dropout=0.3)
    if trained:
        fit(model, Adam())
    before, values = model.forward(X), model.flat.values.copy()
    twin = duplicate(model)
    np.testing.assert_array_equal(twin.forward(X), before)
    for mine, its in zip(model.parameters, twin.parameters, strict=True):
        assert (mine.name, mine.shape, mine.start) == (its.name, its.shape, its.start)
        assert np.shares_memory(its.value, twin.flat.values)
        assert np.shares_memory(its.gradient, twin.flat.gradients)
        assert not np.shares_memory(its.value, model.flat.values)
    fit(twin)
    assert not np.array_equal(twin.flat.values, values)
    assert not np.array_equal(twin.forward(X), before)
    np.testing.assert_array_equal(model.flat.values, values)
    np.testing.assert_array_equal(model.forward(X), before)
    twin.flat.values[...] = 0
    assert not twin.forward(X).any()


@every_copy
def test_a_copied_network_trains_as_the_original_would(duplicate):
    model = network(dropout=0.3)
    fit(model)
    twin = duplicate(model)
    fit(model, epochs=2)
    fit(twin, epochs=2)
    np.testing.assert_array_equal(twin.flat.values, model.flat.values)


@every_copy
def test_a_network_and_its_optimizer_copied_together_go_on_together(duplicate):
    model, optimizer = network(), Adam(0.05)
    fit(model, optimizer)
    twin, its_optimizer = duplicate((model, optimizer))
    fit(twin, its_optimizer)
    fit(model, optimizer)
    assert its_optimizer.steps == optimizer.steps == 6
    np.testing.assert_array_equal(twin.flat.values, model.flat.values)
    for slot, state in optimizer.state.items():
        np.testing.assert_array_equal(its_optimizer.state[slot], state)


@pytest.mark.parametrize("engine", ["eager", "graph"])
@pytest.mark.parametrize("batch_size", [1000, "full"])
def test_a_pickle_holds_the_parameters_and_not_the_last_batch(engine, batch_size):
    """Neither data nor workspace: a model file must not carry away what it was trained on."""
    x = np.zeros((2000, 50), np.float32)
    model = multilayer_perceptron([50, 8, 3])
    untrained = len(pickle.dumps(model))
    trainer = Trainer(model, SoftmaxCrossEntropy(), SGD(), batch_size=batch_size, engine=engine)
    trainer.fit(x, np.zeros(2000, int), epochs=1)
    assert len(pickle.dumps(model)) < untrained + 1000


# ---------------------------------------------------------------- take-over


def test_a_network_takes_over_values_that_were_assigned_before():
    first, second = Dense(2, 3), Dense(3, 1, bias=False)
    first.parameters[0].value[...] = [[1, 2], [3, 4], [5, 6]]
    first.parameters[1].value[...] = [7, 8, 9]
    second.parameters[0].value[...] = [[1, 10, 100]]
    before = second.forward(first.forward([[1.0, -1.0]]))
    model = Sequential(first, second, seed=9)
    assert model.parameters[0].value.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert model.parameters[1].value.tolist() == [7, 8, 9]
    assert model.forward([[1.0, -1.0]]).tolist() == before.tolist() == [[876.0]]
    assert np.shares_memory(first.weight.value, model.flat.values)


def test_assignment_through_the_parameter_works_after_the_take_over():
    layer = Dense(2, 2)
    weight, bias = layer.parameters
    model = Sequential(layer, Dense(2, 1))
    weight.value[...] = [[1, 2], [3, 4]]
    bias.value[...] = 10
    assert layer.forward([[1.0, 1.0]]).tolist() == [[13.0, 17.0]]
    assert model.layers[0].weight is weight
    assert model.flat.values[:4].tolist() == [1, 2, 3, 4]


def test_a_second_network_takes_the_layers_over_with_what_they_learned():
    layers = Dense(4, 5, "tanh"), Dropout(0.1), Dense(5, 3)
    first = Sequential(*layers)
    fit(first)
    learned = first.forward(X)
    second = Sequential(*first.layers)
    np.testing.assert_array_equal(second.forward(X), learned)
    fit(second)
    assert not np.array_equal(second.forward(X), learned)
    for parameter in second.parameters:
        assert np.shares_memory(parameter.value, second.flat.values)


def test_taking_over_changes_neither_dtype_nor_value_in_float64():
    layer = Dense(3, 2, backend=Backend(np, "float64"), seed=4)
    before = layer.weight.value.copy()
    model = Sequential(layer)
    assert model.flat.values.dtype == np.float64
    np.testing.assert_array_equal(layer.weight.value, before, strict=True)
    assert not np.array_equal(before, before.astype(np.float32))
