"""Building from a configuration: every key reaches the object that it is about."""

from dataclasses import fields
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumlp import config as schema
from gpumlp import schedules
from gpumlp.backend import get_backend
from gpumlp.build import (
    build_loss,
    build_network,
    build_optimizer,
    build_schedule,
    build_trainer,
    steps_per_epoch,
)
from gpumlp.callbacks import EarlyStopping
from gpumlp.config import TASK_LOSSES
from gpumlp.config_file import load_config, parse_config
from gpumlp.engine import ENGINES, Batches
from gpumlp.errors import ConfigError
from gpumlp.events import Callback
from gpumlp.initializers import initialize
from gpumlp.layers import Dense
from gpumlp.losses import LOSSES
from gpumlp.model import Sequential
from gpumlp.optimizers import OPTIMIZERS

CPU = get_backend("cpu")
ROWS = 100
OPTIMIZER_VALUES = {
    "lr": 0.0625,
    "momentum": 0.75,
    "betas": (0.5, 0.625),
    "rho": 0.875,
    "eps": 0.25,
    "weight_decay": 0.125,
    "l1": 0.375,
    "clip_norm": 2.5,
}
TASKS = {loss: task for task, losses in TASK_LOSSES.items() for loss in losses}


def config_of(**sections: Any):
    return parse_config({"data": {"source": "builtin:digits"}} | sections)


def network_of(config, n_in=6, n_out=3) -> Sequential:
    return build_network(config, n_in, n_out, CPU)


def trainer_of(config, callbacks=()):
    return build_trainer(config, network_of(config), ROWS, callbacks)


# --------------------------------------------------------------------------------- optimizers


@pytest.mark.parametrize("name", get_args(schema.OptimizerName))
def test_an_optimizer_has_the_values_of_the_configuration(name):
    taken = [field.name for field in fields(OPTIMIZERS[name])]
    values = {key: OPTIMIZER_VALUES[key] for key in taken}
    optimizer = build_optimizer(config_of(optimizer=values | {"name": name}))
    assert type(optimizer) is OPTIMIZERS[name]
    for key in taken:
        assert getattr(optimizer, key) == OPTIMIZER_VALUES[key], key


@pytest.mark.parametrize("name", get_args(schema.OptimizerName))
def test_a_key_of_another_optimizer_is_refused(name):
    taken = {field.name for field in fields(OPTIMIZERS[name])}
    for key in OPTIMIZER_VALUES.keys() - taken:
        with pytest.raises(ConfigError, match=rf"optimizer\.{key} +belongs to .*, not to {name}"):
            config_of(optimizer={"name": name, key: OPTIMIZER_VALUES[key]})


@pytest.mark.parametrize("name", get_args(schema.OptimizerName))
def test_an_optimizer_has_the_defaults_of_the_configuration(name):
    config = config_of(optimizer={"name": name})
    optimizer = build_optimizer(config)
    assert optimizer.lr == schema.DEFAULT_LR[name]
    for field in fields(optimizer):
        assert getattr(optimizer, field.name) == getattr(config.optimizer, field.name), field.name


def test_every_key_of_the_optimizer_section_belongs_to_an_optimizer():
    taken = {field.name for optimizer in OPTIMIZERS.values() for field in fields(optimizer)}
    assert set(schema.Optimizer.model_fields) == taken | {"name"}
    assert taken == set(OPTIMIZER_VALUES)


# -------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", get_args(schema.LossName))
def test_a_loss_has_its_kind_and_reduction(name, reduction):
    config = config_of(loss={"name": name, "reduction": reduction}, model={"task": TASKS[name]})
    loss = build_loss(config, CPU)
    assert type(loss) is LOSSES[name]
    assert loss.reduction == reduction
    assert loss.backend is CPU


@pytest.mark.parametrize("task", get_args(schema.Task))
def test_auto_is_the_first_loss_of_the_task(task):
    loss = build_loss(config_of(model={"task": task}), CPU)
    assert type(loss) is LOSSES[TASK_LOSSES[task][0]]


