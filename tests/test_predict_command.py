"""`gpumlp predict`: every task and kind of file, and what does not fit."""

import csv
import io

import numpy as np
import pytest
from in_process import call
from test_evaluate_command import ROWS, trained

from gpumlp.commands import model_and_rows
from gpumlp.data import output
from gpumlp.saved_model import load_model

CSV = "\n".join(["id,size,colour,kind", *(f"row{i},{row}" for i, row in enumerate(ROWS))]) + "\n"
MODEL = {"multiclass": ["yes", "no"], "binary": ["no", "yes"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a csv file and a run of each task trained on it."""
    folder = tmp_path_factory.mktemp("predict")
    (folder / "table.csv").write_text(CSV)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 4))
    np.savez(folder / "labels.npz", x=x, label=(x[:, :3] > 0).astype(int))
    np.savez(folder / "values.npz", x=x, label=x[:, :2] * 10)
    features = "data.features=['size', 'colour']"
    source = f"data.source='{folder / 'table.csv'}'"
    table = [source, features, "data.target='kind'"]
    trained(folder / "binary", "breast_cancer", [*table, "model.task='binary'"])
    trained(folder / "multiclass", "digits", table)
    trained(folder / "size", "diabetes", [source, "data.features=['colour']", "data.target='size'"])
    for name, task in (("labels", "multilabel"), ("values", "regression")):
        settings = [f"data.source='{folder / name}.npz'", f"model.task='{task}'"]
        trained(folder / name, "diabetes", [*settings, "data.target_scale='none'"])
    return folder


@pytest.fixture
def predict(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    return lambda run, *arguments: call(capsys, "predict", folder / run, *arguments)


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def encoded():
    size = np.array([float(row.split(",")[0]) for row in ROWS])
    red = np.array([row.split(",")[1] == "red" for row in ROWS]) * 1.0
    return np.stack([size, 1 - red, red], axis=1)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_classes_and_probabilities_as_csv(folder, predict, task, tmp_path):
    code, out, _ = predict(task, "--out", "p.csv", "--keep", "id", "--keep", "colour")
    assert (code, out) == (0, "p.csv: 60 rows\n")
    rows = rows_of((tmp_path / "p.csv").read_text())
    assert list(rows[0]) == ["id", "colour", "class", "p_no", "p_yes"]
    assert [row["id"] for row in rows] == [f"row{i}" for i in range(60)]
    model = load_model(folder / task)
    assert [row["class"] for row in rows] == model.classify(encoded())
    y = model.predict(encoded())
    expected = y if task == "multiclass" else np.concatenate([1 - y, y], axis=1)
    found = np.array([[row["p_no"], row["p_yes"]] for row in rows], np.float32)
    np.testing.assert_array_equal(found, expected)  # the digits give the same bits


def test_only_classes_or_only_probabilities(predict):
    names = [
        list(rows_of(predict("binary", "--out", "-", "--what", what)[1])[0])
        for what in ("classes", "probabilities", "all")
    ]
    assert names == [["class"], ["p_no", "p_yes"], ["class", "p_no", "p_yes"]]


def test_several_labels_are_columns_of_their_own(folder, predict):
    rows = rows_of(predict("labels", "--out", "-")[1])
    assert list(rows[0]) == ["0", "1", "2", "p_0", "p_1", "p_2"]
    for row in rows:
        assert [row[k] for k in "012"] == [str(int(float(row[f"p_{k}"]) > 0.5)) for k in "012"]


def test_values_are_called_as_their_targets(folder, predict):
    assert list(rows_of(predict("size", "--out", "-")[1])[0]) == ["size"]
    rows = rows_of(predict("values", "--out", "-")[1])
    assert list(rows[0]) == ["prediction_0", "prediction_1"]
    x = np.load(folder / "values.npz")["x"]
    expected = load_model(folder / "values").predict(x)
    found = np.array([list(row.values()) for row in rows], np.float32)
    np.testing.assert_array_equal(found, expected)


def test_arrays_as_npz_and_npy(folder, predict, tmp_path):
    model = load_model(folder / "binary")
    y = model.predict(encoded())
    for arguments in (["p.npz"], ["p.npy"], ["c.npy", "--what", "classes"]):
        assert predict("binary", "--out", *arguments)[0] == 0
    with np.load("p.npz") as arrays:
        assert sorted(arrays) == ["classes", "probabilities"]
        assert arrays["classes"].tolist() == model.classify(encoded())
        np.testing.assert_array_equal(arrays["probabilities"][:, 1:], y)
    assert np.load("p.npy").shape == (60, 2)
    assert np.load("c.npy").tolist() == (y[:, 0] > 0.5).astype(int).tolist()
    assert predict("values", "--out", "v.npz")[0] == 0
    assert np.load("v.npz")["prediction"].shape == (30, 2)
    assert predict("labels", "--out", "l.npy", "--what", "classes")[0] == 0
    assert set(np.unique(np.load("l.npy"))) <= {0, 1}


def test_parquet_has_the_same_columns(predict, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is missing (extra parquet)")
    assert predict("multiclass", "--out", "p.parquet", "--keep", "id")[0] == 0
    table = parquet.read_table("p.parquet").to_pydict()
    rows = rows_of(predict("multiclass", "--out", "-", "--keep", "id")[1])
    assert list(table) == list(rows[0])
    assert table["class"] == [row["class"] for row in rows]
    assert np.float32(table["p_no"]).tolist() == [np.float32(row["p_no"]) for row in rows]


def test_without_pyarrow_the_extra_is_named(predict, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    code, _, err = predict("binary", "--out", "p.parquet")
    assert code == 2
    assert 'pip install "gpumlp[parquet]"' in err
    assert not list(tmp_path.iterdir())


def test_a_file_without_targets_is_enough(predict, tmp_path):
    (tmp_path / "new.csv").write_text("colour,size\nred,1\nblue,2\n")
    assert len(rows_of(predict("binary", "--data", "new.csv", "--out", "-")[1])) == 2


@pytest.mark.parametrize(
    ("run", "arguments", "code", "words"),
    [
        ("binary", ["--out", "p.txt"], 2, "must end in .npy, .npz, .csv or .parquet"),
        ("binary", ["--out", "p.npy", "--keep", "id"], 2, "--keep: .npy holds numbers"),
        ("binary", ["--out", "-", "--data", ""], 3, "unknown source"),
        ("binary", ["--out", "-", "--keep", "nmae"], 3, 'no column "nmae"'),
        ("values", ["--out", "-", "--what", "classes"], 2, "a regression has values only"),
        ("values", ["--out", "-", "--keep", "x"], 3, "values.npz: has no columns to keep"),
        ("binary", ["--out", "none/p.csv"], 6, "no such folder"),
        ("binary", ["--out", "-", "--data", "few.csv"], 3, 'no columns "size", "colour"'),
        ("values", ["--out", "-", "--data", "builtin:digits"], 3, "64 columns, the training data"),
        ("nowhere", ["--out", "-"], 6, "cannot be read as a model"),
        ("binary", [], 2, "--out"),
    ],
)
def test_what_does_not_fit_is_explained(predict, tmp_path, run, arguments, code, words):
    (tmp_path / "few.csv").write_text("weight\n1\n")
    found, _, err = predict(run, *arguments)
    assert found == code
    assert words in err
    assert [path.name for path in tmp_path.iterdir()] == ["few.csv"]


def test_a_column_to_keep_must_not_be_one_of_the_predictions(predict, tmp_path):
    (tmp_path / "new.csv").write_text("colour,size,class\nred,1,a\n")
    code, _, err = predict("binary", "--data", "new.csv", "--out", "-", "--keep", "class")
    assert code == 2
    assert "--keep class: the predictions have a column of that name" in err


def test_nothing_is_overwritten_unasked(predict, tmp_path):
    (tmp_path / "p.csv").write_text("mine")
    assert predict("binary", "--out", "p.csv")[0] == 2
    assert (tmp_path / "p.csv").read_text() == "mine"
    assert predict("binary", "--out", "p.csv", "--overwrite")[0] == 0


def test_help_names_the_options(predict):
    code, out, _ = predict("binary", "--help")
    assert code == 0
    for option in ("--data", "--out", "--what", "--keep", "--overwrite", "--device"):
        assert option in out


def test_kept_cells_are_as_they_were(predict, tmp_path):
    """Namibia is NA, zip codes begin with 0, notes are long."""
    rows = [f'NA,007,"{"long, " * 60}",{row}' for row in ROWS[:3]]
    (tmp_path / "new.csv").write_text("\n".join(["country,zip,note,size,colour,kind", *rows]))
    keep = [part for name in ("country", "zip", "note", "size") for part in ("--keep", name)]
    out = predict("binary", "--data", "new.csv", "--out", "-", *keep)[1]
    for row, source in zip(rows_of(out), ROWS, strict=False):
        assert (row["country"], row["zip"]) == ("NA", "007")
        assert (row["note"], row["size"]) == (("long, " * 60).strip(), source.split(",")[0])


def test_parquet_in_and_out_keeps_types(folder, predict, tmp_path):
    pandas = pytest.importorskip("pandas", reason="pandas is missing")
    pytest.importorskip("pyarrow", reason="pyarrow is missing (extra parquet)")
    table = pandas.read_csv(folder / "table.csv")
    table["id"] = np.arange(60) + 2**60
    table["when"] = pandas.date_range("2020-01-01", periods=60)
    table.to_parquet("t.parquet", index=False)
    keep = ["--keep", "when", "--keep", "id", "--keep", "id"]
    for name in ("p.parquet", "p.csv"):
        assert predict("binary", "--data", "t.parquet", "--out", name, *keep)[0] == 0
    found = pandas.read_parquet("p.parquet")
    assert list(found) == ["when", "id", "class", "p_no", "p_yes"]
    assert (found["id"] == table["id"]).all()
    assert (found["when"] == table["when"]).all()
    rows = rows_of((tmp_path / "p.csv").read_text())
    assert [row["id"] for row in rows] == [str(2**60 + i) for i in range(60)]
    assert rows[1]["when"].startswith("2020-01-02")
    plain = rows_of(predict("binary", "--out", "-")[1])
    assert [row["p_yes"] for row in rows] == [row["p_yes"] for row in plain]


def test_what_csv_has_no_text_for_is_refused(folder, predict, tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is missing (extra parquet)")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is missing (extra parquet)")
    columns = {"size": [1.0], "colour": ["red"], "vector": [[1, 2]]}
    parquet.write_table(pyarrow.table(columns), "t.parquet")
    keep = ["--data", "t.parquet", "--keep", "vector"]
    code, _, err = predict("binary", *keep, "--out", "p.csv")
    assert code == 3
    assert 'column "vector" is of type list' in err
    assert predict("binary", *keep, "--out", "p.parquet")[0] == 0
    assert parquet.read_table("p.parquet")["vector"].to_pylist() == [[1, 2]]


def test_labels_are_called_as_their_columns(tmp_path, predict):
    rows = [f"{i % 5},{i % 2},{i % 3 > 1:d}" for i in range(30)]
    (tmp_path / "t.csv").write_text("\n".join(["x,cat,dog", *rows]))
    settings = ["data.target=['cat', 'dog']", "model.task='multilabel'"]
    trained(tmp_path / "run", "full_batch", [f"data.source='{tmp_path / 't.csv'}'", *settings])
    out = predict(tmp_path / "run", "--out", "-")[1]
    assert list(rows_of(out)[0]) == ["cat", "dog", "p_cat", "p_dog"]


def test_rows_that_come_in_blocks_are_the_same(folder, predict, monkeypatch, tmp_path):
    assert predict("binary", "--out", "whole.npy")[0] == 0
    monkeypatch.setattr(model_and_rows, "BLOCK_ROWS", 7)
    monkeypatch.setattr(output, "BLOCK_ROWS", 7)
    assert predict("binary", "--out", "blocks.npy")[0] == 0
    np.testing.assert_allclose(np.load("blocks.npy"), np.load("whole.npy"), rtol=1e-6)
    rows = rows_of(predict("binary", "--out", "-")[1])
    assert np.array_equal(
        np.array([row["p_yes"] for row in rows], np.float32), np.load("blocks.npy")[:, 1]
    )
