"""The trainer: when it stops, what it calls and reports, and that it computes what it says."""

import hashlib
import io
import os
import re
import subprocess
import sys
import tracemalloc
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import gpumlp
from gpumlp.backend import Backend
from gpumlp.callbacks import EarlyStopping, ProgressBar, format_record
from gpumlp.engine import ENGINES
from gpumlp.errors import ConfigError, DivergedError
from gpumlp.events import Callback, History
from gpumlp.layers import Dense
from gpumlp.losses import (
    BinaryCrossEntropy,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    Poisson,
    SoftmaxCrossEntropy,
)
from gpumlp.model import Sequential, multilayer_perceptron
from gpumlp.optimizers import OPTIMIZERS, SGD, Adam, AdamW
from gpumlp.randomness import permutation
from gpumlp.schedules import Exponential, Plateau, Schedule, Warmup
from gpumlp.trainer import Trainer

every_engine = pytest.mark.parametrize("engine", ENGINES)

ROWS, BATCH, STEPS = 30, 8, 4  # batches of 8, 8, 8, 6 rows
RNG = np.random.default_rng(5)
X = RNG.normal(size=(ROWS, 4)).astype(np.float32)
LABELS = (X @ RNG.normal(size=(4, 3))).argmax(axis=1)
WEIGHTS = RNG.integers(0, 4, ROWS).astype(np.float64)
STILL = 1e-30  # a learning rate that moves no float32 parameter
FP64 = Backend(np, "float64")


def trainer_of(optimizer=None, dropout=0.0, backend="cpu", **options):
    model = multilayer_perceptron([4, 6, 3], "tanh", dropout=dropout, seed=1, backend=backend)
    options = {"batch_size": BATCH} | options
    return Trainer(model, SoftmaxCrossEntropy(), optimizer or SGD(0.1), **options)


def parameters(trainer):
    state = trainer.optimizer.state.values()
    return np.concatenate([trainer.model.flat.values, *state])


def sample_losses(model, x=X, labels=LABELS):
    """-log softmax(z) of the right class, in float64."""
    z = model.predict(x).astype(np.float64)
    log_sum = np.log(np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1)) + z.max(axis=1)
    return log_sum - z[np.arange(len(z)), labels]


class Recorder(Callback):
    """Notes every event."""

    def __init__(self, every_steps=None):
        self.every_steps, self.events, self.steps = every_steps, [], []

    def on_train_begin(self, trainer):
        self.events.append("train begin")

    def on_epoch_begin(self, trainer):
        self.events.append(f"epoch {trainer.epoch} begin")

    def on_step(self, trainer):
        self.steps.append(trainer.step)
        self.events.append(f"step {trainer.step}")

    def on_progress(self, trainer):
        self.events.append("progress")

    def on_epoch_end(self, trainer, record):
        self.events.append(f"epoch {record['epoch']} end")

    def on_train_end(self, trainer):
        self.events.append("train end")


class Stop(Callback):
    """Stops the run at an event."""

    def __init__(self, event, every_steps=None):
        self.every_steps = every_steps
        setattr(self, event, lambda trainer, *_: trainer.stop("enough"))


# ------------------------------------------------------------------ how long it runs


@every_engine
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_fit_twice_is_one_fit_of_all_epochs(name, weighted, engine):
    def run(*epochs):
        trainer = trainer_of(
            OPTIMIZERS[name](),
            dropout=0.3,
            engine=engine,
            schedule=Exponential(gamma=0.9, every=3),
            seed=4,
        )
        for n in epochs:
            trainer.fit(X, LABELS, epochs=n, sample_weight=WEIGHTS if weighted else None)
        return trainer

    once, twice = run(5), run(2, 3)
    np.testing.assert_array_equal(parameters(twice), parameters(once))
    for column in ("epoch", "step", "lr", "loss", "accuracy"):
        assert twice.history.column(column) == once.history.column(column)
    assert twice.history.column("epoch") == [1, 2, 3, 4, 5]
    assert (twice.last_epoch, twice.last_step) == (5, 5 * STEPS)


def test_each_epoch_has_its_own_order_and_so_has_each_seed():
    def run(**options):
        trainer = trainer_of(**options)
        trainer.fit(X, LABELS, epochs=2)
        return parameters(trainer)

    assert not np.array_equal(run(seed=0), run(seed=1))
    assert not np.array_equal(run(shuffle=False), run(shuffle=True))
    np.testing.assert_array_equal(run(shuffle=False, seed=0), run(shuffle=False, seed=1))


