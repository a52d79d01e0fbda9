"""`train --dry-run`, `--print-config` and `--verbose`: what is said without and before training."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import gpumlp
from gpumlp import train
from gpumlp.config_file import dump_config, load_config

SMALL = ["--config", "digits", "--set", "model.hidden=[8]", "--set", "log.plots=false"]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = train.main([*SMALL, *arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return call


def test_a_dry_run_writes_nothing_and_says_what_it_found(run, tmp_path):
    code, out, err = run("--dry-run")
    assert (code, err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    assert "610 parameters" in out
    assert "40 epochs of 41 steps, 1,640 steps" in out
    assert all(len(line) <= 80 for line in out.splitlines())


EACH_EPOCH = ["--set", "checkpoint.every_epochs=1"]
ESTIMATED = {
    "adam": [],
    "sgd, many epochs": ["--set", "optimizer.name=sgd", "--set", "train.epochs=200"],
    "wide": ["--set", "model.hidden=[500]", "--set", "train.epochs=2"],
    "no metrics": ["--set", "log.jsonl=false", "--set", "log.csv=false", "--set", "data.val={}"],
    "float64": ["--set", "precision=fp64", "--set", "checkpoint.keep_last=4"],
    "early stopping": ["--set", "early_stopping={patience=90}", "--set", "train.epochs=5"],
    "one epoch": ["--set", "train.epochs=2", "--set", "log.gradient_norms=false"],
}


@pytest.mark.parametrize("name", ESTIMATED)
def test_the_disk_is_estimated_within_a_tenth(name, run, tmp_path):
    arguments = [*EACH_EPOCH, *ESTIMATED[name]]
    if name == "no metrics":
        arguments[-1] = "checkpoint.keep_best=false"
    found = json.loads(run("--dry-run", "--json", *arguments)[1])
    assert run("-q", "--run-dir", "run", *arguments)[0] == 0
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    whole = sum(path.stat().st_size for path in files)
    assert sum(found["disk"].values()) == pytest.approx(whole, rel=0.1)
    checkpoints = sum(p.stat().st_size for p in files if p.parent.name == "checkpoints")
    assert found["disk"]["checkpoints"] == pytest.approx(checkpoints, rel=0.1)
    model = (tmp_path / "run" / "model.safetensors").stat().st_size
    assert found["disk"]["model"] == pytest.approx(model, rel=0.001)


def test_the_pictures_are_part_of_the_estimate(run, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    arguments = ["--set", "log.plots=true", "--set", "train.epochs=5"]
    found = json.loads(run("--dry-run", "--json", *arguments)[1])
    assert list(tmp_path.iterdir()) == []
    assert run("-q", "--run-dir", "run", *arguments)[0] == 0
    plots = sum(path.stat().st_size for path in (tmp_path / "run" / "plots").iterdir())
    assert found["disk"]["plots"] == pytest.approx(plots, rel=0.15)


PEAK = """
import resource, sys
from gpumlp import train
train.main(sys.argv[1:])
unit = 1 if sys.platform == "darwin" else 1024
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the system does not say")
@pytest.mark.parametrize("more", [[], ["--set", "model.hidden=[3000]"]])
def test_the_memory_is_estimated_within_a_tenth(more, tmp_path):
    def start(*arguments):
        command = [sys.executable, "-c", PEAK, *SMALL, *EACH_EPOCH, *more, *arguments]
        path = str(Path(gpumlp.__file__).parents[1])
        done = subprocess.run(
            [*command, "--set", "train.epochs=2"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    found = json.loads(start("--dry-run", "--json")[0])["memory"]
    peak = int(start("-q", "--run-dir", "run")[-1])
    assert found["process"] == pytest.approx(peak, rel=0.1)
    assert found["process"] > sum(v for name, v in found.items() if name != "process")


def test_the_parts_of_the_memory_are_what_they_are_called(run):
    found = json.loads(run("--dry-run", "--json")[1])
    rows, columns = 1797, 64
    assert found["memory"]["data"] >= rows * (columns * 4 + 8)
    assert found["memory"]["batch"] > 32 * (columns + 8 + 10) * 4  # x, a and z of one batch
    assert found["memory"]["parameters"] >= 4 * 4 * found["parameters"]  # W, dW, two averages


def test_the_first_step_of_a_dry_run_is_that_of_the_run(run, tmp_path):
    found = json.loads(run("--dry-run", "--json")[1])
    assert run("-q", "--run-dir", "run", "--set", "train.max_steps=1")[0] == 0
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert record["loss"] == found["loss"]


def test_a_dry_run_validates_as_early_stopping_needs_it(run):
    code, out, err = run("--dry-run", "--set", "early_stopping={patience=3}")
    assert (code, err) == (0, "")
    assert "all is well" in out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--set", "optimizer.lr=-1"], 2),
        (["--set", "data.source=none.csv"], 3),
        (["--set", "optimizer.lr=1e39", "--set", "optimizer.name=sgd"], 4),
        (["--device", "cuda:99"], 5),
    ],
)
def test_a_dry_run_finds_what_would_stop_the_run(run, tmp_path, arguments, code):
    found, out, err = run("--dry-run", *arguments)
    assert (found, out) == (code, "")
    assert err
    assert list(tmp_path.iterdir()) == []


def test_the_printed_configuration_is_complete_and_loads_again(run, tmp_path):
    code, out, err = run("--print-config")
    assert (code, err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    assert tomllib.loads(out)["schedule"]["warmup_steps"] == 0
    (tmp_path / "again.toml").write_text(out)
    assert dump_config(load_config(tmp_path / "again.toml")) == out


def test_verbose_adds_versions_threads_data_and_folder(run):
    quiet, loud = run("--run-dir", "a"), run("-v", "--run-dir", "b")
    assert loud[0] == 0
    added = set(loud[2].splitlines()) - set(quiet[2].splitlines())
    text = "\n".join(added)
    assert f"numpy {np.__version__}" in text
    assert "thread" in text
    assert "data sha256" in text
    assert "run folder: b" in text


def test_overwrite_without_a_folder_is_refused(run, tmp_path):
    code, out, err = run("--overwrite")
    assert (code, out) == (2, "")
    assert "--run-dir" in err
    assert list(tmp_path.iterdir()) == []


def test_plots_that_fail_do_not_lose_the_run(run, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no canvas")

    monkeypatch.setattr(train, "write_plots", fail)
    monkeypatch.setattr(train, "plots_wanted", lambda _: True)
    code, out, err = run("--run-dir", "run", "--set", "train.epochs=1")
    assert code == 0
    assert "warning: no plots: no canvas" in err
    assert "test   loss" in out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "done"


def test_plots_are_drawn_where_they_are_wanted(run, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert run("--run-dir", "run", "--set", "train.epochs=1", "--set", "log.plots=true")[0] == 0
    names = {path.name for path in (tmp_path / "run" / "plots").iterdir()}
    assert {"history.png", "confusion_matrix.png", "gradient_norms.png"} <= names
