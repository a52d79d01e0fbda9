"""Where a step's time goes: parts that add up, every call in one, and nothing changed by it."""

import json

import numpy as np
import pytest
from fake_cuda import CUPY, FakeCudaBackend, installed
from test_backend import CASES, cases, place

from gpumlp import Dense, Sequential, SoftmaxCrossEntropy, Trainer, cli, step_profile
from gpumlp.backend import (
    OPERATIONS,
    PRECISIONS,
    Activation,
    Backend,
    CpuBackend,
    RecordingBackend,
    Workspace,
    get_backend,
)
from gpumlp.backend.kernel_backend import flat
from gpumlp.backend.kernel_sources import declared_kernels
from gpumlp.call_costs import bytes_of, name_of, operations_of
from gpumlp.errors import ConfigError
from gpumlp.optimizers import OPTIMIZERS
from gpumlp.report import profile_table
from gpumlp.step_profile import BETWEEN, HOST, OTHER, PARTS, profile_training

BACKENDS = {
    "native": lambda: get_backend("cpu"),
    "numpy": lambda: CpuBackend(kernels=False),
    "plain": lambda: Backend(np),
    "fp64": lambda: Backend(np, "float64"),
    "fp16": lambda: get_backend("cpu", "fp16"),
    "bf16x3": lambda: get_backend("cpu", "bf16x3"),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(step_profile, "CALL_SECONDS", 1e-5)
    monkeypatch.setattr(step_profile, "STEP_SECONDS", 1e-5)
    monkeypatch.setattr(step_profile, "TRAINER_SECONDS", 1e-3)
    monkeypatch.setattr(step_profile, "SPINNING", 0)
    monkeypatch.setattr(step_profile, "REPEATS", 2)
    monkeypatch.setattr(step_profile, "MOST_TIMED", 2**12)
    monkeypatch.setattr(step_profile, "PEAK_SIZE", {"cpu": 64, "cuda": 16})


def data(rows=50):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, 6)), rng.integers(3, size=rows)


def fitted(backend, optimizer="adam", **options):
    options = {"batch_size": 16, "dropout": 0.0, "activation": "tanh"} | options
    hidden = {"dropout": options.pop("dropout")}
    activation = options.pop("activation")
    first = Dense(6, 8, activation, backend, **hidden)
    model = Sequential(first, Dense(8, 3, backend=backend), seed=1)
    loss = SoftmaxCrossEntropy(backend=backend)
    trainer = Trainer(model, loss, OPTIMIZERS[optimizer](0.01), **options)
    trainer.fit(*data(), epochs=2)
    return trainer


def parts(profile):
    return {row.part: row for row in profile.rows}


def test_every_operation_and_every_kernel_is_in_one_part():
    named = [name for names in PARTS.values() for name in names]
    assert len(named) == len(set(named))
    assert set(OPERATIONS) <= set(named)
    assert set(declared_kernels()) <= set(named)
    assert set(named) <= {*OPERATIONS, *declared_kernels(), "gemm", "product"}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_the_parts_add_up_and_nothing_is_changed(backend, optimizer):
    trainer = fitted(BACKENDS[backend](), optimizer)
    host, optimizer = trainer.model.backend.to_numpy, trainer.optimizer
    arrays = [trainer.model.flat.values, trainer.model.flat.gradients, *optimizer.state.values()]
    if optimizer.loss_scale is not None:
        arrays.append(optimizer.loss_scale.state)
    before, history = [host(array).copy() for array in arrays], list(trainer.history)
    found = profile_training(trainer, *data(), None)
    for array, kept in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(host(array), kept)
    assert (trainer.history, trainer.epoch, trainer.step) == (history, 2, 8)
    rows = parts(found)
    assert sum(row.seconds for row in found.rows) == pytest.approx(found.seconds)
    assert {"gather", "products", "activations", "loss", BETWEEN, HOST} <= set(rows)
    assert OTHER not in rows
    assert all(row.seconds > 0 for part, row in rows.items() if part not in (BETWEEN, HOST))
    assert rows[HOST].seconds >= 0
    # SGD is written by the products, unless they read copies of the parameters
    has_update = optimizer.name != "sgd" or backend in ("fp16",)
    assert ("update" in rows) == has_update
    assert found.steps == 4
    assert found.peak > 0
    assert found.floor > 0