@every_engine
@pytest.mark.parametrize("max_steps", [1, 3, 4, 5, 8, 9])
def test_max_steps_stops_exactly_there(max_steps, engine):
    stopped = trainer_of(Adam(), engine=engine)
    stopped.fit(X, LABELS, epochs=3, max_steps=max_steps)
    assert stopped.step == max_steps
    assert [record["step"] for record in stopped.history] == [
        *range(STEPS, max_steps, STEPS),
        max_steps,
    ]
    assert stopped.last_epoch == -(-max_steps // STEPS)

    seen = {}

    class Look(Callback):
        every_steps = 1

        def on_step(self, trainer):
            seen[trainer.step] = trainer.model.flat.values.copy()

    unbroken = trainer_of(Adam(), engine=engine, callbacks=[Look()])
    seen[0] = unbroken.model.flat.values.copy()
    unbroken.fit(X, LABELS, epochs=3)
    np.testing.assert_array_equal(stopped.model.flat.values, seen[max_steps])


def test_max_steps_beyond_the_epochs_changes_nothing():
    trainer = trainer_of()
    trainer.fit(X, LABELS, epochs=2, max_steps=100)
    assert (trainer.step, trainer.epoch, trainer.last_epoch) == (8, 2, 2)


def test_max_steps_counts_from_where_the_run_stands():
    trainer = trainer_of()
    trainer.fit(X, LABELS, epochs=1)
    trainer.fit(X, LABELS, epochs=5, max_steps=5)
    assert trainer.step == 9
    assert trainer.history.column("step") == [4, 8, 9]
    assert (trainer.last_epoch, trainer.last_step) == (3, 9)


@pytest.mark.parametrize(
    ("event", "steps", "records"),
    [
        ("on_train_begin", 0, 0),
        ("on_epoch_begin", 0, 0),
        ("on_step", 3, 1),
        ("on_progress", 1, 1),  # the first event is after one step, which tells the pace
        ("on_epoch_end", 4, 1),
    ],
)
def test_stop_ends_the_run_after_the_event(event, steps, records):
    every = 3 if event == "on_step" else None
    recorder = Recorder()
    trainer = trainer_of(callbacks=[Stop(event, every), recorder])
    trainer.fit(X, LABELS, epochs=9)
    assert trainer.step == steps
    assert len(trainer.history) == records
    assert trainer.stop_reason == "enough"
    assert recorder.events[-1] == "train end"


def test_a_stopped_run_can_go_on():
    trainer = trainer_of(callbacks=[Stop("on_epoch_end")])
    trainer.fit(X, LABELS, epochs=9)
    trainer.callbacks.clear()
    trainer.fit(X, LABELS, epochs=2)
    assert trainer.stop_reason is None
    assert trainer.history.column("epoch") == [1, 2, 3]


# ------------------------------------------------------------------ callbacks


@every_engine
def test_on_step_is_called_at_exactly_the_multiples(engine):
    three, five, never = Recorder(3), Recorder(5), Recorder()
    trainer = trainer_of(callbacks=[three, five, never], engine=engine)
    trainer.fit(X, LABELS, epochs=3)
    trainer.fit(X, LABELS, epochs=2)
    assert three.steps == [3, 6, 9, 12, 15, 18]
    assert five.steps == [5, 10, 15, 20]
    assert never.steps == []


def test_events_come_in_order():
    recorder = Recorder(3)
    trainer_of(callbacks=[recorder]).fit(X, LABELS, epochs=2)
    events = [event for event in recorder.events if event != "progress"]
    assert events == [
        "train begin",
        "epoch 1 begin",
        "step 3",
        "epoch 1 end",
        "epoch 2 begin",
        "step 6",
        "epoch 2 end",
        "train end",
    ]
    assert "progress" in recorder.events


@pytest.mark.parametrize("event", ["on_epoch_begin", "on_step", "on_progress", "on_epoch_end"])
def test_on_train_end_is_called_after_an_exception(event):
    recorder = Recorder(every_steps=1)

    def fail(*_):
        raise OSError("disk full")

    setattr(recorder, event, fail)
    with pytest.raises(OSError, match="disk full"):
        trainer_of(callbacks=[recorder]).fit(X, LABELS)
    assert recorder.events[-1] == "train end"


def test_callbacks_are_called_in_the_order_given():
    calls = []
    first, second = Callback(), Callback()
    first.on_epoch_end = lambda *_: calls.append("first")
    second.on_epoch_end = lambda *_: calls.append("second")
    trainer_of(callbacks=[first, second]).fit(X, LABELS, epochs=2)
    assert calls == ["first", "second"] * 2


# -------------------------------------------------------------- early stopping


class Turn(Schedule):
    """Down the gradient for some steps, then up again."""

    def __init__(self, steps):
        self.steps = steps

    def factors(self, step):
        return np.where(step < self.steps, 1.0, -1.0)


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy", "loss"])
def test_early_stopping_ends_the_run_and_restores_the_best_parameters(monitor):
    seen = {}

    class Look(Callback):
        def on_epoch_end(self, trainer, record):
            seen[trainer.epoch] = trainer.model.flat.values.copy()

    stopping = EarlyStopping(monitor, patience=3)
    trainer = trainer_of(Adam(0.05), schedule=Turn(5 * STEPS), callbacks=[Look(), stopping])
    trainer.fit(X, LABELS, epochs=60, validation=(X, LABELS))
    column = trainer.history.column(monitor)
    best = int(np.argmax(column) if monitor == "val_accuracy" else np.argmin(column)) + 1
    assert 1 < best <= 6
    assert trainer.best_epoch == stopping.best_epoch == best
    assert trainer.epoch == best + 3
    np.testing.assert_array_equal(trainer.model.flat.values, seen[best])
    assert not np.array_equal(seen[best], seen[trainer.epoch])
    assert trainer.stop_reason == f"{monitor} has not improved on epoch {best} for 3 epochs"


def test_without_restore_best_the_last_parameters_stay():
    stopping = EarlyStopping("val_loss", patience=2, restore_best=False)
    trainer = trainer_of(SGD(0.5), schedule=Turn(STEPS), callbacks=[stopping])
    trainer.fit(X, LABELS, epochs=20, validation=(X, LABELS))
    assert trainer.best_epoch == int(np.argmin(trainer.history.column("val_loss"))) + 1
    last = trainer.evaluate(X, LABELS)["loss"]
    assert last == pytest.approx(trainer.history[-1]["val_loss"], rel=1e-6)
    assert last > min(trainer.history.column("val_loss"))


def test_the_best_parameters_come_back_also_when_all_epochs_were_run():
    stopping = EarlyStopping("val_loss", patience=50)
    trainer = trainer_of(SGD(0.5), schedule=Turn(2 * STEPS), callbacks=[stopping])
    trainer.fit(X, LABELS, epochs=4, validation=(X, LABELS))
    assert trainer.stop_reason is None
    assert trainer.best_epoch == 2
    best = trainer.history[1]["val_loss"]
    assert trainer.evaluate(X, LABELS)["loss"] == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize(
    ("monitor", "min_delta", "values", "best_epoch", "stopped"),
    [
        ("val_loss", 0.0, [3, 2, 2, 2], 2, 4),  # equal is not better
        ("val_loss", 0.0, [3, 2, 2, 1, 1, 1], 4, 6),
        ("val_loss", 0.5, [3, 2.8, 2.6, 1], 1, 3),
        ("val_loss", 0.5, [3, 2.8, 2.4, 2.3, 2.2], 3, 5),
        ("val_accuracy", 0.0, [0.1, 0.3, 0.2, 0.3], 2, 4),
        ("val_accuracy", 0.1, [0.1, 0.3, 0.35, 0.39], 2, 4),
        ("val_r2", 0.0, [-5, -3, -4, -4], 2, 4),
        ("val_rmse", 0.0, [5, 3, 4, 4], 2, 4),
        ("accuracy", 0.0, [0.1, 0.2, 0.1, 0.1], 2, 4),
        ("val_loss", 0.0, [3, float("nan"), float("nan")], 1, 3),
        ("val_loss", 0.0, [float("nan"), 3, 4, 5], 2, 4),
        ("val_loss", 0.0, [float("inf"), float("inf"), float("inf")], 1, 3),
        ("val_loss", 0.0, [5, 4, 3, 2, 1], 5, None),
    ],
)
def test_early_stopping_counts_epochs_without_improvement(
    monitor, min_delta, values, best_epoch, stopped
):
    stopping, stops = EarlyStopping(monitor, patience=2, min_delta=min_delta), []
    model = SimpleNamespace(flat=SimpleNamespace(values=np.zeros(2)))
    trainer = SimpleNamespace(model=model, epoch=0, best_epoch=None)
    trainer.stop = lambda reason: stops.append(trainer.epoch)
    for value in values:
        trainer.epoch += 1
        model.flat.values[...] = trainer.epoch
        stopping.on_epoch_end(trainer, {monitor: value})
        if stops:
            break
    stopping.on_train_end(trainer)
    assert stops == ([] if stopped is None else [stopped])
    assert stopping.best_epoch == trainer.best_epoch == best_epoch
    assert (model.flat.values == best_epoch).all()


def test_early_stopping_waits_for_ten_epochs_unless_told_otherwise():
    assert (EarlyStopping().patience, EarlyStopping().min_delta) == (10, 0)
    assert EarlyStopping().restore_best


def test_an_unknown_monitor_raises_with_what_there_is():
    trainer = trainer_of(callbacks=[EarlyStopping("val_loss")])
    with pytest.raises(ValueError, match='cannot monitor "val_loss"; the history has ') as error:
        trainer.fit(X, LABELS, epochs=3)
    assert trainer.epoch == 1
    for name in ("loss", "total_loss", "accuracy"):
        assert f" {name}," in str(error.value)
    assert "val_" not in str(error.value).partition("has")[2]


# ------------------------------------------------------------------ learning rate


def test_the_learning_rate_is_recorded_as_a_warm_up_changes_it():
    trainer = trainer_of(SGD(0.5), schedule=Warmup(Exponential(gamma=0.5, every=4), 6))
    trainer.fit(X, LABELS, epochs=3)
    # the last step of each epoch: 3, 7 and 11, of which the first lies in the warm-up
    expected = [0.5 * 0.5 ** (3 / 4) * 4 / 6, 0.5 * 0.5 ** (7 / 4), 0.5 * 0.5 ** (11 / 4)]
    assert trainer.history.column("lr") == pytest.approx(expected, rel=1e-12)


def test_the_recorded_learning_rate_is_the_one_of_the_step():
    """Gradient descent with W = w - lr: the parameter itself tells the sum of the rates."""
    model = Sequential(Dense(1, 1, bias=False, backend=FP64))
    model.flat.values[...] = 0
    trainer = Trainer(
        model,
        MeanSquaredError("sum"),
        SGD(0.01),
        batch_size=1,
        shuffle=False,
        schedule=Warmup(Exponential(gamma=0.5, every=1), 2),
    )
    rates, before = [], 0.0
    for _ in range(4):
        trainer.fit(np.ones((1, 1)), np.ones(1), epochs=1)
        weight = float(model.parameters[0].value[0, 0])
        rates.append((weight - before) / (2 * (1 - before)))
        before = weight
    expected = [0.01 * 0.5, 0.01 * 0.5, 0.01 * 0.25, 0.01 * 0.125]
    assert rates == pytest.approx(expected, rel=1e-9)
    assert trainer.history.column("lr") == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("warm", [False, True])
def test_a_plateau_lowers_the_learning_rate_of_the_next_epochs(warm, validated):
    schedule = Plateau(factor=0.5, patience=1, min_delta=1e-6)
    schedule = Warmup(schedule, warmup_steps=1) if warm else schedule
    trainer = trainer_of(SGD(STILL), schedule=schedule, shuffle=False)
    trainer.fit(X, LABELS, epochs=6, validation=(X, LABELS) if validated else None)
    rates = [lr / STILL for lr in trainer.history.column("lr")]
    assert rates == pytest.approx([1, 1, 1, 0.5, 0.5, 0.25])


@pytest.mark.parametrize("validated", [True, False])
def test_every_schedule_is_told_the_validation_loss_or_else_the_loss(validated):
    class Listening(Turn):
        observed = ()

        def observe(self, value):
            self.observed = (*self.observed, value)

    schedule = Listening(100)
    trainer = trainer_of(schedule=schedule)
    trainer.fit(X, LABELS, epochs=3, validation=(X[:9], LABELS[:9]) if validated else None)
    column = trainer.history.column("val_loss" if validated else "loss")
    assert list(schedule.observed) == column


# ------------------------------------------------------------------ what is reported


def test_the_history_has_these_columns():
    trainer = trainer_of()
    history = trainer.fit(X, LABELS, epochs=2, validation=(X, LABELS))
    assert list(history[0]) == [
        "epoch",
        "step",
        "lr",
        "loss",
        "total_loss",
        "accuracy",
        "samples_per_s",
        "seconds",
        "val_loss",
        "val_accuracy",
    ]
    assert history is trainer.history
    assert history.column("epoch") == [1, 2]
    assert history.column("step") == [4, 8]
    for record in history:
        assert record["samples_per_s"] == pytest.approx(ROWS / record["seconds"])


def test_history_column_raises_for_what_no_epoch_has():
    history = History([{"a": 1}, {"a": 2, "b": 3}])
    assert history.column("b") == [None, 3]
    with pytest.raises(KeyError, match="c"):
        history.column("c")


@every_engine
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("batch_size", [BATCH, "full"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_the_mean_of_the_sample_losses(
    weighted, reduction, batch_size, accumulate, engine
):
    trainer = trainer_of(SGD(STILL), batch_size=batch_size, accumulate=accumulate, engine=engine)
    trainer.loss.reduction = reduction
    trainer.fit(X, LABELS, epochs=2, sample_weight=WEIGHTS if weighted else None)
    losses = sample_losses(trainer.model)
    weights = WEIGHTS if weighted else np.ones(ROWS)
    right = np.average(trainer.model.predict(X).argmax(axis=1) == LABELS, weights=weights)
    for record in trainer.history:
        assert record["total_loss"] == pytest.approx(float(losses @ weights), rel=1e-6)
        assert record["loss"] == pytest.approx(float(losses @ weights / weights.sum()), rel=1e-6)
        assert record["accuracy"] == pytest.approx(right)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_of_a_broken_epoch_is_that_of_the_rows_it_saw(weighted):
    trainer = trainer_of(SGD(STILL), seed=3)
    for epoch in range(2):  # each in its own order
        trainer.fit(X, LABELS, max_steps=2, sample_weight=WEIGHTS if weighted else None)
        rows = permutation(ROWS, seed=3, epoch=epoch)[: 2 * BATCH]
        losses = sample_losses(trainer.model)[rows]
        weights = WEIGHTS[rows] if weighted else np.ones(len(rows))
        record = trainer.history[epoch]
        assert record["loss"] == pytest.approx(float(losses @ weights / weights.sum()), rel=1e-6)
        right = trainer.model.predict(X[rows]).argmax(axis=1) == LABELS[rows]
        assert record["accuracy"] == pytest.approx(np.average(right, weights=weights))
        assert trainer.running_loss == pytest.approx(record["loss"])


@pytest.mark.parametrize(
    ("optimizer", "layers"),
    [
        (SGD(STILL, weight_decay=0.3), {}),
        (SGD(STILL, l1=0.1), {}),
        (AdamW(STILL, l1=0.1, weight_decay=0.3), {}),
        (SGD(STILL), {"weight_decay": 0.3}),
    ],
)
def test_the_penalty_is_reported_beside_the_loss(optimizer, layers):
    model = Sequential(Dense(4, 3, **layers))
    trainer = Trainer(model, SoftmaxCrossEntropy(), optimizer)
    (record,) = trainer.fit(X, LABELS, epochs=1)
    weight = model.parameters[0].value.astype(np.float64)
    penalty = 0.1 * np.abs(weight).sum() if optimizer.l1 else 0.15 * (weight**2).sum()
    assert record["penalty"] == pytest.approx(float(penalty), rel=1e-5)
    assert record["loss"] == pytest.approx(float(sample_losses(model).mean()), rel=1e-5)


# ------------------------------------------------------------------ what is computed


def test_the_whole_data_as_one_batch_is_gradient_descent_as_in_the_notes():
    trainer = trainer_of(SGD(0.5), batch_size="full", backend=FP64)
    x, onehot = X.astype(np.float64), np.eye(3)[LABELS]
    W1, b1, W2, b2 = (parameter.value.copy() for parameter in trainer.model.parameters)
    costs = []
    for _ in range(5):
        a = np.tanh(x @ W1.T + b1)
        z = a @ W2.T + b2
        y = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        costs.append(-np.log(y[np.arange(ROWS), LABELS]).mean())
        dz2 = (y - onehot) / ROWS
        dz1 = (dz2 @ W2) * (1 - a**2)
        W2, b2 = W2 - 0.5 * dz2.T @ a, b2 - 0.5 * dz2.sum(axis=0)
        W1, b1 = W1 - 0.5 * dz1.T @ x, b1 - 0.5 * dz1.sum(axis=0)
    trainer.fit(x, LABELS, epochs=5)
    assert trainer.step == 5
    for parameter, expected in zip(trainer.model.parameters, (W1, b1, W2, b2), strict=True):
        np.testing.assert_allclose(parameter.value, expected, rtol=1e-10, atol=1e-13)
    assert trainer.history.column("loss") == pytest.approx(costs, rel=1e-10)


def test_accumulated_batches_are_one_large_batch():
    def run(**options):
        trainer = trainer_of(Adam(), dropout=0.4, backend=FP64, **options)
        trainer.fit(X, LABELS, epochs=3, sample_weight=WEIGHTS)
        return trainer.step, parameters(trainer)

    steps, once = run(batch_size=12)
    for size, accumulate in ((4, 3), (6, 2), (1, 12)):
        count, parts = run(batch_size=size, accumulate=accumulate)
        assert count == steps == 9
        np.testing.assert_allclose(parts, once, rtol=1e-8, atol=1e-12)


def test_a_weight_is_worth_as_many_rows():
    """A whole epoch in one batch, so that both runs divide by the same sum."""
    weighted, repeated = (trainer_of(batch_size="full", backend=FP64) for _ in range(2))
    weighted.fit(X, LABELS, epochs=4, sample_weight=WEIGHTS)
    times = WEIGHTS.astype(int)
    repeated.fit(np.repeat(X, times, axis=0), np.repeat(LABELS, times), epochs=4)
    np.testing.assert_allclose(parameters(weighted), parameters(repeated), rtol=1e-9, atol=1e-12)
    assert weighted.history.column("loss") == pytest.approx(repeated.history.column("loss"))


def test_evaluate_and_predict_agree_with_softmax_by_hand():
    trainer = trainer_of()
    trainer.fit(X, LABELS, epochs=2)
    z = trainer.model.forward(X).astype(np.float64)
    y = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(trainer.predict(X), y, rtol=1e-5)
    losses, right = -np.log(y[np.arange(ROWS), LABELS]), y.argmax(axis=1) == LABELS
    for weight in (None, WEIGHTS):
        w = np.ones(ROWS) if weight is None else weight
        result = trainer.evaluate(X, LABELS, weight)
        assert list(result) == ["loss", "accuracy"]
        assert result["loss"] == pytest.approx(losses @ w / w.sum(), rel=1e-5)
        assert result["accuracy"] == pytest.approx(right @ w / w.sum())


# ------------------------------------------------------------------ class weights

CLASS_WEIGHTS = np.array([0.5, 1.0, 3.0])


@every_engine
@pytest.mark.parametrize("batch_size", [BATCH, "full"])
@pytest.mark.parametrize("weighted", [False, True])
def test_class_weights_count_in_every_loss_and_in_no_accuracy(weighted, batch_size, engine):
    trainer = trainer_of(
        SGD(STILL), batch_size=batch_size, engine=engine, class_weight=CLASS_WEIGHTS
    )
    weight = WEIGHTS if weighted else None
    (record,) = trainer.fit(
        X, LABELS, epochs=1, sample_weight=weight, validation=(X, LABELS, weight)
    )
    rows = WEIGHTS if weighted else np.ones(ROWS)
    loss = np.average(sample_losses(trainer.model), weights=rows * CLASS_WEIGHTS[LABELS])
    right = np.average(trainer.predict(X).argmax(axis=1) == LABELS, weights=rows)
    result = trainer.evaluate(X, LABELS, weight)
    assert [record["loss"], record["val_loss"], result["loss"]] == pytest.approx([loss] * 3, 1e-5)
    accuracies = [record["accuracy"], record["val_accuracy"], result["accuracy"]]
    assert accuracies == pytest.approx([right] * 3)


@every_engine
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_class_weight_trains_as_that_sample_weight_of_its_rows(reduction, engine):
    by_class, by_row = (
        trainer_of(Adam(), engine=engine, class_weight=weight) for weight in (CLASS_WEIGHTS, None)
    )
    for trainer, weight in ((by_class, WEIGHTS), (by_row, WEIGHTS * CLASS_WEIGHTS[LABELS])):
        trainer.loss.reduction = reduction
        trainer.fit(X, LABELS, epochs=3, sample_weight=weight)
    np.testing.assert_array_equal(parameters(by_class), parameters(by_row))
    assert by_class.history.column("loss") == by_row.history.column("loss")


def test_the_two_classes_of_a_binary_target_have_weights():
    target = (X[:, 0] > 0.3).astype(np.float64)
    model = multilayer_perceptron([4, 5, 1], seed=2, backend=FP64)
    trainer = Trainer(model, BinaryCrossEntropy(), SGD(STILL), class_weight=[1, 4])
    (record,) = trainer.fit(X, target, epochs=1)
    z = model.predict(X)[:, 0]
    losses = np.log1p(np.exp(-np.where(target == 1, z, -z)))
    expected = np.average(losses, weights=np.where(target == 1, 4, 1))
    assert record["loss"] == pytest.approx(float(expected), rel=1e-9)
    assert trainer.evaluate(X, target[:, None])["loss"] == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(
    ("loss", "outputs", "target", "message"),
    [
        (SoftmaxCrossEntropy(), 3, np.eye(3)[LABELS], "one label per row"),
        (BinaryCrossEntropy(), 1, np.full(ROWS, 0.5), "one label per row, not soft targets"),
        (BinaryCrossEntropy(), 3, np.eye(3)[LABELS], "class_weight is for multiclass and binary"),
        (MeanSquaredError(), 3, np.eye(3)[LABELS], "class_weight is for multiclass and binary"),
    ],
)
def test_class_weights_need_one_label_a_row(loss, outputs, target, message):
    model = multilayer_perceptron([4, outputs])
    weight = np.ones(2 if outputs == 1 else 3)
    with pytest.raises(ValueError, match=message):
        Trainer(model, loss, SGD(), class_weight=weight).fit(X, target)


def test_data_of_classes_without_weight_cannot_be_evaluated():
    trainer = trainer_of(class_weight=[0, 1, 1])
    rows = LABELS == 0
    with pytest.raises(ValueError, match="sample weight times class weight must not be 0 for ever"):
        trainer.evaluate(X[rows], LABELS[rows])


# ------------------------------------------------------------------ scaled targets


def test_metrics_of_a_regression_are_in_the_units_of_the_data_and_the_loss_is_not():
    units, scaled = X[:, :1].astype(np.float64) * 1000 + 5000, X[:, :1]
    model = multilayer_perceptron([4, 5, 1], "tanh", seed=2)
    calls = []

    def unscale(values):
        calls.append(values.shape)
        return values * 1000 + 5000

    plain = Trainer(model, MeanSquaredError(), SGD(STILL))
    unscaled = Trainer(model, MeanSquaredError(), SGD(STILL), unscale=unscale)
    expected, found = plain.evaluate(X, scaled), unscaled.evaluate(X, scaled[:, 0])
    assert calls == [(ROWS, 1)] * 2
    assert found["loss"] == expected["loss"]
    assert found["rmse"] == pytest.approx(1000 * expected["rmse"], rel=1e-4)
    assert found["mae"] == pytest.approx(1000 * expected["mae"], rel=1e-4)
    assert found["r2"] == pytest.approx(expected["r2"], rel=1e-4)
    by_hand = np.sqrt(np.mean((unscaled.predict(X) * 1000 + 5000 - units) ** 2))
    assert found["rmse"] == pytest.approx(float(by_hand), rel=1e-4)
    (record,) = unscaled.fit(X, scaled, epochs=1, validation=(X, scaled))
    assert {name: record[f"val_{name}"] for name in found} == pytest.approx(found)


def test_validation_is_evaluate_at_the_end_of_the_epoch():
    validation = (X[:11], LABELS[:11], WEIGHTS[:11])
    trainer = trainer_of(Adam(0.05), dropout=0.5)
    for _ in range(3):
        trainer.fit(X, LABELS, epochs=1, validation=validation)
        result = trainer.evaluate(*validation)
        assert {name: trainer.history[-1][f"val_{name}"] for name in result} == result


def test_validation_does_not_change_the_training():
    plain, validated = trainer_of(Adam(), dropout=0.5), trainer_of(Adam(), dropout=0.5)
    plain.fit(X, LABELS, epochs=3)
    validated.fit(X, LABELS, epochs=3, validation=(X[:7], LABELS[:7]))
    np.testing.assert_array_equal(parameters(plain), parameters(validated))


@pytest.mark.parametrize(
    ("loss", "outputs", "task", "metrics"),
    [
        (SoftmaxCrossEntropy(), 3, "multiclass", ["accuracy"]),
        (BinaryCrossEntropy(), 1, "binary", ["accuracy", "auc"]),
        (BinaryCrossEntropy(), 3, "multilabel", ["accuracy", "macro_f1"]),
        (MeanSquaredError(), 1, "regression", ["rmse", "mae", "r2"]),
        (MeanAbsoluteError(), 3, "regression", ["rmse", "mae", "r2"]),
        (Huber(), 1, "regression", ["rmse", "mae", "r2"]),
        (Poisson(), 1, "regression", ["rmse", "mae", "r2"]),
    ],
    ids=str,
)
def test_the_task_and_its_metrics_follow_from_the_loss(loss, outputs, task, metrics):
    trainer = Trainer(multilayer_perceptron([4, 5, outputs]), loss, SGD(0.01))
    target = LABELS if task == "multiclass" else (RNG.random((ROWS, outputs)) > 0.5).astype(float)
    trainer.fit(X, target, epochs=1, validation=(X, target))
    assert trainer.task == task
    expected = ["loss", *metrics]
    assert [n.removeprefix("val_") for n in trainer.history[0] if n.startswith("val")] == expected
    assert ("accuracy" in trainer.history[0]) == (task != "regression")


def test_training_counts_what_the_metric_counts():
    """The accuracy of the epoch and that of evaluate, for one and for several labels a row."""
    for outputs in (1, 3):
        target = (X[:, :outputs] > 0.1).astype(float)
        model = multilayer_perceptron([4, 5, outputs], seed=2)
        trainer = Trainer(model, BinaryCrossEntropy(), SGD(STILL))
        (record,) = trainer.fit(X, target, epochs=1)
        assert 0 < record["accuracy"] < 1
        assert record["accuracy"] == pytest.approx(trainer.evaluate(X, target)["accuracy"])


def test_metrics_can_be_chosen():
    trainer = trainer_of(metrics=["log_loss", "auc"])
    assert list(trainer.evaluate(X, LABELS)) == ["loss", "log_loss", "auc"]
    with pytest.raises(ConfigError, match="'r2' is not meant for multiclass"):
        trainer_of(metrics=["r2"])


def test_a_network_learns_the_digits():
    path = files("gpumlp") / "data" / "digits.npz"
    with np.load(str(path)) as data:
        x, labels = data["x"] / 16.0, data["label"]
    part = np.arange(len(x)) % 5 == 0
    model = multilayer_perceptron([64, 64, 10], "sigmoid", seed=0)
    trainer = Trainer(model, SoftmaxCrossEntropy(), Adam(0.01), batch_size=64)
    trainer.fit(x[~part], labels[~part], epochs=10, validation=(x[part], labels[part]))
    assert trainer.history[-1]["accuracy"] > 0.95
    assert trainer.history[-1]["val_accuracy"] > 0.93


def test_the_loss_computes_where_the_network_does():
    trainer = trainer_of(backend=FP64)
    trainer.fit(X, LABELS, epochs=1)
    assert trainer.predict(X).dtype == np.float64
    before = trainer.evaluate(X, LABELS)["loss"]
    exact = sample_losses(trainer.model).mean()
    assert before == pytest.approx(float(exact), rel=1e-12)
    Trainer(trainer_of().model, trainer.loss, SGD())  # another trainer may share the loss
    assert trainer.evaluate(X, LABELS)["loss"] == before


def test_the_first_reason_to_stop_counts():
    trainer = trainer_of()
    trainer.stop("SIGINT")
    trainer.stop("no improvement")
    assert trainer.stop_reason == "SIGINT"


def test_a_layer_that_another_network_took_over_cannot_be_trained_in_the_first():
    shared = Dense(4, 6, "tanh")
    first = Sequential(shared, Dense(6, 3))
    Sequential(shared, Dense(6, 2))
    with pytest.raises(ValueError, match="taken over by another"):
        Trainer(first, SoftmaxCrossEntropy(), Adam()).fit(X, LABELS)


def test_a_layer_cannot_stand_twice_in_a_network():
    layer = Dense(3, 3)
    with pytest.raises(ValueError, match="twice"):
        Sequential(layer, layer)


def test_an_optimizer_may_be_changed_between_two_fits():
    trainer = trainer_of(SGD())
    trainer.fit(X, LABELS, epochs=1)
    trainer.optimizer.weight_decay = 0.01
    assert "penalty" in trainer.fit(X, LABELS, epochs=1)[-1]


def test_the_data_given_are_not_changed():
    x, labels, weight = X.copy(), LABELS.copy(), WEIGHTS.astype(np.float32)
    trainer = trainer_of(batch_size="full")
    trainer.fit(x, labels, sample_weight=weight, validation=(x, labels, weight))
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(labels, LABELS)
    np.testing.assert_array_equal(weight, WEIGHTS)


# ------------------------------------------------------------------ divergence


@every_engine
@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.parametrize("batch_size", [BATCH, "full"])
def test_a_learning_rate_far_too_large_raises_diverged_error(batch_size, validated, engine):
    """And nothing else, such as a warning of NumPy."""
    model = multilayer_perceptron([4, 6, 3], "relu", seed=1)
    recorder = Recorder()
    trainer = Trainer(
        model,
        MeanSquaredError(),
        SGD(1e6),
        batch_size=batch_size,
        engine=engine,
        callbacks=[recorder],
    )
    target = np.eye(3)[LABELS]
    with pytest.raises(DivergedError) as error:
        trainer.fit(X, target, epochs=20, validation=(X, target) if validated else None)
    text = str(error.value)
    assert f"in epoch {trainer.epoch}, step" in text
    assert re.search(r"step \d+: first not finite: z of layer [12] \(Dense\(", text)
    assert "Try a smaller learning rate (now 1e+06)" in text
    assert recorder.events[-1] == "train end"


@every_engine
def test_divergence_names_epoch_step_and_tensor(engine):
    """The first step makes weights of 1e37, the second a sum beyond float32."""
    x = np.full((8, 4), 1e38, np.float32)
    model = multilayer_perceptron([4, 3], seed=1)
    trainer = Trainer(
        model, SoftmaxCrossEntropy(), SGD(0.1), batch_size=4, engine=engine, callbacks=[Recorder(1)]
    )
    with pytest.raises(DivergedError, match=r"epoch 1, step 2: first not finite: z of layer 1 "):
        trainer.fit(x, np.zeros(8, int))


def test_divergence_between_two_events_names_the_steps():
    class Break(Callback):
        def on_progress(self, trainer):
            trainer.model.parameters[3].value[1] = np.inf

    trainer = trainer_of(callbacks=[Break()])
    with pytest.raises(DivergedError, match=r"epoch 1, steps? 2(-\d)?; not finite: .*1\.bias"):
        trainer.fit(X, LABELS)


def test_diverged_error_has_its_exit_code():
    assert DivergedError.exit_code == 4


# ------------------------------------------------------------------ what is refused


WHOLE = "must be a whole number, at least"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, f'batch_size {WHOLE} 1 or "full", got 0'),
        ({"batch_size": "all"}, f"batch_size {WHOLE} 1 or \"full\", got 'all'"),
        ({"batch_size": 2.5}, f'batch_size {WHOLE} 1 or "full", got 2.5'),
        ({"batch_size": 8.0}, f'batch_size {WHOLE} 1 or "full", got 8.0'),
        ({"batch_size": True}, f'batch_size {WHOLE} 1 or "full", got True'),
        ({"accumulate": 0}, f"accumulate {WHOLE} 1, got 0"),
        ({"accumulate": 1.5}, f"accumulate {WHOLE} 1, got 1.5"),
        ({"seed": -1}, f"seed {WHOLE} 0, got -1"),
        ({"seed": None}, f"seed {WHOLE} 0, got None"),
        ({"engine": "warp"}, "unknown engine 'warp'; choose auto, eager, graph"),
        ({"unscale": np.negative}, "unscale is for regression, the task is multiclass"),
        ({"class_weight": [1, 2]}, r"class_weight must have shape \(3,\), got \(2,\)"),
        ({"class_weight": [1, 2, -1]}, "class_weight must be >= 0, got -1"),
        ({"class_weight": [1, 2, float("nan")]}, "class_weight has nan at row 2"),
        ({"class_weight": [0, 0, 0]}, "class_weight must not be 0 for every row"),
        ({"class_weight": ["a", "b", "c"]}, "class_weight must be an array of numbers"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, f"epochs {WHOLE} 1, got 0"),
        ({"epochs": -2}, f"epochs {WHOLE} 1, got -2"),
        ({"epochs": 1.5}, f"epochs {WHOLE} 1, got 1.5"),
        ({"epochs": None}, f"epochs {WHOLE} 1, got None"),
        ({"max_steps": 0}, f"max_steps {WHOLE} 1, got 0"),
        ({"max_steps": 2.5}, f"max_steps {WHOLE} 1, got 2.5"),
        ({"sample_weight": WEIGHTS[:, None]}, r"sample_weight must have shape \(30,\)"),
        ({"validation": X}, r"validation must be \(x, y\) or \(x, y, sample_weight\)"),
        ({"validation": (X,)}, r"validation must be \(x, y\)"),
        ({"validation": (X, LABELS, WEIGHTS, X)}, r"validation must be \(x, y\)"),
        ({"validation": (X, LABELS[:9])}, "validation y has 9 rows, x has 30"),
        ({"validation": (X[:0], LABELS[:0])}, "validation x has no rows"),
        ({"validation": (X[:, :3], LABELS)}, r"validation x must have shape \(N, 4\)"),
        ({"validation": (X, LABELS + 1)}, r"validation y: labels must lie in 0\.\.2, got 1\.\.3"),
        ({"validation": (X, LABELS, 0 * WEIGHTS)}, "validation sample_weight must not be 0 for"),
    ],
)
def test_a_fit_that_is_refused_changes_nothing(options, message):
    recorder = Recorder()
    trainer = trainer_of(Adam(), callbacks=[recorder])
    before = trainer.model.flat.values.copy()
    with pytest.raises(ValueError, match=message):
        trainer.fit(X, LABELS, **options)
    assert (trainer.epoch, trainer.step, trainer.history, recorder.events) == (0, 0, [], [])
    np.testing.assert_array_equal(trainer.model.flat.values, before)


