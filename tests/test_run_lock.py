"""F19: two processes on one run folder: the second one exits with 2 and changes nothing."""

import os
import signal
import subprocess
import sys
import time

import pytest
from child_process import environment

from gpumlp import run_place
from gpumlp.config_file import parse_config
from gpumlp.errors import ConfigError
from gpumlp.lock import lock
from gpumlp.run_folder import RunFolder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such locks here")
PATIENCE = 60.0
LONG = ["--config", "digits", "--set", "train.epochs=1000000", "--set", "log.plots=false", "-q"]
SHORT = ["--config", "digits", "--set", "train.epochs=2", "--set", "log.plots=false", "-q"]


@pytest.fixture
def start(tmp_path):
    """Start trainings in an empty folder; what still runs at the end is killed."""
    processes = []

    def call(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "gpumlp.train", *arguments],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield call
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def running(start, tmp_path):
    """A training under way in the folder "run"."""
    process = start(*LONG, "--run-dir", "run")
    end = time.monotonic() + PATIENCE
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    return process


def ended(process):
    out, err = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in err
    return process.returncode, out, err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--resume", "run"],
        [*LONG, "--run-dir", "run"],
        [*LONG, "--run-dir", "run", "--resume"],
        [*SHORT, "--run-dir", "run", "--overwrite"],
    ],
    ids=["resume", "run-dir", "both", "overwrite"],
)
def test_a_second_process_exits_2_and_the_first_goes_on(arguments, start, running, tmp_path):
    files = {path.name for path in (tmp_path / "run").iterdir()}
    code, out, err = ended(start(*arguments))
    assert (code, out) == (2, "")
    assert "another process is running there" in err or "holds a run already" in err
    assert running.poll() is None
    assert {path.name for path in (tmp_path / "run").iterdir()} >= files
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    running.send_signal(signal.SIGTERM)
    assert ended(running)[0] == 143


def test_a_log_that_is_rotated_away_lets_nobody_in(start, running, tmp_path):
    (tmp_path / "run" / "run.log").rename(tmp_path / "run" / "run.log.1")
    code, _, err = ended(start("--resume", "run"))
    assert code == 2
    assert "another process is running there" in err


def test_the_lock_is_gone_after_kill_9(start, running):
    running.kill()
    running.wait()
    resumed = start("--resume", "run", "--no-progress")
    assert any("resumed at step" in line for line in resumed.stderr)
    resumed.send_signal(signal.SIGTERM)
    resumed.wait(PATIENCE)
    assert resumed.returncode == 143


@pytest.mark.parametrize("empty", [False, True], ids=["no folder", "an empty folder"])
def test_of_several_that_start_at_once_one_runs(empty, start, tmp_path):
    if empty:
        (tmp_path / "run").mkdir()
    codes = [ended(process)[0] for process in [start(*SHORT, "--run-dir", "run") for _ in range(3)]]
    assert sorted(codes) == [0, 2, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2


def test_of_several_that_resume_at_once_one_runs(start, running, tmp_path):
    running.kill()
    running.wait()
    processes = [start("--resume", "run", "-q") for _ in range(2)]
    end = time.monotonic() + PATIENCE
    while all(process.poll() is None for process in processes):
        assert time.monotonic() < end
        time.sleep(0.01)
    first = next(process for process in processes if process.poll() is not None)
    (other,) = (process for process in processes if process is not first)
    assert ended(first)[0] == 2
    other.send_signal(signal.SIGTERM)
    assert ended(other)[0] in (143, -signal.SIGTERM)


# ------------------------------------------------------------------------- in one process


CONFIG = parse_config({"data": {"source": "builtin:digits"}})


def create(path, replace=False):
    return RunFolder.create(path, CONFIG, "", {}, replace)


@pytest.mark.parametrize("empty", [False, True])
def test_a_folder_belongs_to_one_until_it_is_closed(empty, tmp_path):
    path = tmp_path / "run"
    if empty:
        path.mkdir()
    with create(path):
        with pytest.raises(ConfigError, match="another process"):
            RunFolder.open(path, CONFIG.log)
        with pytest.raises(ConfigError, match="another process"):
            create(path, replace=True)
        with pytest.raises(ConfigError, match="holds a run already"):
            create(path)
    RunFolder.open(path, CONFIG.log).close()
    create(path, replace=True).close()


def test_a_folder_that_is_being_made_is_not_taken_for_that_of_a_dead_process(tmp_path, monkeypatch):
    path, seen = tmp_path / "run", []

    def renamed(one, other, rename=os.rename):
        rename(one, other)
        seen.extend(run_place._left_by_the_dead(path))

    monkeypatch.setattr(os, "rename", renamed)
    create(path).close()
    create(path, replace=True).close()
    assert seen == []


def test_a_lock_on_what_was_replaced_meanwhile_is_none(tmp_path, monkeypatch):
    path = tmp_path / "run"
    create(path).close()

    def late(file, lock=lock):
        monkeypatch.undo()
        others.append(create(path, replace=True))  # and another process runs there
        return lock(file)

    others = []
    monkeypatch.setattr("gpumlp.run_place.lock", late)
    with pytest.raises(ConfigError, match="another process"):
        RunFolder.open(path, CONFIG.log)
    others[0].close()


def test_a_folder_that_a_killed_process_was_filling_is_free(tmp_path):
    path = tmp_path / "run"
    (path / ".0123abcd.new").mkdir(parents=True)
    (path / ".0123abcd.new" / "config.resolved.toml").write_text("half")
    for name in ("config.input.toml", "env.json", "run.log"):
        (path / name).write_text("")
    create(path).close()
    assert {p.name for p in path.iterdir()} == {
        "config.input.toml",
        "config.resolved.toml",
        "env.json",
        "run.log",
    }


def test_a_log_of_somebody_else_is_not_taken_for_ours(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / "run.log").write_text("mine")
    with pytest.raises(ConfigError, match="not a run folder"):
        create(path)
    assert (path / "run.log").read_text() == "mine"


def test_where_there_are_no_locks_nobody_is_kept_out(tmp_path, monkeypatch):
    def none(*arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    with (tmp_path / "a").open("wb") as file:
        assert lock(file)
