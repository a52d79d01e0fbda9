"""Gradient norms: they are right, they cover every layer, and training never notices them."""

import numpy as np
import pytest

from gpumlp.events import Callback
from gpumlp.gradients.norms import GradientNorms
from gpumlp.layers import Dense
from gpumlp.losses import BinaryCrossEntropy, MeanSquaredError, PointwiseLoss, SoftmaxCrossEntropy
from gpumlp.model import Sequential, multilayer_perceptron
from gpumlp.optimizers import SGD, Adam, Momentum
from gpumlp.trainer import Trainer

ROWS, EPOCHS = 50, 3
TIMED = ("seconds", "samples_per_s")
OPTIMIZERS = {
    "sgd": lambda: SGD(lr=0.1),
    "sgd with decay": lambda: SGD(lr=0.1, weight_decay=0.01),
    "sgd, clipped": lambda: SGD(lr=0.1, clip_norm=0.5),
    "momentum": lambda: Momentum(lr=0.1),
    "adam": lambda: Adam(lr=0.01),
}


def data(seed=0, rows=ROWS):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 4)), rng.integers(0, 3, rows)


def norms_of(record):
    return {key: value for key, value in record.items() if key.startswith("grad_norm")}


def trainer_of(model, loss=None, optimizer=None, **options):
    return Trainer(model, loss or SoftmaxCrossEntropy(), optimizer or Adam(), **options)


def initial_norms(model, loss, x, y, class_weight=None, **options):
    """The norms of a network that is not trained."""
    callback = GradientNorms(x, y, **options)
    callback.on_train_begin(trainer_of(model, loss, class_weight=class_weight))
    return list(callback.initial.values())


# --------------------------------------------------------------------------- they are right


def test_norms_are_those_of_the_formulas_of_backpropagation(rng):
    x, t = rng.normal(size=(7, 4)), rng.normal(size=(7, 2))
    model = multilayer_perceptron([4, 3, 2], "tanh", seed=3)
    model.parameters[1].value[...] = rng.normal(size=3)
    w1, b1, w2, b2 = (p.value.astype(np.float64) for p in model.parameters)
    a = np.tanh(x @ w1.T + b1)
    dz2 = 2 * (a @ w2.T + b2 - t) / t.size
    dz1 = dz2 @ w2 * (1 - a**2)
    expected = [np.linalg.norm(dz1.T @ x), np.linalg.norm(dz2.T @ a)]
    assert initial_norms(model, MeanSquaredError(), x, t) == pytest.approx(expected, rel=1e-5)


def test_norms_are_those_of_the_gradients_that_backward_leaves(backend, rng):
    x, y = data()
    model = multilayer_perceptron([4, 6, 5, 3], "sigmoid", seed=2, backend=backend)
    norms = initial_norms(model, SoftmaxCrossEntropy(backend=backend), x, y)
    loss = SoftmaxCrossEntropy(backend=backend)
    loss.forward(model.forward(x), y)
    model.backward(loss.backward())
    weights = [backend.to_numpy(p.gradient) for p in model.parameters if p.is_weight]
    expected = [np.linalg.norm(g.astype(np.float64)) for g in weights]
    assert norms == pytest.approx(expected, rel=1e-6)


def test_there_is_one_norm_for_each_weight_matrix_and_none_for_a_bias():
    layers = [Dense(4, 5, "tanh", bias=False), Dense(5, 6, "relu"), Dense(6, 3)]
    model = Sequential(*layers, seed=1)
    norms = GradientNorms(*data())
    history = trainer_of(model, callbacks=[norms]).fit(*data(), epochs=1)
    expected = ["grad_norm_1", "grad_norm_2", "grad_norm_3"]
    assert list(norms.initial) == list(norms_of(history[0])) == expected


def test_layer_1_is_at_the_input():
    model = multilayer_perceptron([4, 5, 3])
    model.parameters[0].value[...] = 0
    model.parameters[2].value[...] = 0  # no gradient gets past W₂ = 0
    first, second = initial_norms(model, SoftmaxCrossEntropy(), *data())
    assert first == 0 < second


def test_norms_are_of_the_cost_also_where_training_sums():
    model = multilayer_perceptron([4, 5, 3])
    mean, total = (initial_norms(model, SoftmaxCrossEntropy(r), *data()) for r in ("mean", "sum"))
    assert mean == total


def test_a_row_without_weight_does_not_count():
    (x, y), model = data(), multilayer_perceptron([4, 5, 3])
    weight = np.ones(ROWS)
    weight[10:] = 0
    weighted = initial_norms(model, SoftmaxCrossEntropy(), x, y, sample_weight=weight)
    alone = initial_norms(model, SoftmaxCrossEntropy(), x[:10], y[:10])
    assert weighted == pytest.approx(alone, rel=1e-5)


def test_class_weights_count_as_they_do_in_training():
    (x, y), model = data(), multilayer_perceptron([4, 5, 3])
    by_class = np.array([3.0, 0.0, 0.5])
    weighted = initial_norms(model, SoftmaxCrossEntropy(), x, y, class_weight=by_class)
    expected = initial_norms(model, SoftmaxCrossEntropy(), x, y, sample_weight=by_class[y])
    assert weighted == expected
    assert weighted != initial_norms(model, SoftmaxCrossEntropy(), x, y)


