"""`gpumlp report`: one HTML page that is whole, opens offline, and obeys no text of the run."""

import base64
import json
import re
import shutil
import struct
import zlib
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
from in_process import call

from gpumlp import plots, train
from gpumlp.report_page import page
from gpumlp.report_page.captions import CAPTIONS
from gpumlp.report_page.late_plots import draw_late
from gpumlp.report_page.run_reading import read_run

VOID = {"meta", "img", "br", "link", "hr", "input"}
EVIL = ["<script>alert(1)</script>", "\"'><img src=http://evil.example/x>", "&amp;</style>", "类别"]
TASKS = {
    "multiclass": ("digits", ["train.epochs=2"]),
    "binary": ("breast_cancer", ["train.epochs=2", "log.plots=false"]),
    "regression": ("diabetes", ["train.epochs=2"]),
    "multilabel": ("many.toml", []),
    "perceptron": ("digits", ["train.epochs=1", "model.hidden=[]", "log.plots=false"]),
}
MANY = """
name = "many"
[data]
source = "many.npz"
features = "x"
target = "y"
[model]
task = "multilabel"
[train]
epochs = 2
"""
EVIL_CONFIG = """
# <script>alert("comment")</script>
name = "evil"
[data]
source = "evil.csv"
target = "</script><b>"
[train]
epochs = 1
[log]
plots = false
"""


class Page(HTMLParser):
    """What a page holds; fails for tags that are not closed in order."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def images(self):
        found = [value for tag, name, value in self.attributes if (tag, name) == ("img", "src")]
        return [base64.b64decode(value.removeprefix("data:image/png;base64,")) for value in found]


def check(source):
    """A page that is whole and asks nothing of the world outside."""
    found = Page(source)
    assert source.startswith("<!DOCTYPE html>")
    assert not {"script", "link", "iframe", "object", "base", "form", "a"} & set(found.tags)
    for tag, name, value in found.attributes:
        assert name not in ("href", "srcset", "action", "background", "style")
        assert not name.startswith("on")
        assert name != "src" or (tag == "img" and value.startswith("data:image/png;base64,"))
        assert name == "alt" or "//" not in (value or "") or value.startswith("data:")
    (css,) = re.findall(r"<style>(.*?)</style>", source, re.S)
    assert not re.search(r"url\(|@import|https?:", css)
    assert css.count("{") == css.count("}")
    assert "prefers-color-scheme: dark" in css
    assert "@media print" in css
    alts = [value for tag, name, value in found.attributes if (tag, name) == ("img", "alt")]
    assert len(alts) == len(found.images()) == found.tags.count("figcaption")
    assert all(len(alt) > 20 for alt in alts)
    for png in found.images():
        assert_decodes(png)
    return found


def assert_decodes(png):
    """Every chunk of a PNG has its checksum, and its pixels unpack."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    place, pixels, names = 8, b"", []
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        chunk = png[place + 4 : place + 8 + length]
        assert struct.unpack(">I", png[place + 8 + length : place + 12 + length])[0] == zlib.crc32(
            chunk
        )
        names.append(chunk[:4])
        pixels += chunk[4:] if chunk[:4] == b"IDAT" else b""
        place += 12 + length
    assert (names[0], names[-1]) == (b"IHDR", b"IEND")
    assert zlib.decompress(pixels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with data."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    np.savez(folder / "many.npz", x=x, y=(x[:, :3] > 0).astype(int))
    (folder / "many.toml").write_text(MANY)
    rows = [f'{i},"{EVIL[i % 4].replace(chr(34), 2 * chr(34))}"' for i in range(40)]
    (folder / "evil.csv").write_text("\n".join(["a,</script><b>", *rows]) + "\n", encoding="utf-8")
    (folder / "evil.toml").write_text(EVIL_CONFIG)
    return folder


@pytest.fixture(scope="module")
def runs(folder):
    """Train a task once, with a name for its folder; return the folder."""
    done = {}

    def of(task):
        if task not in done:
            config, sets = TASKS.get(task, (f"{task}.toml", []))
            source = folder / config if config.endswith(".toml") else config
            words = [word for setting in sets for word in ("--set", setting)]
            done[task] = folder / f"run of {task}"
            arguments = ["--config", str(source), "--run-dir", str(done[task]), "-q", *words]
            assert train.main(arguments) == 0
        return done[task]

    return of


@pytest.fixture
def copied(runs, tmp_path):
    """A copy of a small run, to be changed."""
    page = shutil.ignore_patterns("report.html")
    return shutil.copytree(runs("multilabel"), tmp_path / "run", ignore=page)


@pytest.fixture
def report(capsys):
    return partial(call, capsys, "report")


# --------------------------------------------------------------------------- the page of a run


@pytest.mark.parametrize(
    ("task", "pictures"),
    [
        ("multiclass", {"confusion_matrix", "features", "first_layer"}),
        ("binary", {"confusion_matrix", "thresholds", "features", "first_layer"}),
        ("regression", {"predictions", "residuals", "features", "first_layer"}),
        ("multilabel", {"features", "first_layer"}),
        ("perceptron", {"confusion_matrix", "features", "first_layer"}),
    ],
)
def test_each_task_has_a_whole_page_with_all_its_pictures(task, pictures, runs, report):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    run = runs(task)
    out = run / "report.html"
    assert report(run, "--overwrite") == (0, f"{out}\n", "")
    found = check(out.read_text(encoding="utf-8"))
    every = pictures | {"history", "learning_rate", "gradient_norms"}
    assert {path.stem for path in (run / "plots").iterdir()} == every
    drawn = [(run / "plots" / f"{stem}.png").read_bytes() for stem in CAPTIONS if stem in every]
    assert found.images() == drawn
    for stem in every:
        assert CAPTIONS[stem].sentence in found.text
    summary = json.loads((run / "summary.json").read_text())
    assert f"{summary['train']['loss']:.4f}" in found.text
    assert f"{summary['parameters']:,}" in found.text
    for words in ("done", "Results", "Epochs", "Network", "Use the model", "Environment"):
        assert words in found.text
    assert "gpumlp train --config " in found.text
    assert "load_model(" in found.text
    assert "Not everything is here" not in found.text
    assert len(out.read_bytes()) < 500_000


def test_the_same_run_gives_the_same_page(runs, report, tmp_path):
    for name in ("a.html", "b.html"):
        assert report(runs("multilabel"), "--out", tmp_path / name)[0] == 0
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_python_on_the_page_works(runs, report, tmp_path):
    run = runs("multiclass")
    report(run, "--out", tmp_path / "page.html")
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    (code,) = [c for c in re.findall(r"<code>(.*?)</code>", source, re.S) if "load_model" in c]
    names = {"rows": np.zeros((2, 64))}
    exec(code.replace("&#x27;", "'"), names)
    assert len(names["answers"]) == 2
    assert code.count("\n") == 3


def test_nothing_that_a_run_says_is_taken_for_html(runs, report, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    run = shutil.copytree(runs("evil"), tmp_path / "evil <b>&run")
    summary = json.loads((run / "summary.json").read_text())
    summary |= {"status": EVIL[1], "stop_reason": EVIL[0], "device": EVIL[0], "engine": [EVIL[1]]}
    summary["test"] = {EVIL[0]: 1.0}
    (run / "summary.json").write_text(json.dumps(summary))
    environment = {EVIL[0]: EVIL[1], "command": EVIL, "packages": {EVIL[0]: "\ud800"}, "blas": EVIL}
    (run / "env.json").write_text(json.dumps(environment))
    with (run / "run.log").open("a") as log:
        log.write(f"{EVIL[2]} \x07\x1b[31m\n")
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"epoch": 2, EVIL[1]: 0.5}) + "\n")
    assert report(run)[0] == 0
    source = (run / "report.html").read_text(encoding="utf-8")
    found = check(source)
    for text in EVIL:
        assert text in found.text
    assert "</script><b>" in found.text
    assert not re.search("<script|evil.example/x>|[\x07\x1b]", source)


