"""`gpumlp gradcheck` passes what is right, finds what is wrong, and says where it is."""

from dataclasses import replace

import numpy as np
import pytest
from in_process import call

from gpumlp.backend import ACTIVATIONS, get_backend
from gpumlp.build import build_network
from gpumlp.config_file import load_config, parse_config, shipped_configs
from gpumlp.data.prepare import prepare
from gpumlp.engine import graph
from gpumlp.errors import DataError, DivergedError
from gpumlp.gradients.check import (
    SAMPLED,
    added_sizes,
    backpropagated,
    check,
    choose_batch,
    cost_of,
    engine_gradient,
    failures,
    without_rows_at_kinks,
)
from gpumlp.gradients.engine import Batch
from gpumlp.optimizers import OPTIMIZERS, SGD
from gpumlp.parameters import Sink

TARGETS = {
    "multiclass": lambda rng, x: rng.integers(3, size=len(x)),
    "binary": lambda rng, x: np.where(x[:, 0] > 0, "yes", "no"),
    "multilabel": lambda rng, x: (x[:, :2] > 0).astype(int),
    "regression": lambda rng, x: np.stack([3 * x[:, 0], x[:, 1] + rng.normal(size=len(x))], 1),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with a data set for each task, one row in five of weight 0."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 4))
    weight = rng.uniform(0.5, 2, len(x)) * (np.arange(len(x)) % 5 > 0)
    for task, targets in TARGETS.items():
        np.savez(tmp_path / f"{task}.npz", x=x, label=targets(rng, x), w=weight)
    counts = rng.poisson(3, len(x)).astype(float)
    np.savez(tmp_path / "counts.npz", x=x, label=counts, w=weight)
    return tmp_path


def config(task="multiclass", source=None, **sections):
    data = {"source": f"{source or task}.npz", **sections.pop("data", {})}
    model = {"task": task, "hidden": [3], **sections.pop("model", {})}
    return parse_config({"data": data, "model": model, **sections})


def assert_passes(found):
    assert failures(found) == []
    assert found.error < 1e-6
    assert found.engine_error < found.engine_tolerance
    assert all(tensor.checked for tensor in found.tensors)


# ------------------------------------------------------------------------- what is right


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    "penalty", [{}, {"weight_decay": 0.1}, {"l1": 0.05, "weight_decay": 0.1}], ids=str
)
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_every_optimizer_descends_the_gradient_of_its_cost(here, name, penalty, engine):
    layers = [{"units": 3, "weight_decay": 0.3}, {"units": 2, "max_norm": 0.1}]
    found = check(
        parse_config(
            {
                "data": {"source": "regression.npz", "sample_weight": "w"},
                "model": {"task": "regression", "layers": layers, "activation": "tanh"},
                "optimizer": {"name": name, "clip_norm": 0.01, **penalty}
                if name == "momentum"
                else {"name": name, **penalty},
                "train": {"engine": engine},
            }
        )
    )
    assert found.engine == engine
    assert_passes(found)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("task", TARGETS)
def test_every_task_and_activation_passes(here, task, activation):
    found = check(config(task, model={"activation": activation}))
    assert_passes(found)
    assert found.rows == 40
    assert found.direction is None
    assert sum(t.checked + t.skipped for t in found.tensors) == sum(
        int(np.prod(t.shape)) for t in found.tensors
    )


@pytest.mark.parametrize("name", ["mse", "mae", "huber", "poisson"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_every_loss_of_values_passes(here, name, reduction):
    source = "counts" if name == "poisson" else "regression"
    assert_passes(check(config("regression", source, loss={"name": name, "reduction": reduction})))


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"dropout": 0.4, "hidden": [5, 4]}},
        {"model": {"dropout": 0.4}, "train": {"accumulate": 3, "batch_size": 4}},
        {"model": {"dropout": 0.4}, "train": {"batch_size": "full", "accumulate": 2}},
        {"train": {"accumulate": 7, "batch_size": 4}, "optimizer": {"name": "sgd"}},
        {"train": {"batch_size": "full"}, "optimizer": {"name": "sgd", "weight_decay": 0.1}},
        {"loss": {"class_weight": "balanced", "label_smoothing": 0.2}},
        {"loss": {"class_weight": {"1": 3.0, "2": 0.0}}, "data": {"sample_weight": "w"}},
        {"data": {"sample_weight": "w"}, "loss": {"reduction": "sum"}},
        {"model": {"hidden": []}, "data": {"scale": "none"}},
        {"precision": "fp64", "optimizer": {"name": "sgd"}},
    ],
    ids=str,
)
def test_what_a_configuration_may_ask_for_passes(here, sections):
    found = check(config(**sections))
    assert_passes(found)
    assert found.arithmetic == ("float64" if "precision" in sections else "float32")


