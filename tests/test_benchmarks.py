"""benchmarks/training.py: run in its quick form, and its arithmetic on its own."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpumlp
from gpumlp.backend import get_backend
from gpumlp.errors import DeviceError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PEERS = {"torch": "torch", "jax": "jax", "sklearn": "sklearn"}
FIELDS = {
    "net": str,
    "batch": int,
    "optimizer": str,
    "precision": str,
    "device": str,
    "system": str,
    "engine": str,
    "what": str,
    "seconds": dict,
    "samples_per_s": float,
    "gflops": float,
    "floor_seconds": float,
    "ratio": float,
}


def run_training(*arguments):
    paths = [str(Path(gpumlp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "training.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )


@pytest.fixture
def benchmark_module(monkeypatch):
    """Import a module of benchmarks/, and forget it afterwards: its names are short."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if Path(file).parent == BENCHMARKS:
            del sys.modules[name]


def installed(peer):
    return importlib.util.find_spec(PEERS[peer]) is not None


@pytest.mark.parametrize(
    "peer",
    [
        pytest.param(
            peer,
            marks=pytest.mark.skipif(not installed(peer), reason=f"{peer} is not installed"),
        )
        for peer in PEERS
    ],
)
def test_quick_run_times_a_peer_and_writes_the_fixed_json(peer, tmp_path):
    file = tmp_path / "out.json"
    options = ["--quick", "--rounds", "1", "--nets", "12-8-3@50", "--what", "step,epoch"]
    options += ["--optimizers", "sgd,adam", "--peers", peer, "--out", str(file)]
    done = run_training(*options)
    assert done.returncode == 0, done.stderr
    results = json.loads(file.read_text())
    assert set(results) == {"environment", "rows"}
    rows = results["rows"]
    kinds = [(row["what"], row["optimizer"], row["system"]) for row in rows]
    assert len(set(kinds)) == len(kinds)
    for what in ("step", "epoch"):
        for optimizer in ("sgd", "adam"):
            assert {(what, optimizer, "gpumlp"), (what, optimizer, peer)} <= set(kinds)
    environment = results["environment"]
    for row in rows:
        assert {name: type(value) for name, value in row.items()} == FIELDS
        assert set(row["seconds"]) == {"median", "min", "max", "n"}
        middle = row["seconds"]["median"]
        assert row["seconds"]["min"] == row["seconds"]["max"] == middle > 0
        # with one round the paired ratio is the ratio of the two times
        (ours,) = [
            other["seconds"]["median"]
            for other in rows
            if other["system"] == "gpumlp"
            and (other["what"], other["optimizer"]) == (row["what"], row["optimizer"])
        ]
        assert row["ratio"] == pytest.approx(middle / ours)
        samples = 50 if row["what"] == "step" else environment["data_rows"]["12-8-3@50"]
        flops = samples * (6 * (12 * 8 + 8 * 3) - 2 * 12 * 8)
        assert row["samples_per_s"] == pytest.approx(samples / middle)
        assert row["gflops"] == pytest.approx(flops / middle / 1e9)
        assert row["floor_seconds"] == pytest.approx(flops / environment["peak_gflops"] / 1e9)
    assert environment["cpu"]
    assert environment["systems"]["gpumlp"]["threads"] >= 1
    assert {start["system"] for start in environment["starts"]} == {kind[2] for kind in kinds}
    assert done.stdout.splitlines()[-1].startswith("ratio:")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nets", "784-x@10"], "unknown net '784-x@10': expected layer sizes and a batch size"),
        (["--nets", "784-30-2@10"], "at least 3 outputs"),
        (["--peers", "tensorflow"], "unknown peer 'tensorflow'; choose from torch"),
        (["--optimizers", "lion"], "unknown optimizer 'lion'; choose from sgd, adam"),
        (["--what", "weeks"], "unknown what 'weeks'; choose from step, epoch"),
        (["--rounds", "0"], "rounds must be at least 1, got 0"),
        (["--device", "cuda", "--peers", "sklearn"], "'sklearn' runs on the CPU only"),
    ],
)
def test_a_wrong_option_exits_2_and_says_what_is_allowed(options, message):
    if options[-1] == "sklearn" and not installed("sklearn"):
        pytest.skip("sklearn is not installed")
    done = run_training(*options)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_cuda_without_a_gpu_exits_5_with_the_line_that_fixes_it():
    try:
        get_backend("cuda")
    except DeviceError as error:
        reason = str(error)
    else:
        pytest.skip("there is a GPU")
    done = run_training("--device", "cuda", "--peers", "none")
    assert (done.returncode, done.stdout) == (5, "")
    assert reason in done.stderr


def test_the_ratio_is_the_median_over_rounds_not_the_ratio_of_medians(benchmark_module):
    report = benchmark_module("report")
    ours, theirs = [1.0, 10.0, 2.0], [4.0, 20.0, 3.0]
    assert report.paired_ratio(theirs, ours) == 2.0
    net = benchmark_module("problem").Net.parse("4-3-3@5")
    seconds, engines = {"gpumlp": ours, "x": theirs}, {"gpumlp": "graph", "x": "y"}
    common = {"optimizer": "sgd", "precision": "fp32", "device": "cpu", "what": "step"}
    rows = report.make_rows(common, net, 5, seconds, engines, peak=1e9)
    assert [row["ratio"] for row in rows] == [1.0, 2.0]
    assert rows[1]["seconds"] == {"median": 4.0, "min": 3.0, "max": 20.0, "n": 3}


def test_the_check_refuses_a_peer_that_trains_something_else(benchmark_module):
    rounds = benchmark_module("rounds")
    net = benchmark_module("problem").Net.parse("4-3-3@5")
    ours = {"loss": 1.0, "norms": [0.5, 0.25]}
    rounds.check(net, {"gpumlp": ours, "x": {"loss": 1.000001, "norms": [0.5001, 0.25]}})
    for wrong in (
        {"loss": 1.001, "norms": [0.5, 0.25]},
        {"loss": 1.0, "norms": [0.5, 0.26]},
        {"loss": float("nan"), "norms": [float("nan"), 0.25]},
    ):
        with pytest.raises(rounds.CheckError, match="x does not train what gpumlp trains"):
            rounds.check(net, {"gpumlp": ours, "x": wrong})


def test_gpumlp_steps_and_epochs_visit_every_row_once(benchmark_module):
    problem = benchmark_module("problem")
    contenders = benchmark_module("contenders")
    net = problem.Net.parse("4-3-3@10")
    contender = contenders.Gpumlp(problem.Problem(net, 95, "sgd", "cpu"))
    contender.prepare(9)
    contender.run(9)
    assert (contender.epochs_begun, contender.position) == (1, 9)
    contender.prepare(1)  # only the smaller last batch was left
    assert (contender.epochs_begun, contender.position) == (2, 0)
    contender.epoch()
    order = np.sort(contender.training._order.ravel()[:95])
    assert order.tolist() == list(range(95))
    assert contender.training.optimizer.steps == 9 + 10
    contender.prepare(1)
    assert contender.epochs_begun == 4
