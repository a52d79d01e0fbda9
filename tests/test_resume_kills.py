"""Trainings killed at random moments and resumed: F1 by kill -9, F4 by SIGTERM and SIGINT.

GPUMLP_F1=N and GPUMLP_F4=N kill N times instead of 25 and 20.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext

import pytest

from gpumlp import cli, kills
from gpumlp.errors import CheckFailed
from gpumlp.kills import Kill, differences, verify

CONFIGS = {
    "adam with dropout and early stopping": [
        "optimizer.name=adamw",
        "model.dropout=0.3",
        "schedule.name=plateau",
        "schedule.patience=0",
        "early_stopping={patience=8}",
    ],
    "sgd on its way through the weights": ["optimizer.name=sgd", "schedule.name=onecycle"],
    "momentum, accumulated": ["optimizer.name=momentum", "train.accumulate=3"],
    "fp16 and its loss scale": ["precision=fp16", "optimizer.name=nesterov"],
    "rmsprop in float64, eagerly": [
        "precision=fp64",
        "optimizer.name=rmsprop",
        "train.engine=eager",
    ],
}
COMMON = ["device=cpu", "log.plots=false", "train.epochs=30", "checkpoint.every_steps=37"]
KILLS = int(os.environ.get("GPUMLP_F1", 25))
SIGNALS = int(os.environ.get("GPUMLP_F4", 20))


def arguments(name):
    settings = [*COMMON, *CONFIGS[name]]
    return ["--config", "digits", *(part for one in settings for part in ("--set", one))]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(name, tmp_path):
    count = -(-KILLS // len(CONFIGS))
    found = verify(arguments(name), tmp_path, count, [signal.SIGKILL])
    assert found.differences == []
    assert [kill.code for kill in found.kills] == [-signal.SIGKILL] * count


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_that_gets_signals_again_and_again_ends_with_the_same_bits(name, tmp_path):
    both = [signal.SIGTERM, signal.SIGINT]
    found = verify(arguments(name), tmp_path, -(-SIGNALS // len(CONFIGS)), both)
    assert found.differences == []
    # others come before a process has its handlers, and end it as they end any
    assert any(kill.code in (130, 143) for kill in found.kills)


def test_the_command_says_what_it_did(capsys, tmp_path):
    command = ["verify-resume", "--config", "xor", "--set", "train.epochs=60", "--kills", "2"]
    assert cli.main([*command, "--json", "--signal", "mixed", "--keep", str(tmp_path / "a")]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert len(found["kills"]) == len(err.splitlines()) == 2
    assert found["differences"] == []
    assert found["steps"] == 60
    assert {path.name for path in (tmp_path / "a").iterdir()} >= {"unbroken", "broken-1"}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two runs of one configuration."""
    folder = tmp_path_factory.mktemp("two")
    settings = ["--set", "train.epochs=2", "--set", "log.plots=false", "-q"]
    for name in ("one", "other"):
        command = ["train", "--config", "digits", *settings, "--run-dir", str(folder / name)]
        assert cli.main(command) == 0
    return folder / "one", folder / "other"


def test_two_runs_alike_have_no_differences(two):
    assert differences(*two) == []


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("model.safetensors", lambda text: text[:-1] + b"x", "model.safetensors differs"),
        ("checkpoints/best.safetensors", lambda text: b"", "checkpoints/best.safetensors differs"),
        (
            "metrics.jsonl",
            lambda text: text.replace(b'"epoch": 2', b'"epoch": 3'),
            "metrics.jsonl differs from line 2 on",
        ),
        (
            "metrics.csv",
            lambda text: b"\n".join(text.split(b"\n")[:2]),
            "metrics.csv differs from line 3 on",
        ),
        (
            "summary.json",
            lambda text: text.replace(b'"steps": 82', b'"steps": 81'),
            "summary.json differs in steps",
        ),
    ],
)
def test_every_difference_is_found(name, change, said, two):
    path = two[1] / name
    content = path.read_bytes()
    try:
        path.write_bytes(change(content))
        assert differences(*two) == [said]
    finally:
        path.write_bytes(content)


def test_a_resumption_that_changes_bits_fails_the_command(capsys, monkeypatch):
    monkeypatch.setattr("gpumlp.kills.differences", lambda one, other: ["model differs"])
    settings = ["--set", "train.epochs=20", "--kills", "1"]
    assert cli.main(["verify-resume", "--config", "xor", *settings]) == 7
    out, err = capsys.readouterr()
    assert "NOT the same bits" in out
    assert "broken-1: model differs" in err


@pytest.mark.parametrize(
    ("number", "said", "allowed"),
    [
        (signal.SIGINT, "Fatal Python error: init_import_site: Failed", True),
        (signal.SIGINT, "Traceback (most recent call last):", False),
        (signal.SIGTERM, "Fatal Python error: init_import_site: Failed", False),
    ],
)
def test_python_itself_may_be_interrupted_while_it_starts(number, said, allowed):
    code = f"import sys; sys.stderr.write({said!r}); sys.exit(1)"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    with nullcontext() if allowed else pytest.raises(CheckFailed, match="ended with code 1"):
        assert kills._end(process, (0,), starting=number == signal.SIGINT) == 1


def test_a_training_that_fails_is_named(tmp_path):
    with pytest.raises(CheckFailed, match="ended with code 3"):
        verify(["--config", "digits", "--set", "data.source=none.csv"], tmp_path, 1, [])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--kills", "0"], "--kills 0"), (["--keep", "."], "--keep .: is there already")],
)
def test_what_cannot_be_verified_is_refused(arguments, said, capsys):
    assert cli.main(["verify-resume", "--config", "xor", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_kill_is_a_line():
    from gpumlp.commands.verify_resume import kill_line

    line = kill_line(Kill("SIGTERM", 2.0, 143, None, None))
    assert line == "SIGTERM after 2.0 s: exit code 143, no checkpoint (before: none)"
