"""benchmarks/cpu_vs_gpu.py: its quick form, its options, and its GPU half on the stand-in."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from device_rows import BENCHMARKS, cpu_rows, cpu_vs_gpu, device_bench, rounds, rows_of_both, worker
from fake_cuda import installed

import gpumlp
from gpumlp.backend import get_backend
from gpumlp.errors import DeviceError

PNG = b"\x89PNG\r\n"
FIXED = {
    **dict.fromkeys(["net", "optimizer", "precision", "device", "system", "engine", "what"], str),
    **dict.fromkeys(["samples_per_s", "gflops", "floor_seconds", "ratio"], float),
    "batch": int,
    "seconds": dict,
}
ADDED = {"variant": str, "width": int, "depth": int, "flops": int, "bytes": int}
ADDED |= {"intensity": float, "speed_up": float}
TRANSFERS = {"transfer_bytes": int, "transfer_seconds": float}
QUICK = ["--quick", "--rounds", "1"]
SMALL = [*QUICK, "--widths", "8,12", "--depths", "2", "--batches", "50,16"]


def run(*arguments):
    paths = [str(Path(gpumlp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "cpu_vs_gpu.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )


def figures(folder):
    """The options that draw, where that is possible."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    return ["--plot", str(folder / "heat.png"), "--roofline", str(folder / "roofline.png")]


def assert_form(rows):
    """Each row has the fixed keys and those that are added, in their types."""
    for row in rows:
        fed = row["variant"] == "transfers"
        expected = FIXED | ADDED | (TRANSFERS if fed else {})
        assert {name: type(value) for name, value in row.items()} == expected
        assert set(row["seconds"]) == {"median", "min", "max", "n"}
        middle = row["seconds"]["median"]
        assert row["samples_per_s"] == pytest.approx(row["batch"] / middle)
        assert row["gflops"] == pytest.approx(row["flops"] / middle / 1e9)


def test_the_quick_form_measures_the_cpu_and_writes_json_figures_and_sentences(tmp_path):
    file = tmp_path / "out.json"
    limit = ["--most", 1.5e6]  # 784-12-12-10@50 needs more
    done = run(*SMALL, *limit, "--device", "cpu", "--out", file, *figures(tmp_path))
    assert done.returncode == 0, done.stderr
    results = json.loads(file.read_text())
    assert set(results) == {"environment", "rows"}
    assert_form(results["rows"])
    cells = [("784-8-8-10", 16), ("784-8-8-10", 50), ("784-12-12-10", 16)]
    found = [(row["net"], row["batch"], row["system"]) for row in results["rows"]]
    assert found == [(*cell, s) for cell in cells for s in ("gpumlp", "gpumlp-plain")]
    (left_out,) = results["environment"]["left_out"]
    assert (left_out["net"], left_out["batch"]) == ("784-12-12-10", 50)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("left out: 784-12-12-10 @ 50, all: 2e+06 operations a step")
    assert lines[-1].startswith("The GPU half is missing")
    for name in ("peak_gflops", "bandwidth_gb_per_s"):
        assert results["environment"][name]["cpu"] > 0
    if drawn := figures(tmp_path):
        assert all(Path(name).read_bytes().startswith(PNG) for name in drawn[1::2])


def test_without_a_gpu_the_cpu_half_is_run_and_named_nets_keep_their_batch(tmp_path):
    try:
        get_backend("cuda")
        pytest.skip("there is a GPU")
    except DeviceError as error:
        problem = str(error)
    file = tmp_path / "out.json"
    done = run(*QUICK, "--nets", "12-8-3@50,5-4@7", "--batches", "16", "--out", file)
    assert done.returncode == 0, done.stderr
    assert f"no GPU, so this is the CPU half alone: {problem}" in done.stderr
    rows = [r for r in json.loads(file.read_text())["rows"] if r["variant"] == "fused"]
    found = [(row["net"], row["batch"], row["width"], row["depth"]) for row in rows]
    assert found == [
        ("12-8-3", 16, 8, 1), ("12-8-3", 50, 8, 1), ("5-4", 7, None, 0), ("5-4", 16, None, 0)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nets", "784"], "unknown net '784'"),
        (["--batches", "16,x"], "batches must be positive integers, as in 16,64, got '16,x'"),
        (["--batches", "0"], "batches must be positive integers"),
        (["--widths", "wide"], "widths must be positive integers, as in 16,64, got 'wide'"),
        (["--depths", "1,-2"], "depths must be positive integers, as in 16,64, got '1,-2'"),
        (["--widths", ""], "need at least one number each"),
        (["--nets", "784-30-10@10", "--depths", "2"], "give either nets, or widths and depths"),
        (["--rounds", "0"], "rounds must be at least 1, got 0"),
        (["--most", "0"], "most must be above 0, got 0"),
        (["--minutes", "nan"], "minutes must be above 0, got nan"),
        (["--out", "no/such/file.json"], "there is no folder no/such"),
        (["--roofline", "no/such/file.png"], "there is no folder no/such"),
        (["--redraw", "no/such/file.json"], "no/such/file.json: no results of cpu_vs_gpu.py"),
        (["--device", "tpu"], "choose from"),
    ],
)
def test_a_wrong_option_exits_2_and_says_what_is_allowed(options, message, capsys):
    with pytest.raises(SystemExit) as caught:
        cpu_vs_gpu.parse(options)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_grid_of_each_form():
    standard, quick = cpu_vs_gpu.parse([]).cells, cpu_vs_gpu.parse(["--quick"]).cells
    assert (len(standard), len(quick)) == (60, 8)
    few = cpu_vs_gpu.parse(["--widths", "64", "--depths", "3", "--batches", "32,16"]).cells
    assert [str(net) for net in few] == ["784-64-64-64-10@16", "784-64-64-64-10@32"]


