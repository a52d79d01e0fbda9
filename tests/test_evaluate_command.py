"""`gpumlp evaluate`: the run's own numbers again, other data, gates, and what does not fit."""

import json
from functools import partial

import numpy as np
import pytest
from idx_files import idx_bytes
from in_process import call

from gpumlp import train
from gpumlp.commands.evaluate import Gate, by_class, read_gates, report
from gpumlp.data.targets import Targets
from gpumlp.errors import ConfigError

QUIET = ["-q", "--set", "log.plots=false", "--set", "log.gradient_norms=false"]
ROWS = [
    f"{i / 7:.3f},{'red' if i % 3 else 'blue'},{'yes' if i % 4 > 1 else 'no'}" for i in range(60)
]
SMALL = ["train.epochs=2", "model.hidden=[6]"]
RUNS = {
    "multiclass": (
        "digits",
        ["loss.class_weight='balanced'", "train.metrics=['accuracy', 'log_loss']"],
    ),
    "binary": ("breast_cancer", ["loss.class_weight={benign = 2.0}"]),
    "regression": ("diabetes", ["data.target_scale='standard'"]),
    "no test part": ("xor", []),
    "bf16": ("digits", ["precision='bf16'"]),
}


def trained(folder, config, settings):
    more = [part for setting in (*SMALL, *settings) for part in ("--set", setting)]
    arguments = ["--config", config, "--run-dir", str(folder), "--device", "cpu", *QUIET, *more]
    assert train.main(arguments) == 0
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A folder with a csv file of two classes and weights, and a run trained on it."""
    folder = tmp_path_factory.mktemp("evaluate")
    lines = ["size,colour,kind", *ROWS]
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    settings = ["data.target='kind'", "model.task='binary'", "data.test={fraction=0.3}"]
    source = f"data.source='{folder / 'table.csv'}'"
    trained(folder / "run", "breast_cancer", [source, *settings])
    return folder


@pytest.fixture
def evaluate(capsys):
    return partial(call, capsys, "evaluate")


@pytest.mark.parametrize("name", RUNS)
def test_the_runs_own_numbers_come_out_again_to_the_last_bit(name, tmp_path, evaluate, capsys):
    config, settings = RUNS[name]
    summary = trained(tmp_path / "run", config, settings)
    part = next(part for part in ("test", "val", "train") if part in summary)
    code, out, _ = evaluate(tmp_path / "run", "--json", "--device", "cpu")
    assert code == 0
    found = json.loads(out)
    assert found["data"].endswith(f"{part} part")
    assert {k: found[k] for k in summary[part]} == summary[part]


def test_another_file_with_more_columns_in_another_order(table, tmp_path, evaluate):
    lines = [",".join(reversed(row.split(","))) + ",7" for row in ROWS]
    (tmp_path / "new.csv").write_text("\n".join(["kind,colour,size,more", *lines]))
    code, out, _ = evaluate(table / "run", "--data", tmp_path / "new.csv")
    assert code == 0
    first, second, *classes = out.splitlines()
    assert first == f"{tmp_path / 'new.csv'}: 60 rows"
    assert second.startswith("loss ")
    assert classes[0].split() == ["class", "rows", "precision", "recall", "f1"]
    assert [line.split()[:2] for line in classes[1:]] == [["no", "30"], ["yes", "30"]]
    same = evaluate(table / "run", "--data", table / "table.csv", "--json")
    again = evaluate(table / "run", "--data", tmp_path / "new.csv", "--json")
    assert json.loads(same[1])["loss"] == json.loads(again[1])["loss"]


def test_the_numbers_are_those_of_scikit_learn(table, evaluate):
    metrics = pytest.importorskip("sklearn.metrics")
    from gpumlp.saved_model import load_model

    model = load_model(table / "run")
    size = np.array([float(row.split(",")[0]) for row in ROWS])
    red = np.array([row.split(",")[1] == "red" for row in ROWS]) * 1.0
    kind = [row.split(",")[2] for row in ROWS]
    predicted = model.classify(np.stack([size, 1 - red, red], axis=1))
    names = "accuracy,macro_f1,auc,log_loss"
    _, out, _ = evaluate(table / "run", "--data", table / "table.csv", "--metrics", names, "--json")
    found = json.loads(out)
    assert list(found) == ["data", "rows", "loss", *names.split(","), "classes"]
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(kind, predicted))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(kind, predicted, average="macro"))
    columns = metrics.precision_recall_fscore_support(
        kind, predicted, labels=["no", "yes"], zero_division=np.nan
    )
    for one, precision, recall, _, rows in zip(found["classes"], *columns, strict=True):
        assert one["rows"] == rows
        for value, expected in ((one["precision"], precision), (one["recall"], recall)):
            assert value == (None if np.isnan(expected) else pytest.approx(expected))


def test_gates_pass_and_fail_with_what_was_found(table, evaluate):
    passing = ["--min", "accuracy=0", "--max", "loss=100", "--min", "auc=0"]
    assert evaluate(table / "run", *passing)[0] == 0
    code, out, err = evaluate(table / "run", "--min", "accuracy=1.1", "--max", "loss=-1")
    assert code == 7
    assert "accuracy is " in err
    assert "wanted >= 1.1; loss is " in err
    assert out.splitlines()[1].startswith("loss ")  # the numbers are printed all the same


def test_nan_is_never_good_enough():
    for gate in (Gate("auc", 0.0, True), Gate("auc", 1.0, False)):
        assert gate.failed({"auc": float("nan")}) is not None
    assert Gate("auc", 0.5, True).failed({"auc": 0.5}) is None


@pytest.mark.parametrize("text", ["accuracy", "accuracy=", "accuracy=good", "accuracy=nan", ""])
def test_a_gate_is_a_metric_and_a_number(text):
    with pytest.raises(ConfigError, match="must be METRIC=VALUE"):
        read_gates([text], True)


def test_a_class_without_rows_has_no_recall():
    targets = Targets("multiclass", ("a", "b", "c"), 3)
    prediction = np.eye(3)[[0, 1, 1]]
    rows = by_class(targets, np.array([0, 0, 1]), prediction)
    assert [one["rows"] for one in rows] == [2, 1, 0]
    assert rows[1]["precision"] == 0.5
    assert np.isnan(rows[2]["recall"])
    assert by_class(Targets("regression", (), 1), np.zeros((3, 1)), np.zeros((3, 1))) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--min", "acuracy=0.9"], 2, ["'acuracy'", "unknown", "accuracy"]),
        (["--metrics", "rmse"], 2, ["'rmse'", "not meant for binary"]),
        (["--target", "kind"], 2, ["--target belongs to --data"]),
        (["--data", "none.csv"], 3, ["none.csv: no such file"]),
        (["--data", "few.csv"], 3, ['no columns "colour", "kind"', "it has size"]),
        (["--data", "label.csv"], 3, ['unknown label "maybe"', "line 3", "known: no, yes"]),
        (["--data", "colour.csv"], 3, ['unknown category "green"', "line 2", "blue, red"]),
        (["--data", "builtin:xor"], 3, ["no named columns", "size, colour"]),
        (["--device", "tpu"], 2, ["--device", "unknown device"]),
    ],
)
def test_what_does_not_fit_is_explained(
    table, tmp_path, monkeypatch, evaluate, arguments, code, words
):
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "few.csv": "size\n1\n",
        "label.csv": "size,colour,kind\n1,red,no\n2,red,maybe\n",
        "colour.csv": "size,colour,kind\n1,green,no\n2,red,yes\n",
    }.items():
        (tmp_path / name).write_text(text)
    found, out, err = evaluate(table / "run", *arguments)
    assert found == code
    assert not out
    assert not [word for word in words if word not in err], err


def test_another_target_column_and_a_file_of_targets(table, tmp_path, evaluate):
    (tmp_path / "new.csv").write_text("\n".join(["size,colour,sort", *ROWS]))
    assert evaluate(table / "run", "--data", tmp_path / "new.csv", "--target", "sort")[0] == 0
    x = np.arange(24.0).reshape(8, 3)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.arange(8) % 2)
    source = [f"data.source='{tmp_path / 'x.npy'}'", f"data.target='{tmp_path / 'y.npy'}'"]
    trained(tmp_path / "run", "full_batch", [*source, "data.test={fraction=0.25}"])
    whole = evaluate(
        tmp_path / "run", "--data", tmp_path / "x.npy", "--target", tmp_path / "y.npy", "--json"
    )
    assert json.loads(whole[1])["rows"] == 8


def test_data_that_changed_since_are_noticed(tmp_path, evaluate):
    (tmp_path / "t.csv").write_text("\n".join(["size,colour,kind", *ROWS]))
    settings = [f"data.source='{tmp_path / 't.csv'}'", "data.target='kind'", "model.task='binary'"]
    trained(tmp_path / "run", "breast_cancer", settings)
    (tmp_path / "t.csv").write_text("\n".join(["size,colour,kind", "99,red,no", *ROWS]))
    code, _, err = evaluate(tmp_path / "run")
    assert code == 3
    assert "is not what the model was trained on any more" in err
    assert evaluate(tmp_path / "run", "--data", tmp_path / "t.csv")[0] == 0


def test_help_names_the_options(evaluate):
    code, out, _ = evaluate("--help")
    assert code == 0
    for option in ("--data", "--target", "--metrics", "--min", "--max", "--json", "--device"):
        assert option in out


@pytest.mark.parametrize("weight", ["'balanced'", "{no = 3.0}"])
def test_a_file_of_the_test_rows_gives_the_numbers_of_training(tmp_path, evaluate, weight):
    """With weights of rows and classes, and what "balanced" was belongs to the training rows."""
    weighted = [f"{row},{i % 3 + 1}" for i, row in enumerate(ROWS)]
    for name, rows in (("train", weighted[:45]), ("test", weighted[40:])):
        (tmp_path / f"{name}.csv").write_text("\n".join(["size,colour,kind,w", *rows]))
    settings = [
        *(f"data.source='{tmp_path / 'train.csv'}'", f"data.test={{path='{tmp_path}/test.csv'}}"),
        *("data.target='kind'", "data.sample_weight='w'", "model.task='binary'"),
        f"loss.class_weight={weight}",
    ]
    summary = trained(tmp_path / "run", "full_batch", settings)
    for arguments in ([], ["--data", tmp_path / "test.csv"]):
        found = json.loads(evaluate(tmp_path / "run", *arguments, "--json", "--device", "cpu")[1])
        assert {k: found[k] for k in summary["test"]} == summary["test"]


def test_images_of_bytes_and_several_labels_give_the_numbers_of_training(tmp_path, evaluate):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (80, 4, 4), dtype=np.uint8)
    many = (x.reshape(80, 16)[:, :3] > 127).astype(np.uint8)
    (tmp_path / "x-ubyte").write_bytes(idx_bytes(x))
    (tmp_path / "y-ubyte").write_bytes(idx_bytes((x[:, 0, 0] // 90).astype(np.uint8)))
    np.savez(tmp_path / "m.npz", x=x, label=many)
    images = [f"data.source='{tmp_path / 'x-ubyte'}'", f"data.target='{tmp_path / 'y-ubyte'}'"]
    labels = [f"data.source='{tmp_path / 'm.npz'}'", "model.task='multilabel'"]
    for name, settings in (("images", images), ("labels", labels)):
        more = ["data.scale='minmax'", "data.test={fraction=0.25, stratify=false}"]
        summary = trained(tmp_path / name, "full_batch", [*settings, *more])
        found = json.loads(evaluate(tmp_path / name, "--json", "--device", "cpu")[1])
        assert {k: found[k] for k in summary["test"]} == summary["test"]
    assert [one["class"] for one in found["classes"]] == ["0", "1", "2"]


def test_several_labels_are_scored_as_scikit_learn_does():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is missing")
    rng = np.random.default_rng(1)
    y, prediction = (rng.random((50, 3)) > 0.5).astype(float), rng.random((50, 3))
    found = by_class(Targets("multilabel", ("0", "1", "2"), 3), y, prediction, ["a", "b", "c"])
    columns = metrics.precision_recall_fscore_support(y, prediction > 0.5)
    for i, one in enumerate(found):
        assert one["class"] == "abc"[i]
        expected = [column[i] for column in columns]
        assert [one[k] for k in ("precision", "recall", "f1", "rows")] == pytest.approx(expected)


def test_targets_of_the_training_rows_are_not_those_of_other_rows(tmp_path, evaluate):
    np.save(tmp_path / "x.npy", np.arange(24.0).reshape(8, 3))
    np.save(tmp_path / "y.npy", np.arange(8) % 2)
    source = [f"data.source='{tmp_path / 'x.npy'}'", f"data.target='{tmp_path / 'y.npy'}'"]
    trained(tmp_path / "run", "full_batch", source)
    np.save(tmp_path / "new.npy", np.ones((8, 3)))
    code, _, err = evaluate(tmp_path / "run", "--data", tmp_path / "new.npy")
    assert code == 2
    assert "needs --target NAME|FILE" in err
    np.savez(tmp_path / "new.npz", x=np.ones((8, 3)), kind=np.arange(8) % 2)
    assert evaluate(tmp_path / "run", "--data", tmp_path / "new.npz", "--target", "kind")[0] == 0


def test_columns_of_a_matrix_are_found_by_name_beside_a_file_of_targets(tmp_path, evaluate):
    x = np.random.default_rng(2).normal(size=(40, 4))
    x[:, 3] = x[:, 0] > 0
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x[:, 3])
    settings = [f"data.source='{tmp_path / 'x.npy'}'", "data.features=['2', '0']"]
    trained(tmp_path / "run", "full_batch", [*settings, "data.target='3'"])
    own = evaluate(tmp_path / "run", "--data", tmp_path / "x.npy", "--json")
    beside = ["--data", tmp_path / "x.npy", "--target", tmp_path / "y.npy"]
    assert (
        json.loads(own[1])["loss"]
        == json.loads(evaluate(tmp_path / "run", *beside, "--json")[1])["loss"]
    )


def test_weights_that_a_file_cannot_have_are_missed(tmp_path, evaluate):
    x = np.random.default_rng(2).normal(size=(40, 3))
    y = (x[:, 0] > 0).astype(int)
    np.savez(tmp_path / "x.npz", x=x, label=y, w=np.arange(40.0))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    source = [f"data.source='{tmp_path / 'x.npz'}'", "data.sample_weight='w'"]
    trained(tmp_path / "run", "full_batch", source)
    beside = ["--data", tmp_path / "x.npy", "--target", tmp_path / "y.npy"]
    code, _, err = evaluate(tmp_path / "run", *beside)
    assert code == 3
    assert 'has no weights "w" beside a file of targets' in err


def test_data_that_changed_in_test_rows_only_are_noticed(tmp_path, evaluate):
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("\n".join(["size,colour,kind", *ROWS]))
    settings = [
        *(f"data.source='{tmp_path / 'train.csv'}'", f"data.test={{path='{tmp_path}/test.csv'}}"),
        *("data.target='kind'", "model.task='binary'"),
    ]
    trained(tmp_path / "run", "full_batch", settings)
    assert evaluate(tmp_path / "run")[0] == 0
    (tmp_path / "test.csv").write_text("\n".join(["size,colour,kind", *ROWS[:50]]))
    code, _, err = evaluate(tmp_path / "run")
    assert code == 3
    assert "is not what the model was trained on any more" in err


def test_values_that_the_loss_does_not_take_are_data_errors(tmp_path, evaluate):
    (tmp_path / "t.csv").write_text("x,n\n" + "".join(f"{i},{i % 4}\n" for i in range(40)))
    settings = [f"data.source='{tmp_path / 't.csv'}'", "data.target='n'", "loss.name='poisson'"]
    trained(tmp_path / "run", "diabetes", [*settings, "data.target_scale='none'"])
    (tmp_path / "new.csv").write_text("x,n\n1,2\n2,-1\n")
    code, _, err = evaluate(tmp_path / "run", "--data", tmp_path / "new.csv")
    assert code == 3
    assert "new.csv" in err


def test_many_classes_are_shown_on_request(tmp_path, evaluate):
    x = np.random.default_rng(0).normal(size=(100, 2))
    np.savez(tmp_path / "x.npz", x=x, label=np.arange(100) % 25)
    trained(tmp_path / "run", "full_batch", [f"data.source='{tmp_path / 'x.npz'}'"])
    assert len(evaluate(tmp_path / "run")[1].splitlines()) == 2
    assert len(evaluate(tmp_path / "run", "-v")[1].splitlines()) == 2 + 1 + 25


def test_names_of_classes_obey_nobody():
    rows = [{"class": "a\x1b[2J" + "b" * 90, "rows": 1, "precision": 1.0, "recall": 1.0, "f1": 1.0}]
    last = report("s", 1, {"loss": 0.0}, rows).splitlines()[-1]
    assert last.startswith(r"a\x1b[2Jbbb")
    assert "..." in last


def test_parquet_is_evaluated_as_csv(table, tmp_path, evaluate):
    pandas = pytest.importorskip("pandas", reason="pandas is missing")
    pytest.importorskip("pyarrow", reason="pyarrow is missing (extra parquet)")
    frame = pandas.read_csv(table / "table.csv")
    frame[["kind", "size", "colour"]].assign(more=1).to_parquet(tmp_path / "t.parquet")
    same = evaluate(table / "run", "--data", table / "table.csv", "--json")
    again = evaluate(table / "run", "--data", tmp_path / "t.parquet", "--json")
    first, second = json.loads(same[1]), json.loads(again[1])
    assert first.pop("data") != second.pop("data")
    assert first == second
