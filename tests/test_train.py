"""The `train` command: what it prints and where, exit codes, what it leaves, that it learns."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

import gpumlp
from gpumlp import cli, train
from gpumlp.config import DEFAULT_METRICS
from gpumlp.config_file import load_config
from gpumlp.saved_model import load_model

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "configs" / "digits.toml"
COMMAND = [sys.executable, "-m", "gpumlp.train"]
TIMING = ("seconds", "samples_per_s")
EPOCH_LINE = re.compile(r"epoch +\d+/\d+( +\d\.\d+)+ +\d\S* s")
PATIENCE = 60.0  # seconds until a test gives up on a subprocess
SMALL = """
name = "small"
[data]
source = "small.npz"
test = { fraction = 0.25 }
val = { fraction = 0.25 }
[model]
hidden = [6]
[optimizer]
lr = 0.05
[train]
epochs = 3
batch_size = 16
[log]
plots = false
"""


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def environment(**more):
    """The environment of a subprocess: this gpumlp, whether installed or not."""
    paths = [str(Path(gpumlp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | more


def start(arguments, folder, command=COMMAND, **options):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=folder,
        env=environment(),
        text=True,
        **(streams | options),
    )


def finish(process):
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    return Outcome(process.returncode, out or "", err or "")


def strict_json(text):
    """Parse JSON as the standard has it: NaN and Infinity are not numbers."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def summary_of(folder):
    return strict_json((folder / "summary.json").read_text())


