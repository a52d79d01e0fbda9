"""benchmarks/precisions.py: its quick form, what it refuses, and what it finds."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpumlp
from gpumlp.backend import PRECISIONS, get_backend

FOLDER = Path(__file__).parents[1] / "benchmarks"
PNG = b"\x89PNG\r\n\x1a\n"


def run(*arguments, **environment):
    paths = [str(Path(gpumlp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, str(FOLDER / "precisions.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | environment,
    )


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def test_the_quick_form_measures_every_precision(tmp_path, module):
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    done = run("--quick", "--out", out, "--plot", plot, GPUMLP_DATA=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "digits in place of MNIST" in done.stderr
    content = json.loads(out.read_text())
    assert content["environment"]["cpu"]
    errors = [row for row in content["rows"] if row["what"] == "gradient_error"]
    runs = [row for row in content["rows"] if row["what"] == "accuracy"]
    assert {row["net"] for row in errors} == {"784-30-10", "784-128-10"}
    assert [row["precision"] for row in runs] == list(PRECISIONS)
    for row in errors:
        epsilon = PRECISIONS[row["precision"]].epsilon
        assert 0.01 * epsilon < row["gradient_error"] < 4 * epsilon
    assert all(len(row["runs"]) == 1 and row["mean"] > 0.7 for row in runs)
    assert plot.read_bytes().startswith(PNG)
    assert [line.split()[0] for line in done.stdout.splitlines()[1:-1]] == list(PRECISIONS)
    table = module("tables").table(tmp_path, "out.json").splitlines()
    assert table[0].startswith("| precision | 784-30-10@10 | 784-128-10@64 | digits accuracy")
    assert [line.split(" | ")[0] for line in table[2:9]] == [f"| {name}" for name in PRECISIONS]


def test_errors_are_those_of_the_precision_and_not_of_the_network(module):
    precisions, net = module("precisions"), module("problem").Net.parse("20-16-4@12")
    rows = precisions.errors_of(net, "cpu", ["fp32", "bf16"])
    assert rows[0]["gradient_error"] < 1e-6 < 1e-4 < rows[1]["gradient_error"]
    exact = precisions.gradient(
        module("problem").Problem(net, 12, "sgd", "cpu"), get_backend("cpu", "fp64")
    )
    again = precisions.gradient(
        module("problem").Problem(net, 12, "sgd", "cpu"), get_backend("cpu", "fp16")
    )
    for right, found in zip(exact[1], again[1], strict=True):
        assert np.linalg.norm(found - right) < 0.01 * np.linalg.norm(right)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--precisions", "bf16,fp8"], "unknown precision 'fp8'"),
        (["--nets", "784-30"], "unknown net '784-30'"),
        (["--seeds", "-1"], "seeds must not be negative"),
        (["--out", "nowhere/out.json"], "there is no folder"),
    ],
)
def test_wrong_usage_exits_2(arguments, words):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