@pytest.mark.parametrize(
    ("task", "section", "z", "target", "expected"),
    [
        # -(3/4 + 1/4/2) log y_0 - 1/4/2 log y_1 at y = 1/2 each is log 2; at z = (log 3, 0) not
        ("multiclass", {"label_smoothing": 0.25}, [[np.log(3), 0]], [0], None),
        ("binary", {"label_smoothing": 0.25}, [[np.log(3)]], [1], None),
        ("multilabel", {"label_smoothing": 0.25}, [[np.log(3)]], [[1]], None),
        ("regression", {"name": "huber", "delta": 0.5}, [[3.0]], [[1.0]], 0.5 * (2 - 0.25)),
    ],
)
def test_smoothing_and_delta_change_the_loss_as_they_should(task, section, z, target, expected):
    loss = build_loss(config_of(loss=section, model={"task": task}), get_backend("cpu", "fp64"))
    if expected is None:  # y = (3/4, 1/4), and the right one is asked to be 7/8
        expected = -(7 / 8) * np.log(3 / 4) - (1 / 8) * np.log(1 / 4)
    cost = loss.forward(np.array(z), np.array(target))
    assert cost == pytest.approx(expected, rel=1e-12)


# ----------------------------------------------------------------------------------- schedules


SCHEDULES = {
    "constant": ({}, schedules.Constant()),
    "step": ({"gamma": 0.25, "every_epochs": 3}, schedules.Step(every=3 * 4, gamma=0.25)),
    "exponential": (
        {"gamma": 0.25, "every_epochs": 3},
        schedules.Exponential(gamma=0.25, every=3 * 4),
    ),
    "cosine": ({"floor": 0.125}, schedules.Cosine(total_steps=8 * 4, floor=0.125)),
    "onecycle": ({"peak_fraction": 0.5}, schedules.OneCycle(8 * 4, peak_fraction=0.5)),
    "plateau": (
        {"patience": 2, "factor": 0.75, "min_delta": 0.5, "cooldown": 4},
        schedules.Plateau(factor=0.75, patience=2, min_delta=0.5, cooldown=4),
    ),
}
TRAIN = {"epochs": 8, "batch_size": 25}  # 4 steps an epoch


