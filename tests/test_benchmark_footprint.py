"""The benchmark of import, start, memory and disk: every script runs, and the figures add up."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import footprint  # noqa: E402
from tables import footprint_lines  # noqa: E402


def test_the_quick_run_measures_import_start_and_disk(tmp_path, capsys):
    out = tmp_path / "out.json"
    options = ["--quick", "--rounds", "1", "--peers", "none", "--out", str(out)]
    assert footprint.main(options) == 0
    rows = json.loads(out.read_text())["rows"]
    found = {(row["what"], row["system"]): row for row in rows}
    assert set(found) == {
        ("import", "numpy"),
        ("import", "gpumlp"),
        ("first step", "gpumlp"),
        ("disk", "gpumlp"),
    }
    assert found["first step", "gpumlp"]["seconds"]["median"] > 0
    assert found["disk", "gpumlp"]["bytes"]["median"] > 1e7  # NumPy is required
    assert all(row["ratio"] == 1 for row in rows if row["system"] == "gpumlp")
    assert "import of gpumlp - import of numpy:" in capsys.readouterr().out


def test_the_script_of_an_epoch_ends_with_its_peak_of_memory():
    small = footprint.MNIST.replace("60000", "500")
    begin = "device = 'cpu'\nfolder = ''\n"
    _, output = footprint.fresh(begin + small + footprint.EPOCH["gpumlp"] + footprint.PEAK)
    assert 2e7 < float(output.split()[-1]) < 2e9


def test_a_script_that_fails_exits_1_with_its_error(monkeypatch, capsys):
    monkeypatch.setitem(footprint.FIRST_STEP, "gpumlp", "raise SystemExit('no such thing')")
    assert footprint.main(["--quick", "--rounds", "1", "--peers", "none"]) == 1
    assert "no such thing" in capsys.readouterr().err


def test_the_peers_scripts_take_a_first_step():
    pytest.importorskip("torch")
    seconds, _ = footprint.fresh(
        "device = 'cpu'\n" + footprint.DATA + footprint.FIRST_STEP["torch"]
    )
    assert seconds > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--peers", "magic"], "peer 'magic' is unknown or not installed"),
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
        {"what": "disk", "system": "gpumlp", "bytes": {"median": 9e7}, "ratio": 1.0},
        {"what": "disk", "system": "torch", "bytes": {"median": 9e8}, "ratio": 10.0},
    ]
    assert footprint_lines(rows) == [
        "|  | gpumlp | numpy | torch |",
        "| --- | ---: | ---: | ---: |",
        "| import, s | 0.125 | 0.100 (**0.80**) |  |",
        "| on the disk, MB | 90.0 |  | 900 (10.0) |",
    ]
