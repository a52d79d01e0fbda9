"""A run folder is read whatever state it is in: what is damaged is named, the rest is there."""

import json
import os
import shutil
from time import process_time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpumlp import train
from gpumlp.errors import FileError
from gpumlp.report_page.run_reading import read_run

SMALL = ["train.epochs=3", "model.hidden=[4]", "log.plots=false", "data.val={fraction=0.2}"]
PNG = b"\x89PNG\r\n\x1a\n" + 40 * b"." + b"IEND\xaeB`\x82"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("run") / "a run"
    sets = [word for setting in SMALL for word in ("--set", setting)]
    arguments = ["--config", "breast_cancer", "--run-dir", str(folder), "-q", *sets]
    assert train.main(arguments) == 0
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy of it to be damaged."""
    return shutil.copytree(made, tmp_path / "run")


def test_a_whole_run_is_read_without_problems(made):
    run = read_run(made)
    assert run.problems == []
    assert (run.name, run.status, run.best_epoch) == ("breast_cancer", "done", None)
    assert [record["epoch"] for record in run.records] == [1, 2, 3]
    summary = json.loads((made / "summary.json").read_text())
    assert run.metrics("test") == summary["test"]
    assert run.metrics("nothing") == {}
    assert run.config == run.model.config
    assert run.plots == {}
    assert any("3 epochs" in line for line in run.log)


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_what_is_no_run_folder_is_a_file_error(kind, tmp_path):
    path = tmp_path / "it"
    if kind == "file":
        path.write_text("")
    if kind == "empty":
        path.mkdir()
    with pytest.raises(FileError, match=r"it: (no such folder|is a file|not a run folder)"):
        read_run(path)


def test_a_run_without_summary_is_unfinished(folder):
    (folder / "summary.json").unlink()
    (folder / "model.safetensors").unlink()
    run = read_run(folder)
    assert run.status == "unfinished"
    assert run.problems == []  # so it has to be
    assert len(run.records) == 3


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("summary.json", b"{", "summary.json is damaged"),
        ("summary.json", b"[1, 2]", "summary.json is damaged"),
        ("summary.json", b"[" * 100_000, "summary.json is damaged"),
        ("summary.json", b"\xff\xfe", "summary.json is damaged"),
        ("env.json", b"null", "env.json is damaged"),
        ("env.json", None, "env.json is missing"),
        ("model.safetensors", b"x" * 100, "cannot be read as a model"),
        ("model.safetensors", None, "model.safetensors is missing"),
        ("config.resolved.toml", b"name = ", "config.resolved.toml is damaged"),
        ("config.resolved.toml", b"new_key = 1", "does not understand the configuration"),
        ("plots/history.png", b"not a picture", "plots/history.png is no whole PNG file"),
        ("plots/history.png", PNG[:-4], "plots/history.png is no whole PNG file"),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_read(folder, name, content, problem):
    (folder / "plots").mkdir()
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    run = read_run(folder)
    assert any(problem in text for text in run.problems)
    assert len(run.records) == 3
    assert run.plots == {}


def test_damaged_lines_of_the_metrics_are_counted_and_left_out(folder):
    good = (folder / "metrics.jsonl").read_text().splitlines()
    bad = ["{", "[]", '{"loss": 1}', '{"epoch": "1"}', '{"epoch": -1}', '{"epoch": NaN}', "\0"]
    huge = '{"epoch": 1' + 400 * "0" + "}"
    (folder / "metrics.jsonl").write_text("\n".join([good[0], *bad, huge, "", good[2][:-3]]) + "\n")
    run = read_run(folder)
    assert [record["epoch"] for record in run.records] == [1]
    assert run.problems == ["metrics.jsonl: lines 2, 3, 4, 5, 6, ... damaged and left out"]


def test_values_that_are_no_numbers_are_not_taken_for_such(folder):
    line = '{"epoch": 1.0, "loss": "high", "lr": true, "val_loss": null, "accuracy": 0.5}\n'
    (folder / "metrics.jsonl").write_text(line)
    assert read_run(folder).records == [{"epoch": 1, "val_loss": None, "accuracy": 0.5}]


def test_without_jsonl_the_csv_is_read(made, folder):
    (folder / "metrics.jsonl").unlink()
    assert read_run(folder).records == read_run(made).records
    with (folder / "metrics.csv").open("a") as file:
        file.write("4,x\n")
    run = read_run(folder)
    assert run.records == read_run(made).records
    assert run.problems == ["metrics.csv: line 5 damaged and left out"]
    (folder / "metrics.csv").unlink()
    assert read_run(folder).records == []


@pytest.mark.parametrize("line", ["9" * 2**18, '"' + "9" * 2**18, "3," * 99])
@pytest.mark.parametrize("first", [True, False], ids=["header", "row"])
def test_a_line_of_the_csv_that_is_none_is_left_out(folder, line, first):
    (folder / "metrics.jsonl").unlink()
    good = (folder / "metrics.csv").read_text()
    (folder / "metrics.csv").write_text(f"{line}\n{good}" if first else f"{good}{line}\n")
    run = read_run(folder)
    no_names = first and line.startswith("3,")  # of columns: what is no line at all is skipped
    assert len(run.records) == (0 if no_names else 3)
    assert any("damaged and left out" in problem for problem in run.problems)


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX file system")
def test_a_pipe_is_not_waited_for(folder):
    (folder / "summary.json").unlink()
    os.mkfifo(folder / "summary.json")
    assert "summary.json cannot be read: not a file" in read_run(folder).problems


def test_whole_pictures_are_read(folder):
    (folder / "plots").mkdir()
    (folder / "plots" / "history.png").write_bytes(PNG)
    (folder / "plots" / "notes.txt").write_text("mine")
    assert read_run(folder).plots == {"history": PNG}


def test_a_file_that_cannot_be_read_is_named(folder):
    (folder / "summary.json").unlink()
    (folder / "summary.json").mkdir()
    run = read_run(folder)
    assert any(text.startswith("summary.json cannot be read: ") for text in run.problems)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.sampled_from(["metrics.jsonl", "summary.json", "env.json"]))
def test_no_content_is_an_error(folder, content, name):
    before = (folder / name).read_bytes()
    (folder / name).write_bytes(content)
    read_run(folder)
    (folder / name).write_bytes(before)


def test_of_a_log_without_an_end_the_end_is_read(folder):
    with (folder / "run.log").open("ab") as log:
        log.truncate(2**34)  # of which the disk holds nothing
        log.seek(0, os.SEEK_END)
        log.write(b"\nthe end\n" * 30)
    began = process_time()
    run = read_run(folder)
    assert process_time() - began < 5
    assert run.problems == []
    assert run.log[-2:] == ["", "the end"]
    assert len(run.log) == 20


@pytest.mark.parametrize(
    "name", ["config.resolved.toml", "env.json", "summary.json", "metrics.jsonl", "plots/a.png"]
)
def test_a_file_that_is_too_large_is_left_out_and_named(folder, name):
    (folder / "plots").mkdir(exist_ok=True)
    with (folder / name).open("ab") as file:
        file.truncate(2**34)
    began = process_time()
    problems = read_run(folder).problems
    assert process_time() - began < 5
    assert f"{name} is left out: more than 67 MB" in problems


@pytest.mark.parametrize("text", [f"a{'.a' * 500_000} = 1", "a = " + "[" * 500_000])
def test_a_configuration_of_endless_keys_is_damaged(folder, text):
    (folder / "config.resolved.toml").write_text(text)
    began = process_time()
    problems = read_run(folder).problems
    assert process_time() - began < 5
    assert any("config.resolved.toml is damaged: tables or lists nested" in p for p in problems)
