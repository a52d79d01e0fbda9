"""`gpumlp features`: the activations of a layer, written for other programs."""

import csv
from functools import partial

import numpy as np
import pytest
from in_process import call

from gpumlp import cli, train
from gpumlp.saved_model import load_model

CONFIG = """
name = "small"
[data]
source = "table.csv"
target = "kind"
missing = "mean"
[model]
hidden = [5, 3]
[train]
epochs = 2
[log]
plots = false
"""
ROWS = [f"{i},{'red' if i % 3 else 'blue'},{'yes' if i % 2 else 'no'}" for i in range(30)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a csv file, and a run trained on it."""
    folder = tmp_path_factory.mktemp("features")
    (folder / "table.csv").write_text("\n".join(["size,colour,kind", *ROWS]) + "\n")
    (folder / "small.toml").write_text(CONFIG)
    arguments = ["--config", str(folder / "small.toml"), "--run-dir", str(folder / "run"), "-q"]
    assert train.main(arguments) == 0
    return folder


@pytest.fixture
def features(folder, capsys):
    return partial(call, capsys, "features", folder / "run")


def expected(folder, layer):
    """The features of the rows as they were encoded by hand."""
    size = np.arange(30.0)
    red = (np.arange(30) % 3 != 0).astype(float)
    return load_model(folder / "run").features(np.stack([size, 1 - red, red], axis=1), layer)


@pytest.mark.parametrize("layer", [0, 1, 2, 3, -1, -2, -3, -4])
def test_the_features_of_a_layer_are_those_of_the_model(folder, features, tmp_path, layer):
    code, out, _ = features("--layer", layer, "--out", tmp_path / "f.npy")
    assert code == 0
    values = np.load(tmp_path / "f.npy")
    assert np.array_equal(values, expected(folder, layer))
    assert out == (
        f"{tmp_path / 'f.npy'}: 30 rows, {values.shape[1]} features of layer {layer % 4} of 3\n"
    )


def test_the_last_hidden_layer_is_the_default(folder, features, tmp_path):
    assert features("--out", tmp_path / "f.npy")[0] == 0
    assert np.load(tmp_path / "f.npy").shape == (30, 3)


def test_npz_and_csv_hold_the_same_bits(folder, features, tmp_path):
    for name in ("f.npz", "f.csv"):
        assert features("--layer", 1, "--out", tmp_path / name)[0] == 0
    with (tmp_path / "f.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == [f"layer1_{unit}" for unit in range(5)]
    values = np.array(rows, np.float32)
    assert np.array_equal(values, expected(folder, 1))
    with np.load(tmp_path / "f.npz") as file:
        assert np.array_equal(file["features"], values)


def test_other_data_need_neither_the_target_nor_the_order_of_the_columns(
    folder, features, tmp_path
):
    (tmp_path / "new.csv").write_text("note,colour,size\nx,blue,3\ny,,4\n")
    code, _, _ = features("--data", tmp_path / "new.csv", "--out", tmp_path / "f.npy")
    assert code == 0
    values = np.load(tmp_path / "f.npy")
    assert values.shape == (2, 3)
    assert np.array_equal(values[0], expected(folder, -2)[3])
    assert np.isfinite(values).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colour\nred\n", 'no column "size"'),
        ("size,colour\n1,green\n", 'unknown category "green"; known: blue, red'),
        ("size,colour\nbig,red\n", "big"),
    ],
)
def test_data_that_do_not_fit_the_model_exit_3(features, tmp_path, text, words):
    (tmp_path / "new.csv").write_text(text)
    code, out, err = features("--data", tmp_path / "new.csv", "--out", tmp_path / "f.npy")
    assert (code, out) == (3, "")
    assert words in err
    assert not (tmp_path / "f.npy").exists()


def test_images_of_another_size_exit_3(tmp_path, capsys):
    x, y = np.zeros((20, 4, 4)), np.arange(20) % 2
    np.savez(tmp_path / "a.npz", x=x, label=y)
    np.savez(tmp_path / "b.npz", x=x[:, :3])
    run, small = str(tmp_path / "run"), ["--config", "digits", "--set", "train.epochs=1"]
    source = ["--set", f"data.source={tmp_path / 'a.npz'}", "--set", "log.plots=false"]
    assert train.main([*small, *source, "--run-dir", run, "-q"]) == 0
    capsys.readouterr()
    out = ["--out", str(tmp_path / "f.npy")]
    assert cli.main(["features", run, "--data", str(tmp_path / "b.npz"), *out]) == 3
    assert "b.npz: 12 columns, the training data has 16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--out", "f.txt"], 2, "must end in .npy, .npz, .csv or .parquet"),
        (["--out", "f.npy", "--layer", "9"], 2, "must lie in -4 to 3"),
        (["--out", "f.npy", "--device", "gpu"], 2, "unknown device"),
        (["--out", "none/f.npy"], 6, "no such folder"),
        ([], 2, "--out"),
    ],
)
def test_wrong_usage_is_said_and_writes_nothing(
    features, tmp_path, monkeypatch, arguments, code, words
):
    monkeypatch.chdir(tmp_path)
    found = features(*arguments)
    assert found[0] == code
    assert words in found[2]
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_on_request_only(features, tmp_path):
    (tmp_path / "f.npy").write_text("precious")
    assert features("--out", tmp_path / "f.npy")[0] == 2
    assert (tmp_path / "f.npy").read_text() == "precious"
    assert features("--out", tmp_path / "f.npy", "--overwrite")[0] == 0
    assert np.load(tmp_path / "f.npy").shape == (30, 3)


def test_a_run_that_is_none_exits_6(tmp_path, capsys):
    assert cli.main(["features", str(tmp_path), "--out", str(tmp_path / "f.npy")]) == 6
    assert "model.safetensors" in capsys.readouterr().err
