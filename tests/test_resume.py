"""`train --resume` from the command line: what goes on, what is refused, and what is said."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpumlp
from gpumlp import train
from gpumlp.backend import get_backend
from gpumlp.checkpoints import newest_checkpoint, read_checkpoint
from gpumlp.config_file import load_config
from gpumlp.events import Callback
from gpumlp.kills import differences
from gpumlp.run_folder import RunFolder
from gpumlp.saved_model import load_model
from gpumlp.tensor_file import read_tensors, write_tensors
from gpumlp.trainer import Trainer

CONFIG = """
name = "small"
device = "cpu"
[data]
source = "small.npz"
test = { fraction = 0.25 }
val = { fraction = 0.25 }
[model]
hidden = [6]
dropout = 0.2
[train]
epochs = 6
batch_size = 16
[checkpoint]
every_steps = 3
[log]
plots = false
"""
STEPS = 5  # an epoch
ALL = 6 * STEPS


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(120, 3))
    np.savez(tmp_path / "small.npz", x=x, label=(x[:, 0] > x[:, 1]).astype(int))
    (tmp_path / "small.toml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def run(here, capsys):
    def call(*arguments, config="small.toml"):
        given = [] if config is None else ["--config", config]
        try:
            code = train.main([*given, *map(str, arguments)])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return call


@pytest.fixture
def break_off(monkeypatch, run):
    """Train into the folder "run" with a SIGTERM after a step."""

    def call(step, *arguments):
        class Send(Callback):
            every_steps = 1

            def on_step(self, trainer):
                if trainer.step == step:
                    os.kill(os.getpid(), signal.SIGTERM)

        made = Trainer.__init__

        def with_signal(self, *given, callbacks=(), **options):
            made(self, *given, callbacks=[Send(), *callbacks], **options)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "__init__", with_signal)
            code, out, err = run("--run-dir", "run", *arguments)
        assert code == 143, err
        return out, err

    return call


def summary(folder="run"):
    return json.loads(Path(folder, "summary.json").read_text())


def snapshot(folder):
    return {str(p): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


# ------------------------------------------------------------------------------- what goes on


@pytest.mark.parametrize("step", [1, STEPS - 1, STEPS, 2 * STEPS + 3, ALL])
def test_a_run_goes_on_where_it_was_broken_off_and_ends_with_the_same_bits(step, run, break_off):
    assert run("--run-dir", "whole")[0] == 0
    _, err = break_off(step)
    assert "gpumlp train --resume run goes on from here" in err.splitlines()[-1]
    state = newest_checkpoint(Path("run/checkpoints")).state
    assert state["step"] == step == summary()["steps"]
    code, _, err = run("--resume", "run", config=None)
    assert code == 0
    assert f"resumed at step {step}," in err
    assert differences(Path("whole"), Path("run")) == []
    assert summary()["resumed_at"] == [step]
    assert summary("whole")["resumed_at"] == []
    assert f"resumed at step {step}" in Path("run/run.log").read_text()


def test_all_resumptions_are_remembered(run, break_off):
    for step in (4, 9, 13):
        break_off(step, *(["--resume"] if step > 4 else []))
    assert run("--resume", "run", config=None)[0] == 0
    assert summary()["resumed_at"] == [4, 9, 13]
    resumed = json.loads(Path("run/env.json").read_text())["resumed"]
    assert [one["step"] for one in resumed] == [4, 9, 13]
    assert all(one["changed"] == [] for one in resumed)


def test_what_was_written_after_the_last_checkpoint_is_cut_off(run, break_off):
    assert run("--run-dir", "whole")[0] == 0
    break_off(2 * STEPS + 3)
    for name in ("metrics.jsonl", "metrics.csv"):
        with Path("run", name).open("a") as file:
            file.write('{"epoch": 3, "loss"')  # as a process that was killed may leave it
    Path("run/checkpoints/.last.safetensors.77.tmp").write_bytes(b"half")
    assert run("--resume", "run", config=None)[0] == 0
    assert differences(Path("whole"), Path("run")) == []
    assert not list(Path("run").rglob("*.tmp"))


def test_lost_metrics_files_come_back(run, break_off):
    assert run("--run-dir", "whole")[0] == 0
    break_off(2 * STEPS + 3)
    Path("run/metrics.jsonl").unlink()
    Path("run/metrics.csv").write_text("")
    assert run("--resume", "run", config=None)[0] == 0
    assert differences(Path("whole"), Path("run")) == []


def test_a_run_without_a_checkpoint_begins_at_step_0(run, break_off):
    assert run("--run-dir", "whole")[0] == 0
    break_off(4)
    for path in Path("run/checkpoints").iterdir():
        path.unlink()
    Path("run/checkpoints").rmdir()
    code, _, err = run("--resume", "run", config=None)
    assert code == 0
    assert "resumed at step 0" in err
    assert differences(Path("whole"), Path("run")) == []


def test_run_dir_with_resume_begins_and_goes_on_with_one_and_the_same_command(run, break_off):
    assert run("--run-dir", "whole")[0] == 0
    break_off(7, "--resume")  # there was nothing to resume
    assert run("--run-dir", "run", "--resume")[0] == 0
    assert differences(Path("whole"), Path("run")) == []
    assert summary()["resumed_at"] == [7]


def test_an_empty_folder_is_begun(run, here):
    (here / "run").mkdir()
    assert run("--run-dir", "run", "--resume")[0] == 0
    assert summary()["resumed_at"] == []


@pytest.mark.parametrize("more", [[], ["--json"], ["-q"]])
def test_a_finished_run_is_left_as_it_is(more, run):
    assert run("--run-dir", "run")[0] == 0
    before = snapshot("run")
    code, out, err = run("--resume", "run", *more, config=None)
    assert code == 0
    assert snapshot("run") == before
    assert json.loads(out) == summary() if more == ["--json"] else "run folder: run" in out
    assert ("done already" in err) == (more != ["-q"])


def test_a_profile_of_a_finished_run_is_not_forgotten_silently(run):
    assert run("--run-dir", "run")[0] == 0
    code, _, err = run("--resume", "run", "--profile", config=None)
    assert code == 0
    assert "--profile needs one to train" in err


def test_a_finished_run_that_was_moved_says_where_it_is(run):
    assert run("--run-dir", "run")[0] == 0
    Path("run").rename("moved")
    assert "run folder: moved" in run("--resume", "moved", config=None)[1]


def test_a_run_that_another_process_finishes_meanwhile_is_left_as_it_is(
    run, break_off, monkeypatch
):
    break_off(7)

    def open_late(path, log, really=RunFolder.open):
        monkeypatch.setattr(RunFolder, "open", really)
        assert run("--resume", "run", config=None)[0] == 0
        before.update(snapshot("run"))
        return really(path, log)

    before = {}
    monkeypatch.setattr(RunFolder, "open", open_late)
    code, out, _ = run("--resume", "run", config=None)
    assert code == 0
    assert "done: 6 epochs" in out
    assert snapshot("run") == before


def test_a_summary_of_odd_things_is_written_anew(run):
    assert run("--run-dir", "run")[0] == 0
    Path("run/summary.json").write_text('{"status": "done"}')
    assert run("--resume", "run", config=None)[0] == 0
    assert summary()["steps"] == ALL


def test_a_configuration_that_changed_before_the_first_checkpoint_is_refused(run, break_off):
    break_off(4)
    for path in Path("run/checkpoints").iterdir():
        path.unlink()
    path = Path("run/config.resolved.toml")
    path.write_text(path.read_text().replace("epochs = 6", "epochs = 7"))
    assert "config.resolved.toml is not" in refused(run("--resume", "run", config=None), 2)


def test_a_device_that_is_gone_is_named_with_the_run(run, break_off):
    break_off(4)
    path = Path("run/env.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"device": "cuda:0"}))
    if get_backend("auto").name == "cpu":
        assert "run: began on cuda:0: " in refused(run("--resume", "run", config=None), 5)


def test_folders_with_spaces_are_quoted_in_the_hint(run, here):
    from gpumlp.resume import resume_hint

    assert resume_hint(Path("my runs/a")) == "gpumlp train --resume 'my runs/a' goes on from here"


def test_the_same_folder_by_two_names_is_one(run, here, break_off):
    break_off(4)
    (here / "link").symlink_to("run")
    assert run("--resume", "link", "--run-dir", "./x/../run", config=None)[0] == 0


def test_a_run_that_diverges_after_a_resumption_says_where_and_when(run, break_off):
    settings = [
        "--set=optimizer={name='sgd', lr=1e3}",
        "--set=model={task='regression', hidden=[]}",
    ]
    break_off(2, *settings)
    code, _, _ = run("--resume", "run", config=None)
    assert code == 4
    assert (summary()["status"], summary()["run_dir"]) == ("diverged", "run")
    assert summary()["resumed_at"] == [2]


def test_a_run_that_lacks_its_end_gets_it(run):
    assert run("--run-dir", "whole")[0] == 0
    assert run("--run-dir", "run")[0] == 0
    Path("run/summary.json").unlink()
    Path("run/model.safetensors").unlink()
    assert run("--resume", "run", config=None)[0] == 0
    assert differences(Path("whole"), Path("run")) == []
    assert summary()["resumed_at"] == [ALL]


def test_early_stopping_and_its_best_epoch_survive(run, break_off):
    stopping = ["--set=early_stopping={patience=3}", "--set=optimizer.lr=0.5",
                "--set=train.epochs=60", "--set=model.dropout=0.0"]  # fmt: skip
    assert run("--run-dir", "whole", *stopping)[0] == 0
    assert summary("whole")["stop_reason"]
    assert summary("whole")["best_epoch"]
    break_off(2 * STEPS + 3, *stopping)
    assert run("--resume", "run", config=None)[0] == 0
    assert differences(Path("whole"), Path("run")) == []


def test_tensorboard_has_each_epoch_once(run, break_off):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    from tensorboardX.proto.event_pb2 import Event

    break_off(2 * STEPS + 3, "--set=log.tensorboard=true")
    assert run("--resume", "run", config=None)[0] == 0
    (file,) = Path("run/tensorboard").iterdir()
    content, steps = file.read_bytes(), []
    while content:
        length = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + length])
        if event.summary.value:
            steps.append(event.step)
        content = content[16 + length :]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_checkpoints_are_models_that_can_be_used(run, here):
    assert run("--run-dir", "run")[0] == 0
    rows = np.load(here / "small.npz")["x"]
    last, best, final = (
        load_model(Path("run", name)).predict(rows)
        for name in ("checkpoints/last.safetensors", "checkpoints/best.safetensors", "")
    )
    np.testing.assert_array_equal(last, final)
    assert best.shape == final.shape
    lines = Path("run/metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["val_loss"] for line in lines]
    facts = read_checkpoint(Path("run/checkpoints/last.safetensors")).facts
    assert facts["best"]["epoch"] == 1 + int(np.argmin(losses))
    _, about = read_tensors(Path("run/checkpoints/best.safetensors"))
    assert len(facts["best"]["sha256"]) == 64
    assert "training" not in about


@pytest.mark.parametrize(
    ("keys", "files"),
    [
        ("every_epochs = 1", {"last", "last-1", "best"}),
        ("every_epochs = 4", {"last", "last-1", "best"}),
        ("every_epochs = 60", {"last", "best"}),
        ("every_seconds = 1e-9\nkeep_last = 3\nkeep_best = false", {"last", "last-1", "last-2"}),
        ("every_steps = 2\nkeep_last = 5", {"last", *(f"last-{i}" for i in range(1, 5)), "best"}),
    ],
)
def test_as_many_checkpoints_are_kept_as_asked_for(keys, files, run, here, monkeypatch):
    monkeypatch.setattr("gpumlp.checkpoints.SHARE", 1e9)  # of the time: any
    (here / "small.toml").write_text(CONFIG.replace("every_steps = 3", keys))
    assert run("--run-dir", "run", "--set=train.epochs=20")[0] == 0
    found = {path.name.removesuffix(".safetensors") for path in Path("run/checkpoints").iterdir()}
    assert found == files
    steps = [read_checkpoint(path).state["step"] for path in Path("run/checkpoints").glob("last*")]
    assert len(set(steps)) >= len(steps) - 1  # the last step, and the end of its epoch


def test_the_best_epoch_is_not_looked_for_without_validation(run, here):
    (here / "small.toml").write_text(CONFIG.replace("val = { fraction = 0.25 }", ""))
    assert run("--run-dir", "run")[0] == 0
    assert not Path("run/checkpoints/best.safetensors").exists()


def test_a_run_that_diverges_keeps_its_last_finite_checkpoint_and_diverges_again(run, here):
    x = np.random.default_rng(0).normal(size=(120, 3))
    np.savez(here / "small.npz", x=x, label=x @ [1.0, 2.0, 3.0])
    diverging = ["--set=model.task=regression", "--set=model.activation=relu"]
    diverging += ["--set=optimizer.name=sgd", "--set=optimizer.lr=0.5", "--set=train.epochs=90"]
    diverging += ["--set=schedule={name='exponential', gamma=1.0, every_epochs=1}"]
    diverging += ["--set=checkpoint.every_steps=1", "--set=model.init_gain=30"]
    code, _, err = run("--run-dir", "run", *diverging)
    assert code == 4
    said = err.splitlines()[-1]
    assert "first not finite" in said
    found = newest_checkpoint(Path("run/checkpoints"))
    assert all(np.isfinite(array).all() for array in found.state["parameters"].values())
    assert 1 <= found.state["step"] < summary()["steps"]
    code, _, err = run("--resume", "run", config=None)
    assert (code, err.splitlines()[-1]) == (4, said)


# ------------------------------------------------------------------------------ what is refused


def refused(outcome, code):
    assert outcome[0] == code
    assert outcome[1] == ""
    return outcome[2]


def test_another_configuration_is_refused_with_every_difference(run, break_off):
    break_off(4)
    before = snapshot("run")
    err = refused(
        run("--resume", "run", "--set=optimizer.lr=0.5", "--seed=3", "--set=model.hidden=[6, 6]"), 2
    )
    title, *lines = err.splitlines()
    assert title == "run: the configuration has changed since the run began"
    assert [line.split() for line in lines] == [
        ["seed", "was", "0,", "is", "3"],
        ["model.hidden", "was", "[6],", "is", "[6,", "6]"],
        ["optimizer.lr", "was", "0.001,", "is", "0.5"],
    ]
    assert snapshot("run") == before


def test_a_configuration_that_was_edited_in_the_folder_is_refused(run, break_off):
    break_off(4)
    path = Path("run/config.resolved.toml")
    path.write_text(path.read_text().replace("lr = 0.001", "lr = 0.002"))
    err = refused(run("--resume", "run", config=None), 2)
    assert "optimizer.lr    was 0.001, is 0.002" in err


def test_other_data_are_refused_with_every_difference(run, break_off, here):
    break_off(4)
    before = snapshot("run")
    x = np.random.default_rng(3).normal(size=(160, 3))
    np.savez(here / "small.npz", x=x, label=(x[:, 0] > x[:, 1]).astype(int))
    err = refused(run("--resume", "run", config=None), 3)
    title, *lines = err.splitlines()[-5:]
    assert title == "run: the data have changed since the run began"
    assert [" ".join(line.split()) for line in lines[:3]] == [
        "rows of the train part was 68, is 90",
        "rows of the val part was 22, is 30",
        "rows of the test part was 30, is 40",
    ]
    assert "sha256" in lines[3]
    assert snapshot("run") == before


def test_other_data_are_refused_without_a_checkpoint_too(run, break_off, here):
    break_off(4)
    for path in Path("run/checkpoints").iterdir():
        path.unlink()
    values = dict(np.load(here / "small.npz"))
    values["x"][7, 1] += 1e-9
    np.savez(here / "small.npz", **values)
    assert "sha256" in refused(run("--resume", "run", config=None), 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--resume"], "--resume DIR"),
        (["--resume", "none"], "none: no run folder is there"),
        (["--run-dir", "none", "--resume"], "none: no run folder is there"),
        (["--resume", "run", "--run-dir", "other"], "two folders"),
        (["--resume", "run", "--run-dir", "run", "--overwrite"], "--overwrite"),
        (["--resume", "run", "--dry-run"], "--dry-run"),
        ([], "--config is needed"),
    ],
)
def test_a_command_that_contradicts_itself_is_refused(arguments, said, run, here):
    before = snapshot(here)
    assert said in refused(run(*arguments, config=None), 2)
    assert snapshot(here) == before


def test_a_folder_that_is_no_run_is_refused(run, here):
    (here / "thesis").mkdir()
    (here / "thesis" / "a.tex").write_text("mine")
    refused(run("--run-dir", "thesis", "--resume"), 2)
    refused(run("--resume", "thesis", config=None), 2)
    assert snapshot(here / "thesis") == {str(here / "thesis" / "a.tex"): b"mine"}


def test_a_full_folder_says_that_resuming_is_possible(run, break_off):
    break_off(4)
    err = refused(run("--run-dir", "run"), 2)
    assert "--resume" in err
    assert "--overwrite" in err


# ------------------------------------------------------------------------- damaged checkpoints


def damage(name, at=-1):
    path = Path("run/checkpoints", name)
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("more", [[], ["-q"]])
def test_an_older_checkpoint_serves_with_a_warning(more, run, break_off):
    assert run("--run-dir", "whole")[0] == 0
    break_off(8)
    damage("last.safetensors")
    code, _, err = run("--resume", "run", *more, config=None)
    assert code == 0
    assert "warning: run/checkpoints/last.safetensors: its content is not what was saved" in err
    assert "last-1.safetensors serves instead" in err
    assert differences(Path("whole"), Path("run")) == []
    assert summary()["resumed_at"][0] < 8
    assert "last-1.safetensors serves" in Path("run/run.log").read_text()


def test_a_damaged_checkpoint_never_takes_the_place_of_a_whole_one(run, break_off):
    break_off(8)
    damage("last.safetensors")
    older = read_checkpoint(Path("run/checkpoints/last-1.safetensors")).state["step"]
    assert older < 8
    break_off(older + 1, "--resume")  # the first save after the resumption
    steps = [read_checkpoint(path).state["step"] for path in Path("run/checkpoints").glob("last*")]
    assert sorted(steps) == [older, older + 1]


def test_without_a_whole_checkpoint_nothing_is_begun_anew(run, break_off):
    break_off(8)
    damage("last.safetensors")
    damage("last-1.safetensors")
    before = snapshot("run/checkpoints")
    err = refused(run("--resume", "run", config=None), 6)
    assert "no checkpoint can be read" in err
    assert "last.safetensors" in err
    assert "last-1.safetensors" in err
    assert snapshot("run/checkpoints") == before


def test_the_checkpoint_of_another_run_is_refused(run, break_off):
    break_off(8)
    Path("run").rename("other")
    break_off(4, "--set=optimizer.lr=0.3")
    Path("other/checkpoints/last.safetensors").replace("run/checkpoints/last.safetensors")
    assert "optimizer.lr" in refused(run("--resume", "run", config=None), 2)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, facts: facts.pop("training"),
        lambda tensors, facts: facts.update(training=[1]),
        lambda tensors, facts: facts["training"].pop("step"),
        lambda tensors, facts: facts["training"].update(step="x"),
        lambda tensors, facts: facts["training"]["fit"].update(began=3),
        lambda tensors, facts: facts.pop("config"),
        lambda tensors, facts: facts.pop("data"),
        lambda tensors, facts: facts.update(data=[1]),
        lambda tensors, facts: facts.update(data=[]),
        lambda tensors, facts: facts.update(choices=7),
        lambda tensors, facts: tensors.update(
            {"training/history": np.frombuffer(b"[" * 100_000, np.uint8)}
        ),
        lambda tensors, facts: facts.update(config="[["),
        lambda tensors, facts: tensors.pop("net.0.weight"),
        lambda tensors, facts: tensors.pop("training/optimizer/mean"),
        lambda tensors, facts: tensors.pop("training/history"),
        lambda tensors, facts: tensors.update({"training/history": np.zeros(3, np.uint8)}),
        lambda tensors, facts: tensors.update({"training/step/0": np.zeros(3, np.uint8)}),
        lambda tensors, facts: tensors.update({"training/history/0": np.zeros(3, np.uint8)}),
        lambda tensors, facts: facts["training"].update(step=-1),
        lambda tensors, facts: facts["training"].pop("made"),
        lambda tensors, facts: facts["training"]["made"].update(batch_size=17),
        lambda tensors, facts: facts["training"].update(step=True),
        lambda tensors, facts: facts["training"].update(step=2**60),
        lambda tensors, facts: facts["training"]["fit"].update(began=[0, 2**50]),
        lambda tensors, facts: facts["training"]["fit"].update(seconds="long"),
        lambda tensors, facts: facts["training"]["fit"].update(seconds=float("inf")),
        lambda tensors, facts: facts["training"].update(epoch=2),
        lambda tensors, facts: facts["training"]["fit"].update(best_epoch=[]),
        lambda tensors, facts: facts["training"]["fit"].update(callbacks=[]),
        lambda tensors, facts: facts["training"]["fit"]["progress"].update(position=999),
        lambda tensors, facts: facts["training"]["fit"].pop("epoch_seconds"),
        lambda tensors, facts: facts["training"]["fit"]["callbacks"]["BestEpoch"].update(
            best="best"
        ),
        lambda tensors, facts: tensors.update(
            {"training/fit/callbacks/BestEpoch/values": np.zeros(1, np.float32)}
        ),
        lambda tensors, facts: tensors.update({"training/history": np.frombuffer(b"[{}]", "u1")}),
        lambda tensors, facts: tensors.update({"net.0.bias": np.zeros(3, np.float32)}),
    ],
)
def test_a_made_up_checkpoint_is_refused_however_right_its_checksum(change, run, break_off):
    break_off(8)
    path = Path("run/checkpoints/last.safetensors")
    tensors, facts = read_tensors(path)
    change(tensors, facts)
    write_tensors(path, tensors, facts)
    Path("run/checkpoints/last-1.safetensors").unlink()
    err = refused(run("--resume", "run", config=None), 6)
    assert "last.safetensors" in err


ODD = [
    *({"blas": 3}, {"blas": [3]}, {"blas": [{"num_threads": "x"}]}, {"resumed": [{}]}, {"data": 1}),
    *({"blas": [{"num_threads": n}]} for n in (float("inf"), 10**20, -3, 0, True)),
    {"device": "foo"},
]


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_an_environment_of_odd_things_is_a_file_error(odd, run, break_off):
    break_off(8)
    path = Path("run/env.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | odd))
    assert "env.json: is not what gpumlp wrote" in refused(run("--resume", "run", config=None), 6)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize(
    ("name", "code"),
    [("summary.json", 0), ("env.json", 6), ("run.log", 6), ("metrics.jsonl", 0), ("model", 0)],
)
def test_a_pipe_in_a_run_folder_is_not_waited_for(name, code, run, break_off):
    break_off(8)
    path = Path("run", name if "." in name else f"{name}.safetensors")
    path.unlink()
    os.mkfifo(path)
    found, _, err = run("--resume", "run", config=None)
    assert found == code
    assert code == 0 or name in err


def test_an_environment_that_is_huge_is_not_read(run, break_off):
    break_off(8)
    with Path("run/env.json").open("r+b") as file:
        file.truncate(2**33)  # of which the disk holds next to nothing
    assert "env.json" in refused(run("--resume", "run", config=None), 6)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 100_000])
def test_a_damaged_environment_is_a_file_error(content, run, break_off):
    break_off(8)
    Path("run/env.json").write_bytes(content)
    assert "env.json" in refused(run("--resume", "run", config=None), 6)


# ---------------------------------------------------------------------------- where it goes on


def test_the_device_is_the_one_on_which_the_run_began(run, break_off, monkeypatch):
    break_off(8, "--set=device=auto")
    asked = []

    def choose(device, precision):
        asked.append(device)
        raise KeyboardInterrupt

    monkeypatch.setattr("gpumlp.experiment.choose_backend", choose)
    run("--resume", "run", config=None)
    assert asked == ["cpu"]
    assert load_config("run/config.resolved.toml").device == "auto"


def test_another_environment_is_said_and_written_down(run, break_off):
    break_off(8)
    path = Path("run/env.json")
    env = json.loads(path.read_text())
    env["packages"]["numpy"] = "1.0"
    path.write_text(json.dumps(env))
    code, _, err = run("--resume", "run", config=None)
    assert code == 0
    line = f"packages.numpy    was 1.0, is {np.__version__}"
    assert f"warning: not the same bits as before, perhaps: {line}" in err
    assert json.loads(path.read_text())["resumed"][0]["changed"] == [line]
    assert json.loads(path.read_text())["packages"]["numpy"] == "1.0"


WIDE = ["--set=model.hidden=[600]", "--set=train.batch_size=60", "--set=data.source=wide.npz",
        "--set=train.epochs=4"]  # fmt: skip
THREADS = """
import sys
from gpumlp import train
from gpumlp.backend import get_backend
from threadpoolctl import threadpool_info
def build(*a, build=train.Experiment.build, **k):
    print([p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"], flush=True)
    return build(*a, **k)
train.Experiment.build = build
sys.exit(train.main(sys.argv[1:]))
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core: one thread")
def test_the_threads_are_those_with_which_the_run_began(here):
    rng = np.random.default_rng(0)
    np.savez(here / "wide.npz", x=rng.normal(size=(240, 400)), label=rng.integers(0, 3, 240))
    path = str(Path(gpumlp.__file__).parents[1])

    def start(threads, *arguments):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": str(threads), "PYTHONPATH": path}
        command = [sys.executable, "-c", THREADS, *arguments]
        done = subprocess.run(
            command, env=environment, cwd=here, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout.splitlines()[0])

    begin = ["--config", "small.toml", *WIDE, "-q"]
    assert start(2, *begin, "--run-dir", "whole") == [2]
    # one whose end is missing, so that the evaluation is done with other threads
    assert start(2, *begin, "--run-dir", "run") == [2]
    (here / "run" / "summary.json").unlink()
    newer = here / "run" / "checkpoints" / "last.safetensors"
    newer.with_name("last-1.safetensors").replace(newer)
    assert start(1, "--resume", "run", "-q") == [2]
    assert differences(here / "whole", here / "run") == []
