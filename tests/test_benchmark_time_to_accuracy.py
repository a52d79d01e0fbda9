"""The benchmark of time to an accuracy: it trains until the goal, and says who fell short."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import problem as problems  # noqa: E402
import time_to_accuracy  # noqa: E402
from report import accuracy_table  # noqa: E402
from rounds import OURS, check  # noqa: E402
from tables import accuracy_lines  # noqa: E402
from worker import SYSTEMS, Worker  # noqa: E402


def run(*arguments, **environment):
    command = [sys.executable, BENCHMARKS / "time_to_accuracy.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **environment)


def test_the_quick_run_trains_until_the_goal_and_writes_what_it_took(tmp_path):
    out = tmp_path / "out.json"
    done = run("--quick", "--peers", "none", "--rounds", 2, "--out", out, "--accuracy", 0.9)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["system"], row["what"], row["ratio"]) == ("gpumlp", "time_to_accuracy", 1.0)
    assert row["reached"]
    assert min(row["accuracy"]) >= 0.9
    for epochs, curve in zip(row["epochs"], row["curves"], strict=True):
        assert len(curve["accuracy"]) == epochs + 1
        assert all(accuracy < 0.9 for accuracy in curve["accuracy"][:-1])
        assert (np.diff(curve["seconds"]) > 0).all()
        assert curve["evaluation_seconds"] > 0
    assert row["cpu_seconds"]["n"] == 2
    assert 0 < row["later_epoch_cpu_seconds"] < row["cpu_seconds"]["max"]
    assert done.stdout.splitlines()[-3].startswith("gpumlp ")


def test_a_goal_that_is_not_reached_is_said_and_has_no_seconds(tmp_path):
    out = tmp_path / "out.json"
    options = ["--peers", "none", "--rounds", 1, "--epochs", 1, "--accuracy", 1.0]
    done = run("--quick", *options, "--out", out)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["reached"], row["seconds"], row["cpu_seconds"], row["ratio"]) == (
        False,
        *[None] * 3,
    )
    assert "not reached in every round" in done.stdout


def test_without_mnist_it_says_how_to_get_it_and_exits_3(tmp_path):
    done = run("--peers", "none", env=os.environ | {"GPUMLP_DATA": str(tmp_path)})
    assert done.returncode == 3
    assert "gpumlp fetch mnist" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--net", "784-10"], "unknown net '784-10'"),
        (["--optimizer", "magic"], "unknown optimizer 'magic'"),
        (["--accuracy", "98"], "the accuracy in (0, 1]"),
        (["--rounds", "0"], "must be at least 1"),
        (["--lr", "0"], "learning rate must be > 0"),
        (["--activation", "gelu"], "invalid choice: 'gelu'"),
        (["--out", "nowhere/x.json"], "there is no folder nowhere"),
        (["--peers", "magic"], "unknown peer 'magic'"),
    ],
)
def test_a_wrong_option_exits_2_and_is_named(options, message, capsys):
    with pytest.raises(SystemExit) as caught:
        time_to_accuracy.parse(["--quick", *options])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_net_that_does_not_fit_the_images_exits_7(capsys):
    options = ["--quick", "--peers", "none", "--net", "63-20-10@32"]
    assert time_to_accuracy.main(options) == 7
    assert "digits has 64 pixels and 10 classes, not 63-20-10@32" in capsys.readouterr().err


def test_the_images_are_split_the_same_each_time_and_scaled_to_1():
    x, y, x_test, y_test = problems.load_images("digits")
    assert x.shape == (1437, 64)
    assert x_test.shape == (360, 64)
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert (x.min(), x.max()) == (0.0, 1.0)
    assert set(y) == set(y_test) == set(range(10))


def test_the_accuracy_is_that_of_the_test_images():
    net = problems.Net.parse("64-10@32")
    problem = problems.Problem(net, 1437, "sgd", "cpu", data="digits")
    _, labels = problems.load_images("digits")[2:]
    always = [(np.zeros((10, 64), np.float32), np.eye(10, dtype=np.float32)[3])]
    assert problem.accuracy(always) == (labels == 3).mean()


def test_the_table_compares_cpu_seconds():
    seconds = {"median": 2.0, "min": 1.0, "max": 3.0, "n": 2}
    row = {"epochs": [3, 5], "accuracy": [0.98, 0.981], "reached": True, "seconds": seconds}
    row |= {"system": "torch", "cpu_seconds": seconds, "ratio": 2.5}
    line = accuracy_table([row | {"later_epoch_cpu_seconds": 0.5}]).splitlines()[1].split()
    assert line == ["torch", "2.00", "1.00", "3.00", "0.50", "2.00", "3-5", "0.9810", "2.50"]


def test_an_epoch_with_compilation_is_told_from_later_ones():
    curve = {"seconds": [0.0, 9.0, 10.0, 11.0], "cpu_seconds": [0.0, 8.0, 10.0, 12.0]}
    curves = {"gpumlp": [curve | {"accuracy": [0.0, 0.7, 0.8, 0.9]}]}
    row = time_to_accuracy.make_row({}, "gpumlp", curves, 0.9)
    assert (row["later_epoch_cpu_seconds"], row["cpu_seconds"]["median"]) == (2.0, 12.0)
    once = {"gpumlp": [{key: values[:2] for key, values in curves["gpumlp"][0].items()}]}
    row = time_to_accuracy.make_row({}, "gpumlp", once, 0.7)
    assert row["later_epoch_cpu_seconds"] is None
    assert accuracy_table([row]).splitlines()[1].split()[4] == "-"


def test_who_falls_short_in_one_round_has_no_seconds_and_no_ratio():
    there = {"seconds": [0.0, 2.0], "cpu_seconds": [0.0, 3.0], "accuracy": [0.0, 0.9]}
    short = there | {"accuracy": [0.0, 0.8]}
    curves = {"gpumlp": [there, there], "torch": [there, short]}
    row = time_to_accuracy.make_row({}, "torch", curves, 0.9)
    assert (row["reached"], row["cpu_seconds"], row["ratio"]) == (False, None, None)
    curves = {"gpumlp": [there, short], "torch": [there, there]}
    row = time_to_accuracy.make_row({}, "torch", curves, 0.9)
    assert (row["reached"], row["ratio"], row["cpu_seconds"]["median"]) == (True, None, 3.0)


@pytest.mark.parametrize("peer", ["gpumlp", "torch", "jax", "sklearn"])
def test_every_contender_takes_the_steps_of_the_plain_formulas(peer):
    if importlib.util.find_spec(SYSTEMS[peer][2]) is None:
        pytest.skip(f"{peer} is not installed")
    net = problems.Net.parse("64-9-8-10@30")
    given = {"rows": 1437, "optimizer": "sgd", "device": "cpu", "data": "digits", "lr": 0.1}
    with contextlib.closing(Worker(peer)) as worker:
        for activation in ("relu", "tanh"):  # sigmoid: test_benchmarks.py
            worker.ask("build", net=str(net), activation=activation, **given)
            problem = problems.Problem(net, activation=activation, **given)
            weights = problem.trained(3)
            norms = problems.update_norms(problem.weights(), weights)
            plain = {"loss": problem.loss(weights), "norms": norms}
            check(net, {OURS: plain, "contender": worker.ask("check", steps=3)})


def test_the_readmes_table_has_a_line_for_each_contender_also_for_one_that_fell_short():
    seconds = {"median": 2.0, "min": 1.0, "max": 3.0, "n": 2}
    common = {"data": "mnist", "goal": 0.98, "net": "784-300-10", "batch": 64, "optimizer": "adam"}
    there = {"system": "gpumlp", "reached": True, "seconds": seconds, "cpu_seconds": seconds}
    short = {"system": "jax", "reached": False, "seconds": None, "cpu_seconds": None}
    rows = [
        common | there | {"epochs": [3, 5], "ratio": 1.0},
        common | short | {"epochs": [20, 20], "ratio": None},
    ]
    assert accuracy_lines(rows) == [
        "| mnist to 98%: 784-300-10 @ 64, adam | CPU s | s | epochs | ratio |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| gpumlp | 2.00 | 2.00 | 3-5 | 1.00 |",
        "| jax | not reached |  | 20 |  |",
    ]