def test_a_large_network_is_sampled_and_looked_at_along_a_direction():
    found = check(load_config("digits", ["model.hidden=[90]", "model.activation=relu"]), rows=9)
    assert_passes(found)
    sizes = {tensor.name: tensor.checked + tensor.skipped for tensor in found.tensors}
    assert sizes == {"0.weight": SAMPLED, "0.bias": SAMPLED, "1.weight": SAMPLED, "1.bias": 10}
    assert found.direction < 1e-6


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_configuration_passes(name, monkeypatch):
    monkeypatch.setattr("gpumlp.gradients.check.SMALL", 200)  # a sample, to be quick
    try:
        found = check(load_config(name), rows=5)
    except DataError as error:
        pytest.skip(str(error))  # of data that does not ship
    assert_passes(found)


def test_it_says_the_same_each_time(here):
    first, second = (check(config(model={"hidden": [700]}), rows=3) for _ in range(2))
    assert first == second


def test_inputs_far_from_1_pass(here):
    with np.load("regression.npz") as data:
        np.savez("large.npz", x=data["x"] * 1e3 + 1e3, label=data["label"])
    assert_passes(check(config("regression", "large", data={"scale": "none"})))


# ------------------------------------------------------------------------- kinks


def test_entries_at_a_kink_are_skipped_and_counted(here):
    found = check(config(model={"init": "zeros"}, optimizer={"l1": 0.1}))
    assert [(t.checked, t.skipped) for t in found.tensors] == [(0, 12), (3, 0), (0, 9), (3, 0)]
    assert found.tensors[0].worst is None
    assert failures(found) == []


def test_if_all_entries_lie_at_kinks_the_check_fails(here):
    np.savez("zeros.npz", x=np.ones((9, 2)), label=np.zeros((9, 1)))
    found = check(
        config(
            "regression",
            "zeros",
            data={"scale": "none"},
            model={"init": "zeros", "hidden": []},
            loss={"name": "mae"},
        )
    )
    assert all(tensor.checked == 0 for tensor in found.tensors)
    assert failures(found) == ["nothing could be compared: a kink lies within reach of every entry"]


def test_rows_on_the_other_side_of_a_kink_in_float32_are_left_out(here):
    own = config(model={"activation": "relu"})
    single, double = (
        build_network(own, 4, 3, get_backend("cpu", precision)) for precision in ("fp32", "fp64")
    )
    for model, bias in ((single, -1e-9), (double, 1e-9)):
        model.parameters[1].value[...] = bias
    x = np.ones((3, 4)) * [[1.0], [0.0], [2.0]]
    batch, left_out = without_rows_at_kinks(
        own, Batch(x, np.array([0, 1, 2]), None), single, double
    )
    assert left_out == 1
    assert batch.weight.tolist() == [1, 0, 1]
    weighted = Batch(x, np.array([0, 1, 2]), np.array([2.0, 3.0, 4.0]))
    assert without_rows_at_kinks(own, weighted, single, double)[0].weight.tolist() == [2, 0, 4]
    assert without_rows_at_kinks(own, weighted, double, double) == (weighted, 0)


# ------------------------------------------------------------------------- what is wrong


def wrong_derivative(factor):
    """A sigmoid whose derivative is wrong."""
    right = ACTIVATIONS["sigmoid"]

    def derivative(xp, d, kept, scratch):
        right.derivative(xp, d, kept, scratch)
        d *= factor

    return replace(right, derivative=derivative)


@pytest.mark.parametrize("hidden", [[3], [700]], ids=["every entry", "sampled"])
@pytest.mark.parametrize("factor", [1.001, 0.0, -1.0])
def test_a_wrong_derivative_is_found(here, monkeypatch, factor, hidden):
    monkeypatch.setitem(ACTIVATIONS, "sigmoid", wrong_derivative(factor))
    found = check(config(model={"hidden": hidden}))
    lines = failures(found)
    assert {line.split("[")[0] for line in lines if "[" in line} == {"0.weight", "0.bias"}
    assert found.engine_error < found.engine_tolerance  # wrong alike
    assert found.direction is None or found.direction > 1e-6


