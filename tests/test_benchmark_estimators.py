"""benchmarks/estimators.py: its quick form, its data, its arithmetic, and what it refuses."""

import json
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import estimator_worker  # noqa: E402
import estimators  # noqa: E402
import tables  # noqa: E402
from worker import Worker, WorkerError  # noqa: E402

SCRIPT = estimator_worker.__file__
FIELDS = {"what", "data", "estimator", "parameters", "seeds", "system", "rows"}
FIELDS |= {"scores", "score", "iterations", "seconds", "ratio", "ratios"}


def test_a_quick_run_writes_rows_and_table(tmp_path, capsys):
    out = tmp_path / "out.json"
    assert estimators.main(["--quick", "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    assert set(results) == {"environment", "rows"}
    assert set(results["environment"]["systems"]) == {"gpumlp", "sklearn"}
    rows = results["rows"]
    both = ("gpumlp", "sklearn")
    assert [(r["data"], r["system"]) for r in rows] == [
        (data, system) for data in estimators.SMALL for system in both
    ]
    for row in rows:
        assert set(row) == FIELDS
        assert row["iterations"] == [10]
        assert row["seconds"]["n"] == 1
    digits = [row["score"] for row in rows if row["data"] == "digits"]
    assert min(digits) > 0.85
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(tuple(estimators.SMALL)) for line in printed) == len(rows)
    assert printed[-1].startswith("ratio: seconds of the fit")
    (tmp_path / "here").mkdir()
    out.rename(tmp_path / "here" / "estimators.json")
    lines = tables.table(tmp_path, "here/estimators.json").splitlines()
    assert lines[0].startswith("| data, rows to train on | gpumlp: score | epochs | s |")
    assert "scikit-learn" in lines[-1]


def test_the_same_estimator_on_both_sides_reaches_the_same():
    """scikit-learn stands for both; each fit is asked for in turn, the order alternating."""
    asked = []

    class Noted(Worker):
        def ask(self, command, **arguments):
            asked.append((self.name, command, arguments.get("seed")))
            return super().ask(command, **arguments)

        name = "new"

    with closing(Noted("sklearn", SCRIPT)) as one, closing(Noted("sklearn", SCRIPT)) as two:
        one.name, two.name = "gpumlp", "sklearn"
        asked.clear()
        case = estimators.CASES["iris"]._replace(parameters={"max_iter": 5})
        ours, theirs = estimators.measure("iris", case, [3, 4], {"gpumlp": one, "sklearn": two})
    assert ours["scores"] == theirs["scores"]
    assert ours["iterations"] == theirs["iterations"] == [5, 5]
    assert ours["rows"] == [112, 38]
    assert ours["ratio"] == 1
    assert ours["seconds"]["n"] == 2
    turns = [("gpumlp", 3), ("sklearn", 3), ("gpumlp", 3), ("sklearn", 3)]  # the first untimed
    turns += [("sklearn", 4), ("gpumlp", 4)]
    assert asked == [(name, "fit", seed) for name, seed in turns]


def test_a_fit_is_that_of_the_estimator_itself():
    from sklearn.neural_network import MLPRegressor

    parameters = {"hidden_layer_sizes": [7], "max_iter": 400, "learning_rate_init": 0.01}
    with closing(Worker("sklearn", SCRIPT)) as worker:
        reply = worker.ask(
            "fit", data="diabetes", estimator="MLPRegressor", parameters=parameters, seed=2
        )
        assert set(worker.about["versions"]) == {"scikit-learn", "scipy", "numpy"}
        with pytest.raises(WorkerError, match=r"sklearn: AttributeError: .*MLPNothing"):
            worker.ask("fit", data="iris", estimator="MLPNothing", parameters={}, seed=0)
    parts = estimator_worker.parts_of("diabetes", 2)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        network = MLPRegressor(random_state=2, **parameters).fit(parts.x, parts.y)
    assert reply["score"] == pytest.approx(network.score(parts.x_test, parts.y_test))
    assert reply["iterations"] == network.n_iter_ == 400
    assert reply["seconds"] > 0


@pytest.mark.parametrize("data", estimators.SMALL)
def test_a_quarter_of_the_rows_is_for_testing(data):
    parts = estimator_worker.parts_of(data, 1)
    assert len(parts.x_test) / (len(parts.x) + len(parts.x_test)) == pytest.approx(0.25, abs=0.01)
    assert (len(parts.x), len(parts.x_test)) == (len(parts.y), len(parts.y_test))
    assert parts.x.mean(axis=0) == pytest.approx(np.zeros(parts.x.shape[1]), abs=1e-9)
    assert abs(parts.x_test.mean(axis=0)).max() > 1e-6  # scaled as the others are
    if data == "diabetes":
        assert parts.y.min() >= 25  # as they are
    else:
        shares = [np.bincount(y) / len(y) for y in (parts.y, parts.y_test)]
        assert shares[0] == pytest.approx(shares[1], abs=0.03)


def reply(seconds, score, iterations):
    found = {"seconds": seconds, "score": score, "iterations": iterations}
    return found | {"rows": [1000, 250]}


REPLIES = {
    "gpumlp": [reply(1.0, 0.9, 7), reply(2.0, 0.8, 9), reply(1.0, 0.85, 8)],
    "sklearn": [reply(2.0, 0.8, 8), reply(2.0, 0.8, 8), reply(3.0, 0.8, 8)],
}


def test_the_ratio_is_the_median_of_the_rounds():
    ours, theirs = estimators.rows_of({"data": "made up"}, REPLIES)
    assert ours["score"] == pytest.approx(0.85)
    assert (theirs["ratio"], theirs["ratios"]) == (2.0, [1.0, 3.0])
    assert theirs["seconds"] == {"median": 2.0, "min": 2.0, "max": 3.0, "n": 3}
    text = estimators.estimator_table([ours, theirs]).splitlines()
    assert text[2].split()[:7] == ["made", "up", "sklearn", "0.8000", "0.8000", "0.8000", "+0.0500"]
    assert text[2].endswith("2.00 (1.00 - 3.00)")
    assert " 7-9 " in text[1]


def test_the_readme_table_says_in_bold_where_gpumlp_is_behind():
    rows = estimators.rows_of({"data": "made up"}, REPLIES)
    assert tables.estimator_lines(rows)[2:] == [
        "| made up, 1,000 | 0.8500 | 7-9 | 1.00 | 0.8000 | 8 | 2.00 | +0.0500 "
        "| 2.00 (1.00 to 3.00) |"
    ]
    behind = {"gpumlp": REPLIES["sklearn"], "sklearn": REPLIES["gpumlp"]}
    line = tables.estimator_lines(estimators.rows_of({"data": "made up"}, behind))[2]
    assert line.endswith("| **-0.0500** | **0.50** (0.33 to 1.00) |")


def test_mnist_that_is_not_there_is_left_out_with_the_reason(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GPUMLP_DATA", str(tmp_path))
    monkeypatch.setattr(estimator_worker, "MODULES", {})  # no process is started
    assert estimators.main(["--only", "mnist", "--mnist"]) == 0
    output = capsys.readouterr()
    assert "MNIST is left out: mnist: " in output.err
    assert "gpumlp fetch mnist" in output.err
    assert output.out.startswith("data")


def test_mnist_has_its_own_test_images_and_pixels_from_0_to_1(monkeypatch):
    images, labels = np.full((4, 28, 28), 255, "uint8"), np.arange(4, dtype="uint8")
    both = (images, labels), (images[:2], labels[:2])
    monkeypatch.setattr(estimator_worker, "load_mnist", lambda folder: both)
    estimator_worker.parts_of.cache_clear()
    parts = estimator_worker.parts_of("mnist", 0)
    estimator_worker.parts_of.cache_clear()
    assert parts.x.shape == (4, 784)
    assert parts.x_test.shape == (2, 784)
    assert parts.x.dtype == np.float64
    assert set(parts.x.ravel()) == {1.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "moons"], "unknown data 'moons'; choose from breast_cancer, wine, iris,"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--out", "nowhere/out.json"], "there is no folder nowhere"),
    ],
)
def test_a_wrong_option_exits_2_and_says_what_is_allowed(options, message, capsys):
    with pytest.raises(SystemExit) as error:
        estimators.main(options)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_an_estimator_that_is_not_installed_is_said_at_once(monkeypatch, capsys):
    monkeypatch.setattr(estimator_worker, "MODULES", {"theirs": "no_such_package.module"})
    with pytest.raises(SystemExit) as error:
        estimators.main(["--quick"])
    assert error.value.code == 2
    assert "no_such_package.module is not installed" in capsys.readouterr().err