@pytest.mark.parametrize("rows", [1, 2, 255, 256, 257, 511, 512, 513, 10_000])
def test_the_probe_has_at_most_256_rows_from_all_over_the_data(rows):
    x = np.arange(rows, dtype=float)[:, None]
    seen = []

    class Watched(PointwiseLoss):
        name = "mse"

        def forward(self, z, target, weight=None):
            seen.append(target.ravel())
            return super().forward(z, target, weight)

    initial_norms(multilayer_perceptron([1, 1]), Watched(), x, x)
    (probe,) = seen
    assert min(rows, 128) <= len(probe) <= 256
    assert probe[0] == 0
    assert probe[-1] >= rows * (1 - 2 / 128) - 1


def test_vanishing_gradients_do_not_underflow():
    x, y = np.full((4, 1), 1e-25), np.ones((4, 1))
    model = multilayer_perceptron([1, 1], init="zeros")  # whose square is no float32 any more
    assert initial_norms(model, MeanSquaredError(), x, y) == pytest.approx([2e-25], rel=1e-6, abs=0)


def test_dropout_is_off():
    x, y = data()
    dropping = multilayer_perceptron([4, 30, 3], dropout=0.5, seed=1)
    whole = multilayer_perceptron([4, 30, 3], seed=1)
    a, b = (initial_norms(m, SoftmaxCrossEntropy(), x, y) for m in (dropping, whole))
    assert a == b


# --------------------------------------------------------------------------- when


def test_initial_norms_are_before_the_first_step_and_not_in_the_history():
    x, y = data()
    model = multilayer_perceptron([4, 5, 3], seed=4)
    expected = initial_norms(model, SoftmaxCrossEntropy(), x, y)
    norms = GradientNorms(x, y)
    trainer = trainer_of(model, callbacks=[norms])
    history = trainer.fit(x, y, epochs=EPOCHS)
    trainer.fit(x, y, epochs=1)
    assert list(norms.initial.values()) == expected
    assert [record["epoch"] for record in history] == [1, 2, 3, 4]
    assert all(norms_of(record) for record in history)


def test_an_epochs_norms_are_those_of_the_parameters_at_its_end():
    x, y = data()
    model = multilayer_perceptron([4, 5, 3], seed=4)
    history = trainer_of(model, callbacks=[GradientNorms(x, y)]).fit(x, y, epochs=EPOCHS)
    expected = initial_norms(model, SoftmaxCrossEntropy(), x, y)
    assert list(norms_of(history[-1]).values()) == expected


def test_callbacks_that_come_later_see_the_norms():
    class Later(Callback):
        def on_epoch_end(self, trainer, record):
            self.seen = dict(record)

    x, y = data()
    later = Later()
    model = multilayer_perceptron([4, 5, 3])
    trainer_of(model, callbacks=[GradientNorms(x, y), later]).fit(x, y, epochs=1)
    assert set(norms_of(later.seen)) == {"grad_norm_1", "grad_norm_2"}


# --------------------------------------------------------------------------- training is the same


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_training_gives_the_same_bits_with_and_without_norms(engine, optimizer, accumulate):
    x, y = data()

    def train(callbacks):
        model = multilayer_perceptron([4, 9, 3], dropout=0.3, seed=5)
        options = {"engine": engine, "accumulate": accumulate, "batch_size": 8, "seed": 7}
        trainer = trainer_of(model, None, OPTIMIZERS[optimizer](), callbacks=callbacks, **options)
        trainer.fit(x, y, epochs=EPOCHS, validation=data(1))
        lines = [
            {k: v for k, v in r.items() if k not in (*TIMED, *norms_of(r))} for r in trainer.history
        ]
        state = {name: array.tobytes() for name, array in trainer.optimizer.state.items()}
        flat = model.flat
        return flat.values.tobytes(), flat.gradients.tobytes(), state, lines, trainer.loss.cost

    with_norms, without = train([GradientNorms(x, y)]), train([])
    assert repr(with_norms) == repr(without)


def test_a_backward_pass_that_is_still_to_come_is_not_disturbed():
    x, y = data()
    model, loss = multilayer_perceptron([4, 5, 3], seed=4), SoftmaxCrossEntropy()
    trainer = trainer_of(model, loss)

    def gradients(between):
        model.flat.gradients[...] = 7
        loss.forward(model.forward(x[:10]), y[:10])
        between()
        untouched = bool((model.flat.gradients == 7).all())
        model.backward(loss.backward())
        return untouched, loss.cost, model.flat.gradients.tobytes()

    probe = GradientNorms(*data(1))
    assert gradients(lambda: probe.on_train_begin(trainer)) == gradients(lambda: None)
    assert gradients(lambda: probe.on_epoch_end(trainer, {})) == gradients(lambda: None)


def test_norms_that_overflow_are_told_and_do_not_end_the_training():
    x, y = np.full((4, 2), 1e30), np.zeros((4, 1))
    model = multilayer_perceptron([2, 1])
    assert initial_norms(model, MeanSquaredError(), x, y) == [np.inf]


def test_every_loss_and_a_linear_network_have_norms():
    x, y = data()
    model = multilayer_perceptron([4, 1])
    assert len(initial_norms(model, BinaryCrossEntropy(), x, (y > 0).astype(float))) == 1