ENVIRONMENT = {
    "peak_gflops": {"cpu": 100.0, "cuda": 1e4},
    "bandwidth_gb_per_s": {"cpu": 20.0, "cuda": 2e3},
    "cpu": "A CPU",
    "gpu": "A GPU",
    "left_out": [{"net": "784-9-10", "batch": 16, "flops": 1, "why": "no reason"}],
}


@pytest.mark.parametrize("both", [False, True])
def test_figures_and_table_are_drawn_anew_from_the_json_alone(tmp_path, capsys, both):
    rows = rows_of_both(0.001) if both else cpu_rows()
    ceilings = {
        name: {d: v for d, v in ENVIRONMENT[name].items() if both or d == "cpu"}
        for name in ("peak_gflops", "bandwidth_gb_per_s")
    }
    file = tmp_path / "found.json"
    file.write_text(json.dumps({"environment": ENVIRONMENT | ceilings, "rows": rows}))
    assert cpu_vs_gpu.main(["--redraw", str(file), *figures(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "left out: 784-9-10 @ 16, all: no reason"
    assert said[1] == "A CPU: product 100 GFLOP/s, copy 20.0 GB/s"
    assert said[-2 if both else -3].startswith("The CPU ")
    for name in figures(tmp_path)[1::2]:
        assert Path(name).read_bytes().startswith(PNG)


class InProcess:
    """A worker in this process, so that its GPU is the stand-in."""

    def __init__(self, system):
        self.system, self.served = system, worker.Served(system)
        self.about = self.served.about

    def ask(self, command, **arguments):
        try:
            return json.loads(json.dumps(getattr(self.served, command)(**arguments)))
        except MemoryError as error:
            raise worker.WorkerError(f"{self.system}: {error}") from None

    def close(self):
        self.served.contender = None


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_vs_gpu, "Worker", InProcess)
    monkeypatch.setattr(rounds, "PAUSE", 0)
    monkeypatch.setattr(device_bench, "CEILING_SECONDS", 0)
    with installed(tmp_path):
        yield


def small_ceilings(monkeypatch):
    monkeypatch.setattr(device_bench, "PRODUCT", {"cpu": 64, "cuda": 64})
    monkeypatch.setattr(device_bench, "COPY_BYTES", {"cpu": 2**16, "cuda": 2**16})


def test_the_gpu_half_on_the_stand_in_has_transfers_and_plain_formulas(
    stand_in, tmp_path, monkeypatch, capsys
):
    small_ceilings(monkeypatch)
    monkeypatch.setattr(rounds, "QUICK_ROWS", 200)
    monkeypatch.setattr(device_bench, "QUICK_ROWS", 200)
    file = tmp_path / "out.json"
    options = [*QUICK, "--nets", "6-5-3@8", "--batches", "", "--device", "cuda"]
    assert cpu_vs_gpu.main([*options, "--out", str(file), *figures(tmp_path)]) == 0
    results = json.loads(file.read_text())
    assert_form(results["rows"])
    found = [(row["device"], row["system"], row["engine"]) for row in results["rows"]]
    assert found == [
        ("cpu", "gpumlp", "graph"),
        ("cpu", "gpumlp-plain", "graph"),
        ("cuda", "gpumlp", "graph"),
        ("cuda", "gpumlp-cupy", "eager"),
        ("cuda", "gpumlp-fed", "graph"),
    ]
    environment = results["environment"]
    assert environment["gpu"] == "Stand-In 1"
    assert set(environment["bandwidth_gb_per_s"]) == {"cpu", "cuda"}
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("With every batch brought from the host's memory")


def test_a_contender_that_fails_is_left_out_the_rest_is_written_and_the_exit_code_is_1(
    stand_in, tmp_path, monkeypatch, capsys
):
    small_ceilings(monkeypatch)
    build = InProcess.ask

    def ask(self, command, **arguments):
        if (self.system, command) == ("gpumlp-plain", "build"):
            raise worker.WorkerError("gpumlp-plain: no memory")
        return build(self, command, **arguments)

    monkeypatch.setattr(InProcess, "ask", ask)
    file = tmp_path / "out.json"
    options = [*QUICK, "--nets", "6-5-3@8", "--batches", "", "--device", "cpu"]
    assert cpu_vs_gpu.main([*options, "--out", str(file)]) == 1
    results = json.loads(file.read_text())
    assert [row["system"] for row in results["rows"]] == ["gpumlp"]
    assert results["environment"]["left_out"][0]["why"] == "gpumlp-plain: no memory"
    assert "left out: 6-5-3 @ 8, gpumlp-plain on cpu: " in capsys.readouterr().out
