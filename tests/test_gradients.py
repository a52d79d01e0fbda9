"""Backpropagation gives the gradient of the cost: central differences in float64 say so.

What is tested is the step an optimizer takes: SGD with learning rate 1 changes the parameters by
the whole gradient, the regulariser's part included, and `Sequential.backward` returns the input's.
"""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpumlp import (
    SGD,
    BinaryCrossEntropy,
    Dense,
    Dropout,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    Poisson,
    Sequential,
    SoftmaxCrossEntropy,
    get_backend,
)
from gpumlp.backend import ACTIVATIONS
from gpumlp.parameters import accumulating_sink, gradient_sink

DOUBLE = get_backend("cpu", "fp64")
ROWS, INPUTS = 6, 4
H = 1e-5


def labels(rng, rows, outputs):
    return rng.integers(outputs, size=rows)


def one_hot(rng, rows, outputs):
    return np.eye(outputs)[labels(rng, rows, outputs)]


def soft(rng, rows, outputs):
    return rng.dirichlet(np.ones(outputs), rows)


def bits(rng, rows, outputs):
    return rng.integers(2, size=(rows, outputs)).astype(float)


def values(rng, rows, outputs):
    return rng.normal(size=(rows, outputs))


def counts(rng, rows, outputs):
    return rng.integers(5, size=(rows, outputs)).astype(float)


LOSSES = {  # name -> class, its arguments, targets, outputs
    "cross_entropy of labels": (SoftmaxCrossEntropy, {}, labels, 3),
    "cross_entropy of labels, smoothed": (SoftmaxCrossEntropy, {"label_smoothing": 0.1}, labels, 3),
    "cross_entropy of one-hot rows": (SoftmaxCrossEntropy, {}, one_hot, 3),
    "cross_entropy of one-hot rows, smoothed": (
        SoftmaxCrossEntropy,
        {"label_smoothing": 0.2},
        one_hot,
        3,
    ),
    "cross_entropy of soft rows": (SoftmaxCrossEntropy, {}, soft, 3),
    "cross_entropy of soft rows, smoothed": (
        SoftmaxCrossEntropy,
        {"label_smoothing": 0.1},
        soft,
        3,
    ),
    "bce": (BinaryCrossEntropy, {}, bits, 1),
    "bce, smoothed": (BinaryCrossEntropy, {"label_smoothing": 0.1}, bits, 1),
    "bce, 3 outputs": (BinaryCrossEntropy, {}, bits, 3),
    "bce, 3 outputs, smoothed": (BinaryCrossEntropy, {"label_smoothing": 0.1}, bits, 3),
    "mse": (MeanSquaredError, {}, values, 2),
    "mae": (MeanAbsoluteError, {}, values, 2),
    "huber": (Huber, {"delta": 0.7}, values, 2),
    "poisson": (Poisson, {}, counts, 2),
}

REGULARISERS = [{}, {"weight_decay": 0.1}, {"l1": 0.05}, {"weight_decay": 0.1, "l1": 0.05}]

every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
every_loss = pytest.mark.parametrize("loss", LOSSES)


class Problem:
    """A network, a loss and a batch, as one function of the parameters and the inputs."""

    def __init__(self, model, loss, x, target, weight=None, regulariser=None, dropout=False):
        self.model, self.loss, self.x, self.target, self.weight = model, loss, x, target, weight
        self.optimizer = SGD(lr=1.0, **(regulariser or {}))
        self.optimizer.bind(model.flat, DOUBLE)
        self.keys = model.dropout_keys(step=3) if dropout else None

    @property
    def parameters(self):
        return self.model.flat.values

    def cost(self):
        z = self.model.forward(self.x, keys=self.keys)
        return self.loss.forward(z, self.target, self.weight) + self.penalty()

    def penalty(self):
        """Return Σ decay ‖W‖²/2 + l1 ‖W‖₁ over the weights, each with its own decay."""
        total = 0.0
        for p in self.model.parameters:
            if p.is_weight:
                own = p.weight_decay is not None
                decay = p.weight_decay if own else self.optimizer.weight_decay
                total += decay / 2 * (p.value**2).sum() + self.optimizer.l1 * abs(p.value).sum()
        return total

    def gradients(self):
        """Return the gradient by all parameters, padding included, and that by the inputs."""
        before = self.parameters.copy()
        self.cost()
        by_inputs = self.model.backward(self.loss.backward())
        self.optimizer.step(self.model)
        by_parameters = before - self.parameters
        self.parameters[...] = before
        return by_parameters, by_inputs

    def sides(self):
        """Return on which side of each kink the problem is."""
        a, found = self.x, [np.sign(self.parameters)]
        for i, layer in enumerate(self.model.layers):
            a = layer.forward(a, key=None if self.keys is None else self.keys[i])
            found.append(np.sign(a).ravel())
        if self.loss.name in ("mae", "huber"):
            d = a - self.target
            found.append(np.sign(d).ravel())
            found.append((abs(d) > self.loss.parameter).ravel())
        return np.concatenate(found)

    def numerical(self, array, direction):
        """Return the derivative along a direction, or None where a kink is too near."""
        start, costs, sides = array.copy(), [], []
        for h in (-H, H):
            array[...] = start + h * direction
            costs.append(self.cost())
            sides.append(self.sides())
        array[...] = start
        return (costs[1] - costs[0]) / (2 * H) if (sides[0] == sides[1]).all() else None