@pytest.mark.parametrize("event", ["on_train_begin", "on_epoch_begin"])
def test_an_epoch_that_fails_before_its_first_step_does_not_count(event):
    recorder = Recorder()

    def fail(*_):
        raise OSError("disk full")

    setattr(recorder, event, fail)
    trainer = trainer_of(callbacks=[recorder])
    with pytest.raises(OSError, match="disk full"):
        trainer.fit(X, LABELS)
    assert trainer.epoch == 0
    trainer.callbacks.clear()
    assert trainer.fit(X, LABELS, epochs=1).column("epoch") == [1]


def test_numbers_of_numpy_are_whole_numbers_too():
    trainer = trainer_of(batch_size=np.int64(8), seed=np.uint32(4), accumulate=np.int8(1))
    assert len(trainer.fit(X, LABELS, epochs=np.int16(2), max_steps=np.int64(5))) == 2


def test_auto_takes_the_recorded_step_on_the_cpu():
    trainer = trainer_of(engine="auto")
    trainer.fit(X, LABELS, epochs=1)
    assert trainer.engine == "graph"


# ------------------------------------------------------------------ progress


def test_progress_is_a_table_with_one_line_an_epoch_on_stderr(capsys):
    trainer = trainer_of(callbacks=[ProgressBar()])
    trainer.fit(X, LABELS, epochs=3, validation=(X, LABELS))
    out, err = capsys.readouterr()
    assert out == ""
    head, *lines = err.splitlines()
    assert head.split() == ["loss", "accuracy", "val_loss", "val_accuracy", "time"]
    assert [line[:9] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    for line, record in zip(lines, trainer.history, strict=True):
        assert line.split()[2:6] == [f"{record[name]:.4f}" for name in head.split()[:-1]]


def test_without_a_progress_bar_nothing_is_written(capsys):
    trainer_of().fit(X, LABELS, epochs=2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("bar", [True, False])
def test_on_a_terminal_there_is_a_bar_unless_it_is_not_wanted(bar, monkeypatch, capsys):
    terminal = io.StringIO()
    terminal.isatty, terminal.fileno = (lambda: True), (lambda: 2)
    monkeypatch.setattr(os, "get_terminal_size", lambda _=None: os.terminal_size((80, 24)))
    monkeypatch.setattr(sys, "stderr", terminal)
    trainer_of(callbacks=[ProgressBar(bar)]).fit(X, LABELS, epochs=2)
    text = terminal.getvalue()
    assert ("|" in text) == ("%" in text) == bar
    assert len(re.findall(r"epoch [12]/2  +[\d.]+  +[\d.]+  +[\d.]+ s\n", text)) == 2
    assert capsys.readouterr().out == ""


def test_the_line_of_an_epoch_can_be_read():
    record = {"epoch": 3, "step": 9, "lr": 0.1, "loss": 0.25, "total_loss": 7.5, "seconds": 1.25}
    assert format_record(record | {"val_auc": 0.5}, 10) == (
        "epoch  3/10  loss 0.2500  val_auc 0.5000  1.2 s"
    )


# ------------------------------------------------------------------ same bits


SCRIPT = """
import hashlib, numpy as np, gpumlp
rng = np.random.default_rng(0)
x, labels = rng.normal(size=(500, 20)), rng.integers(0, 4, 500)
model = gpumlp.multilayer_perceptron([20, 32, 16, 4], "gelu", dropout=0.2, seed=3)
trainer = gpumlp.Trainer(model, gpumlp.SoftmaxCrossEntropy(), gpumlp.Adam(), batch_size=64, seed=3)
trainer.fit(x, labels, epochs=2, sample_weight=rng.random(500))
digest = hashlib.sha256(model.flat.values.tobytes()).hexdigest()
"""


def test_every_process_gets_the_same_bits():
    root = str(Path(gpumlp.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root}
    command = [sys.executable, "-c", f"{SCRIPT}\nprint(digest)"]
    digests = []
    for seed in ("1", "2"):  # of Python's hashes, on which nothing may depend
        environment["PYTHONHASHSEED"] = seed
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        digests.append(done.stdout.strip())
    here = {}
    exec(SCRIPT, here)
    assert len(digests[0]) == len(hashlib.sha256().hexdigest())
    assert digests == [here["digest"]] * 2


# -------------------------------------------------------------------- threads


@pytest.mark.parametrize(("units", "limited"), [(8, True), (4000, False)])
def test_small_products_run_on_one_thread_and_the_number_is_given_back(units, limited):
    """Two threads gain nothing there, and wait for each other on a busy machine."""
    seen = []

    class Look(Callback):
        every_steps = 1

        def on_step(self, trainer):
            seen.append(threads())

    before = threads()
    x = np.zeros((64, 10), np.float32)
    model = multilayer_perceptron([10, units, 3])
    trainer = Trainer(model, SoftmaxCrossEntropy(), SGD(), callbacks=[Look()], batch_size=64)
    trainer.fit(x, np.zeros(64, int), epochs=1)
    assert seen == [[1] * len(before) if limited else before]
    assert threads() == before


def threads():
    """The threads of each BLAS in this process."""
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


BYTES = RNG.integers(0, 256, (ROWS, 4), np.uint8)


@every_engine
@pytest.mark.parametrize("backend", ["cpu", Backend(np), FP64], ids=["fused", "plain", "fp64"])
@pytest.mark.parametrize(
    "options", [{}, {"accumulate": 2}, {"batch_size": "full"}], ids=["batches", "parts", "full"]
)
def test_training_on_bytes_is_training_on_scaled_numbers(options, backend, engine):
    trainers = []
    for bytes_kept in (True, False):
        trainer = trainer_of(Adam(0.01), 0.2, backend, engine=engine, input_scale=0.01, **options)
        dtype = trainer.model.backend.dtype
        x = BYTES if bytes_kept else BYTES.astype(dtype)
        trainer.fit(x, LABELS, epochs=3, validation=(x, LABELS), sample_weight=WEIGHTS)
        trainers.append((trainer, trainer.evaluate(x, LABELS), trainer.predict(x)))
    (one, *results), (other, *expected) = trainers
    assert parameters(one).tobytes() == parameters(other).tobytes()
    assert one.history.column("val_loss") == other.history.column("val_loss")
    assert results[0] == expected[0]
    np.testing.assert_array_equal(results[1], expected[1])
    scaled = (BYTES * one.model.backend.dtype.type(0.01)).astype(one.model.backend.dtype)
    np.testing.assert_array_equal(one.model.predict(scaled), one.model.predict(BYTES, 0.01))


def test_bytes_take_a_quarter_of_the_memory():
    x, y = np.zeros((40_000, 784), np.uint8), np.zeros(40_000, int)
    trainer = Trainer(multilayer_perceptron([784, 2]), SoftmaxCrossEntropy(), SGD(0.1))
    tracemalloc.start()
    trainer.fit(x, y, epochs=1, validation=(x, y))
    trainer.evaluate(x, y)
    trainer.predict(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes  # a few thousand rows at a time; float32 would be four times as much


@pytest.mark.parametrize("scale", [0, -1.0, float("inf"), float("nan"), "1", None])
def test_an_input_scale_is_a_positive_number(scale):
    with pytest.raises(ValueError, match="input_scale must be > 0 and finite"):
        trainer_of(input_scale=scale)