def test_a_penalty_that_is_not_the_costs_is_found(here, monkeypatch):
    monkeypatch.setattr(SGD, "penalty", lambda self: 0.0)
    found = check(config(optimizer={"name": "sgd", "weight_decay": 0.1}))
    assert {line.split("[")[0] for line in failures(found)} == {"0.weight", "1.weight"}


def test_a_wrong_sink_is_found_as_the_engines_error(here, monkeypatch):
    def sink(self, parameter):
        return Sink(parameter.value, self.scalar("-lr"), 1.5 if parameter.is_weight else 1.0)

    monkeypatch.setattr(SGD, "sink", sink)
    monkeypatch.setattr("gpumlp.gradients.engine.LARGE_LR", 1.0)
    found = check(config(optimizer={"name": "sgd"}))
    assert found.error < 1e-6
    lines = failures(found)
    assert {line.split("[")[0] for line in lines} == {"0.weight", "1.weight"}
    assert all("engine graph in float32" in line for line in lines)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_it_is_the_replayed_step_that_is_looked_at(here, monkeypatch, optimizer):
    honest = graph.GraphEngine._record

    def forgetful(self, rows):
        honest(self, rows)
        return lambda steps: None

    monkeypatch.setattr(graph.GraphEngine, "_record", forgetful)
    found = check(config(optimizer={"name": optimizer}))
    assert {tensor.engine_error > 1e-3 for tensor in found.tensors} == {True}


def test_the_sizes_are_those_of_all_rows_and_at_least_the_gradients(here):
    own = config(optimizer={"name": "sgd", "weight_decay": 0.1}, data={"sample_weight": "w"})
    with np.load("multiclass.npz") as data:
        batch = Batch(data["x"][1:4], data["label"][1:4], data["w"][1:4])
    model = build_network(own, 4, 3, get_backend("cpu", "fp64"))
    cost, optimizer = cost_of(own, model, batch)
    gradient = backpropagated(cost, optimizer)
    sizes = added_sizes(cost, gradient)
    cost.along(np.ones_like(gradient))  # whatever the loss was last asked for
    assert added_sizes(cost, gradient) == sizes
    for parameter in model.parameters:
        assert sizes[parameter.name] >= np.linalg.norm(parameter.view(gradient)) * (1 - 1e-12)
    alone = Batch(batch.x[:1], batch.y[:1], batch.weight[:1])
    cost, optimizer = cost_of(replace_decay(own), model, alone)
    gradient = backpropagated(cost, optimizer)
    sizes = added_sizes(cost, gradient)
    for parameter in model.parameters:  # nothing cancels in one row
        norm = np.linalg.norm(parameter.view(gradient))
        assert sizes[parameter.name] == pytest.approx(norm, rel=1e-12)


def test_the_engines_error_is_relative():
    """To gradients that are 16 times as large, without a rounding in between."""
    settings = ["model.hidden=[8]", "optimizer.weight_decay=0"]
    mean, total = (
        check(load_config("digits", [*settings, f"loss.reduction='{reduction}'"]), rows=16)
        for reduction in ("mean", "sum")
    )
    assert mean.engine_error == pytest.approx(total.engine_error, rel=1e-3)


