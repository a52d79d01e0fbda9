"""Float16 gradients keep small entries, and one that overflows changes nothing."""

import json

import numpy as np
import pytest
from fake_cuda import FakeCudaBackend

from gpumlp import Dense, Sequential, SoftmaxCrossEntropy, Trainer, cli, get_backend, loss_scale
from gpumlp.backend import PRECISIONS, Backend, CpuBackend
from gpumlp.errors import DivergedError
from gpumlp.events import Callback
from gpumlp.losses import MeanSquaredError
from gpumlp.optimizers import OPTIMIZERS

FP16 = PRECISIONS["fp16"]
MAKERS = {
    "native": lambda: get_backend("cpu", "fp16"),
    "numpy": lambda: CpuBackend(kernels=False, precision=FP16),
    "plain": lambda: Backend(np, "float32", FP16),
    "cuda-stand-in": lambda: FakeCudaBackend(precision=FP16),
}
every_maker = pytest.mark.parametrize("maker", MAKERS)
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def build(backend, optimizer, engine="graph", lr=0.01, **options):
    model = Sequential(
        Dense(6, 9, "tanh", backend, weight_decay=0.01), Dense(9, 3, backend=backend), seed=4
    )
    loss = SoftmaxCrossEntropy(backend=backend)
    return Trainer(model, loss, OPTIMIZERS[optimizer](lr), batch_size=10, engine=engine, **options)


def data(rows=40):
    rng = np.random.default_rng(1)
    return rng.normal(size=(rows, 6)).astype(np.float32), rng.integers(3, size=rows)


def state_of(trainer):
    backend, optimizer = trainer.model.backend, trainer.optimizer
    arrays = [trainer.model.flat.values, *optimizer.state.values()]
    return [backend.to_numpy(array).copy() for array in arrays]


class PlantedOverflow(Callback):
    """Makes the scale so large before some steps that their gradients overflow."""

    every_steps = 1

    def __init__(self, steps):
        self.steps, self.kept, self.states = steps, [], []

    def on_step(self, trainer):
        self.states.append(state_of(trainer))
        scale = trainer.optimizer.loss_scale
        if trainer.step in self.steps:
            self.kept.append(trainer.step)
            scale.state[0] = np.float32(2.0**40)
        elif scale.value > 2**30:
            scale.state[0] = np.float32(2.0**10)


@every_maker
@every_optimizer
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_a_step_whose_gradient_overflows_changes_nothing(maker, optimizer, engine):
    planted = PlantedOverflow({2, 5})
    trainer = build(MAKERS[maker](), optimizer, engine, callbacks=[planted])
    trainer.fit(*data(), epochs=2)
    assert planted.kept == [2, 5]
    for step in range(1, 8):
        same = [
            np.array_equal(one, other)
            for one, other in zip(planted.states[step - 1], planted.states[step], strict=True)
        ]
        assert all(same) if step in (2, 5) else not any(same), step
    assert trainer.optimizer.loss_scale.skipped == 2
    assert trainer.history[-1]["skipped_steps"] == 2
    assert np.isfinite(trainer.history[-1]["loss"])


def test_a_scale_that_is_too_large_at_first_is_found_down_from(monkeypatch):
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**40)
    trainer = build(get_backend("cpu", "fp16"), "adam")
    history = trainer.fit(*data(400), epochs=3)
    assert 10 < trainer.optimizer.loss_scale.skipped < 40
    assert history[-1]["loss"] < history[0]["loss"]
    assert 1 <= history[-1]["loss_scale"] < 2.0**40


def test_the_scale_grows_again_and_stays_below_its_largest(monkeypatch):
    monkeypatch.setattr(loss_scale, "PATIENCE", 3)
    monkeypatch.setattr(loss_scale, "LARGEST", 2.0**18)
    trainer = build(get_backend("cpu", "fp16"), "sgd")
    history = trainer.fit(*data(), epochs=4)  # 16 steps
    assert history.column("loss_scale") == [2.0**17, 2.0**18, 2.0**18, 2.0**18]


@every_maker
def test_the_scale_is_a_power_of_two_and_leaves_no_other_trace(maker):
    """What is left is that small gradients are not rounded to 0."""
    results = []
    for first in (2.0**8, 2.0**12):
        backend = MAKERS[maker]()
        trainer = build(backend, "sgd", lr=0.5)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loss_scale, "FIRST", first)
            trainer.fit(*data(), epochs=3)
        results.append(state_of(trainer)[0])
    np.testing.assert_allclose(*results, 1e-5, 1e-6)


