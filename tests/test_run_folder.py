"""The run folder: which files it has, what stands in them, and that it is whole or not there."""

import csv
import errno
import io
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

import gpumlp
from gpumlp import environment, train
from gpumlp.backend import get_backend
from gpumlp.config_file import config_text, load_config, parse_config
from gpumlp.data.fingerprint import fingerprint
from gpumlp.data.sources import load
from gpumlp.engine import ENGINES
from gpumlp.errors import ConfigError, DataError, FileError
from gpumlp.files import write_atomically
from gpumlp.losses import SoftmaxCrossEntropy
from gpumlp.model import multilayer_perceptron
from gpumlp.optimizers import Adam
from gpumlp.run_folder import RunFolder, default_path, log_callbacks
from gpumlp.run_place import check_free, restore, take
from gpumlp.trainer import Trainer

FILES = {
    "config.input.toml",
    "config.resolved.toml",
    "env.json",
    "metrics.csv",
    "metrics.jsonl",
    "model.safetensors",
    "run.log",
    "summary.json",
}
SUMMARY = {
    "status",
    "epochs",
    "steps",
    "best_epoch",
    "train",
    "parameters",
    "seconds",
    "samples_per_s",
    "device",
    "precision",
    "engine",
}
EPOCHS = 3
# spaces, comments and Windows line ends, so that a rewritten file would be noticed
INPUT = f"""# a run
name  =  "small"   # the name\r
device = "cpu"
[data]
source = "small.npz"
test = {{ fraction = 0.25 }}
val = {{ fraction = 0.25 }}

[model]
hidden = [5]
[train]
epochs = {EPOCHS}
batch_size = 10
[log]
plots = false
"""


def strict_json(text):
    """Parse JSON as the standard has it: NaN and Infinity are not numbers."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def small_data(folder):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(64, 4))
    path = folder / "small.npz"
    np.savez(path, x=x, label=(x[:, 0] + x[:, 1] > 0).astype(int))
    return path


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def make(path, replace=False, seed=0):
    """Make a run folder as `train` does before the first step."""
    config = parse_config({"seed": seed, "data": {"source": "builtin:digits"}})
    with RunFolder.create(path, config, f"seed = {seed}", {"seed": seed}, replace) as folder:
        return folder


def whole(path, seed):
    """Whether a folder holds all that one call of `make` writes, and nothing else."""
    return (
        {file.name for file in path.iterdir()}
        == {"config.input.toml", "config.resolved.toml", "env.json", "run.log"}
        and path.joinpath("config.input.toml").read_text() == f"seed = {seed}"
        and load_config(path / "config.resolved.toml").seed == seed
        and json.loads(path.joinpath("env.json").read_text()) == {"seed": seed}
    )


class Faults:
    """Count the calls that change a file system, and let one of them fail."""

    def __init__(self, monkeypatch, module_functions, error=None):
        self.calls, self.fail_at = 0, None
        self.error = error or OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for module, name in module_functions:
            monkeypatch.setattr(module, name, self._watched(getattr(module, name)))

    def _watched(self, function):
        def call(*arguments, **options):
            self.calls += 1
            if self.calls - 1 == self.fail_at:
                raise self.error
            return function(*arguments, **options)

        return call

    def arm(self, call):
        self.calls, self.fail_at = 0, call


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run folder after training, with the text of its configuration."""
    base = tmp_path_factory.mktemp("finished")
    small_data(base)
    (base / "small.toml").write_bytes(INPUT.encode())
    folder = base / "run"
    assert train.main(["--config", str(base / "small.toml"), "--run-dir", str(folder), "-q"]) == 0
    return folder


# --------------------------------------------------------------------------- what a run leaves


def test_a_run_leaves_the_promised_files_and_no_others(finished):
    assert {path.name for path in finished.iterdir()} == FILES | {"checkpoints"}
    checkpoints = {path.name for path in (finished / "checkpoints").iterdir()}
    assert checkpoints == {"last.safetensors", "best.safetensors"}
    assert {path.name for path in finished.parent.iterdir()} == {"run", "small.npz", "small.toml"}


