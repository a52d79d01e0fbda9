"""benchmarks/wide_vs_deep.py: its quick form, its arithmetic, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpumlp

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
with pytest.MonkeyPatch.context() as patch:
    before = set(sys.modules)
    patch.syspath_prepend(str(BENCHMARKS))
    import wide_vs_deep

    for name in set(sys.modules) - before:  # names as short as "report" are left to others
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == BENCHMARKS:
            del sys.modules[name]


def run(*arguments):
    paths = [str(Path(gpumlp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "wide_vs_deep.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )


def test_a_quick_run_writes_rows_figure_and_table(tmp_path):
    pytest.importorskip("matplotlib")
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    done = run("--quick", "--out", str(out), "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    assert set(results) == {"environment", "rows"}
    assert results["environment"]["cpu"]
    rows = results["rows"]
    expected = [
        (name, budget, depth)
        for name in ("curve", "digits")
        for budget in wide_vs_deep.RECIPES[name].budgets[1:3]
        for depth in wide_vs_deep.DEPTHS
    ]
    assert [(row["data"], row["budget"], row["depth"]) for row in rows] == expected
    for row in rows:
        assert len(row["hidden"]) == row["depth"]
        assert row["parameters"] == pytest.approx(row["budget"], rel=0.05)
        assert row["errors"] == [row["mean"]]
        assert 0 < row["mean"] < 1
        assert row["sd"] == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    lines = done.stdout.splitlines()
    assert sum(line.startswith(("curve", "digits")) for line in lines) == len(rows)
    assert sum(line.endswith("*") for line in lines) >= 4
    assert lines[-1].startswith("error: mean over the seeds")


@given(
    n_in=st.integers(1, 800),
    n_out=st.integers(1, 10),
    depth=st.integers(1, 8),
    budget=st.integers(1, 100_000),
)
def test_no_other_widths_of_the_kind_come_closer_to_a_budget(n_in, n_out, depth, budget):
    hidden = wide_vs_deep.widths(n_in, n_out, depth, budget)
    assert len(hidden) == depth
    assert max(hidden) - min(hidden) <= 1
    distance = abs(wide_vs_deep.count(n_in, hidden, n_out) - budget)
    for change in (-1, 1):  # one unit less in the widest layer, one more in the narrowest
        units = sorted(hidden, reverse=True)
        units[0 if change < 0 else -1] += change
        other = wide_vs_deep.count(n_in, sorted(units, reverse=True), n_out)
        assert distance <= abs(other - budget) or min(units) == 0


def test_the_parameters_are_counted_as_the_network_counts_them():
    sizes = [3, 5, 4, 2]
    network = gpumlp.Sequential(gpumlp.Dense(3, 5), gpumlp.Dense(5, 4), gpumlp.Dense(4, 2))
    assert wide_vs_deep.count(sizes[0], sizes[1:-1], sizes[-1]) == network.flat.count == 54


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "moons"], "unknown data 'moons'; choose from curve, digits, mnist"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
    ],
)
def test_a_wrong_option_exits_2_and_says_what_is_allowed(options, message, capsys):
    with pytest.raises(SystemExit) as error:
        wide_vs_deep.main(options)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_mnist_that_is_not_there_exits_3_and_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GPUMLP_DATA", str(tmp_path))
    assert wide_vs_deep.main(["--data", "mnist", "--quick"]) == 3
    assert "gpumlp fetch mnist" in capsys.readouterr().err
