"""benchmarks/optuna_search.py: it runs, prunes, repeats itself, and its last line is true."""

import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpumlp import cli
from gpumlp.errors import DivergedError
from gpumlp.experiment import Experiment

optuna = pytest.importorskip("optuna")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import optuna_search  # noqa: E402


@pytest.fixture
def search(capsys):
    """Run the script; return its exit code, the lines of stdout, and stderr."""

    def call(*arguments):
        capsys.readouterr()
        try:
            code = optuna_search.main([*map(str, arguments)])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return call


def test_the_last_line_of_a_quick_search_repeats_the_best_trial(search, capsys, tmp_path):
    code, lines, err = search("--quick")
    assert code == 0
    assert [line.split(":")[0] for line in err.splitlines()] == [
        f"trial {n} of 4" for n in range(1, 5)
    ]
    assert lines[0] == "4 trials finished, 0 pruned"
    best = max(float(line.split("val_accuracy ")[1].split()[0]) for line in err.splitlines())
    assert lines[1].endswith(f", val_accuracy {best:.4f}")
    program, *arguments = shlex.split(lines[2])
    assert program == "gpumlp"
    arguments += ["--set", "log.plots=false", "--run-dir", str(tmp_path / "run"), "--json", "-q"]
    assert cli.main(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["val"]["accuracy"] == pytest.approx(best, abs=5e-5)
    assert summary["epochs"] == 3


def test_the_same_seed_finds_the_same_trials(search):
    one, two, other = (search("--quick", "--trials", 2, "--seed", seed) for seed in (5, 5, 6))
    assert one == two
    assert one[2] != other[2]


def test_a_trial_that_falls_behind_is_pruned(search, monkeypatch):
    """The last of six learns nothing; the median of five tells so in the first epoch counted."""
    rates = iter([0.01, 0.01, 0.01, 0.01, 0.01, 1e-6])
    monkeypatch.setattr(
        optuna_search, "suggest", lambda trial: {"optimizer.lr": next(rates), "train.epochs": 6}
    )
    code, lines, err = search("--trials", 6)
    assert (code, lines[0]) == (0, "5 trials finished, 1 pruned")
    assert lines[1].startswith("best: trial 1, val_accuracy 0.9")  # the first of the equal ones
    assert err.splitlines()[-1].startswith("trial 6 of 6: pruned in epoch 5  ")


def test_trials_that_all_diverge_exit_4(search, monkeypatch):
    def diverged(self, trainer):
        raise DivergedError("the loss became inf")

    monkeypatch.setattr(Experiment, "fit", diverged)
    code, lines, err = search("--quick", "--trials", 2)
    assert (code, lines) == (4, [])
    assert err.splitlines()[-1] == "no trial came to its end with a finite loss"


def test_every_suggestion_is_a_valid_override():
    trial = optuna.trial.FixedTrial(
        {"layers": 2, "units0": 64, "units1": 32, "dropout": 0.1 + 0.2, "lr": 0.012345}
        | {"decay": 1e-7, "batch_size": 16}
    )
    assert optuna_search.suggest(trial) == {
        "model.hidden": [64, 32],
        "model.dropout": 0.3,
        "optimizer.lr": 0.0123,
        "optimizer.weight_decay": 1e-7,
        "train.batch_size": 16,
    }


def test_the_callback_stops_the_training_where_the_trial_should_be_pruned():
    reported, stopped = [], []
    trial = SimpleNamespace(
        report=lambda value, step: reported.append((value, step)),
        should_prune=lambda: len(reported) == 2,
    )
    trainer = SimpleNamespace(stop=stopped.append)
    for epoch in (1, 2):
        assert not stopped
        record = {"epoch": epoch, "val_accuracy": epoch / 10}
        optuna_search.Pruning(trial).on_epoch_end(trainer, record)
    assert reported == [(0.1, 1), (0.2, 2)]
    assert stopped == ["pruned"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--trials", "0"], 2, "--trials must be at least 1, got 0"),
        (["--config", "no_such"], 2, "no_such"),
        (["--config", "diabetes"], 2, "diabetes: a search needs data.val, and a task with"),
    ],
)
def test_what_cannot_be_searched_is_said_without_a_traceback(search, options, code, message):
    found, lines, err = search(*options)
    assert (found, lines) == (code, [])
    assert message in err
    assert "Traceback" not in err


def test_without_optuna_it_says_how_to_get_it(search, monkeypatch):
    monkeypatch.setattr(optuna_search, "find_spec", lambda name: None)
    code, _, err = search("--quick")
    assert code == 2
    assert "pip install optuna" in err