def test_training_goes_on_as_if_nothing_had_been_measured():
    results = []
    for profiled in (False, True):
        trainer = fitted(get_backend("cpu"), dropout=0.3)
        if profiled:
            profile_training(trainer, *data(), None)
        trainer.fit(*data(), epochs=2)
        results.append(trainer.model.flat.values.copy())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": "full"},
        {"accumulate": 2, "dropout": 0.4},
        {"class_weight": np.array([1.0, 2.0, 0.5])},
        {"batch_size": 64},
        {"engine": "eager"},
    ],
    ids=str,
)
def test_every_kind_of_training_can_be_profiled(options):
    found = profile_training(fitted(get_backend("cpu"), **options), *data(), None)
    assert sum(row.seconds for row in found.rows) == pytest.approx(found.seconds)
    assert sum(row.calls for row in found.rows) > 10


def test_the_sizes_of_a_step_are_counted_once_for_each_micro_batch():
    one, two = (
        parts(profile_training(fitted(get_backend("cpu"), accumulate=n), *data(), None))
        for n in (1, 2)
    )
    assert two["products"].calls == 2 * one["products"].calls == 10
    assert two["update"].calls == one["update"].calls == 1


def test_weights_of_rows_count():
    trainer, weight = fitted(get_backend("cpu")), np.linspace(0.5, 1, 50)
    with_weights = parts(profile_training(trainer, *data(), weight))["gather"].calls
    assert with_weights > parts(profile_training(trainer, *data(), None))["gather"].calls


def test_an_activation_of_ones_own_is_part_of_the_activations():
    def forward(xp, a, z):
        xp.sin(z, out=a)

    def derivative(xp, out, z, scratch):
        xp.cos(z, out=out)

    trainer = fitted(get_backend("cpu"))
    trainer.model.layers[0].activation = Activation("sine", "input", forward, derivative)
    found = parts(profile_training(trainer, *data(), None))
    assert found["activations"].calls == 4
    assert OTHER not in found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_captured_step_is_profiled_as_it_is_replayed(monkeypatch, precision):
    monkeypatch.setattr(CUPY.cuda, "get_elapsed_time", lambda began, ended: 0.01)
    monkeypatch.setattr(step_profile, "MOST_TIMES", 2)
    monkeypatch.setattr(step_profile, "MOST_ENTRIES", 2**12)
    trainer = fitted(FakeCudaBackend(precision=PRECISIONS[precision]), activation="relu")
    values = trainer.model.backend.to_numpy(trainer.model.flat.values).copy()
    found = profile_training(trainer, *data(), None)
    np.testing.assert_array_equal(trainer.model.backend.to_numpy(trainer.model.flat.values), values)
    rows = parts(found)
    # bias, ReLU and its derivative are done by the products; in bf16 x, a and both dz are rounded
    assert rows["products"].calls == (5 if precision == "fp32" else 5 + 4)
    assert ("activations" in rows) == (precision == "bf16")


# --------------------------------------------------------------------------------- counts


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", ["native", "plain"])
def test_bytes_are_those_of_what_is_read_and_written(name, backend):
    """Between once and three times those of the arrays, whatever runs the operation."""

    device = BACKENDS[backend]()
    for case in cases(name, (31, 33)):
        bound = []
        recorder = RecordingBackend(device, Workspace(device), bound)
        placed = place(case, recorder, device.workspace_order)
        case.call(recorder, placed)
        held = sum(
            array.nbytes
            for key, array in vars(placed).items()
            if not key.startswith(("scratch", "source", "table"))
        )
        moved = sum(bytes_of(call) for call in flat(bound))
        assert moved <= 4 * held
        products = sum(operations_of(call) for call in flat(bound))
        assert (products > 0) == (name == "matmul")
        if name in ("sgd_step", "adam_step", "softmax", "gather_scaled"):
            assert moved >= 0.9 * held