def test_the_rows_that_are_looked_at_reach_from_the_first_to_the_last():
    own = load_config("digits")
    data = prepare(own.data, "multiclass", 0, np.float64)
    rows = data.train.x
    chosen = choose_batch(own, data, 3).x
    np.testing.assert_array_equal(chosen, rows[[0, (len(rows) - 1) // 2, len(rows) - 1]])


def test_one_row_is_enough():
    found = check(load_config("digits", ["model.hidden=[8]"]), rows=1)
    assert found.rows == 1
    assert_passes(found)


@pytest.mark.parametrize("away", [9.0, -9.0])
def test_the_engines_worst_entry_is_the_farthest_away_to_either_side(here, monkeypatch, away):
    def spoilt(own, network, batch):
        engine, found = engine_gradient(own, network, batch)
        network.parameters[0].view(found)[1, 2] += away
        return engine, found

    monkeypatch.setattr("gpumlp.gradients.check.engine_gradient", spoilt)
    assert check(config()).tensors[0].engine_worst == (1, 2)


def test_the_engines_error_is_that_of_its_worst_tensor():
    found = check(load_config("xor"))
    errors = [tensor.engine_error for tensor in found.tensors]
    assert min(errors) < found.engine_error == max(errors)


def replace_decay(own):
    optimizer = own.optimizer.model_copy(update={"weight_decay": 0.0})
    return own.model_copy(update={"optimizer": optimizer})


def test_reading_the_engines_gradient_leaves_the_parameters_alone(here):
    own = config(optimizer={"name": "adamw"})
    model = build_network(own, 4, 3, get_backend("cpu"))
    before = model.flat.values.copy()
    with np.load("multiclass.npz") as data:
        engine_gradient(own, model, Batch(data["x"], data["label"], None))
    np.testing.assert_array_equal(model.flat.values, before)


@pytest.mark.parametrize("rows", [0, 65])
def test_rows_out_of_range_are_refused(rows):
    with pytest.raises(ValueError, match=rf"1\.\.64, got {rows}"):
        check(load_config("digits"), rows)


def test_a_cost_that_is_not_finite_is_said(here):
    np.savez("huge.npz", x=np.full((9, 2), 1e200), label=np.full((9, 1), 1e200))
    with pytest.raises(DivergedError, match=r"scale the inputs"):
        check(config("regression", "huge", data={"scale": "none"}, model={"hidden": []},
                     precision="fp64"))  # fmt: skip


def test_targets_that_the_loss_does_not_take_are_an_error_of_the_data(here):
    with pytest.raises(DataError, match=r"regression\.npz: targets of Poisson"):
        check(config("regression", loss={"name": "poisson"}))


# ------------------------------------------------------------------------- the command


def run(capsys, *arguments):
    return call(capsys, "gradcheck", *arguments)


def test_the_command_ends_with_the_largest_errors(capsys):
    code, out, err = run(capsys, "--config", "digits", "--rows", "7", "--set", "train.engine=eager")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].startswith("largest relative error ")
    assert lines[-1].endswith("(float32, engine eager): ok")
    assert "7 rows, parameters drawn from seed 0" in lines[0]
    assert [line.split()[:4] for line in lines if line.startswith("1.")] == [
        ["1.weight", "10", "x", "256"],
        ["1.bias", "10", "10", "0"],
    ]
    assert any(line.startswith("all parameters along a random direction") for line in lines)


def test_another_seed_draws_other_parameters(capsys):
    outs = [run(capsys, "--config", "digits", "--rows", "3", "--seed", seed)[1] for seed in "45"]
    assert "seed 4" in outs[0]
    assert outs[0].splitlines()[5] != outs[1].splitlines()[5]


def test_a_failure_exits_with_7_and_names_tensor_and_entry(capsys, monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "sigmoid", wrong_derivative(1.01))
    code, out, err = run(capsys, "--config", "digits", "--rows", "4", "--set", "model.hidden=[5]")
    assert code == 7
    assert out.splitlines()[-1].endswith("failed")
    assert "0.weight[" in err
    assert "the central difference" in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--config", "digits", "--rows", "65"], 2, "--rows 65: expected 1 to 64"),
        (["--config", "digits", "--rows", "x"], 2, "invalid int"),
        (["--config", "none-such"], 2, "no such file"),
        (["--config", "digits", "--set", "train.engine=steam"], 2, "train.engine"),
        (["--config", "digits", "--seed", "-1"], 2, "seed"),
        ([], 2, "--config"),
        (["--config", "digits", "--set", "data.source=none.npz"], 3, "none.npz"),
    ],
)
def test_what_cannot_be_checked_is_refused(capsys, arguments, code, said):
    found, out, err = run(capsys, *arguments)
    assert (found, out) == (code, "")
    assert said in err


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16", "bf16x3", "bf16x6"])
@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_a_low_precision_is_as_exact_as_its_numbers(here, precision, activation):
    found = check(config(model={"activation": activation, "hidden": [20, 9]}, precision=precision))
    assert_passes(found)
    assert found.arithmetic == precision
    assert found.engine_error < 2 * found.precision.epsilon