def test_the_configuration_is_kept_as_it_was_given(finished):
    assert (finished / "config.input.toml").read_bytes() == INPUT.encode()


def test_the_text_of_a_configuration_is_read_as_it_stands(finished):
    assert config_text(finished / "config.input.toml") == INPUT


def test_the_resolved_configuration_is_the_one_that_ran_with_absolute_paths(finished):
    resolved = load_config(finished / "config.resolved.toml")
    assert resolved == load_config(finished.parent / "small.toml")
    assert f'source = "{finished.parent / "small.npz"}"' in config_text(
        finished / "config.resolved.toml"
    )


def test_overrides_are_in_the_resolved_configuration_and_not_in_the_input(tmp_path):
    small_data(tmp_path)
    path = tmp_path / "small.toml"
    path.write_bytes(INPUT.encode())
    arguments = ["--config", str(path), "--run-dir", str(tmp_path / "run"), "-q"]
    arguments += ["--set", "optimizer.lr=0.125", "--seed", "11", "--set", "train.epochs=1"]
    assert train.main(arguments) == 0
    resolved = load_config(tmp_path / "run" / "config.resolved.toml")
    assert (resolved.optimizer.lr, resolved.seed, resolved.train.epochs) == (0.125, 11, 1)
    assert (tmp_path / "run" / "config.input.toml").read_bytes() == INPUT.encode()


def test_the_environment_says_what_the_run_ran_on(finished):
    env = strict_json((finished / "env.json").read_text())
    assert {"python", "platform", "cpu_count", "packages", "device", "blas"} <= set(env)
    assert env["packages"]["numpy"] == np.__version__
    assert env["device"] == "cpu"
    for pool in env["blas"]:
        assert pool["num_threads"] >= 1
        assert pool["internal_api"]


def test_the_environment_names_the_version_of_gpumlp_that_ran(finished):
    env = strict_json((finished / "env.json").read_text())
    assert env["packages"]["gpumlp"] == gpumlp.__version__


def test_the_environment_has_the_sha256_of_the_data(finished):
    env = strict_json((finished / "env.json").read_text())
    config = load_config(finished / "config.resolved.toml")
    assert env["data_sha256"] == fingerprint([load(config.data)[0]])
    assert len(env["data_sha256"]) == 64


@pytest.mark.parametrize("internal_api", ["mkl", "flexiblas"])
def test_the_environment_can_be_described_with_every_blas(internal_api, monkeypatch):
    # what threadpoolctl returns differs: MKL and FlexiBLAS have no "architecture"
    pool = {"user_api": "blas", "internal_api": internal_api, "version": "1", "num_threads": 4}
    openmp = {"user_api": "openmp", "internal_api": "openmp", "version": None, "num_threads": 2}
    monkeypatch.setattr(environment, "threadpool_info", lambda: [pool, openmp])
    blas = environment.describe(get_backend("cpu"))["blas"]
    assert [(one["internal_api"], one["num_threads"]) for one in blas] == [(internal_api, 4)]


