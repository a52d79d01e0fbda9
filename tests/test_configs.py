"""The shipped configurations: each loads, says what it shows, trains, and shows what it says."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from idx_files import mnist_arrays, write_mnist

from gpumlp import train
from gpumlp.backend import get_backend
from gpumlp.build import build_network, build_trainer
from gpumlp.config_file import load_config, shipped_configs
from gpumlp.data.mnist import find_mnist
from gpumlp.data.prepare import prepare
from gpumlp.errors import DataError
from gpumlp.gradients.norms import GradientNorms

FOLDER = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(FOLDER.glob("*.toml"))
MNIST = [file.stem for file in FILES if load_config(file).data.source == "mnist"]
every_config = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
CPU = get_backend("cpu")


def one_epoch(name, folder, *sets):
    """Exit code and summary of one epoch of a shipped configuration."""
    options = ["--config", name, "--run-dir", str(folder), "--quiet"]
    for text in ("train.epochs=1", *sets):
        options += ["--set", text]
    code = train.main(options)
    summary = folder / "summary.json"
    return code, json.loads(summary.read_text()) if summary.exists() else None


def fitted(name, *sets, callbacks=()):
    """The trainer and the data of a shipped configuration, after training."""
    config = load_config(name, sets)
    data = prepare(config.data, config.model.task, config.seed, CPU.dtype)
    network = build_network(config, data.train.x.shape[1], data.targets.outputs, CPU)
    trainer = build_trainer(config, network, len(data.train.x), callbacks)
    epochs, most = config.train.epochs, config.train.max_steps
    trainer.fit(data.train.x, data.train.y, epochs=epochs, max_steps=most)
    return trainer, data


def on_test(name, metric, *sets):
    trainer, data = fitted(name, *sets)
    return trainer.evaluate(data.test.x, data.test.y)[metric]


# ------------------------------------------------------------------------------------ all of them


def test_the_folder_is_what_ships():
    assert set(shipped_configs()) == {file.stem for file in FILES}
    assert {"digits", "mnist"} <= {file.stem for file in FILES}


@every_config
def test_a_configuration_says_what_it_shows_and_how_to_run_it(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert len(lines[0]) > 40
    assert lines[1] == f"#   python -m gpumlp.train --config {file.stem}"
    assert max(map(len, lines)) <= 100
    assert 15 <= len(lines) <= 45
    assert load_config(file.stem).name == file.stem


@pytest.mark.parametrize("name", [file.stem for file in FILES if file.stem not in MNIST])
def test_a_configuration_trains_an_epoch(name, tmp_path, capsys):
    code, summary = one_epoch(name, tmp_path / "run")
    assert (code, summary["status"], summary["epochs"]) == (0, "done", 1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", MNIST)
def test_a_configuration_of_mnist_trains_an_epoch_on_files_of_that_form(name, tmp_path):
    folder = write_mnist(tmp_path / "files", mnist_arrays(train=300, test=50), ".gz")
    code, summary = one_epoch(name, tmp_path / "run", f"data.path={json.dumps(str(folder))}")
    assert (code, summary["status"]) == (0, "done")
    assert {"train", "val", "test"} <= set(summary)


@pytest.mark.parametrize("name", MNIST)
def test_a_configuration_of_mnist_learns_digits_in_an_epoch(name, tmp_path):
    try:
        find_mnist(None)
    except DataError as error:
        pytest.skip(str(error))
    code, summary = one_epoch(name, tmp_path / "run")
    assert code == 0
    assert summary["test"]["accuracy"] > 0.89


# --------------------------------------------------------------------------------- what each shows


@pytest.mark.parametrize("seed", range(5))
def test_xor_is_solved(seed):
    trainer, data = fitted("xor", f"seed={seed}")
    assert trainer.evaluate(data.train.x, data.train.y)["accuracy"] == 1.0


def test_xor_is_not_solved_without_a_hidden_layer():
    trainer, data = fitted("xor", "model.hidden=[]")
    assert trainer.evaluate(data.train.x, data.train.y)["accuracy"] <= 0.75


def test_the_perceptron_has_no_hidden_layer():
    assert load_config("perceptron").model.hidden_layers == ()


def test_full_batch_is_gradient_descent_to_the_letter():
    config = load_config("full_batch")
    assert (config.train.batch_size, config.optimizer.name) == ("full", "sgd")
    assert (config.schedule.name, config.optimizer.weight_decay) == ("constant", 0)
    trainer, data = fitted("full_batch", "train.epochs=100")
    assert trainer.step == 100
    losses = pairwise(trainer.history.column("loss"))
    assert all(after < before for before, after in losses)
    assert trainer.evaluate(data.test.x, data.test.y)["accuracy"] > 0.9


def test_wide_and_deep_differ_in_nothing_but_the_shape():
    wide, deep = (load_config(name) for name in ("wide", "deep"))
    same = {"name": "same", "model": wide.model}
    assert wide.model_copy(update=same) == deep.model_copy(update=same)
    assert wide.model.model_copy(update={"hidden": deep.model.hidden}) == deep.model
    assert (len(wide.model.hidden), len(deep.model.hidden)) == (1, 3)
    a, b = (build_network(config, 1, 1, CPU).flat.count for config in (wide, deep))
    assert a == pytest.approx(b, rel=0.01)


def test_deep_learns_the_curve_that_wide_misses():
    wide, deep = (on_test(name, "rmse", "train.epochs=60") for name in ("wide", "deep"))
    assert deep < 0.1 < 0.2 < wide


def test_deep_sigmoid_learns_because_of_its_gain():
    few = "train.epochs=15"
    accuracies = [on_test("deep_sigmoid", "accuracy", few, f"seed={seed}") for seed in (0, 1)]
    assert np.mean(accuracies) > 0.88
    assert on_test("deep_sigmoid", "accuracy", few, "model.init_gain=1") < 0.3


def test_gradients_reach_the_first_layer_of_deep_sigmoid_because_of_its_gain():
    def share(*sets):
        _, data = fitted("deep_sigmoid", "train.max_steps=1", *sets)
        norms = GradientNorms(data.train.x, data.train.y)
        fitted("deep_sigmoid", "train.max_steps=1", *sets, callbacks=[norms])
        return norms.initial["grad_norm_1"] / norms.initial["grad_norm_11"]

    assert share() > 1e-3
    assert share("model.init_gain=1") < 1e-5


def test_breast_cancer_and_diabetes_are_predicted_as_well_as_they_should_be():
    seeds = [f"seed={seed}" for seed in range(3)]
    assert np.mean([on_test("breast_cancer", "accuracy", seed) for seed in seeds]) > 0.95
    assert np.mean([on_test("diabetes", "r2", seed) for seed in seeds]) > 0.3
