"""Training on full batches with weights: what a weight is worth, in float64, to 1e-6.

A weight k is a row repeated k times, a weight 0 an absent row, a class weight the sample weight of
its rows. GPUMLP_F16=N tries N networks drawn at random instead of 30, at least 10.
"""

import os

import numpy as np
import pytest
from test_losses import CASES, DOUBLE, OUTPUTS, ROWS

from gpumlp import BinaryCrossEntropy, Dense, Sequential, SoftmaxCrossEntropy, Trainer
from gpumlp.backend import ACTIVATIONS
from gpumlp.engine import ENGINES
from gpumlp.optimizers import OPTIMIZERS

NETWORKS = max(10, int(os.environ.get("GPUMLP_F16", 30)))  # one for each part
TOLERANCE = 1e-6


def drawn(number, loss=None, outputs=OUTPUTS):
    """Return a function that trains one network, drawn at random, on rows with weights.

    It returns the parameters, then what the epochs, evaluation and gradient norms said.
    """
    rng = np.random.default_rng([16, number])
    case = list(CASES)[number % len(CASES)]
    cls, arguments, _, _ = CASES[case] if loss is None else (loss, {}, None, None)
    reduction = ["mean", "sum"][number // len(CASES) % 2]
    name = rng.choice(list(OPTIMIZERS))
    activation = rng.choice(list(ACTIVATIONS))
    options = {"weight_decay": rng.choice([0.0, 0.1]), "l1": rng.choice([0.0, 0.01])}
    options |= {"clip_norm": rng.choice([None, 0.5])}
    engine, width = rng.choice(list(ENGINES)), int(rng.integers(1, 6))

    def train(x, target, weight=None, class_weight=None):
        model = Sequential(
            Dense(4, width, str(activation), DOUBLE),
            Dense(width, outputs, backend=DOUBLE),
            seed=number,
        )
        trainer = Trainer(
            model,
            cls(reduction, backend=DOUBLE, **arguments),
            OPTIMIZERS[name](0.01, **options),
            batch_size="full",
            engine=str(engine),
            class_weight=class_weight,
        )
        history = trainer.fit(x, target, epochs=4, sample_weight=weight)
        after = trainer.evaluate(x, target, weight)["loss"]
        return model.flat.values.copy(), np.array([*history.column("loss"), after])

    return train, rng, case


def assert_same(one, other):
    for found, expected in zip(one, other, strict=True):
        size = max(float(abs(expected).max()), 1e-3)
        assert abs(found - expected).max() <= TOLERANCE * size


def changed(one, other):
    """Whether anything differs by more than rounding: the weights do count."""
    return any(abs(a - b).max() > 1e-5 * abs(b).max() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("part", range(10))
def test_a_weight_of_k_is_a_row_repeated_k_times(part):
    for number in range(part, NETWORKS, 10):
        train, rng, case = drawn(number)
        x, target = rng.normal(size=(ROWS, 4)), CASES[case][2](rng)
        times = rng.integers(1, 6, ROWS)
        rows = rng.permutation(np.repeat(np.arange(ROWS), times))
        weighted = train(x, target, times.astype(float))
        assert_same(weighted, train(x[rows], target[rows]))
        # every other row twice is the same as that weight, whatever else it weighs
        rows = np.repeat(np.arange(ROWS), 1 + np.arange(ROWS) % 2)
        weight = rng.uniform(0.1, 2, ROWS)
        doubled = weight * (1 + np.arange(ROWS) % 2)
        assert_same(train(x, target, doubled), train(x[rows], target[rows], weight[rows]))


@pytest.mark.parametrize("part", range(10))
def test_a_weight_of_0_is_an_absent_row(part):
    for number in range(part, NETWORKS, 10):
        train, rng, case = drawn(number)
        x, target = rng.normal(size=(ROWS, 4)), CASES[case][2](rng)
        kept = np.sort(rng.permutation(ROWS)[: rng.integers(1, ROWS)])
        weight = np.zeros(ROWS)
        weight[kept] = rng.uniform(0.1, 2, len(kept))
        absent = np.delete(np.arange(ROWS), kept)
        x[absent] *= 3 if case == "poisson" else 1e3  # whatever they hold, if e^z is finite
        assert_same(train(x, target, weight), train(x[kept], target[kept], weight[kept]))


@pytest.mark.parametrize("part", range(10))
def test_a_class_weight_is_the_sample_weight_of_its_rows(part):
    for number in range(part, NETWORKS, 10):
        binary = number % 2 == 1
        outputs = 1 if binary else OUTPUTS
        loss = BinaryCrossEntropy if binary else SoftmaxCrossEntropy
        train, rng, _ = drawn(number, loss, outputs)
        labels = rng.integers(2 if binary else OUTPUTS, size=ROWS)
        target = labels[:, None].astype(float) if binary else labels
        x, of_class = rng.normal(size=(ROWS, 4)), rng.uniform(0.2, 3, 2 if binary else OUTPUTS)
        alone = train(x, target, None, of_class)
        # `evaluate` counts class weights too, and without them the same weights by hand
        assert_same(alone, train(x, target, of_class[labels]))
        weight = rng.uniform(0.1, 2, ROWS)
        assert_same(train(x, target, weight, of_class), train(x, target, weight * of_class[labels]))


def test_these_laws_are_not_those_of_any_weight():
    train, rng, case = drawn(2)
    x, target = rng.normal(size=(ROWS, 4)), CASES[case][2](rng)
    times = np.array([3.0, 1, 1, 1, 1, 1, 1])
    assert changed(train(x, target, times), train(x, target))
