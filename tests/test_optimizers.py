"""The optimizers: against PyTorch, their tables, and what decays, clips and limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumlp.backend import Backend
from gpumlp.layers import Dense
from gpumlp.model import Sequential, multilayer_perceptron
from gpumlp.optimizers import (
    OPTIMIZERS,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Momentum,
    Nesterov,
    RMSProp,
)

FP64 = Backend(np, "float64")
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is the oracle here")


def network(**options):
    return Sequential(
        Dense(4, 5, "tanh", FP64, **options), Dense(5, 3, backend=FP64, **options), seed=2
    )


def give_gradients(model, seed=0):
    """Random gradients, as a backward pass would leave them: the padding stays zero."""
    rng = np.random.default_rng(seed)
    for parameter in model.parameters:
        parameter.gradient[...] = rng.normal(size=parameter.shape)
    return [parameter.gradient.copy() for parameter in model.parameters]


def values(model):
    return [parameter.value.copy() for parameter in model.parameters]


TORCH = {
    "sgd": (SGD(0.1), "SGD", {"lr": 0.1}),
    "sgd decay": (SGD(0.1, weight_decay=0.3), "SGD", {"lr": 0.1, "weight_decay": 0.3}),
    "momentum": (Momentum(0.1, momentum=0.8), "SGD", {"lr": 0.1, "momentum": 0.8}),
    "momentum decay": (
        Momentum(0.1, weight_decay=0.3),
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.3},
    ),
    "nesterov": (Nesterov(0.1), "SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adagrad": (Adagrad(0.1, eps=1e-3), "Adagrad", {"lr": 0.1, "eps": 1e-3}),
    "rmsprop": (RMSProp(0.1, rho=0.7, eps=1e-3), "RMSprop", {"lr": 0.1, "alpha": 0.7, "eps": 1e-3}),
    "adam": (
        Adam(0.1, betas=(0.8, 0.95), eps=1e-3),
        "Adam",
        {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3},
    ),
    "adam decay": (Adam(0.1, weight_decay=0.3), "Adam", {"lr": 0.1, "weight_decay": 0.3}),
    "adamw": (AdamW(0.1), "AdamW", {"lr": 0.1, "weight_decay": 0.01}),
    "adamw decay": (AdamW(0.1, weight_decay=0.3), "AdamW", {"lr": 0.1, "weight_decay": 0.3}),
}


@pytest.mark.parametrize(("ours", "theirs", "options"), TORCH.values(), ids=TORCH)
def test_steps_equal_those_of_pytorch(torch, ours, theirs, options):
    """Weights with the decay, biases without: two parameter groups in PyTorch."""
    model = network()
    tensors = [torch.tensor(value, requires_grad=True) for value in values(model)]
    weights = {"params": tensors[::2]}
    biases = {"params": tensors[1::2], "weight_decay": 0.0}
    reference = getattr(torch.optim, theirs)([weights, biases], **options)
    for step in range(6):
        gradients = give_gradients(model, seed=step)
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = torch.tensor(gradient)
        reference.step()
        ours.step(model)
        for value, tensor in zip(values(model), tensors, strict=True):
            np.testing.assert_allclose(value, tensor.detach().numpy(), 1e-10, 1e-12)


@every_optimizer
def test_every_optimizer_minimises_a_quadratic(name):
    """l = ‖w - w*‖² / 2 over all parameters; only Adagrad needs a larger rate than its own."""
    model = network()
    target = np.random.default_rng(3).normal(size=model.flat.values.shape)
    optimizer = OPTIMIZERS[name](lr=0.5) if name == "adagrad" else OPTIMIZERS[name](lr=0.05)

    def distance():
        return sum(float(((p.value - p.view(target)) ** 2).sum()) for p in model.parameters)

    before = distance()
    for _ in range(300):
        for parameter in model.parameters:
            parameter.gradient[...] = parameter.value - parameter.view(target)
        optimizer.step(model)
    assert distance() < 0.01 * before


def test_the_factor_multiplies_the_learning_rate():
    one, other = network(), network()
    give_gradients(one)
    give_gradients(other)
    SGD(0.1).step(one, 0.25)
    SGD(0.025).step(other)
    np.testing.assert_allclose(one.flat.values, other.flat.values, rtol=1e-12)


# ------------------------------------------------------------------------ table


def bound(name, **options):
    optimizer = OPTIMIZERS[name](**options)
    optimizer.bind(network().flat, FP64)
    return optimizer


def test_the_table_of_sgd_holds_lr_and_what_decay_keeps():
    optimizer = SGD(0.1, weight_decay=0.5)
    optimizer.bind(
        Sequential(Dense(2, 2), Dense(2, 2, weight_decay=0.25), Dense(2, 2, weight_decay=0)).flat,
        FP64,
    )
    table = optimizer.table(np.array([1.0, 0.1]), 5)
    expected = [[0.1, -0.1, 1 - 0.025, 1 - 0.05], [0.01, -0.01, 1 - 0.0025, 1 - 0.005]]
    np.testing.assert_allclose(table, expected, rtol=1e-15)


def test_the_table_of_adam_holds_the_bias_corrections_of_each_step():
    table = bound("adam", lr=0.1, betas=(0.9, 0.99)).table(np.array([1.0, 1.0, 0.5]), 4)
    expected = [
        [0.1 * factor / (1 - 0.9**t), 1 / (1 - 0.99**t) ** 0.5]
        for factor, t in ((1, 5), (1, 6), (0.5, 7))
    ]
    np.testing.assert_allclose(table, expected, rtol=1e-14)


def test_the_table_of_adamw_also_holds_what_decay_keeps():
    table = bound("adamw", lr=0.1, weight_decay=0.5).table(np.array([0.5]), 0)
    np.testing.assert_allclose(table, [[0.5, 1 / 0.001**0.5, 1 - 0.025]], rtol=1e-12)


@every_optimizer
@given(start=st.integers(0, 10**6), steps=st.integers(1, 12), cut=st.integers(0, 12))
def test_a_table_is_float64_and_the_same_bits_in_chunks(name, start, steps, cut):
    optimizer, factors = bound(name, weight_decay=0.1), np.linspace(1, 0.01, steps)
    cut = min(cut, steps)
    table = optimizer.table(factors, start)
    assert table.dtype == np.float64
    assert table.shape == (steps, len(optimizer.row))
    parts = optimizer.table(factors[:cut], start), optimizer.table(factors[cut:], start + cut)
    np.testing.assert_array_equal(np.concatenate(parts), table)


@every_optimizer
def test_scalar_is_a_view_of_the_row(name):
    optimizer = bound(name, weight_decay=0.1)
    columns = list(optimizer._columns(np.ones(1), np.ones(1)))
    optimizer.row[...] = np.arange(len(columns)) + 5
    for i, column in enumerate(columns):
        scalar = optimizer.scalar(column)
        assert scalar.shape == ()
        assert scalar == i + 5
        assert np.shares_memory(scalar, optimizer.row)


# ----------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", {"lr": 0.0}),
        ("sgd", {"lr": -1.0}),
        ("sgd", {"lr": float("nan")}),
        ("adam", {"weight_decay": -0.1}),
        ("adam", {"l1": -0.1}),
        ("adam", {"clip_norm": 0.0}),
        ("adam", {"eps": 0.0}),
        ("rmsprop", {"eps": -1e-8}),
        ("adagrad", {"eps": 0.0}),
        ("momentum", {"momentum": 1.0}),
        ("nesterov", {"momentum": -0.1}),
        ("rmsprop", {"rho": 1.0}),
        ("adam", {"betas": (0.9, 1.0)}),
        ("adamw", {"betas": (-0.1, 0.9)}),
        ("adam", {"betas": (0.9,)}),
        ("adam", {"betas": (0.9, 0.99, 0.999)}),
        ("adam", {"betas": ("0.9", 0.99)}),
        ("adam", {"betas": 0.9}),
        ("sgd", {"lr": float("inf")}),
        ("sgd", {"lr": "0.1"}),
        ("sgd", {"lr": None}),
        ("sgd", {"lr": True}),
        ("sgd", {"lr": [0.1]}),
        ("adam", {"weight_decay": float("inf")}),
        ("adam", {"clip_norm": float("nan")}),
        ("adam", {"eps": "small"}),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_by_name(name, options):
    ((field, value),) = options.items()
    with pytest.raises(ValueError, match=f"^{field} must be ") as error:
        OPTIMIZERS[name](**options)
    wrong = value if isinstance(value, tuple) else (value,)
    assert any(str(one) in str(error.value) for one in wrong)


def test_limits_of_the_ranges_are_allowed():
    Adam(1e-9, betas=(0.0, 0.0), weight_decay=0.0, l1=0.0, clip_norm=None)
    Momentum(momentum=0.0)
    RMSProp(rho=0.0)
    Adam(np.float32(0.1), betas=[np.float64(0.9), 0.99], clip_norm=1)


@pytest.mark.parametrize(
    ("optimizer", "defaults"),
    [
        (SGD, {"lr": 0.1}),
        (Momentum, {"lr": 0.05, "momentum": 0.9}),
        (Nesterov, {"lr": 0.05, "momentum": 0.9}),
        (Adagrad, {"lr": 0.01, "eps": 1e-8}),
        (RMSProp, {"lr": 0.001, "rho": 0.99, "eps": 1e-8}),
        (Adam, {"lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-8}),
        (AdamW, {"lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}),
    ],
)
def test_defaults_are_the_usual_ones(optimizer, defaults):
    expected = {"weight_decay": 0.0, "l1": 0.0, "clip_norm": None} | defaults
    assert {name: getattr(optimizer(), name) for name in expected} == expected


@every_optimizer
def test_the_first_argument_is_the_learning_rate_and_the_rest_go_by_name(name):
    assert OPTIMIZERS[name](0.25).lr == 0.25
    assert repr(OPTIMIZERS[name](0.25)) == f"{OPTIMIZERS[name].__name__}(lr=0.25)"
    with pytest.raises(TypeError):
        OPTIMIZERS[name](0.25, 0.1)


# ---------------------------------------------------------------------- binding


@every_optimizer
def test_another_network_starts_with_fresh_state(name):
    optimizer, first, second = OPTIMIZERS[name](lr=0.1), network(), network()
    give_gradients(first)
    optimizer.step(first)
    optimizer.step(first)
    assert optimizer.steps == 2
    assert all(state.any() for state in optimizer.state.values())
    give_gradients(second)
    give_gradients(first)
    optimizer.step(second)
    fresh, third = OPTIMIZERS[name](lr=0.1), network()
    give_gradients(third)
    fresh.step(third)
    assert optimizer.steps == 1
    np.testing.assert_array_equal(second.flat.values, third.flat.values)
    for slot, state in fresh.state.items():
        np.testing.assert_array_equal(optimizer.state[slot], state)


def test_the_same_network_again_keeps_its_state():
    optimizer, model = Adam(), network()
    give_gradients(model)
    optimizer.step(model)
    state = optimizer.state["mean"].copy()
    optimizer.bind(model.flat, FP64)
    assert optimizer.steps == 1
    np.testing.assert_array_equal(optimizer.state["mean"], state)


def test_without_parameters_it_says_what_to_call():
    with pytest.raises(ValueError, match=r"no parameters yet: call bind, step or Trainer\.fit"):
        _ = SGD().flat


@every_optimizer
def test_only_gradient_descent_and_momentum_write_through(name):
    assert OPTIMIZERS[name]().writes_through == (name in ("sgd", "momentum"))


def test_sinks_are_where_the_optimizer_says():
    model = network(weight_decay=0.5)
    weight, bias = model.parameters[:2]
    sgd, momentum, adam = SGD(0.1), Momentum(momentum=0.8), Adam()
    for optimizer in (sgd, momentum, adam):
        optimizer.bind(model.flat, FP64)
        optimizer.row[...] = optimizer.table(np.ones(1), 0)[0]
    for parameter, keep in ((weight, 1 - 0.1 * 0.5), (bias, 1.0)):
        array, alpha, beta = sgd.sink(parameter)
        assert np.shares_memory(array, parameter.value)
        assert (alpha, beta) == (-0.1, pytest.approx(keep))
        array, alpha, beta = momentum.sink(parameter)
        assert np.shares_memory(array, parameter.view(momentum.state["velocity"]))
        assert (alpha, beta) == (1.0, 0.8)
        array, alpha, beta = adam.sink(parameter)
        assert np.shares_memory(array, parameter.gradient)
        assert (alpha, beta) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("options", "through"),
    [({}, True), ({"weight_decay": 0.1}, True), ({"clip_norm": 1.0}, False)],
)
@pytest.mark.parametrize("name", ["sgd", "momentum"])
def test_what_must_see_the_whole_gradient_does_not_write_through(name, options, through):
    assert OPTIMIZERS[name](**options).writes_through == through


def test_sgd_with_l1_goes_through_the_gradient():
    assert not SGD(l1=0.1).writes_through


# ------------------------------------------------------- decay, clipping, max-norm


def step_without_gradient(optimizer, model):
    before = values(model)
    for parameter in model.parameters:
        if not parameter.is_weight:
            parameter.value[...] = 1.0
            before = values(model)
    model.flat.gradients[...] = 0
    optimizer.step(model)
    return before, values(model)


@pytest.mark.parametrize("optimizer", [SGD(0.1, weight_decay=0.5), AdamW(0.1, weight_decay=0.5)])
def test_weights_decay_by_lr_times_decay_and_biases_do_not(optimizer):
    before, after = step_without_gradient(optimizer, network())
    for old, new in zip(before[::2], after[::2], strict=True):
        np.testing.assert_allclose(new, (1 - 0.1 * 0.5) * old, rtol=1e-12)
    for old, new in zip(before[1::2], after[1::2], strict=True):
        np.testing.assert_array_equal(new, old)


@every_optimizer
def test_biases_have_neither_decay_nor_l1(name):
    optimizer = OPTIMIZERS[name](lr=0.1, weight_decay=0.5, l1=0.5)
    before, after = step_without_gradient(optimizer, network())
    for old, new in zip(before[1::2], after[1::2], strict=True):
        np.testing.assert_array_equal(new, old)
    for old, new in zip(before[::2], after[::2], strict=True):
        assert (new != old).all()


def test_the_decay_of_adamw_does_not_pass_through_its_moments():
    optimizer = AdamW(0.1, weight_decay=0.5)
    step_without_gradient(optimizer, network())
    assert not optimizer.state["mean"].any()
    optimizer = Adam(0.1, weight_decay=0.5)
    step_without_gradient(optimizer, network())
    assert optimizer.state["mean"].any()


@pytest.mark.parametrize("optimizer", [SGD(0.1, weight_decay=0.5), AdamW(0.1, weight_decay=0.5)])
def test_a_layers_own_decay_goes_before_the_optimizers(optimizer):
    model = Sequential(
        *(Dense(4, 4, backend=FP64, weight_decay=decay) for decay in (None, 0.25, 0.0))
    )
    before, after = step_without_gradient(optimizer, model)
    for i, decay in enumerate((0.5, 0.25, 0.0)):
        np.testing.assert_allclose(after[2 * i], (1 - 0.1 * decay) * before[2 * i], rtol=1e-12)


@pytest.mark.parametrize("optimizer", [SGD(0.1), AdamW(0.1, weight_decay=0.0)])
def test_a_layers_own_decay_works_where_the_optimizer_has_none(optimizer):
    model = Sequential(*(Dense(4, 4, backend=FP64, weight_decay=decay) for decay in (None, 0.25)))
    before, after = step_without_gradient(optimizer, model)
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_allclose(after[2], (1 - 0.1 * 0.25) * before[2], rtol=1e-12)


def test_l1_moves_every_weight_towards_zero_by_the_same_amount():
    before, after = step_without_gradient(SGD(0.1, l1=0.02), network())
    for old, new in zip(before[::2], after[::2], strict=True):
        np.testing.assert_allclose(new, old - 0.1 * 0.02 * np.sign(old), rtol=1e-12)


def test_a_large_gradient_is_scaled_to_clip_norm_as_a_whole():
    model = network()
    gradients, before = give_gradients(model), values(model)
    norm = np.sqrt(sum(float((g**2).sum()) for g in gradients))
    SGD(0.1, clip_norm=norm / 4).step(model)
    for old, new, gradient in zip(before, values(model), gradients, strict=True):
        np.testing.assert_allclose(new, old - 0.1 * gradient / 4, rtol=1e-12)


def test_a_small_gradient_is_left_as_it_is():
    clipped, free = network(), network()
    norm = np.sqrt(sum(float((g**2).sum()) for g in give_gradients(clipped)))
    give_gradients(free)
    SGD(0.1, clip_norm=1.001 * norm).step(clipped)
    SGD(0.1).step(free)
    np.testing.assert_array_equal(clipped.flat.values, free.flat.values)


def test_a_zero_gradient_can_be_clipped():
    model = network()
    before = model.flat.values.copy()
    SGD(0.1, clip_norm=1.0).step(model)
    np.testing.assert_array_equal(model.flat.values, before)


def test_penalties_are_not_clipped():
    model = network()
    before = values(model)
    SGD(0.1, clip_norm=1e-9, weight_decay=0.5).step(model)
    np.testing.assert_allclose(values(model)[0], 0.95 * before[0], rtol=1e-12)


@every_optimizer
def test_max_norm_holds_after_each_step_and_touches_only_long_rows(name):
    model = Sequential(Dense(4, 5, backend=FP64, max_norm=0.5), Dense(5, 3, backend=FP64))
    limited, free = model.layers
    limited.weight.value[0] = [0.1, 0.1, 0.1, 0.1]  # short
    limited.weight.value[1] = [9.0, 9.0, 9.0, 9.0]
    limited.bias.value[...] = 3.0
    free.weight.value[...] = 2.0
    optimizer = OPTIMIZERS[name](lr=1e-3)
    for seed in range(3):
        give_gradients(model, seed)
        optimizer.step(model)
        norms = np.linalg.norm(limited.weight.value, axis=1)
        assert norms.max() <= 0.5 * (1 + 1e-12)
        assert 0.1 < norms[0] < 0.3
        if seed == 0:
            np.testing.assert_allclose(limited.weight.value[1], 0.25, rtol=1e-2)
            assert norms[1] == pytest.approx(0.5, rel=1e-12)
    assert (limited.bias.value > 2.9).all()
    assert (np.linalg.norm(free.weight.value, axis=1) > 4).all()


# --------------------------------------------------------------------- penalty


def test_the_penalty_is_what_decay_and_l1_add_to_the_cost():
    model = Sequential(
        Dense(4, 3, backend=FP64),
        Dense(3, 3, backend=FP64, weight_decay=0.5),
        Dense(3, 2, backend=FP64, weight_decay=0.0),
    )
    for parameter in model.parameters[1::2]:
        parameter.value[...] = 100  # biases do not count
    optimizer = SGD(weight_decay=0.2, l1=0.03)
    optimizer.bind(model.flat, FP64)
    first, second, third = (parameter.value for parameter in model.parameters[::2])
    expected = 0.1 * (first**2).sum() + 0.25 * (second**2).sum()
    expected += 0.03 * sum(np.abs(weight).sum() for weight in (first, second, third))
    assert optimizer.penalty() == pytest.approx(expected, rel=1e-12)


def test_decoupled_decay_is_no_part_of_the_cost():
    model = multilayer_perceptron([4, 3, 2])
    optimizer = AdamW(weight_decay=0.3)
    optimizer.bind(model.flat, model.backend)
    assert (optimizer.has_penalty, optimizer.penalty()) == (False, 0)


def test_without_decay_there_is_no_penalty():
    model = multilayer_perceptron([4, 3, 2])
    optimizer = SGD()
    optimizer.bind(model.flat, model.backend)
    assert optimizer.penalty() == 0


def test_the_step_adds_the_gradient_of_the_penalty():
    """Along one random direction of the weights, with l1 and two decays at once."""
    model = Sequential(
        Dense(4, 5, backend=FP64, weight_decay=0.7), Dense(5, 3, backend=FP64), seed=2
    )
    optimizer = SGD(1.0, l1=0.05, weight_decay=0.2)
    before, after = step_without_gradient(optimizer, model)
    rng = np.random.default_rng(4)
    directions = [rng.normal(size=value.shape) for value in before]
    steps = zip(before, after, directions, strict=True)
    slope = sum(float(((old - new) * along).sum()) for old, new, along in steps)
    penalties, eps = [], 1e-6
    for sign in (1, -1):
        for parameter, old, along in zip(model.parameters, before, directions, strict=True):
            parameter.value[...] = old + sign * eps * along
        penalties.append(optimizer.penalty())
    assert slope == pytest.approx((penalties[0] - penalties[1]) / (2 * eps), rel=1e-6)