def make(activation, loss, *, weighted, reduction, regulariser, dropout, seed=0):
    rng = np.random.default_rng(seed)
    cls, arguments, targets, outputs = LOSSES[loss]
    rate = 0.3 if dropout else 0.0
    model = Sequential(
        Dense(INPUTS, 5, activation, DOUBLE, dropout=rate),
        # a decay of its own, so that the regulariser has several ranges
        Dense(5, 4, activation, DOUBLE, dropout=rate, weight_decay=0.3 if regulariser else None),
        Dense(4, outputs, backend=DOUBLE),
        seed=seed,
    )
    for parameter in model.parameters:
        if not parameter.is_weight:
            parameter.value[...] = rng.normal(scale=0.3, size=parameter.shape)
    return Problem(
        model,
        cls(reduction, backend=DOUBLE, **arguments),
        rng.normal(size=(ROWS, INPUTS)),
        targets(rng, ROWS, outputs),
        rng.uniform(0.2, 2, ROWS) if weighted else None,
        regulariser,
        dropout,
    )


def assert_directional_derivatives_match(problem, context):
    """Compare along random directions: two forward passes see an error in any entry."""
    rng = np.random.default_rng(1)
    gradients = problem.gradients()
    for array, gradient in zip((problem.parameters, problem.x), gradients, strict=True):
        for _ in range(9):
            direction = rng.normal(size=array.shape)
            if array.ndim == 1:
                direction[unused(problem.model)] = 0
            direction /= np.linalg.norm(direction)
            numerical = problem.numerical(array, direction)
            if numerical is not None:
                break
        else:
            pytest.fail(f"no direction without a kink: {context}")
        analytic = (gradient * direction).sum()
        # an unlucky direction is all but orthogonal to the gradient, and then cancels
        size = max(abs(numerical), abs(analytic), 1e-2 * np.linalg.norm(gradient))
        assert abs(numerical - analytic) <= 1e-6 * size, context


def unused(model):
    """Return which entries of the flat buffer are padding."""
    padding = np.ones(len(model.flat.values), bool)
    for parameter in model.parameters:
        padding[parameter.start : parameter.start + parameter.size] = False
    return padding


@every_activation
@every_loss
def test_directional_derivatives_match(activation, loss):
    for weighted, reduction, regulariser, dropout in product(
        (False, True), ("mean", "sum"), REGULARISERS, (False, True)
    ):
        problem = make(
            activation,
            loss,
            weighted=weighted,
            reduction=reduction,
            regulariser=regulariser,
            dropout=dropout,
        )
        context = f"weighted={weighted}, {reduction}, {regulariser}, dropout={dropout}"
        assert_directional_derivatives_match(problem, context)


@every_activation
@every_loss
def test_every_entry_of_the_gradient_matches(activation, loss):
    problem = make(
        activation,
        loss,
        weighted=True,
        reduction="mean",
        regulariser=REGULARISERS[-1],
        dropout=activation in ("tanh", "relu", "gelu"),
    )
    compared = 0
    gradients = problem.gradients()
    for array, gradient in zip((problem.parameters, problem.x), gradients, strict=True):
        size = 1e-2 * abs(gradient).max()
        for i in np.ndindex(array.shape):
            if array.ndim == 1 and unused(problem.model)[i]:
                continue
            direction = np.zeros_like(array)
            direction[i] = 1
            numerical = problem.numerical(array, direction)
            if numerical is not None:
                compared += 1
                error = abs(numerical - gradient[i])
                assert error <= 1e-6 * max(abs(numerical), abs(gradient[i]), size), i
    assert compared >= 0.95 * (problem.model.flat.count + problem.x.size)


@pytest.mark.parametrize("regulariser", REGULARISERS, ids=str)
def test_the_penalty_that_an_optimizer_reports_is_the_one_it_descends(regulariser):
    problem = make(
        "tanh", "mse", weighted=False, reduction="mean", regulariser=regulariser, dropout=False
    )
    assert problem.optimizer.penalty() == pytest.approx(problem.penalty(), rel=1e-13)


def test_a_wrong_gradient_is_found(monkeypatch):
    problem = make(
        "tanh",
        "mse",
        weighted=False,
        reduction="mean",
        regulariser={},
        dropout=False,
    )
    honest = problem.gradients

    def dishonest():
        by_parameters, by_inputs = honest()
        by_parameters[abs(by_parameters).argmax()] *= 1.001
        return by_parameters, by_inputs

    monkeypatch.setattr(problem, "gradients", dishonest)
    with pytest.raises(AssertionError):
        assert_directional_derivatives_match(problem, "")