@pytest.mark.parametrize(("name", "bytes_each"), [("sgd_step", 12), ("adam_step", 28)])
def test_updates_move_what_the_kernels_say(name, bytes_each):
    (case,) = cases(name, (31, 33))
    backend = get_backend("cpu")
    placed, n = place(case, backend, "F"), 31 * 33
    bound = []
    case.call(RecordingBackend(backend, Workspace(backend), bound), placed)
    assert bytes_of(bound[0]) == pytest.approx(bytes_each * n, rel=0.01)
    assert name_of(bound[0]) == name


def test_a_product_in_parts_counts_each():
    for name, products in (("fp32", 1), ("bf16", 1), ("bf16x3", 3), ("bf16x6", 6)):
        for backend in (get_backend("cpu", name), Backend(np, "float32", PRECISIONS[name])):
            a, b = backend.zeros((4, 5)), backend.zeros((5, 6))
            operands = backend.operand(a), backend.operand(b)
            call = backend.bind("matmul", backend.zeros((4, 6)), *operands)
            found = sum(operations_of(one) for one in flat([call]))
            assert found == products * 2 * 4 * 5 * 6


# -------------------------------------------------------------------------------- command


def run(tmp_path, *options, config="digits"):
    arguments = ["train", "--config", config, "--set", "train.epochs=2", "--set", "log.plots=false"]
    return cli.main([*arguments, "--run-dir", str(tmp_path), "--device", "cpu", *options])


def test_the_command_prints_the_table_and_keeps_it(tmp_path, capsys):
    assert run(tmp_path / "plain") == 0
    assert "a step" not in capsys.readouterr().out
    assert run(tmp_path / "profiled", "--profile") == 0
    out = capsys.readouterr().out
    summary = json.loads((tmp_path / "profiled/summary.json").read_text())
    assert out.startswith(profile_table(summary["profile"]))
    assert out.splitlines()[-2].startswith("done: 2 epochs")
    profile = summary["profile"]
    assert sum(row["us"] for row in profile["rows"]) == pytest.approx(profile["us_per_step"], 1e-3)
    assert sum(row["share"] for row in profile["rows"]) == pytest.approx(1, abs=0.01)
    assert profile["steps_per_epoch"] == 41
    models = [tmp_path / name / "model.safetensors" for name in ("plain", "profiled")]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_a_quiet_run_prints_the_table_that_was_asked_for(tmp_path, capsys):
    assert run(tmp_path / "a", "--profile", "-q") == 0
    said = capsys.readouterr()
    assert said.out.startswith("a step")
    assert not said.err
    assert run(tmp_path / "b", "--profile", "--json", "-q") == 0
    assert "us_per_step" in json.loads(capsys.readouterr().out)["profile"]
    assert "profile" in json.loads((tmp_path / "a/summary.json").read_text())


def test_a_profile_that_fails_does_not_cost_the_run(tmp_path, capsys, monkeypatch):
    def fail(*arguments):
        raise MemoryError("no room")

    monkeypatch.setattr("gpumlp.experiment.profile_training", fail)
    assert run(tmp_path / "run", "--profile") == 0
    assert "warning: no profile: no room" in capsys.readouterr().err
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["status"], "profile" in summary) == ("done", False)
    assert (tmp_path / "run/model.safetensors").exists()
    assert "MemoryError" in (tmp_path / "run/run.log").read_text()


def test_a_dry_run_has_no_profile(tmp_path, capsys):
    assert run(tmp_path / "run", "--profile", "--dry-run") == ConfigError.exit_code == 2
    assert "--profile needs a training" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_on_the_stand_in_is_profiled(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(CUPY.cuda, "get_elapsed_time", lambda began, ended: 0.01)
    monkeypatch.setattr(step_profile, "MOST_TIMES", 2)
    monkeypatch.setattr(step_profile, "MOST_ENTRIES", 2**12)
    with installed(tmp_path / "cache"):
        options = ["--set", "model.hidden=[4]", "--device", "cuda", "--profile"]
        assert run(tmp_path / "run", *options, config="diabetes") == 0
    assert "products" in capsys.readouterr().out