def test_without_a_scale_small_gradients_would_be_lost(monkeypatch):
    """A network in whose first layer dl/dz is about 1e-9."""

    def moved(first):
        monkeypatch.setattr(loss_scale, "FIRST", first)
        backend = get_backend("cpu", "fp16")
        model = Sequential(Dense(6, 9, "tanh", backend), Dense(9, 1, backend=backend), seed=4)
        x, _ = data(1000)
        y = backend.to_numpy(model.predict(x)) + 1e-6 * np.sign(x[:, :1])
        trainer = Trainer(model, MeanSquaredError(backend=backend), OPTIMIZERS["adam"](1e-3))
        trainer.batch_size = 1000
        before = backend.to_numpy(model.parameters[0].value).copy()
        trainer.fit(x, y, epochs=1)
        return np.count_nonzero(backend.to_numpy(model.parameters[0].value) != before)

    assert moved(1.0) == 0
    assert moved(2.0**16) == 6 * 9


def test_accumulated_and_weighted_gradients_are_those_of_fp32():
    results = []
    for name in ("fp32", "fp16"):
        backend = get_backend("cpu", name)
        trainer = build(backend, "adam", accumulate=2, class_weight=np.array([1.0, 2.0, 0.5]))
        x, labels = data()
        weight = np.linspace(0.5, 2, len(x))
        trainer.fit(x, labels, epochs=2, sample_weight=weight)
        results.append(state_of(trainer)[0])
    np.testing.assert_allclose(*results, 0.02, 2e-3)


def test_a_gradient_that_is_never_finite_ends_the_run():
    backend = get_backend("cpu", "fp16")
    model = Sequential(Dense(2, 1, backend=backend), seed=1)
    trainer = Trainer(model, MeanSquaredError(backend=backend), OPTIMIZERS["sgd"](1e-3))
    x, y = np.ones((64, 2), np.float32), np.full((64, 1), 1e18, np.float32)
    with pytest.raises(DivergedError, match=r"not finite in float16, whatever.*bf16"):
        trainer.fit(x, y, epochs=100)


def test_numbers_too_large_for_float16_are_named():
    trainer = build(get_backend("cpu", "fp16"), "sgd")
    x, labels = data()
    x[27] = 1e6
    with pytest.raises(DivergedError, match=r"epoch 1, step \d.*: first not finite: x as products"):
        trainer.fit(x, labels, epochs=1)


def test_other_precisions_have_no_scale():
    trainer = build(get_backend("cpu", "bf16"), "adam")
    trainer.fit(*data(), epochs=1)
    assert trainer.optimizer.loss_scale is None
    assert "loss_scale" not in trainer.history[-1]


def test_a_copied_optimizer_has_a_scale_of_its_own():
    from copy import deepcopy

    trainer = build(get_backend("cpu", "fp16"), "adam")
    trainer.fit(*data(), epochs=1)
    copied = deepcopy(trainer)
    copied.optimizer.loss_scale.state[0] = 1
    assert trainer.optimizer.loss_scale.value == loss_scale.FIRST


def test_a_run_says_how_many_steps_were_skipped(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**36)
    options = ["--set", "precision=fp16", "--set", "train.epochs=2", "--set", "log.plots=false"]
    folder = tmp_path / "run"
    code = cli.main(["train", "--config", "digits", "--run-dir", str(folder), *options])
    captured = capsys.readouterr()
    assert code == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["skipped_steps"] > 0
    assert f"82 steps ({summary['skipped_steps']} skipped) in" in captured.out
    assert "loss_scale" not in captured.err
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["skipped_steps"] == summary["skipped_steps"]


def test_a_precision_that_is_emulated_is_said_to_be(tmp_path, capsys):
    for precision, emulated in (("bf16", True), ("fp32", False)):
        options = ["--device", "cpu", "--dry-run", "--set", f"precision={precision}"]
        assert cli.main(["train", "--config", "digits", *options]) == 0
        assert ("(emulated)" in capsys.readouterr().out) == emulated


def test_its_constants_are_those_that_are_documented():
    found = (loss_scale.FIRST, loss_scale.LARGEST, loss_scale.SMALLEST, loss_scale.PATIENCE)
    assert found == (65536.0, 16777216.0, 1 / 16384, 2000)