@pytest.mark.parametrize("regulariser", REGULARISERS, ids=str)
def test_the_padding_of_the_flat_buffer_stays_zero(regulariser):
    problem = make(
        "tanh",
        "mse",
        weighted=False,
        reduction="sum",
        regulariser=regulariser,
        dropout=False,
    )
    problem.cost()
    problem.model.backward(problem.loss.backward())
    problem.optimizer.step(problem.model)
    padding = unused(problem.model)
    assert padding.any()
    assert (problem.parameters[padding] == 0).all()


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("cut", [1, 3, 5])
def test_the_gradients_of_micro_batches_add_up_to_the_whole(cut, dropout):
    problem = make(
        "sigmoid", "mse", weighted=False, reduction="sum", regulariser={}, dropout=dropout
    )
    model, loss, x, target = problem.model, problem.loss, problem.x, problem.target
    _, whole_input = problem.gradients()
    whole, inputs = model.flat.gradients.copy(), []
    for part, into in ((slice(cut), gradient_sink), (slice(cut, None), accumulating_sink)):
        z = model.forward(x[part], keys=problem.keys, first_row=part.start or 0)
        loss.forward(z, target[part])
        inputs.append(model.backward(loss.backward(), into=into))
    np.testing.assert_allclose(model.flat.gradients, whole, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(np.concatenate(inputs), whole_input, rtol=1e-12, atol=1e-14)


def test_without_an_input_gradient_the_parameters_get_the_same():
    problem = make("relu", "mse", weighted=False, reduction="mean", regulariser={}, dropout=False)
    problem.gradients()
    expected = problem.model.flat.gradients.copy()
    problem.model.flat.gradients[...] = np.nan
    problem.cost()
    assert problem.model.backward(problem.loss.backward(), input_gradient=False) is None
    gradients, padding = problem.model.flat.gradients, unused(problem.model)
    np.testing.assert_array_equal(gradients[~padding], expected[~padding])


@pytest.mark.parametrize("dropout", [False, True])
def test_a_prediction_between_forward_and_backward_changes_no_gradient(dropout):
    problem = make("tanh", "mse", weighted=False, reduction="mean", regulariser={}, dropout=dropout)
    _, expected = problem.gradients()
    problem.cost()
    problem.model.predict(problem.x[:2])
    np.testing.assert_array_equal(problem.model.backward(problem.loss.backward()), expected)


@given(
    hidden=st.lists(st.integers(1, 7), max_size=3),
    sizes=st.tuples(st.integers(1, 7), st.integers(2, 7)),
    rows=st.integers(1, 9),
    bias=st.booleans(),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    dropout=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_any_architecture_has_the_right_gradient(
    hidden, sizes, rows, bias, activation, dropout, seed
):
    rng = np.random.default_rng(seed)
    widths = [sizes[0], *hidden, sizes[1]]
    layers = [
        Dense(n_in, n_out, activation, DOUBLE, bias=bias, dropout=0.4 if dropout else 0.0)
        for n_in, n_out in pairwise(widths[:-1])
    ]
    model = Sequential(*layers, Dense(*widths[-2:], backend=DOUBLE, bias=bias), seed=seed)
    loss = SoftmaxCrossEntropy(backend=DOUBLE)
    x, target = rng.normal(size=(rows, widths[0])), labels(rng, rows, widths[-1])
    problem = Problem(model, loss, x, target, dropout=dropout)
    by_parameters, by_inputs = problem.gradients()
    scale = np.linalg.norm(by_parameters) + np.linalg.norm(by_inputs)
    for array, gradient in ((problem.parameters, by_parameters), (problem.x, by_inputs)):
        direction = rng.normal(size=array.shape)
        if array.ndim == 1:
            direction[unused(model)] = 0
        direction /= np.linalg.norm(direction)
        numerical = problem.numerical(array, direction)
        assume(numerical is not None)
        # the cost has 16 digits, so differences have no more than about 10
        error = abs(numerical - (gradient * direction).sum())
        assert error <= 1e-6 * scale + 1e-9


def test_dropout_alone_passes_back_what_it_let_through(backend):
    layer, ones = Dropout(0.5, backend), backend.asarray(np.ones((20, 30)))
    for key, first_row in ((1, 0), (2, 0), (1, 5)):
        out = layer.forward(ones, key=backend.asarray(key, np.uint32), first_row=first_row)
        assert len(set(backend.to_numpy(out).ravel())) == 2
        assert (layer.backward(ones) == out).all()
    assert (layer.forward(ones) == 1).all()
    assert (layer.backward(ones) == 1).all()


def test_every_layer_and_every_step_has_a_mask_of_its_own(backend):
    model = Sequential(Dropout(0.5, backend), Dropout(0.5, backend), seed=1)
    ones = backend.asarray(np.ones((100, 100)))
    masks = [backend.to_numpy(model.forward(ones, keys=model.dropout_keys(i))) > 0 for i in (0, 1)]
    for mask in masks:  # one mask twice would keep a half
        assert abs(mask.mean() - 1 / 4) <= 4 * np.sqrt(3 / 16 / mask.size)
    both = (masks[0] & masks[1]).mean()
    assert abs(both - 1 / 16) <= 4 * np.sqrt(15 / 256 / masks[0].size)