def metrics_of(folder):
    return [strict_json(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def snapshot(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def parameters_of(folder):
    network = load_model(folder).network
    return {parameter.name: parameter.value for parameter in network.parameters}


def same_parameters(one, other):
    mine, theirs = parameters_of(one), parameters_of(other)
    assert mine.keys() == theirs.keys()
    return all(np.array_equal(mine[name], theirs[name]) for name in mine)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with a small configuration and its data."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(120, 3))
    np.savez(tmp_path / "small.npz", x=x, label=(x[:, 0] > x[:, 1]).astype(int))
    (tmp_path / "small.toml").write_text(SMALL)
    return tmp_path


@pytest.fixture
def run(here, capsys):
    """Call the command in this process; no traceback may ever be seen."""

    def call(*arguments, config="small.toml", main=train.main):
        given = [] if config is None else ["--config", str(config)]
        try:
            code = main([*given, *map(str, arguments)])
        except SystemExit as stop:  # argparse
            code = stop.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Outcome(code, out, err)

    return call


def refused(outcome, code):
    """The message of a command that failed as it should."""
    assert outcome.code == code
    assert outcome.out == ""
    assert outcome.err.strip()
    return outcome.err


# ------------------------------------------------------------------------- digits, the real thing


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The shipped digits, trained for a few epochs by a process of its own in an empty folder."""
    folder = tmp_path_factory.mktemp("digits")
    outcome = finish(start(["--config", DIGITS, "--set", "train.epochs=5"], folder))
    return outcome, folder


def test_digits_train_and_the_last_line_names_the_run_folder(digits):
    outcome, folder = digits
    assert outcome.code == 0
    (run,) = (folder / "runs").iterdir()
    assert outcome.out.splitlines()[-1] == f"run folder: runs/{run.name}"


def test_the_test_accuracy_stands_on_stdout(digits):
    outcome, folder = digits
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("test ")]
    accuracy = float(re.search(r"accuracy (\d\.\d{4})", line)[1])
    (run,) = (folder / "runs").iterdir()
    assert accuracy == pytest.approx(summary_of(run)["test"]["accuracy"], abs=5e-5)
    assert accuracy > 0.95


def test_progress_goes_to_stderr_as_one_plain_line_an_epoch(digits):
    outcome, _ = digits
    epochs = [line for line in outcome.err.splitlines() if EPOCH_LINE.match(line)]
    assert len(epochs) == 5
    assert not EPOCH_LINE.search(outcome.out)
    for text in (outcome.out, outcome.err):
        assert all(letter.isprintable() or letter == "\n" for letter in text)
        assert "Warning" not in text


def test_what_was_chosen_for_auto_is_said_once_with_the_reason(digits):
    outcome, _ = digits
    assert len(re.findall(r"\bcpu \(no CUDA: .+\)|\bcuda:0\b", outcome.err)) == 1


def test_the_default_run_folder_has_name_and_time_and_lies_in_the_current_folder(digits):
    _, folder = digits
    assert [path.name for path in folder.iterdir()] == ["runs"]
    (run,) = (folder / "runs").iterdir()
    assert re.fullmatch(r"digits-20\d{6}T\d{6}Z-[0-9a-f]{4}", run.name)


def test_digits_reach_the_promised_accuracy(run, here):
    accuracies = []
    for seed in range(5):
        outcome = run("--seed", seed, "--json", "-q", "--run-dir", f"run{seed}", config=DIGITS)
        assert outcome.code == 0
        accuracies.append(strict_json(outcome.out)["test"]["accuracy"])
    assert np.mean(accuracies) >= 0.972
    assert min(accuracies) >= 0.955


# --------------------------------------------------------------------------- what goes where


def test_stdout_has_the_result_and_nothing_else(run):
    outcome = run("--run-dir", "run")
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.splitlines()] == [
        "train",
        "val",
        "test",
        "done:",
        "run",
    ]


def test_json_is_one_object_on_stdout_and_the_summary_of_the_run(run, here):
    outcome = run("--run-dir", "run", "--json")
    assert outcome.code == 0
    assert strict_json(outcome.out) == summary_of(here / "run")
    assert EPOCH_LINE.search(outcome.err)


def test_json_is_valid_where_a_metric_has_no_value(run, here):
    # one class in the test file: the area under the curve is not defined
    x = np.random.default_rng(0).normal(size=(5, 3))
    np.savez(here / "test.npz", x=x, label=np.ones(5, int))
    outcome = run("--set", "model.task=binary", "--set", 'data.test={path="test.npz"}', "--json")
    assert outcome.code == 0
    summary = strict_json(outcome.out)
    assert summary["test"]["auc"] is None
    assert summary == summary_of(here / summary["run_dir"])


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_quiet_leaves_the_result_and_silences_stderr(run, more):
    outcome = run("--run-dir", "run", "-q", *more)
    assert outcome.code == 0
    assert outcome.err == ""
    assert outcome.out.count("\n") == (1 if more else 5)


def test_quiet_does_not_silence_errors(run):
    assert "no such file" in refused(run("-q", config="none.toml"), 2)


def test_the_subcommand_does_the_same_as_the_module(run, here):
    module = run("--run-dir", "one", "--json", "-q")
    command = run("train", "--config", "small.toml", "--run-dir", "two", "--json", "-q",
                  config=None, main=cli.main)  # fmt: skip
    assert module.code == command.code == 0
    assert same_parameters(here / "one", here / "two")
    assert run("train", "--config", "none", config=None, main=cli.main).code == 2


@pytest.mark.parametrize("main", [train.main, cli.main])
def test_the_version_is_said(main, run):
    outcome = run("--version", config=None, main=main)
    assert (outcome.code, outcome.out) == (0, f"gpumlp {gpumlp.__version__}\n")


def on_a_terminal(arguments, folder):
    """What a terminal of 100 columns receives on stderr, and what goes to stdout."""
    pty = pytest.importorskip("pty", reason="no pseudo-terminals here")
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = start(arguments, folder, stderr=slave)
    os.close(slave)
    received = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # Linux: the other end was closed
            break
        if not chunk:
            break
        received += chunk
    os.close(master)
    outcome = finish(process)
    return Outcome(outcome.code, outcome.out, received.decode())


def test_a_terminal_shows_a_bar_and_the_epochs_above_it(here):
    outcome = on_a_terminal(["--config", "small.toml", "--run-dir", "run"], here)
    assert outcome.code == 0
    assert re.search(r"\r.*epoch \d/3  loss \d\.\d+ +\d+% \|", outcome.err)
    assert len([line for line in re.split(r"[\r\n]", outcome.err) if EPOCH_LINE.match(line)]) == 3
    assert "|" not in outcome.out


def test_a_terminal_can_have_lines_instead_of_a_bar(here):
    outcome = on_a_terminal(["--config", "small.toml", "--run-dir", "run", "--no-progress"], here)
    assert outcome.code == 0
    assert "%" not in outcome.err
    assert "\x1b" not in outcome.err
    assert len([line for line in outcome.err.splitlines() if EPOCH_LINE.match(line)]) == 3


# ----------------------------------------------------------------------------- the run folder


@pytest.mark.parametrize("path", ["run", "a/b/run", "empty", "./run/", "a/../run"])
def test_the_run_folder_is_the_one_that_was_named(path, run, here):
    (here / "empty").mkdir()
    (here / "a").mkdir()
    assert run("--run-dir", path, "-q").code == 0
    assert summary_of(here / path)["status"] == "done"
    assert not (here / "runs").exists()
    assert not [name for name in snapshot(here) if Path(name).name.startswith(".")]


def test_the_current_folder_can_be_the_run_folder_when_it_is_empty(run, here, monkeypatch):
    empty = here / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert run("--run-dir", ".", "-q", config=here / "small.toml").code == 0
    assert summary_of(empty)["status"] == "done"


def test_the_current_folder_is_not_replaced_while_one_stands_in_it(run, here, monkeypatch):
    assert run("--run-dir", "run", "-q").code == 0
    monkeypatch.chdir(here / "run")
    before = snapshot(here)
    refused(run("--run-dir", ".", config=here / "small.toml"), 2)
    refused(run("--run-dir", ".", "--overwrite", config=here / "small.toml"), 2)
    assert snapshot(here) == before


def test_a_full_current_folder_is_refused_as_run_folder(run, here):
    before = snapshot(here)
    assert "not a run folder" in refused(run("--run-dir", "."), 2)
    assert snapshot(here) == before


def test_a_run_is_not_overwritten(run, here):
    assert run("--run-dir", "run").code == 0
    before = snapshot(here)
    assert "--overwrite" in refused(run("--run-dir", "run", "--seed", 1), 2)
    assert snapshot(here) == before


def test_overwrite_replaces_a_run_whole(run, here):
    assert run("--run-dir", "run", "--set", "train.epochs=5").code == 0
    (here / "run" / "notes.txt").write_text("of the old run")
    assert run("--run-dir", "run", "--overwrite", "--seed", 1).code == 0
    assert not (here / "run" / "notes.txt").exists()
    assert summary_of(here / "run")["seed"] == 1
    assert len(metrics_of(here / "run")) == 3
    assert {path.name for path in here.iterdir()} == {"run", "small.npz", "small.toml"}


def test_overwrite_makes_a_folder_that_was_not_there(run, here):
    assert run("--run-dir", "run", "--overwrite").code == 0
    assert summary_of(here / "run")["status"] == "done"


def test_a_run_can_be_repeated_from_its_own_folder(run, here):
    assert run("--run-dir", "run").code == 0
    before = metrics_of(here / "run")
    resolved = here / "run" / "config.resolved.toml"
    assert run("--run-dir", "run", "--overwrite", config=resolved).code == 0
    assert [m["loss"] for m in metrics_of(here / "run")] == [m["loss"] for m in before]


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_a_folder_that_is_no_run_is_never_touched(more, run, here):
    (here / "thesis").mkdir()
    (here / "thesis" / "thesis.tex").write_text("mine")
    before = snapshot(here)
    assert "thesis" in refused(run("--run-dir", "thesis", *more), 2)
    assert snapshot(here) == before


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_a_file_in_the_way_is_never_touched(more, run, here):
    before = snapshot(here)
    assert "is a file" in refused(run("--run-dir", "small.npz", *more), 2)
    assert snapshot(here) == before


def test_two_runs_have_two_default_folders(run, here):
    assert run("-q").code == run("-q").code == 0
    assert len([*(here / "runs").iterdir()]) == 2


def test_the_default_folder_is_in_the_current_folder_wherever_the_configuration_lies(
    run, here, monkeypatch
):
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert run("-q", config="../small.toml").code == 0
    assert len([*(here / "elsewhere" / "runs").iterdir()]) == 1
    assert not (here / "runs").exists()


# ------------------------------------------------------- overrides, usage, and configuration: 2


def test_seed_and_device_override_the_configuration(run, here):
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        arguments = ("--set", "device=cuda", "--set", "seed=9", "--device", "cpu", "--seed", seed)
        assert run("--run-dir", name, *arguments).code == 0
        assert summary_of(here / name)["seed"] == seed
        resolved = load_config(here / name / "config.resolved.toml")
        assert (resolved.seed, resolved.device) == (seed, "cpu")
    assert same_parameters(here / "one", here / "two")
    assert not same_parameters(here / "one", here / "other")


def test_all_problems_stand_in_one_list(run, here):
    (here / "bad.toml").write_text('[data]\nsource = "small.npz"\n[model]\nhidden = [64, "x"]\n')
    overrides = ["--set", "optimizer.lr=-1", "--set", "model.activaton=relu", "--set", "nonsense"]
    before = snapshot(here)
    err = refused(run(*overrides, "--seed", "-3", "--device", "gpu", config="bad.toml"), 2)
    title, *lines = err.splitlines()
    assert title == "bad.toml: 6 problems"
    keys = {"--set", "device", "model.activaton", "model.hidden[1]", "optimizer.lr", "seed"}
    assert {line.split()[0] for line in lines} == keys
    assert 'did you mean "model.activation"?' in err
    assert snapshot(here) == before


@pytest.mark.parametrize("seed", ["x", "-1", "1.5", "", "true", str(2**63), "[1]", "1\nname=2"])
def test_a_seed_that_is_none_is_refused(seed, run):
    assert "seed" in refused(run(f"--seed={seed}"), 2)


@pytest.mark.parametrize("device", ["gpu", "", "cuda:", "cuda:-1", "CPU", 'cpu"\nname="x'])
def test_a_device_that_is_none_is_refused(device, run):
    assert '"cuda:N"' in refused(run(f"--device={device}"), 2)


@pytest.mark.parametrize(
    ("arguments", "config", "message"),
    [
        (["--frobnicate"], "small.toml", "--frobnicate"),
        (["extra"], "small.toml", "extra"),
        (["--over"], "small.toml", "--over"),  # abbreviations would make new options breaking
        (["--set"], "small.toml", "--set"),
        ([], None, "--config"),
        ([], "none.toml", "none.toml: no such file"),
        ([], "digitz", 'did you mean "digits"?'),
        ([], ".", "cannot be read"),
        (["--set", "model.activaton=relu"], "small.toml", "unknown key"),
        (["--set", "train.epochs=0"], "small.toml", "train.epochs"),
        (["--set", "train.epochs"], "small.toml", "KEY=VALUE"),
        (["--set", "early_stopping.monitor=val_auc"], "small.toml", "early_stopping.monitor"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_is_wrong(arguments, config, message, run, here):
    before = snapshot(here)
    assert message in refused(run(*arguments, config=config), 2)
    assert snapshot(here) == before


def test_a_configuration_that_is_no_toml_exits_2_with_the_place(run, here):
    (here / "bad.toml").write_text("name = 'x'\n[data\n")
    assert "bad.toml: line 2" in refused(run(config="bad.toml"), 2)


# ------------------------------------------------------------------------------------- data: 3


def with_nan(x, label):
    x[7, 2] = np.nan
    return {"x": x, "label": label}


@pytest.mark.parametrize(
    ("make", "overrides", "message"),
    [
        (with_nan, [], "row 7, column 2 (counted from 0): x is nan"),
        (lambda x, label: {"x": x, "label": label[:-1]}, [], "label has 119"),
        (lambda x, label: {"inputs": x, "label": label}, [], 'no array "x"'),
        (lambda x, label: {"x": x, "label": label * 0}, [], "same label"),
        (
            lambda x, label: {"x": x, "label": label + np.arange(120) % 2},
            ["model.task=binary"],
            "3",
        ),
        (lambda x, label: {"x": x, "label": label, "w": -label}, ["data.sample_weight=w"], "w is"),
        (lambda x, label: {"x": x, "label": label}, ["data.sample_weight=w"], 'no array "w"'),
        (lambda x, label: {"x": x, "label": label.astype(object)}, [], "pickled objects"),
    ],
    ids=[
        "nan",
        "lengths",
        "no x",
        "one class",
        "three classes",
        "negative weight",
        "no weights",
        "objects",
    ],
)
def test_unusable_data_exits_3_and_names_the_place(make, overrides, message, run, here):
    arrays = np.load(here / "small.npz")
    np.savez(here / "small.npz", **make(arrays["x"], arrays["label"]))
    before = snapshot(here)
    err = refused(run(*(f"--set={override}" for override in overrides)), 3)
    assert message in err
    assert str(here / "small.npz") in err
    assert snapshot(here) == before


def test_a_missing_data_file_exits_3(run, here):
    (here / "small.npz").unlink()
    assert f"{here / 'small.npz'}: no such file" in refused(run(), 3)
    assert not (here / "runs").exists()


def test_a_damaged_data_file_exits_3(run, here):
    content = (here / "small.npz").read_bytes()
    (here / "small.npz").write_bytes(content[: len(content) // 2])
    assert "small.npz: cannot be read" in refused(run(), 3)


def test_a_label_that_training_never_saw_exits_3(run, here):
    np.savez(here / "val.npz", x=np.zeros((2, 3)), label=np.array([0, 5]))
    err = refused(run("--set", 'data.val={path="val.npz"}'), 3)
    assert "val.npz" in err
    assert 'row 1 (counted from 0): unknown label "5"' in err


CLASS_7 = ["--set", "loss.class_weight={7=2.0}"]


def test_a_weight_for_an_unknown_class_exits_3_and_names_it(run):
    err = refused(run(*CLASS_7), 3)
    assert 'loss.class_weight names "7"' in err
    assert "the classes are 0, 1" in err


def test_a_weight_for_an_unknown_class_is_found_before_a_run_is_overwritten(run, here):
    assert run("--run-dir", "run").code == 0
    before = snapshot(here)
    refused(run("--run-dir", "run", "--overwrite", *CLASS_7), 3)
    assert snapshot(here) == before


# --------------------------------------------------------------------------------- diverged: 4


def regression(here):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(120, 3))
    np.savez(here / "small.npz", x=x, label=x @ [1.0, 2.0, 3.0])
    return ["--set=model.task=regression", "--set=model.activation=relu"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer.name=sgd", "optimizer.lr=1e6"],
        ["optimizer.name=nesterov", "optimizer.lr=1e20"],
        ["optimizer.name=adam", "optimizer.lr=1e200", "precision=fp64", "train.epochs=40"],
        ["optimizer.name=sgd", "optimizer.lr=1e6", "train.engine=eager"],
    ],
)
def test_a_diverging_run_exits_4_and_names_the_steps(overrides, run, here):
    arguments = regression(here) + [f"--set={override}" for override in overrides]
    err = refused(run("--run-dir", "run", *arguments), 4)
    assert re.search(r"step \d+|steps \d+-\d+", err)
    assert "learning rate" in err
    summary = summary_of(here / "run")
    assert summary["status"] == "diverged"
    assert summary["stop_reason"] in err
    assert summary["epochs"] >= 1
    assert "test" not in summary
    assert not (here / "run" / "model.safetensors").exists()
    assert "learning rate" in (here / "run" / "run.log").read_text()


@pytest.mark.parametrize("steps", [1, 2])
def test_a_run_whose_last_step_diverges_is_not_called_done(steps, run, here):
    # the loss of a step is that of the parameters before it
    overrides = ["optimizer.name=sgd", "optimizer.lr=1e30", f"train.max_steps={steps}"]
    arguments = regression(here) + [f"--set={override}" for override in overrides]
    outcome = run("--run-dir", "run", *arguments)
    assert outcome.code == 4
    assert summary_of(here / "run")["status"] == "diverged"


def test_a_diverging_run_says_so_without_warnings_or_traceback(here):
    arguments = [*regression(here), "--set=optimizer.name=sgd", "--set=optimizer.lr=1e6"]
    outcome = finish(start(["--config", "small.toml", *arguments], here))
    assert outcome.code == 4
    assert "Traceback" not in outcome.err
    assert "Warning" not in outcome.err
    assert "learning rate" in outcome.err.splitlines()[-1]


# --------------------------------------------------------------------------- device, memory: 5


class CUDARuntimeError(Exception):
    pass


def cupy_with(devices):
    """A cupy module on a machine with so many devices, or an error instead of a number."""

    def count():
        if isinstance(devices, Exception):
            raise devices
        return devices

    runtime = SimpleNamespace(getDeviceCount=count, CUDARuntimeError=CUDARuntimeError)
    return SimpleNamespace(__version__="14.0", cuda=SimpleNamespace(runtime=runtime))


NO_DRIVER = CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")


@pytest.mark.parametrize(
    ("cupy", "device", "messages"),
    [
        (None, "cuda", ["CuPy is not installed", 'pip install "cupy-cuda12x[ctk]"']),
        (None, "cuda:1", ["CuPy is not installed", 'pip install "cupy-cuda12x[ctk]"']),
        (cupy_with(NO_DRIVER), "cuda", ["no usable GPU", "cudaErrorInsufficientDriver", "driver"]),
        (cupy_with(1), "cuda:3", ["cuda:3", "devices found: 1"]),
        (cupy_with(0), "cuda", ["cuda:0", "devices found: 0"]),
    ],
    ids=["no cupy", "no cupy, second device", "no driver", "too few devices", "no devices"],
)
def test_an_explicit_device_that_is_missing_exits_5_with_what_fixes_it(
    cupy, device, messages, run, here, monkeypatch
):
    monkeypatch.setitem(sys.modules, "cupy", cupy)  # None: as if it were not installed
    before = snapshot(here)
    err = refused(run("--device", device), 5)
    for message in messages:
        assert message in err
    assert snapshot(here) == before


def test_a_cupy_that_cannot_be_loaded_exits_5_with_the_reason(run, here, monkeypatch):
    (here / "cupy.py").write_text("raise ImportError('libcublas.so.13: cannot open')\n")
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    err = refused(run("--device", "cuda"), 5)
    assert "libcublas.so.13" in err
    assert "pip install" in err


@pytest.mark.parametrize(
    ("cupy", "reason"), [(None, "not installed"), (cupy_with(NO_DRIVER), "no usable GPU")]
)
def test_auto_takes_the_cpu_and_says_why_once(cupy, reason, run, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    outcome = run("--device", "auto", "--run-dir", "run")
    assert outcome.code == 0
    assert outcome.err.count(reason) == 1
    assert summary_of(here / "run")["device"] == "cpu"


def raising(error):
    def call(*arguments, **options):
        raise error

    return call


@pytest.mark.parametrize("where", ["experiment.prepare", "train.fit_and_save"])
def test_too_little_memory_exits_5_with_what_helps(where, run, monkeypatch):
    monkeypatch.setattr(f"gpumlp.{where}", raising(MemoryError("Unable to allocate 8 GiB")))
    err = refused(run(), 5) if where == "experiment.prepare" else run("-q").err
    assert "out of memory (Unable to allocate 8 GiB)" in err
    assert "batch_size" in err
    assert run("-q").code == 5


# ------------------------------------------------------------------------------ file system: 6


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_a_run_folder_below_a_file_exits_6(more, run, here):
    before = snapshot(here)
    assert "small.npz" in refused(run("--run-dir", "small.npz/run", *more), 6)
    assert snapshot(here) == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.csv", "run.log"])
def test_a_disk_that_fills_up_in_an_epoch_exits_6_and_names_the_file(name, run, here, monkeypatch):
    def full(path, mode="r", *arguments, opened=open, **options):
        if mode == "ab" and path.name == name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return opened(path, mode, *arguments, **options)

    monkeypatch.setattr("builtins.open", full)
    err = run("--run-dir", "run").err
    assert f"run/{name}: No space left on device" in err.splitlines()[-1]
    assert run("--run-dir", "other", "-q").code == 6


@pytest.mark.parametrize("name", ["model.safetensors", "summary.json"])
def test_a_disk_that_fills_up_at_the_end_exits_6_and_leaves_no_half_file(
    name, run, here, monkeypatch
):
    replaced = os.replace

    def full(source, target, **options):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        return replaced(source, target, **options)

    monkeypatch.setattr(os, "replace", full)
    outcome = run("--run-dir", "run")
    assert outcome.code == 6
    assert outcome.out == ""
    assert f"run/{name}: No space left on device" in outcome.err.splitlines()[-1]
    assert not [path for path in (here / "run").iterdir() if path.name.startswith((".", name))]
    assert "No space left" in (here / "run" / "run.log").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_result_that_cannot_be_written_exits_6(here):
    with open("/dev/full", "w") as full:
        outcome = finish(start(["--config", "small.toml", "--json"], here, stdout=full))
    assert outcome.code == 6
    assert "No space left on device" in outcome.err.splitlines()[-1]
    assert "Traceback" not in outcome.err


# -------------------------------------------------------------------------------------- bugs: 1


@pytest.mark.parametrize(
    "where",
    [
        "train.fit_and_save",
        "experiment.build_trainer",
        "experiment.SavedModel",
        "experiment.Experiment.summary",
    ],
)
def test_a_bug_exits_1_with_one_line_that_names_the_log_with_the_traceback(
    where, run, here, monkeypatch
):
    monkeypatch.setattr(f"gpumlp.{where}", raising(RuntimeError("boom")))
    err = refused(run("--run-dir", "run", "-q"), 1)
    assert err.count("\n") == 1
    assert "boom" in err
    assert str(Path("run") / "run.log") in err
    log = (here / "run" / "run.log").read_text()
    assert "Traceback (most recent call last)" in log
    assert "RuntimeError: boom" in log


@pytest.mark.parametrize(
    "where",
    ["train.load_config", "experiment.prepare", "experiment.build_network", "train.describe"],
)
def test_a_bug_before_there_is_a_run_folder_exits_1_with_one_line(where, run, here, monkeypatch):
    monkeypatch.setattr(f"gpumlp.{where}", raising(RuntimeError("boom")))
    err = refused(run("--run-dir", "run", "-q"), 1)
    assert err.count("\n") == 1
    assert "boom" in err


# -------------------------------------------------------------------------- signals: 130 and 143

LONG = ["--config", "small.toml", "--run-dir", "run", "--set=train.epochs=1000000"]
SLOW = """
import sys, time
from gpumlp import experiment, train
{}
sys.exit(train.main(sys.argv[1:]))
"""


def slow(patch):
    """A command that does something slow somewhere, after saying "here" on stdout."""
    return [sys.executable, "-c", SLOW.format(patch)]


def wait_for(condition, process):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_ends_training_after_saving(number, code, here):
    process = start(LONG, here)
    metrics = here / "run" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 2, process)
    process.send_signal(number)
    outcome = finish(process)
    assert outcome.code == code
    assert "Traceback" not in outcome.err
    assert outcome.out.splitlines()[-1] == "run folder: run"
    summary = summary_of(here / "run")
    assert summary["status"] == "interrupted"
    assert summary["stop_reason"] == number.name
    assert summary["epochs"] == len(metrics_of(here / "run"))
    model = load_model(here / "run")
    x = np.load(here / "small.npz")["x"]
    assert np.isfinite(model.predict(x)).all()
    assert 0 <= summary["test"]["accuracy"] <= 1


IN_A_STEP = """
from gpumlp.trainer import Trainer
def check(*arguments):
    print("here", flush=True)
    time.sleep(40)
Trainer._check = check
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_second_signal_kills_at_once(number, here):
    process = start(LONG, here, slow(IN_A_STEP))
    assert process.stdout.readline() == "here\n"
    process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):  # the first one waits for the step
        process.wait(0.5)
    process.send_signal(number)
    process.wait(10)
    outcome = finish(process)
    assert outcome.code == -number
    assert "Traceback" not in outcome.err


WHILE_SAVING = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
def save(model, path, save=experiment.SavedModel.save):
    os.kill(os.getpid(), signal.{})
    time.sleep(0.2)
    save(model, path)
experiment.SavedModel.save = save
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_while_the_model_is_saved_ends_at_once_and_resuming_ends_the_run(name, code, here):
    arguments = ["--config", "small.toml", "--run-dir", "run"]
    outcome = finish(start(arguments, here, slow(WHILE_SAVING.format(name))))
    assert outcome.code == code
    assert "Traceback" not in outcome.err
    assert "gpumlp train --resume run" in outcome.err.splitlines()[-1]
    assert not (here / "run" / "summary.json").exists()
    assert finish(start(["--resume", "run"], here)).code == 0
    assert finish(start([*arguments[:-1], "whole"], here)).code == 0
    summary = summary_of(here / "run")
    assert (summary["status"], summary["stop_reason"]) == ("done", None)
    assert same_parameters(here / "run", here / "whole")


WHILE_LOADING = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
def prepare(*arguments, prepare=experiment.prepare):
    os.kill(os.getpid(), signal.{})
    time.sleep(0.2)
    return prepare(*arguments)
experiment.prepare = prepare
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_while_data_is_loaded_ends_at_once_and_leaves_nothing(name, code, here):
    before = snapshot(here)
    command = slow(WHILE_LOADING.format(name))
    outcome = finish(start(["--config", "small.toml"], here, command))
    assert outcome.code == code
    assert "Traceback" not in outcome.err
    assert snapshot(here) == before


def test_signals_are_given_back_after_training(run):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert run("-q").code == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# ------------------------------------------------------------------------------ data of one's own

RNG = np.random.default_rng(6)
POINTS = RNG.normal(5, 3, size=(400, 2))
CENTRED = (POINTS - 5) / 3
ANGLES = np.arctan2(CENTRED[:, 1], CENTRED[:, 0])
KINDS = np.array(["left", "up", "right"])[np.digitize(ANGLES, [-1, 1])]
OWN = {
    "multiclass": KINDS,
    "binary": np.where(CENTRED.sum(axis=1) > 0, "yes", "no"),
    "multilabel": np.stack([CENTRED[:, 0] > 0, CENTRED[:, 1] > 0.5], axis=1).astype(int),
    "regression": 10 + CENTRED @ [[3.0, 0.0], [1.0, 2.0]],
}
LONGER = ["--set=train.epochs=40", "--set=train.batch_size=32", "--set=precision=fp64"]


def own(here, task, **arrays):
    np.savez(here / "small.npz", x=POINTS, label=OWN[task], **arrays)
    return [*LONGER, f"--set=model.task={task}"]


@pytest.mark.parametrize("task", OWN)
def test_every_task_is_learned_from_a_file_of_ones_own(task, run, here):
    outcome = run("--run-dir", "run", *own(here, task), "--set=optimizer.lr=0.1")
    assert outcome.code == 0
    summary = summary_of(here / "run")
    for part in ("train", "val", "test"):
        assert set(summary[part]) == {"loss", *DEFAULT_METRICS[task]}
    test = summary["test"]
    assert test["r2"] > 0.9 if task == "regression" else test["accuracy"] > 0.9
    losses = [record["loss"] for record in metrics_of(here / "run")]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_the_model_of_a_run_names_the_classes_of_the_file(task, run, here):
    arguments = [*own(here, task), "--set=optimizer.lr=0.1"]
    assert run("--run-dir", "run", *arguments, "-q").code == 0
    names = np.array(load_model(here / "run").classify(POINTS))
    assert (names == OWN[task]).mean() > 0.9


@pytest.mark.parametrize("task", OWN)
def test_parts_can_have_files_of_their_own(task, run, here):
    y = OWN[task]
    for name, rows in (("small", slice(200)), ("val", slice(200, 300)), ("test", slice(300, 400))):
        np.savez(here / f"{name}.npz", x=POINTS[rows], label=y[rows])
    files = ['--set=data.val={path="val.npz"}', '--set=data.test={path="test.npz"}']
    arguments = [*LONGER, f"--set=model.task={task}", *files, "--set=optimizer.lr=0.1"]
    outcome = run("--run-dir", "run", *arguments)
    assert outcome.code == 0
    assert "200 rows to train on, 100 to validate, 100 to test" in outcome.err
    test = summary_of(here / "run")["test"]
    model = load_model(here / "run")
    prediction = model.predict(POINTS[300:])
    if task == "regression":
        error = np.sqrt(np.mean((prediction - y[300:]) ** 2, axis=0)).mean()
        assert test["rmse"] == pytest.approx(error, rel=1e-9)
    elif task == "multilabel":
        right = ((prediction > 0.5) == y[300:]).all(axis=1)
        assert test["accuracy"] == pytest.approx(right.mean())
    else:
        right = np.array(model.classify(POINTS[300:])) == y[300:]
        assert test["accuracy"] == pytest.approx(right.mean())


def test_rows_of_weight_zero_teach_nothing(run, here):
    wrong = np.arange(400) % 2 == 0  # half of the labels are exchanged
    label = np.where(wrong, np.roll(np.unique(KINDS), 1)[np.unique(KINDS, return_inverse=True)[1]],
                     KINDS)  # fmt: skip
    np.savez(here / "small.npz", x=POINTS, label=label, w=np.where(wrong, 0.0, 2.0))
    arguments = [*LONGER, "--set=optimizer.lr=0.1", "--set=data.sample_weight=w"]
    assert run("--run-dir", "run", *arguments).code == 0
    names = np.array(load_model(here / "run").classify(POINTS))
    assert (names == KINDS).mean() > 0.9
    assert summary_of(here / "run")["test"]["accuracy"] > 0.9


def class_weights(y):
    """N / (C n_c), the formula of "balanced", for each class of the rows."""
    names, counts = np.unique(y, return_counts=True)
    return {str(name): len(y) / (len(names) * n) for name, n in zip(names, counts, strict=True)}


def table(weights):
    return "{" + ", ".join(f"{name} = {float(weight)!r}" for name, weight in weights.items()) + "}"


@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_balanced_is_the_table_of_its_formula_and_the_same_as_sample_weights(task, run, here):
    weights = class_weights(OWN[task])
    rows = np.array([weights[name] for name in OWN[task]])
    arguments = own(here, task, w=rows, other=np.ones(400))
    # all rows are trained on, so that the counts are those of the file
    (here / "all.toml").write_text('data.source = "small.npz"\nmodel.hidden = [6]\n')
    for name, override in {
        "none": "loss.label_smoothing=0.0",
        "balanced": "loss.class_weight=balanced",
        "table": f"loss.class_weight={table(weights)}",
        "rows": "data.sample_weight=w",
    }.items():
        outcome = run("--run-dir", name, *arguments, f"--set={override}", config="all.toml")
        assert outcome.code == 0
    assert same_parameters(here / "balanced", here / "table")
    assert same_parameters(here / "balanced", here / "rows")
    assert not same_parameters(here / "balanced", here / "none")


def test_class_weights_and_sample_weights_multiply(run, here):
    rows = RNG.uniform(0.5, 2, 400)
    both = rows * np.where(OWN["binary"] == "yes", 3.0, 1.0)
    arguments = own(here, "binary", rows=rows, both=both)
    table = "--set=loss.class_weight={yes = 3.0}"
    assert run("--run-dir", "one", *arguments, "--set=data.sample_weight=both").code == 0
    assert run("--run-dir", "two", *arguments, "--set=data.sample_weight=rows", table).code == 0
    assert same_parameters(here / "one", here / "two")


def test_a_heavy_class_is_predicted_more_often(run, here):
    arguments = own(here, "binary")
    counts = []
    for weight in (0.01, 1.0, 100.0):
        name = f"run{weight}"
        override = f"--set=loss.class_weight={{yes = {weight}}}"
        assert run("--run-dir", name, *arguments, override).code == 0
        counts.append(load_model(here / name).classify(POINTS).count("yes"))
    assert counts[0] < counts[1] < counts[2]


# ------------------------------------------------------------------------------------ same bits


@pytest.fixture(scope="module")
def repeated(tmp_path_factory):
    """Two runs of one configuration and a run of the first one's resolved configuration."""
    base = tmp_path_factory.mktemp("repeated")
    given = ["--config", DIGITS, "--seed", 3, "--set=train.epochs=3", "--set=model.dropout=0.2"]
    given += ["--set=early_stopping={patience=2}", "--set=optimizer.name=adamw"]
    resolved = base / "first" / "config.resolved.toml"
    for name, arguments in (
        ("first", given),
        ("second", given),
        ("again", ["--config", resolved]),
    ):
        (base / f"folder of {name}").mkdir()  # the current folder should not matter
        outcome = finish(
            start([*arguments, "--run-dir", base / name, "-q"], base / f"folder of {name}")
        )
        assert outcome.code == 0, outcome.err
    return base


others = pytest.mark.parametrize("other", ["second", "again"])


@others
def test_a_fresh_process_gives_the_same_parameters(other, repeated):
    assert same_parameters(repeated / "first", repeated / other)


@others
def test_a_fresh_process_gives_the_same_model_file_byte_for_byte(other, repeated):
    first, again = ((repeated / name / "model.safetensors") for name in ("first", other))
    assert first.read_bytes() == again.read_bytes()


@others
def test_a_fresh_process_gives_the_same_metrics_but_for_the_timing(other, repeated):
    def without_timing(name):
        lines = (repeated / name / "metrics.jsonl").read_text()
        return re.sub(rf'"({"|".join(TIMING)})": [^,}}]+', "", lines)

    assert without_timing("first") == without_timing(other)
    assert len(without_timing("first")) > 100


@others
def test_a_fresh_process_gives_the_same_resolved_configuration(other, repeated):
    first, again = ((repeated / name / "config.resolved.toml") for name in ("first", other))
    assert first.read_bytes() == again.read_bytes()


def test_another_seed_gives_other_parameters(repeated, run, here):
    resolved = repeated / "first" / "config.resolved.toml"
    assert run("--run-dir", "run", "--seed", 4, "-q", config=resolved).code == 0
    assert not same_parameters(repeated / "first", here / "run")