def test_metrics_have_one_object_an_epoch(finished):
    records = [strict_json(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(1, EPOCHS + 1))
    steps = -(-36 // 10)  # 64 rows less a quarter, less a quarter, in batches of 10
    assert [record["step"] for record in records] == [steps, 2 * steps, 3 * steps]
    for record in records:
        assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= set(record)
        assert record["samples_per_s"] > 0
        assert record["seconds"] > 0


def test_metrics_csv_holds_what_metrics_jsonl_holds(finished):
    records = [strict_json(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    with (finished / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [list(row) for row in rows] == [list(record) for record in records]
    assert [[float(v) for v in row.values()] for row in rows] == [[*r.values()] for r in records]


def test_metrics_that_are_no_numbers_are_null_in_json(tmp_path):
    folder = make(tmp_path / "run")
    record = {"epoch": 1, "loss": 0.5, "seconds": 0.1, "val_loss": float("inf"), "auc": np.nan}
    trainer = type("Trainer", (), {"history": [record], "last_epoch": 1})
    folder.on_epoch_end(trainer, record)
    read = strict_json((folder.path / "metrics.jsonl").read_text())
    assert read == record | {"val_loss": None, "auc": None}


@pytest.mark.parametrize("csv_wanted", [True, False])
@pytest.mark.parametrize("jsonl_wanted", [True, False])
def test_a_metrics_file_is_written_if_it_is_wanted(jsonl_wanted, csv_wanted, tmp_path):
    wanted = {"jsonl": jsonl_wanted, "csv": csv_wanted}
    config = parse_config({"data": {"source": "builtin:digits"}, "log": wanted})
    folder = RunFolder.create(tmp_path / "run", config, "", {}, replace=False)
    folder.close()
    record = {"epoch": 1, "loss": 0.5, "seconds": 0.1}
    folder.on_epoch_end(type("Trainer", (), {"history": [record], "last_epoch": 1}), record)
    folder.write_summary({"status": "done"})
    metrics = {f"metrics.{name}" for name, given in wanted.items() if given}
    assert set(files_of(folder.path)) == (FILES - {"model.safetensors"}) - (
        {"metrics.jsonl", "metrics.csv"} - metrics
    )


@pytest.mark.parametrize("gradient_norms", [True, False])
def test_gradient_norms_are_in_the_metrics_if_they_are_wanted(gradient_norms, tmp_path):
    log = {"gradient_norms": gradient_norms}
    config = parse_config({"data": {"source": "builtin:digits"}, "log": log})
    folder = RunFolder.create(tmp_path / "run", config, "", {}, replace=False)
    folder.close()
    x, y = np.eye(4), np.arange(4) % 3
    callbacks = log_callbacks(folder, config.log, x, y)
    model = multilayer_perceptron([4, 5, 3])
    Trainer(model, SoftmaxCrossEntropy(), Adam(), callbacks=callbacks).fit(x, y, epochs=2)
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    header = (folder.path / "metrics.csv").read_text().splitlines()[0].split(",")
    expected = {"grad_norm_1", "grad_norm_2"} if gradient_norms else set()
    for names in (*map(strict_json, lines), header):
        assert {name for name in names if "grad" in name} == expected
    assert "grad_norm" not in (folder.path / "run.log").read_text()


def test_the_summary_has_the_promised_fields(finished):
    summary = strict_json((finished / "summary.json").read_text())
    assert set(summary) >= SUMMARY | {"val", "test"}
    assert summary["status"] == "done"
    assert (summary["epochs"], summary["steps"], summary["best_epoch"]) == (EPOCHS, 12, None)
    assert summary["parameters"] == 4 * 5 + 5 + 5 * 2 + 2
    assert (summary["device"], summary["precision"]) == ("cpu", "fp32")
    assert summary["engine"] in ENGINES
    assert summary["seconds"] > 0
    assert summary["samples_per_s"] > 0
    for part in ("train", "val", "test"):
        assert set(summary[part]) == {"loss", "accuracy"}
        assert 0 <= summary[part]["accuracy"] <= 1


def test_the_summary_agrees_with_the_last_epoch(finished):
    summary = strict_json((finished / "summary.json").read_text())
    last = strict_json((finished / "metrics.jsonl").read_text().splitlines()[-1])
    assert summary["val"] == {"loss": last["val_loss"], "accuracy": last["val_accuracy"]}


@pytest.mark.parametrize(
    ("splits", "parts"),
    [
        ([], {"train"}),
        (["data.val={fraction=0.25}"], {"train", "val"}),
        (["data.test={fraction=0.25}"], {"train", "test"}),
    ],
)
def test_parts_that_do_not_exist_are_absent_from_the_summary(splits, parts, tmp_path):
    small_data(tmp_path)
    path = tmp_path / "bare.toml"
    path.write_text('data.source = "small.npz"\ntrain.epochs = 1\n')
    arguments = ["--config", str(path), "--run-dir", str(tmp_path / "run"), "-q"]
    assert train.main([*arguments, *(f"--set={split}" for split in splits)]) == 0
    summary = strict_json((tmp_path / "run" / "summary.json").read_text())
    assert parts == {"train", "val", "test"} & set(summary)
    metrics = strict_json((tmp_path / "run" / "metrics.jsonl").read_text())
    assert ("val_loss" in metrics) == ("val" in parts)


def test_the_best_epoch_is_the_one_of_the_metrics(tmp_path):
    small_data(tmp_path)
    path = tmp_path / "small.toml"
    path.write_bytes(INPUT.encode())
    arguments = ["--config", str(path), "--run-dir", str(tmp_path / "run"), "-q"]
    arguments += ["--set", "early_stopping={patience=3}", "--set", "train.epochs=60"]
    assert train.main([*arguments, "--set", "optimizer.lr=0.5"]) == 0
    summary = strict_json((tmp_path / "run" / "summary.json").read_text())
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [strict_json(line)["val_loss"] for line in lines]
    assert summary["best_epoch"] == 1 + int(np.argmin(losses))
    assert summary["epochs"] == len(losses) == summary["best_epoch"] + 3
    assert summary["val"]["loss"] == min(losses)


def test_the_log_has_every_epoch_with_the_time_and_the_end(finished):
    lines = (finished / "run.log").read_text().splitlines()
    epochs = [line for line in lines if " epoch " in line]
    assert len(epochs) == EPOCHS
    assert all(line[:2] == "20" and line[19] == "Z" for line in lines)
    assert " done: " in lines[-1]


# --------------------------------------------------------------------------- whole, or not there


def test_a_folder_is_made_with_its_parents_and_holds_everything_at_once(tmp_path):
    folder = make(tmp_path / "a" / "b" / "run", seed=4)
    assert whole(folder.path, 4)
    assert [path.name for path in folder.path.parent.iterdir()] == ["run"]


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "run").mkdir()
    assert whole(make(tmp_path / "run", seed=5).path, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_new_run_replaces_the_old_one_whole(tmp_path):
    old = make(tmp_path / "run", seed=1)
    old.log("something")
    (old.path / "checkpoints").mkdir()
    assert whole(make(tmp_path / "run", replace=True, seed=2).path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("before", ["nothing", "empty", "a run"])
def test_a_failure_at_any_moment_leaves_the_old_state_or_the_new_one(before, tmp_path, monkeypatch):
    changes = [(os, "mkdir"), (os, "rename"), (os, "replace"), (io, "open")]
    faults = Faults(monkeypatch, changes)

    def state(base):
        """Prepare what was there before."""
        faults.arm(None)
        base.mkdir()
        if before == "empty":
            (base / "run").mkdir()
        if before == "a run":
            make(base / "run", seed=1)
        return base / "run"

    path = state(tmp_path / "count")
    faults.arm(None)
    make(path, replace=True, seed=2)
    calls, failures = faults.calls, 0
    for call in range(calls):
        path = state(tmp_path / str(call))
        faults.arm(call)
        try:
            make(path, replace=True, seed=2)
        except FileError:
            failures += 1
            left = [] if before == "nothing" else ["run"]
            wanted = {"a run": 1}.get(before)
        else:  # the call was one that may fail
            left, wanted = ["run"], 2
        faults.arm(None)
        assert [file.name for file in path.parent.iterdir()] == left, f"call {call} failed"
        if wanted is not None:
            assert whole(path, wanted), f"call {call} failed"
        elif left:
            assert not any(path.iterdir()), f"call {call} failed"
    assert failures >= 5  # the temporary folder, three files, a rename


def test_an_interrupt_while_it_is_made_leaves_nothing(tmp_path, monkeypatch):
    faults = Faults(monkeypatch, [(os, "rename")], KeyboardInterrupt())
    faults.arm(0)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "run")
    assert not any(tmp_path.iterdir())


def test_an_interrupt_while_a_run_is_replaced_leaves_the_old_one(tmp_path, monkeypatch):
    path = make(tmp_path / "run", seed=1).path
    faults = Faults(monkeypatch, [(os, "rename")], KeyboardInterrupt())
    faults.arm(2)
    with pytest.raises(KeyboardInterrupt):
        make(path, replace=True, seed=2)
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    assert whole(path, 1)


@pytest.fixture
def killed_between(tmp_path):
    """A folder as kill -9 leaves it between the two renames that replace a run."""
    make(tmp_path / "run", seed=1).path.rename(tmp_path / ".run.0123abcd.old")
    make(tmp_path / ".run.0123abcd.new", seed=2)
    return tmp_path / "run"


def test_a_run_whose_replacement_was_killed_comes_back(killed_between):
    assert restore(killed_between)
    assert whole(killed_between, 1)
    assert not restore(killed_between)
    assert whole(make(killed_between, replace=True, seed=3).path, 3)
    assert [file.name for file in killed_between.parent.iterdir()] == ["run"]


def test_a_run_that_is_being_replaced_by_a_living_process_is_left(killed_between):
    with take(killed_between.parent / ".run.0123abcd.old"):
        assert not restore(killed_between)
    assert not killed_between.exists()


def test_names_like_ours_are_not_ours(tmp_path):
    names = [".photos.new", "table.new", ".run.12345678.old", ".run.12345678.new"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("mine")
    assert not restore(tmp_path / "run")
    make(make(tmp_path / "run").path, replace=True)
    with pytest.raises(ConfigError, match="not a run folder"):
        make(tmp_path)
    folder = RunFolder(tmp_path / "run")
    mine = [folder.path / ".mine.tmp", folder.path / ".cache.tmp", folder.path / "a.77.tmp"]
    for path in mine:
        path.mkdir()
    folder.cut_back([])
    assert all((tmp_path / name / "x").read_text() == "mine" for name in names)
    assert all(path.exists() for path in mine)


def test_a_link_to_a_run_is_not_replaced_but_what_it_points_to(tmp_path):
    path = make(tmp_path / "run", seed=1).path
    (tmp_path / "link").symlink_to(path)
    make(tmp_path / "link", replace=True, seed=2)
    assert (tmp_path / "link").is_symlink()
    assert whole(path, 2)
    assert {file.name for file in tmp_path.iterdir()} == {"run", "link"}


def test_folders_are_on_the_disk_before_what_they_hold_is_a_run(tmp_path, monkeypatch):
    events = []
    for name in ("fsync", "rename"):
        function = getattr(os, name)

        def watched(*arguments, name=name, function=function):
            where = (
                arguments[0] if name == "rename" else os.readlink(f"/proc/self/fd/{arguments[0]}")
            )
            events.append((name, str(where).removeprefix(str(tmp_path))))
            return function(*arguments)

        monkeypatch.setattr(os, name, watched)
    make(tmp_path / "a" / "b" / "run")
    places = [where for name, where in events if name == "fsync"]
    assert places[:2] == ["/a", ""]
    assert places[-1] == "/a/b"
    *_, new = (where for name, where in events if name == "rename")
    assert events[-3:] == [("fsync", new), ("rename", new), ("fsync", "/a/b")]
    events.clear()
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    *_, before, marked, after, above = events
    assert (before, after, above) == (("fsync", "/empty"), ("fsync", "/empty"), ("fsync", ""))
    assert marked[1].endswith("config.resolved.toml")


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_that_is_no_run_is_refused_and_left(replace, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="not a run folder"):
        make(tmp_path / "run", replace)
    assert files_of(tmp_path / "run") == {"thesis.tex": b"mine"}


@pytest.mark.parametrize("replace", [False, True])
def test_a_file_in_the_way_is_refused_and_left(replace, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ConfigError, match="is a file"):
        make(tmp_path / "run", replace)
    assert (tmp_path / "run").read_text() == "mine"


def test_a_run_is_replaced_only_on_request(tmp_path):
    make(tmp_path / "run", seed=1)
    with pytest.raises(ConfigError, match="--overwrite"):
        make(tmp_path / "run", seed=2)
    assert whole(tmp_path / "run", 1)
    check_free(tmp_path / "run", replace=True)
    check_free(tmp_path / "other", replace=False)


def test_a_folder_below_a_file_is_a_file_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="file"):
        make(tmp_path / "file" / "run")


def test_the_default_path_has_the_name_the_time_in_utc_and_a_random_end():
    path = default_path("mnist")
    assert path.parent == Path("runs")
    name, stamp, end = path.name.split("-")
    assert name == "mnist"
    assert len(stamp) == len("20260102T030405Z")
    assert stamp[8] == "T"
    assert stamp[-1] == "Z"
    assert len(end) == 4
    assert len({default_path("mnist") for _ in range(5)}) > 1


# --------------------------------------------------------------------------- atomic writes


def test_an_atomic_write_makes_and_replaces_a_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert files_of(tmp_path) == {"file": b"new"}


def test_an_atomic_write_in_pieces_that_breaks_off_changes_nothing(tmp_path):
    def pieces(whole):
        yield from (b"ne", b"w")
        if not whole:
            raise DataError("no more")

    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(DataError):
        write_atomically(path, pieces(whole=False))
    assert files_of(tmp_path) == {"file": b"old"}
    write_atomically(path, pieces(whole=True))
    assert files_of(tmp_path) == {"file": b"new"}


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=["full", "interrupt"]
)
def test_a_failure_at_any_moment_of_a_write_leaves_the_old_file_or_the_new(
    old, error, tmp_path, monkeypatch
):
    path = tmp_path / "file"
    faults = Faults(monkeypatch, [(io, "open"), (os, "fsync"), (os, "replace")], error)

    def reset():
        faults.arm(None)
        path.unlink(missing_ok=True)
        if old is not None:
            path.write_bytes(old)

    reset()
    faults.arm(None)
    write_atomically(path, b"new")
    calls = faults.calls
    assert calls == 4  # open, fsync, replace, and fsync of the folder
    before = {} if old is None else {"file": old}
    for call in range(calls):
        reset()
        faults.arm(call)
        with pytest.raises((FileError, KeyboardInterrupt)):
            write_atomically(path, b"new")
        renamed = call == calls - 1
        assert files_of(tmp_path) == ({"file": b"new"} if renamed else before)


def test_a_write_that_does_not_fit_leaves_the_old_file(tmp_path):
    resource = pytest.importorskip("resource", reason="no limits on file sizes here")
    path = tmp_path / "file"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the system itself stops the write
    try:
        with pytest.raises(FileError, match=str(path)) as caught:
            write_atomically(path, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.exit_code == 6
    assert files_of(tmp_path) == {"file": b"old"}


def test_the_content_is_on_the_disk_before_the_name_points_to_it(tmp_path, monkeypatch):
    events = []
    for name in ("fsync", "replace"):
        function = getattr(os, name)

        def watched(*arguments, name=name, function=function):
            events.append(name)
            return function(*arguments)

        monkeypatch.setattr(os, name, watched)
    write_atomically(tmp_path / "file", b"new")
    assert events == ["fsync", "replace", "fsync"]


def test_metrics_are_on_the_disk_before_the_summary_says_that_all_is_done(tmp_path, monkeypatch):
    folder = make(tmp_path / "run")
    record = {"epoch": 1, "loss": 0.5, "seconds": 0.1}
    folder.on_epoch_end(type("Trainer", (), {"history": [record], "last_epoch": 1}), record)
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    folder.write_summary({"status": "done"})
    names = ["metrics.jsonl", "metrics.csv", "summary.json", "."]
    assert synced == [(folder.path / name).stat().st_ino for name in names]


def test_a_reader_never_sees_two_generations_mixed(tmp_path):
    path = tmp_path / "file"
    size = 300_000
    write_atomically(path, b"0" * size)
    done = threading.Event()

    def write():
        for generation in range(1, 60):
            write_atomically(path, b"%d" % (generation % 10) * size)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        content = path.read_bytes()
        assert len(content) == size
        assert content == content[:1] * size
        seen.add(content[:1])
    writer.join()
    assert len(seen) > 1