def test_the_pictures_of_the_run_are_taken_as_they_are(copied, report):
    (copied / "plots").mkdir(exist_ok=True)
    for path in (copied / "plots").iterdir():
        path.unlink()
    png = minimal_png()
    (copied / "plots" / "history.png").write_bytes(png)
    (copied / "plots" / "my own.png").write_bytes(png)
    assert report(copied)[0] == 0
    assert check((copied / "report.html").read_text(encoding="utf-8")).images() == [png]
    assert {p.name for p in (copied / "plots").iterdir()} == {"history.png", "my own.png"}


def minimal_png():
    """One grey pixel."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0\x80")),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def test_the_best_epoch_is_among_the_epochs_in_numbers(copied):
    run = read_run(copied)
    run.records = [{"epoch": i, "loss": 1.0, "val_loss": abs(i - 3)} for i in range(1, 31)]
    assert "3 (lowest validation loss)" in Page(page(run, {})).text
    assert "The last 10 of 30 epochs, and the best one" in Page(page(run, {})).text
    assert "3 (best)" in Page(page(run, {})).text
    run.summary["best_epoch"] = 25
    assert "25 (best)" in Page(page(run, {})).text


# --------------------------------------------------------------------------- odd runs


def test_a_run_that_has_not_ended_says_so_and_keeps_no_plots(copied, report):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    (copied / "summary.json").unlink()
    (copied / "model.safetensors").unlink()
    shutil.rmtree(copied / "plots", ignore_errors=True)
    assert report(copied)[0] == 0
    found = check((copied / "report.html").read_text(encoding="utf-8"))
    assert "unfinished" in found.text
    assert "There is no summary" in found.text
    assert "without a model only the course of training can be drawn" in found.text
    assert len(found.images()) == 3
    assert not (copied / "plots").exists()


def test_a_diverged_run_has_its_reason(folder, report, tmp_path):
    run = tmp_path / "run"
    sets = ["--set", "optimizer.name=sgd", "--set", "optimizer.lr=1e30", "--set", "log.plots=false"]
    assert train.main(["--config", "diabetes", "--run-dir", str(run), "-q", *sets]) == 4
    assert report(run)[0] == 0
    found = check((run / "report.html").read_text(encoding="utf-8"))
    assert "diverged" in found.text
    assert "Try a smaller learning rate" in found.text
    assert "No epoch was recorded" in found.text
    assert "without a model there is nothing to draw" in found.text
    assert not (run / "plots").exists()


def test_without_matplotlib_the_page_says_what_to_install(copied, report, monkeypatch):
    shutil.rmtree(copied / "plots", ignore_errors=True)
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    assert report(copied)[0] == 0
    found = check((copied / "report.html").read_text(encoding="utf-8"))
    assert 'pip install "gpumlp[plot]"' in found.text
    assert found.images() == []


@pytest.mark.parametrize("change", ["data", "gone", "fingerprint"])
def test_without_its_data_a_run_has_the_plots_that_need_none(change, copied, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    run = read_run(copied)
    other = tmp_path / "many.npz"
    data = run.model.config.data.model_copy(update={"source": str(other)})
    if change == "data":
        np.savez(other, x=np.ones((9, 4)), y=np.eye(3, dtype=int)[np.arange(9) % 3])
    if change == "fingerprint":
        run.environment["data_sha256"] = "0"
    else:
        run.model.config = run.model.config.model_copy(update={"data": data})
    drawn, lacking = draw_late(run)
    assert set(drawn) == {"history", "learning_rate", "gradient_norms", "first_layer"}
    assert ("no such file" in lacking.lower()) == (change == "gone")
    assert ("not what the model was trained on any more" in lacking) == (change != "gone")


def test_what_is_drawn_later_is_what_the_training_drew(runs):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    run = read_run(runs("regression"))
    drawn, lacking = draw_late(run)
    assert lacking == ""
    # norms before the first step are in no file
    assert {stem for stem, png in drawn.items() if png != run.plots[stem]} == {"gradient_norms"}
    assert set(drawn) == set(run.plots)


def test_plots_that_cannot_be_kept_are_on_the_page_all_the_same(copied, report):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    shutil.rmtree(copied / "plots", ignore_errors=True)
    (copied / "plots").write_text("mine")
    assert report(copied)[0] == 0
    found = check((copied / "report.html").read_text(encoding="utf-8"))
    assert "plots could not be kept" in found.text
    assert len(found.images()) == 5
    assert (copied / "plots").read_text() == "mine"


def test_a_plot_that_fails_costs_no_page(copied, report, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")

    def broken(run):
        raise RuntimeError("<no ink>")

    shutil.rmtree(copied / "plots", ignore_errors=True)
    monkeypatch.setattr("gpumlp.commands.report.draw_late", broken)
    assert report(copied)[0] == 0
    found = check((copied / "report.html").read_text(encoding="utf-8"))
    assert "the plots could not be drawn: RuntimeError('<no ink>')" in found.text


def test_a_damaged_run_has_a_page_that_names_the_damage(copied, report):
    for name in ("config.resolved.toml", "env.json", "summary.json", "metrics.jsonl", "run.log"):
        (copied / name).write_bytes(b"\xff{<")
    (copied / "model.safetensors").write_bytes(b"")
    assert report(copied)[0] == 0
    found = check((copied / "report.html").read_text(encoding="utf-8"))
    for name in ("config.resolved.toml", "env.json", "summary.json", "metrics.jsonl", "model"):
        assert name in found.text


@pytest.mark.parametrize("value", [None, True, "x", [], {}, 1e400, float("nan"), -1, 10**400])
def test_no_value_of_a_summary_breaks_the_page(value, copied):
    run = read_run(copied)
    run.summary = dict.fromkeys([*run.summary, "test", "val", "stop_reason", "best_epoch"], value)
    check(page(run, {}))
    run.summary = {"status": "done", "train": {"loss": value}}
    run.environment = dict.fromkeys([*run.environment, "packages", "blas", "command"], value)
    check(page(run, {}))


# --------------------------------------------------------------------------- the command


def test_a_page_is_not_overwritten_unless_that_is_wanted(copied, report):
    out = copied / "report.html"
    out.write_text("mine")
    code, _, err = report(copied)
    assert (code, out.read_text()) == (2, "mine")
    assert "--overwrite replaces it" in err
    assert report(copied, "--overwrite")[0] == 0
    check(out.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("out", "code", "problem"),
    [
        ("page.txt", 2, "must end in .html"),
        ("folder.html", 2, "is a folder"),
        ("no/page.html", 6, "no such folder"),
    ],
)
def test_an_output_that_cannot_be_is_an_error(out, code, problem, copied, report, tmp_path):
    (tmp_path / "folder.html").mkdir()
    found = report(copied, "--out", tmp_path / out)
    assert (found[0], found[1]) == (code, "")
    assert problem in found[2]


def test_a_folder_without_a_run_is_a_file_error(report, tmp_path):
    code, _, err = report(tmp_path)
    assert code == 6
    assert "not a run folder" in err
    assert report(tmp_path / "none")[0] == 6


def test_help_says_what_it_does(report):
    code, out, _ = report("--help")
    assert code == 0
    assert "HTML" in out
    assert "--overwrite" in out
