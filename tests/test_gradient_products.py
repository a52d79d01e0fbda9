"""Gradients in float64: every activation times loss times weighting times regulariser.

GPUMLP_F13=N looks at N combinations instead of 400; beyond the product of all they are drawn anew.
"""

import os
from itertools import product

import numpy as np
import pytest
from test_losses import CASES, DOUBLE

from gpumlp import SGD, Dense, Sequential
from gpumlp.backend import ACTIVATIONS
from gpumlp.gradients.check import backpropagated
from gpumlp.gradients.differences import TOLERANCE, Cost, relative_error

COMBINATIONS = int(os.environ.get("GPUMLP_F13", 400))
OUTPUTS = 3  # as in test_losses
WEIGHTINGS = {
    "none": lambda rng, target: None,
    "samples": lambda rng, target: rng.uniform(0.2, 3, len(target)),
    "zeros": lambda rng, target: (
        rng.uniform(0.2, 3, len(target)) * (np.arange(len(target)) % 3 > 0)
    ),
    # of a class, where there is one, else of the largest column
    "classes": lambda rng, target: rng.uniform(0.2, 3, OUTPUTS)[
        target if target.ndim == 1 else target.argmax(axis=1)
    ],
}
REGULARISERS = {
    "none": ({}, None),
    "l2": ({"weight_decay": 0.3}, None),
    "l1": ({"l1": 0.2}, None),
    "both": ({"weight_decay": 0.3, "l1": 0.2}, None),
    "of a layer": ({"weight_decay": 0.3}, 1.5),
}
ALL = list(product(ACTIVATIONS, CASES, ["mean", "sum"], WEIGHTINGS, REGULARISERS))
ORDER = np.random.default_rng(13).permutation(len(ALL))


def compared(number):
    """Look at every parameter of a small network; return the comparisons of one combination."""
    activation, case, reduction, weighting, regulariser = ALL[ORDER[number % len(ALL)]]
    rng = np.random.default_rng(number)
    cls, arguments, targets, _ = CASES[case]
    options, decay = REGULARISERS[regulariser]
    dropout = 0.3 * (number % 4 == 0)
    model = Sequential(
        Dense(4, 3, activation, DOUBLE, weight_decay=decay, dropout=dropout),
        Dense(3, OUTPUTS, backend=DOUBLE, bias=number % 5 > 0),
        seed=number,
    )
    for parameter in model.parameters:
        parameter.value[...] = 0.7 * rng.normal(size=parameter.shape)
    target = targets(rng)
    optimizer = SGD(0.1, **options)
    optimizer.bind(model.flat, DOUBLE)
    cost = Cost(
        model,
        cls(reduction, backend=DOUBLE, **arguments),
        rng.normal(size=(len(target), 4)),
        target,
        WEIGHTINGS[weighting](rng, target),
        keys=model.dropout_keys(0) if dropout else None,
        penalty=optimizer.penalty,
        l1="l1" in options,
    )
    gradient = backpropagated(cost, optimizer)
    entries = [(p, index) for p in model.parameters for index in np.ndindex(*p.shape)]
    return [cost.compare(p, index, p.view(gradient)) for p, index in entries]


def test_the_sample_has_every_part_of_the_product():
    chosen = [ALL[i] for i in ORDER[: min(COMBINATIONS, 400)]]
    for parts in zip(*ALL, strict=True), zip(*chosen, strict=True):
        assert [len(set(part)) for part in parts] == [9, 10, 2, 4, 5]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_backpropagation_is_the_central_difference(activation):
    numbers = [n for n in range(COMBINATIONS) if ALL[ORDER[n % len(ALL)]][0] == activation]
    assert numbers
    entries = skipped = 0
    for number in numbers:
        found = compared(number)
        wrong = [one for one in found if not one.skipped and not one.error <= TOLERANCE]
        assert wrong == [], (number, ALL[ORDER[number % len(ALL)]])
        entries, skipped = entries + len(found), skipped + sum(one.skipped for one in found)
    assert skipped <= 1e-3 * entries  # kinks are rare


def test_a_wrong_gradient_would_be_seen(monkeypatch):
    right = SGD.penalty
    monkeypatch.setattr(SGD, "penalty", lambda self: 1.001 * right(self))
    number = next(n for n in range(400) if ALL[ORDER[n]][4] == "both")
    assert any(one.error > TOLERANCE for one in compared(number))
    assert relative_error(1.0, 1.001, 0.0) > TOLERANCE