def test_every_schedule_of_the_configuration_is_tested_here_with_all_its_keys():
    given_here = {name: set(section) for name, (section, _) in SCHEDULES.items()}
    assert given_here == {name: set(keys) for name, keys in schema.SCHEDULE_KEYS.items()}
    assert set(SCHEDULES) == set(get_args(schema.ScheduleName))


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_has_the_values_of_the_configuration(name):
    section, expected = SCHEDULES[name]
    config = config_of(schedule=section | {"name": name}, train=TRAIN)
    assert build_schedule(config, ROWS) == expected
    assert type(build_schedule(config, ROWS)) is type(expected)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_can_warm_up(name):
    section, expected = SCHEDULES[name]
    config = config_of(schedule=section | {"name": name, "warmup_steps": 5}, train=TRAIN)
    assert build_schedule(config, ROWS) == schedules.Warmup(expected, 5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_starts_near_the_learning_rate_and_never_exceeds_it(name):
    config = config_of(schedule={"name": name}, train=TRAIN)
    factors = build_schedule(config, ROWS).table(0, 40)
    assert factors.max() == pytest.approx(1, abs=0.05)
    assert (factors >= 0).all()


@pytest.mark.parametrize(("max_steps", "total"), [(7, 7), (31, 31), (33, 32), (1000, 32)])
@pytest.mark.parametrize("name", ["cosine", "onecycle"])
def test_a_schedule_ends_where_training_ends(name, max_steps, total):
    config = config_of(schedule={"name": name}, train=TRAIN | {"max_steps": max_steps})
    assert build_schedule(config, ROWS).total_steps == total


# ------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_a_network_has_the_configured_sizes_and_precision(precision):
    backend = get_backend("cpu", precision)
    network = build_network(config_of(model={"hidden": [5, 4]}), 6, 3, backend)
    assert [(layer.n_in, layer.n_out) for layer in network.layers] == [(6, 5), (5, 4), (4, 3)]
    assert network.flat.values.dtype == backend.dtype
    assert network.layers[-1].activation.name == "identity"


def test_a_network_without_hidden_layers_is_linear():
    network = network_of(config_of(model={"hidden": []}))
    assert repr(network) == "Sequential(Dense(6, 3, 'identity'))"


@pytest.mark.parametrize("activation", get_args(schema.Activation))
def test_hidden_layers_have_the_activation(activation):
    layers = network_of(config_of(model={"hidden": [5, 4], "activation": activation})).layers
    assert [layer.activation.name for layer in layers] == [activation, activation, "identity"]


@pytest.mark.parametrize("init", get_args(schema.Init))
def test_all_layers_are_drawn_by_the_initializer_from_the_seed(init):
    network = network_of(config_of(model={"hidden": [5], "init": init}, seed=9))
    for i, layer in enumerate(network.layers):
        drawn = initialize(init, layer.n_out, layer.n_in, 9, i).astype(np.float32)
        np.testing.assert_array_equal(layer.weight.value, drawn)
        assert not layer.bias.value.any()


def test_the_model_section_reaches_every_hidden_layer():
    layers = network_of(
        config_of(model={"hidden": [5, 4], "dropout": 0.25, "max_norm": 1.5})
    ).layers
    for layer in layers[:-1]:
        assert (layer.dropout.rate, layer.weight.max_norm) == (0.25, 1.5)
        assert layer.bias is not None
    assert layers[-1].dropout.rate == 0


def test_the_gain_is_that_of_hidden_layers_and_not_of_the_output():
    layers = network_of(config_of(model={"hidden": [5, 5], "init_gain": 4.0})).layers
    assert [layer.init_gain for layer in layers] == [4.0, 4.0, 1.0]


LAYER_KEYS = {
    "units": (7, lambda layer: layer.n_out, 5),
    "activation": ("gelu", lambda layer: layer.activation.name, "tanh"),
    "dropout": (0.375, lambda layer: layer.dropout.rate, 0.25),
    "init": ("zeros", lambda layer: layer.init, "he_normal"),
    "init_gain": (4.0, lambda layer: layer.init_gain, 2.5),
    "bias": (False, lambda layer: layer.bias is not None, True),
    "weight_decay": (0.5, lambda layer: layer.weight.weight_decay, None),
    "max_norm": (2.0, lambda layer: layer.weight.max_norm, 1.5),
}


def test_every_key_of_a_layer_table_is_tested_here():
    assert set(LAYER_KEYS) == set(schema.LayerTable.model_fields)


@pytest.mark.parametrize("key", LAYER_KEYS)
def test_a_layer_table_changes_its_layer_and_no_other(key):
    value, read, default = LAYER_KEYS[key]
    shared = {"activation": "tanh", "dropout": 0.25, "init": "he_normal", "max_norm": 1.5}
    shared["init_gain"] = 2.5
    tables = [{"units": 5}, {"units": 5} | {key: value}, {"units": 5}]
    layers = network_of(config_of(model=shared | {"layers": tables})).layers
    assert [read(layer) for layer in layers[:3]] == [default, value, default]


def test_a_layer_without_bias_has_no_bias_parameter():
    config = config_of(model={"layers": [{"units": 5, "bias": False}]})
    names = [parameter.name for parameter in network_of(config).parameters]
    assert names == ["0.weight", "1.weight", "1.bias"]


def test_the_shipped_configuration_builds_the_network_it_describes():
    network = build_network(load_config("digits"), 64, 10, CPU)
    assert repr(network) == "Sequential(Dense(64, 256, 'sigmoid'), Dense(256, 10, 'identity'))"


# -------------------------------------------------------------------------------------- trainer


@given(
    rows=st.integers(1, 300),
    size=st.integers(1, 320) | st.just("full"),
    accumulate=st.integers(1, 12),
)
@settings(max_examples=300, deadline=None)
def test_steps_per_epoch_are_those_of_the_engine(rows, size, accumulate):
    config = config_of(train={"batch_size": size, "accumulate": accumulate})
    taken = rows if size == "full" else size
    batches = Batches(np.zeros((rows, 1)), np.zeros(rows), None, taken, accumulate, True, 0)
    assert steps_per_epoch(config, rows) == batches.steps


def test_the_trainer_has_the_values_of_the_configuration():
    class Watching(Callback):
        pass

    watching = Watching()
    train = {"batch_size": 7, "accumulate": 3, "shuffle": False, "engine": "eager"}
    config = config_of(
        seed=5,
        train=train | {"metrics": ["macro_f1"]},
        optimizer={"name": "sgd", "lr": 0.5},
        schedule={"name": "cosine"},
        loss={"reduction": "sum"},
    )
    trainer = trainer_of(config, [watching])
    assert {key: getattr(trainer, key) for key in train} == train
    assert trainer.seed == 5
    assert trainer.metrics == ["macro_f1"]
    assert trainer.callbacks == [watching]
    assert repr(trainer.optimizer) == "SGD(lr=0.5)"
    assert trainer.loss.reduction == "sum"
    assert isinstance(trainer.schedule, schedules.Cosine)
    assert isinstance(trainer.model.layers[0], Dense)


@pytest.mark.parametrize("task", get_args(schema.Task))
def test_the_trainer_sees_the_task_that_was_configured(task):
    config = config_of(model={"task": task})
    network = network_of(config, n_out=1 if task == "binary" else 3)
    trainer = build_trainer(config, network, ROWS)
    assert trainer.task == task
    assert tuple(trainer.metrics) == schema.DEFAULT_METRICS[task]


@pytest.mark.parametrize("engine", get_args(schema.Train.model_fields["engine"].annotation))
def test_every_engine_of_the_configuration_trains(engine):
    trainer = trainer_of(config_of(train={"engine": engine}))
    trainer.fit(np.ones((4, 6)), np.array([0, 1, 2, 0]), epochs=1)
    assert trainer.engine in ENGINES
    assert engine in ("auto", trainer.engine)


def test_a_full_batch_is_one_step_over_all_rows():
    trainer = trainer_of(config_of(train={"batch_size": "full"}))
    trainer.fit(np.ones((40, 6)), np.zeros(40, int), epochs=3)
    assert trainer.step == 3


# ------------------------------------------------------------------------------- early stopping


EARLY_STOPPING = {
    "monitor": "val_accuracy",
    "patience": 3,
    "min_delta": 0.25,
    "restore_best": False,
}


def test_early_stopping_is_built_with_its_values_and_called_first():
    class Watching(Callback):
        pass

    assert set(EARLY_STOPPING) == set(schema.EarlyStopping.model_fields)
    config = parse_config(
        {
            "data": {"source": "builtin:digits", "val": {"fraction": 0.5}},
            "early_stopping": EARLY_STOPPING,
        }
    )
    early, watching = trainer_of(config, [Watching()]).callbacks
    assert isinstance(watching, Watching)
    assert isinstance(early, EarlyStopping)
    assert {key: getattr(early, key) for key in EARLY_STOPPING} == EARLY_STOPPING


def test_without_its_section_there_is_no_early_stopping():
    assert trainer_of(config_of()).callbacks == []


def test_an_empty_early_stopping_section_has_the_defaults():
    config = parse_config(
        {
            "data": {"source": "builtin:digits", "val": {"fraction": 0.5}},
            "early_stopping": {},
        }
    )
    assert trainer_of(config).callbacks == [EarlyStopping()]
