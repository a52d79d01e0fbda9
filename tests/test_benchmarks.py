"""The benchmarks: run in their quick form, and their arithmetic on its own."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from fake_cuda import FakeCudaBackend

import gpumlp
from gpumlp.backend import PRECISIONS, Backend, CpuBackend, get_backend
from gpumlp.errors import DeviceError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PEERS = {"torch": "torch", "jax": "jax", "jax-step": "jax", "sklearn": "sklearn"}
PEERS |= {"jax-unroll-8": "jax"}
PEERS |= dict.fromkeys(["gpumlp-plain", "gpumlp-numpy", "gpumlp-trainer", "gpumlp-eager"], "gpumlp")
PNG = b"\x89PNG\r\n"
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
    return run_script("training.py", *arguments)


def run_script(name, *arguments):
    paths = [str(Path(gpumlp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / name), *map(str, arguments)],
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


def installed(module):
    return importlib.util.find_spec(module) is not None


def gpu_problem():
    """Why there is no usable GPU, or nothing."""
    try:
        get_backend("cuda")
    except DeviceError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "peer",
    [
        pytest.param(
            peer,
            marks=pytest.mark.skipif(not installed(PEERS[peer]), reason=f"{peer} is not installed"),
        )
        for peer in PEERS
    ],
)
def test_quick_run_times_a_peer_and_writes_the_fixed_json(peer, tmp_path):
    file = tmp_path / "out.json"
    options = ["--quick", "--rounds", "1", "--nets", "12-8-3@50", "--what", "step,epoch"]
    options += ["--optimizers", "sgd,adam", "--peers", peer, "--out", str(file)]
    options += ["--plot", str(tmp_path / "out.png")] if installed("matplotlib") else []
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
    systems = environment["systems"]
    assert systems["gpumlp"]["threads"] >= 1
    assert systems["gpumlp"]["kernels"] == environment["kernels"]
    assert f"; kernels: {environment['kernels']}" in done.stdout
    if peer in ("gpumlp-plain", "gpumlp-numpy"):
        assert systems[peer]["kernels"] == "numpy"
    elif peer in ("gpumlp-trainer", "gpumlp-eager"):
        assert systems[peer]["kernels"] == environment["kernels"]
    else:
        assert "kernels" not in systems[peer]
    assert {start["system"] for start in environment["starts"]} == {kind[2] for kind in kinds}
    assert done.stdout.splitlines()[-1].startswith("ratio:")
    if installed("matplotlib"):
        assert (tmp_path / "out.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nets", "784-x@10"], "unknown net '784-x@10': expected layer sizes and a batch size"),
        (["--nets", "784-30-2@10"], "at least 3 outputs"),
        (["--peers", "tensorflow"], "unknown peer 'tensorflow'; choose from torch"),
        (["--optimizers", "lion"], "unknown optimizer 'lion'; choose from sgd, adam"),
        (["--what", "weeks"], "unknown what 'weeks'; choose from step, epoch"),
        (["--rounds", "0"], "rounds must be at least 1, got 0"),
        (["--device", "cuda", "--peers", "gpumlp-plain"], "'gpumlp-plain' runs on the CPU only"),
        (["--device", "cuda", "--peers", "gpumlp-numpy"], "'gpumlp-numpy' runs on the CPU only"),
        (["--device", "cuda", "--peers", "sklearn"], "'sklearn' runs on the CPU only"),
        (["--out", "no/such/file.json"], "no/such/file.json: there is no folder no/such"),
        (["--plot", "no/such/file.png"], "no/such/file.png: there is no folder no/such"),
    ],
)
def test_a_wrong_option_exits_2_and_says_what_is_allowed(options, message):
    if options[-1] == "sklearn" and not installed("sklearn"):
        pytest.skip("sklearn is not installed")
    done = run_training(*options)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("script", ["training.py", "cpu_vs_gpu.py", "kernels.py"])
def test_cuda_without_a_gpu_exits_5_with_the_line_that_fixes_it(script):
    if not gpu_problem():
        pytest.skip("there is a GPU")
    done = run_script(script, "--device", "cuda")
    assert (done.returncode, done.stdout) == (5, "")
    assert gpu_problem() in done.stderr


@pytest.mark.parametrize("script", ["training", "cpu_vs_gpu", "kernels"])
def test_a_plot_without_matplotlib_is_refused_before_anything_is_measured(
    script, benchmark_module, monkeypatch, capsys
):
    parse = benchmark_module(script).parse
    monkeypatch.setattr(benchmark_module("figure"), "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as caught:
        parse(["--plot", "out.png", "--peers", "none"][: 4 if script == "training" else 2])
    assert caught.value.code == 2
    assert '--plot needs matplotlib: pip install "gpumlp[bench]"' in capsys.readouterr().err


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


class PacedWorker:
    """A contender whose steps and epochs all take the seconds it is told."""

    def __init__(self, system, seconds):
        self.system, self.seconds = system, seconds

    def ask(self, command, steps=1):
        assert command in ("run", "epoch")
        return {"seconds": self.seconds * steps}


@pytest.mark.parametrize(
    ("rounds", "kept"), [(None, ["gpumlp", "a", "c"]), (9, ["gpumlp", "a", "b", "c", "d"])]
)
def test_contenders_too_slow_for_all_rounds_are_left_out_and_said_so_but_never_gpumlp(
    rounds, kept, benchmark_module, monkeypatch, capsys
):
    module = benchmark_module("rounds")
    monkeypatch.setattr(module, "PAUSE", 0)
    paces = {"gpumlp": 9.0, "a": 1.0, "b": 8.0, "c": 3.0, "d": 0.5}
    bench = module.Bench([PacedWorker(*pace) for pace in paces.items()], "cpu", False, rounds)
    seconds = bench._epochs({**paces, "gpumlp": 99.0, "d": 16.0})
    assert seconds == {system: [paces[system]] * 9 for system in kept}
    said = capsys.readouterr().err.splitlines()
    left_out = ["the first took 16 s", "8 s a round"] if rounds is None else []
    left_out = [f"{s} is left out of the epochs: {t}" for s, t in zip("db", left_out, strict=False)]
    assert said == left_out


def test_the_quickest_peer_is_never_left_out(benchmark_module):
    bench = benchmark_module("rounds").Bench([], "cpu", False, None)
    assert bench._too_slow({"gpumlp": 99.0, "a": 20.0, "b": 50.0, "c": 30.0}) == ["b", "c"]
    assert bench._too_slow({"gpumlp": 99.0}) == []


@pytest.mark.parametrize(("pace", "steps"), [(0.001, 200), (0.1, 3), (0.6, 2), (9.0, 1)])
def test_a_turn_has_three_steps_or_more_unless_these_are_slow(pace, steps, benchmark_module):
    bench = benchmark_module("rounds").Bench([], "cpu", False, None)
    assert bench._steps_per_turn(PacedWorker("x", pace), at_most=1000) == steps


def test_the_default_peers_are_other_libraries(benchmark_module):
    training = benchmark_module("training")
    assert not {*training.choose_peers(None, "cpu", False)} & {*training.VARIANTS}
    assert not {*training.choose_peers(None, "cuda", False)} & training.CPU_ONLY
    assert training.choose_peers("gpumlp-trainer", "cuda", False) == ["gpumlp-trainer"]
    others = {"gpumlp", "torch-1", "gpumlp-cupy", "gpumlp-fed"}  # the last two: cpu_vs_gpu.py
    assert {*training.PEERS, *training.VARIANTS} | others == {*benchmark_module("worker").SYSTEMS}


def test_what_runs_on_one_kind_of_device_is_refused_on_the_other(benchmark_module):
    choose = benchmark_module("training").choose_peers
    with pytest.raises(ValueError, match="'gpumlp-unforked' runs on CUDA only"):
        choose("gpumlp-unforked", "cpu", False)
    with pytest.raises(ValueError, match="'gpumlp-numpy' runs on the CPU only"):
        choose("gpumlp-numpy", "cuda", False)
    assert "jax-unroll-8" not in choose(None, "cpu", False)
    for peer in ("torch-graph", "torch-graph-50", "jax-unroll-8"):
        package = benchmark_module("worker").SYSTEMS[peer][2]
        assert (peer in choose(None, "cuda", False)) == installed(package)


@pytest.mark.parametrize("precision", ["bf16x3", "fp16", "fp64"])
def test_contenders_are_timed_in_a_low_precision(precision, tmp_path):
    if precision == "fp64":
        done = run_training("--precision", precision)
        assert done.returncode == 2
        assert "invalid choice: 'fp64'" in done.stderr
        return
    out = tmp_path / "out.json"
    options = ["--quick", "--rounds", "1", "--nets", "20-10-4@10", "--what", "step"]
    there = precision == "fp16" and importlib.util.find_spec("torch")
    peers = "torch" if there else "none"
    done = run_training("--precision", precision, *options, "--peers", peers, "--out", str(out))
    assert done.returncode == 0, done.stderr
    content = json.loads(out.read_text())
    assert {row["precision"] for row in content["rows"]} == {precision}


def test_jax_is_left_out_of_fp16_which_needs_a_scale(benchmark_module, monkeypatch):
    module = benchmark_module("training")
    monkeypatch.setattr(module, "find_spec", lambda name: True)
    options = module.parse(["--precision", "fp16"])
    assert not {"jax", "jax-step"} & {*options.peers}
    assert "jax" in module.parse(["--precision", "bf16"]).peers


def test_low_precisions_are_compared_less_strictly(benchmark_module):
    rounds, net = benchmark_module("rounds"), benchmark_module("problem").Net.parse("4-3@5")
    ours = {"loss": 1.0, "norms": [1.0]}
    replies = {"gpumlp": ours, "x": {"loss": 1.0005, "norms": [1.005]}}
    assert rounds.LOOSER.keys() == PRECISIONS.keys() - {"fp64"}
    rounds.check(net, replies, looser=rounds.LOOSER["tf32"])
    with pytest.raises(rounds.CheckError, match="x does not train"):
        rounds.check(net, replies)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("at_once", [1, 3])
def test_the_graph_of_pytorch_takes_the_steps_of_the_plain_loop(
    benchmark_module, optimizer, at_once
):
    """Without a GPU: instead of graphs that replay a step, steps are run anew."""
    pytest.importorskip("torch")
    problem, peer = benchmark_module("problem"), benchmark_module("torch_peer")
    data = problem.Problem(problem.Net.parse("6-5-4-3@10"), 85, optimizer, "cpu")

    class OnCpu(peer.TorchGraph):
        in_graph, steps_at_once = False, at_once
        captured: ClassVar[list[int]] = []

        def compiled(self, function):
            return function

        def aside(self, work):
            work()

        def capture(self, steps):
            self.captured.append(steps)
            return SimpleNamespace(replay=lambda: [self._step() for _ in range(steps)])

    contenders = peer.Torch(data), OnCpu(data)
    for contender in contenders:
        contender.prepare(7)
        contender.run(4)
        contender.run(3)
    for ours, theirs in zip(*(c.weights() for c in contenders), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    assert sorted({*OnCpu.captured}) == sorted({1, at_once})
    for contender in contenders:
        contender.epoch()
        contender.epoch()
    for ours, theirs in zip(*(c.weights() for c in contenders), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_variants_of_gpumlp_compute_with_what_their_names_say(benchmark_module):
    problem, contenders = benchmark_module("problem"), benchmark_module("contenders")
    data = problem.Problem(problem.Net.parse("4-3-3@10"), 95, "sgd", "cpu")
    assert contenders.Gpumlp(data).backend == get_backend("cpu")
    assert contenders.GpumlpPlain(data).backend == Backend(np)
    assert type(contenders.GpumlpNumpy(data).backend) is CpuBackend
    assert not contenders.GpumlpNumpy(data).backend.native
    assert contenders.GpumlpTrainer(data).backend == get_backend("cpu")


def test_gpumlp_in_a_trainer_makes_the_steps_it_is_asked_for(benchmark_module):
    problem, contenders = benchmark_module("problem"), benchmark_module("contenders")
    data = problem.Problem(problem.Net.parse("6-5-4-3@10"), 85, "sgd", "cpu")
    contender = contenders.GpumlpTrainer(data)
    contender.prepare(3)
    contender.run(3)
    for ours, plain in zip(contender.weights(), data.trained(3), strict=True):
        for a, b in zip(ours, plain, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)
    contender.epoch()
    assert contender.trainer.step == 3 + 9
    assert [record["epoch"] for record in contender.trainer.history] == [1, 2]


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


# ------------------------------------------------------------------------- tables.py

TABLE = "before\n<!-- table: cpu/training.json -->\n<!-- end -->\nafter\n"


@pytest.fixture
def tables(benchmark_module):
    return benchmark_module("tables")


@pytest.fixture
def results(tmp_path):
    """A folder of results with a file of training.py."""
    environment = {"cpu": "A CPU", "cpu_count": 2, "python": "3.11.7", "date": "2026-01-02"}
    environment |= {"systems": {"gpumlp": {"versions": {"numpy": "2.4"}}}}
    environment |= {"packages": {"gpumlp": "0.1.0"}}
    row = {"net": "4-3-3", "batch": 5, "optimizer": "sgd", "device": "cpu", "what": "step"}
    systems = [("gpumlp", 0.002, 1.0), ("torch", 0.0011, 0.55), ("jax", 0.2504, 1.5)]
    rows = [
        row | {"system": system, "seconds": {"median": seconds}, "ratio": ratio}
        for system, seconds, ratio in systems
    ]
    (tmp_path / "cpu").mkdir()
    text = json.dumps({"environment": environment, "rows": rows})
    (tmp_path / "cpu" / "training.json").write_text(text)
    return tmp_path


def test_a_table_of_training_has_a_line_for_each_net_and_marks_faster_peers(tables, results):
    assert tables.with_tables(TABLE, results) == (
        "before\n<!-- table: cpu/training.json -->\n"
        "| ms | gpumlp | torch (ratio) | jax (ratio) |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| step of 4-3-3 @ 5, sgd | 2.00 | 1.10 (**0.55**) | 250 (1.50) |\n"
        "\n"
        "Ratio: seconds / seconds of gpumlp in the same round; bold: faster than gpumlp.\n"
        "A CPU, 2 cores, Python 3.11.7, gpumlp 0.1.0, numpy 2.4, 2026-01-02; "
        "benchmarks/results/cpu/training.json\n"
        "<!-- end -->\nafter\n"
    )


def test_check_finds_what_was_typed_by_hand_and_a_run_repairs_it(tables, results, capsys):
    file = results / "text.md"
    file.write_text(TABLE)
    options = ["--file", str(file), "--results", str(results)]
    assert tables.main([*options, "--check"]) == 1
    assert file.read_text() == TABLE
    assert tables.main(options) == 0
    right = file.read_text()
    assert tables.main([*options, "--check"]) == 0
    capsys.readouterr()
    file.write_text(right.replace("1.10", "9.99"))
    assert tables.main([*options, "--check"]) == 1
    out, err = capsys.readouterr()
    assert "-| step of 4-3-3 @ 5, sgd | 2.00 | 9.99" in out
    assert "+| step of 4-3-3 @ 5, sgd | 2.00 | 1.10" in out
    assert err == "run python benchmarks/tables.py\n"
    assert tables.main(options) == 0
    assert file.read_text() == right


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: cpu/training.json -->\n", "needs its <!-- end -->"),
        ("<!-- table: no.json -->\n<!-- end -->\n", "no.json: no results of a benchmark"),
        ("<!-- table: bad.json -->\n<!-- end -->\n", "bad.json: no results of a benchmark"),
    ],
)
def test_a_table_that_cannot_be_made_exits_2(tables, results, capsys, text, message):
    (results / "bad.json").write_text('{"rows": []}')
    file = results / "text.md"
    file.write_text(text)
    assert tables.main(["--file", str(file), "--results", str(results)]) == 2
    assert message in capsys.readouterr().err
    assert file.read_text() == text


def test_the_readme_is_in_step_with_the_committed_results(tables):
    assert tables.main(["--check"]) == 0


def committed():
    return sorted((BENCHMARKS / "results").rglob("*.json"))


@pytest.mark.parametrize("file", committed(), ids=lambda file: file.stem)
def test_every_committed_result_gives_a_table(file, tables):
    content = json.loads(file.read_text(encoding="utf-8"))
    if "rows" not in content:
        pytest.skip("not of training.py or cpu_vs_gpu.py")
    name = file.relative_to(BENCHMARKS / "results").as_posix()
    assert len(tables.table(BENCHMARKS / "results", name).splitlines()) > 3


# ------------------------------------------------------------------------- on_gpu.sh


needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


@needs_bash
def test_on_gpu_runs_every_step_whatever_fails_and_says_how_each_ended(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    script = shutil.copy(BENCHMARKS / "on_gpu.sh", tmp_path / "benchmarks")
    stand_in = tmp_path / "python"
    stand_in.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n-) cat > /dev/null; echo a-gpu ;;\n'
        '*pytest*) exit 3 ;;\n*) echo "ran $*" ;;\nesac\n'
    )
    stand_in.chmod(0o755)
    done = subprocess.run(
        ["bash", script, str(stand_in)], capture_output=True, text=True, timeout=60
    )
    out = tmp_path / "benchmarks" / "results" / "a-gpu"
    ended = dict(
        line.split(" after")[0].split(": exit ") for line in open_lines(out / "summary.txt")
    )
    assert ended["tests"] == "3"
    assert done.returncode == 1
    others = ["doctor", "facts", "smoke", "libraries", "parity-digits", "parity-xor", "kernels"]
    others += ["training-sgd", "training-adam", "variants", "cpu_vs_gpu", "variants-adam"]
    others += [f"training-{name}" for name in ("tf32", "bf16", "bf16x3", "bf16x6", "fp16")]
    others += ["training-bf16-adam", "precisions", "profile-bf16", "parity-bf16x3"]
    assert [ended[name] for name in others] == ["0"] * len(others)
    assert done.stdout.splitlines()[-len(ended) :] == open_lines(out / "summary.txt")
    said = open_lines(out / "logs.txt")
    for name in ("kernels", "cpu_vs_gpu"):
        command = f"benchmarks/{name}.py --device cuda --out benchmarks/results/a-gpu/{name}.json"
        assert any(line.startswith(f"ran {command}") for line in said)
    again = subprocess.run(
        ["bash", script, "--only", "doctor,kernels", str(stand_in)], capture_output=True, timeout=60
    )
    assert again.returncode == 0
    ended = [line.split(":")[0] for line in open_lines(out / "summary.txt")]
    assert ended == ["doctor", "kernels"]


def test_the_facts_of_a_gpu_are_all_answered_on_the_stand_in(benchmark_module, monkeypatch):
    module = benchmark_module("gpu_facts")
    backend = FakeCudaBackend(tune=False)
    monkeypatch.setattr(module, "get_backend", lambda *named: backend)
    monkeypatch.setattr(module.Facts, "copy_tb_per_s", lambda facts, nbytes: 1.0)
    monkeypatch.setattr(module, "REPEATS", 1)
    host = module.Facts.host_seconds
    monkeypatch.setattr(module.Facts, "host_seconds", lambda facts, work: host(facts, work, 1))
    right = module.Facts.product_tflops
    monkeypatch.setattr(module.Facts, "product_tflops", lambda facts, p, n: right(facts, p, 32))
    answers = module.find_facts(backend)
    numbers = {question: answer for question, answer in answers.items() if question[:4] != "CuPy"}
    assert all(isinstance(answer, float) for answer in numbers.values()), numbers
    assert "CaptureError" in answers["CuPy's product in a capture"]
    assert len(answers) == 18


def open_lines(path):
    return path.read_text().splitlines()


@needs_bash
def test_on_gpu_without_a_gpu_exits_5_and_writes_nothing():
    if not gpu_problem():
        pytest.skip("there is a GPU")
    before = sorted((BENCHMARKS / "results").rglob("*"))
    command = ["bash", str(BENCHMARKS / "on_gpu.sh"), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (5, "")
    assert gpu_problem() in done.stderr
    assert sorted((BENCHMARKS / "results").rglob("*")) == before
