"""The benchmark of import, start, memory and disk: every script runs, and the figures add up."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import footprint  # noqa: E402
import footprint_scripts as scripts  # noqa: E402
from tables import footprint_lines  # noqa: E402
from worker import WorkerError  # noqa: E402

from gpumlp.data.mnist import STEMS  # noqa: E402


def test_the_quick_run_measures_import_start_and_disk(tmp_path, capsys):
    out = tmp_path / "out.json"
    options = ["--quick", "--rounds", "1", "--peers", "none", "--out", str(out)]
    assert footprint.main(options) == 0
    results = json.loads(out.read_text())
    assert set(results) == {"environment", "rows"}
    assert results["environment"]["systems"]["numpy"]["versions"]["numpy"] == np.__version__
    rows = results["rows"]
    both = [(what, system) for what in ("import", "first step") for system in ("numpy", "gpumlp")]
    expected = [*both, ("command", "gpumlp"), ("disk", "numpy"), ("disk", "gpumlp")]
    assert [(row["what"], row["system"]) for row in rows] == expected
    found = {(row["what"], row["system"]): row for row in rows}
    for what in ("first step", "command"):  # each starts with the import
        assert (
            found[what, "gpumlp"]["seconds"]["median"] > found["import", "numpy"]["seconds"]["min"]
        )
    assert found["disk", "gpumlp"]["bytes"]["median"] > found["disk", "numpy"]["bytes"]["median"]
    assert all(row["ratio"] == 1 for row in rows if row["system"] == "gpumlp")
    printed = capsys.readouterr().out
    assert printed.startswith("import of gpumlp - import of numpy, in the same round:")
    assert printed.splitlines()[-1].startswith("ratio: theirs / ours")


def run(code):
    return [line for _, line in footprint.lines_of(scripts.python(code))]


BY_LAYERS = """
((w, b), (v, c)) = layers
print((((1 / (1 + np.exp(-(x @ w + b)))) @ v + c).argmax(axis=1) == y).mean())"""
ACCURACY = {
    "numpy": BY_LAYERS,
    "gpumlp": "print(trainer.history[-1]['accuracy'])",
    "torch": "print((model(x).argmax(axis=1) == y).float().mean().item())",
    "jax": BY_LAYERS,
    "sklearn": "print(network.score(x, y))",
}


@pytest.mark.parametrize("system", ACCURACY)
def test_every_script_learns_the_digits_and_then_says_so(system):
    pytest.importorskip(system)
    begin = f"path = {str(scripts.shipped_file('digits'))!r}\n" + scripts.DIGITS
    command = scripts.training(system, begin, "cpu", (64, 20, 10), 8, None, lr=0.1)
    *_, done, accuracy = run(command[-1] + ACCURACY[system])
    assert done == scripts.DONE
    assert float(accuracy) > 0.5  # a tenth by chance, and this is the first epoch


@pytest.mark.parametrize("zipped", ["", ".gz"])
def test_peers_read_the_pixels_that_our_loader_reads(zipped, tmp_path):
    rng = np.random.default_rng(0)
    files = []
    for stem, n in zip(STEMS, (5, 5, 3, 3), strict=True):
        shape = (n, 28, 28) if "images" in stem else (n,)
        head = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
        path = tmp_path / f"{stem}{zipped}"
        with (gzip.open if zipped else open)(path, "wb") as file:
            file.write(head + rng.integers(0, 10, shape, np.uint8).tobytes())
        files.append(str(path))
    begin = f"import numpy as np\nfiles = {files!r}\n"
    end = "\nprint(x.shape, x.dtype, y.dtype, x.sum(axis=1).tolist(), y.tolist())"
    ours, theirs = (
        run(f"{begin}{scripts.MNIST[who]}{scripts.PIXELS[who]}x = x * np.float32({scale}){end}")
        for who, scale in (("gpumlp", 1 / 255), ("others", 1))
    )
    assert ours == theirs
    assert ours[0].startswith("(5, 784) float32 int64 ")


def test_the_peak_of_memory_is_that_of_the_script_alone():
    held = np.ones(40_000_000)  # 320 MB of this process are not the script's
    small, large = (
        footprint.printed(scripts.python(f"import numpy as np\nx = np.ones({n})\n{scripts.PEAK}"))
        for n in (1, 10_000_000)
    )
    assert 7e7 < large - small < 9e7
    assert 5e6 < small < (held.nbytes if Path("/proc/self/status").exists() else 4e9)


def test_the_script_of_an_epoch_prints_its_peak_of_memory():
    peak = footprint.printed(scripts.epoch("gpumlp", "cpu", [], images=500))
    assert 2e7 < peak < 2e9


def test_a_size_counts_each_distribution_once_however_it_is_spelled():
    seen = set()
    assert footprint.installed_size("gpumlp", seen) > footprint.installed_size("numpy", set()) > 1e6
    assert footprint.installed_size("typing-extensions", seen) == 0
    assert footprint.installed_size("Typing.Extensions", set()) > 0
    assert footprint.installed_size("no-such-distribution", set()) == 0


class Editable:
    """What importlib.metadata knows of an editable install: not its modules."""

    files = ()
    requires = ("numpy; extra == 'x'",)


def test_an_editable_install_counts_the_files_of_the_checkout(monkeypatch):
    monkeypatch.setattr(footprint, "distribution", lambda name: Editable)
    files = [path for path in footprint.editable_files() if path.is_file()]
    assert {"trainer.py", "native.cpp", "digits.toml"} <= {path.name for path in files}
    size = sum(path.stat().st_size for path in files)
    assert footprint.installed_size("gpumlp", set()) == size


def test_a_script_without_a_first_step_is_an_error():
    with pytest.raises(WorkerError, match="no line begins with 'epoch 1'"):
        footprint.until_step(scripts.python("print('hello')"))


def test_a_script_that_fails_exits_1_with_its_error(monkeypatch, capsys):
    monkeypatch.setitem(scripts.TRAIN, "gpumlp", "raise SystemExit('no such thing')")
    assert footprint.main(["--quick", "--rounds", "1", "--peers", "none"]) == 1
    assert "no such thing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--peers", "magic"], "peer 'magic' is unknown or not installed"),
        (["--device", "cuda", "--peers", "sklearn"], "peer 'sklearn' is unknown or not installed"),
        (["--rounds", "0"], "rounds must be at least 1"),
        (["--out", "nowhere/x.json"], "there is no folder nowhere"),
    ],
)
def test_a_wrong_option_exits_2_and_is_named(options, message, capsys):
    with pytest.raises(SystemExit) as caught:
        footprint.parse(options)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_it_runs_as_a_script():
    command = [sys.executable, BENCHMARKS / "footprint.py", "--help"]
    assert "--quick" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_readmes_table_has_a_column_for_each_system():
    rows = [
        {"what": "import", "system": "numpy", "seconds": {"median": 0.1}, "ratio": 0.8},
        {"what": "import", "system": "gpumlp", "seconds": {"median": 0.125}, "ratio": 1.0},
        {"what": "command", "system": "gpumlp", "seconds": {"median": 0.5}, "ratio": 1.0},
        {"what": "disk", "system": "gpumlp", "bytes": {"median": 9e7}, "ratio": 1.0},
        {"what": "disk", "system": "torch", "bytes": {"median": 9e8}, "ratio": 10.0},
    ]
    assert footprint_lines(rows) == [
        "|  | gpumlp | numpy | torch |",
        "| --- | ---: | ---: | ---: |",
        "| import, s | 0.125 | 0.100 (**0.80**) |  |",
        "| gpumlp.train to first step, s | 0.500 |  |  |",
        "| on the disk, MB | 90.0 |  | 900 (10.0) |",
    ]
