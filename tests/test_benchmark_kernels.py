"""benchmarks/kernels.py: its table of calls, its check, its timing and what it writes."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_cuda import CUPY, FakeCudaBackend

from gpumlp.backend import ACTIVATIONS, OPERATIONS, POINTWISE, Backend, CpuBackend, get_backend

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
with pytest.MonkeyPatch.context() as patch:
    before = set(sys.modules)
    patch.syspath_prepend(str(BENCHMARKS))
    kernels, kernel_cases, tables, rounds = map(
        importlib.import_module, ["kernels", "kernel_cases", "tables", "rounds"]
    )
    for name in set(sys.modules) - before:  # names as short as "report" are left to others
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == BENCHMARKS:
            del sys.modules[name]

CASES = kernel_cases.CASES
PNG = b"\x89PNG\r\n"
every_case = pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case.operation} {case.variant} {case.kind}"
)


def test_the_table_of_calls_has_every_operation_and_nothing_else():
    assert {case.operation for case in CASES} == {*OPERATIONS}
    calls = [(case.operation, case.variant, case.kind) for case in CASES]
    assert len(set(calls)) == len(calls)


@pytest.mark.parametrize(
    ("operation", "variants"),
    [
        ("bias_activation_forward", ACTIVATIONS),
        ("bias_activation_backward", ACTIVATIONS),
        ("pointwise_loss", POINTWISE),
    ],
)
def test_every_activation_and_every_loss_is_timed(operation, variants):
    assert [case.variant for case in CASES if case.operation == operation] == list(variants)


@every_case
@pytest.mark.parametrize("backend", [CpuBackend(), CpuBackend(kernels=False)], ids=repr)
@pytest.mark.parametrize("size", [(10, 30), (33, 65)], ids=str)
def test_the_check_passes_what_is_right(case, backend, size):
    kernels.check(case, case.shape(*size), backend)


class Wrong(CpuBackend):
    """Its operations leave something else in their first argument."""

    def __init__(self, factor, added):
        super().__init__()
        self.factor, self.added = factor, added

    def bind(self, name, *args, **kwargs):
        call = super().bind(name, *args, **kwargs)

        def wrong():
            call()
            first = args[0][0] if name == "split" else args[0]
            if first.dtype.kind == "f":
                first *= self.factor
            first += first.dtype.type(self.added)

        return wrong


@every_case
def test_the_check_refuses_what_is_wrong(case):
    shape = case.shape(10, 30)
    with pytest.raises(rounds.CheckError, match=f"{case.operation} .*differs from the plain form"):
        kernels.check(case, shape, Wrong(1.0001, 1))
    if case.operation not in ("begin_step", "gather"):
        with pytest.raises(rounds.CheckError, match="rounding allows"):
            kernels.check(case, shape, Wrong(1.0001, 0))
        with pytest.raises(rounds.CheckError, match="by nan"):
            kernels.check(case, shape, Wrong(np.nan, 0))


def per_entry(operation, variant=""):
    (case,) = (
        case
        for case in CASES
        if (case.operation, case.variant) == (operation, variant) and case.kind != "classes"
    )
    shape = case.shape(1000, 1000)
    return case.moved(*shape) / np.prod(shape)


@pytest.mark.parametrize(
    ("case", "count"),
    [
        (("bias_activation_forward", "sigmoid"), 8),
        (("bias_activation_forward", "gelu"), 12),
        (("bias_activation_backward", "sigmoid"), 12),
        (("softmax_cross_entropy",), 8),
        (("gather", "fp32"), 8),
        (("gather", "uint8"), 2),
        (("sgd_step",), 12),
        (("momentum_step",), 20),
        (("adam_step",), 28),
    ],
    ids=str,
)
def test_bytes_of_an_entry_are_those_that_it_must_move(case, count):
    assert per_entry(*case) == pytest.approx(count, rel=0.02)


def bound(case, shape, backend=None):
    make = kernel_cases.Maker(backend or Backend(np), "F", steady=True)
    return make, case.bind(make, shape)


@every_case
def test_the_bytes_counted_are_between_one_and_three_times_those_of_the_arrays(case):
    if case.operation == "begin_step":
        pytest.skip("a line of its tables is read")
    shape = case.shape(100, 50)
    make, _ = bound(case, shape)
    held = sum(array.nbytes for array in make.compared)
    if case.operation == "accumulate":
        assert held == 12 * shape[0]
    assert 0.98 * held <= case.bytes_moved(make.backend, shape) <= 3 * held


@every_case
def test_a_call_can_be_repeated_without_leaving_the_normal_numbers(case):
    make, call = bound(case, case.shape(10, 30), CpuBackend())
    for _ in range(2000):
        call()
    for array in make.compared:
        assert np.isfinite(array).all()
        if array.dtype.kind == "f":
            assert (np.abs(array[array != 0]) >= np.finfo(np.float32).tiny).all()


def test_plain_and_kernel_and_precisions_get_the_same_numbers():
    case = next(case for case in CASES if case.operation == "adam_step")
    one, _ = bound(case, (300,), CpuBackend())
    two, _ = bound(case, (300,), Backend(np, "float64"))
    for a, b in zip(one.compared, two.compared, strict=True):
        np.testing.assert_array_equal(a, b)
        assert b.dtype == np.float64


# --------------------------------------------------------------------------- timing


@pytest.mark.parametrize(("lines", "out_of_cache"), [(5, False), (40, False), (1, True)])
def test_a_turn_stays_within_the_table_of_steps_and_starts_at_its_first_line(lines, out_of_cache):
    backend, make = CpuBackend(), SimpleNamespace(clock=np.array(0), lines=lines)
    most = []

    def call():
        make.clock[...] += 1
        most.append(int(make.clock))

    timed = kernels.Timed(kernels.Clock(backend), backend, call, make, out_of_cache)
    timed.seconds()
    assert 1 <= max(most) <= lines
    assert most[-1] == timed.n * timed.calls
    assert most.count(1) >= 2


def test_a_quick_call_is_repeated_until_a_turn_is_long_enough():
    backend, make = CpuBackend(), SimpleNamespace(clock=None, lines=None)
    ticks = []
    clock = SimpleNamespace(
        seconds=lambda repeat, n, out_of_cache: ticks.append(n) or 1e-5 * kernels.CALLS
    )
    timed = kernels.Timed(clock, backend, lambda: None, make, False)
    assert timed.seconds() == pytest.approx(1e-5)
    assert kernels.TURN / 2 <= timed.n * kernels.CALLS * 1e-5 < kernels.TURN


class Scripted(kernels.Timed):
    """Takes the seconds it is told to: plain 4, 6, 8; kernel 1, 3, 2; copy 2, 2, 4."""

    scripts = ()

    def __init__(self, *args):
        self.own = iter(next(self.scripts))

    def seconds(self):
        return next(self.own)


def test_ratios_and_shares_are_medians_over_the_rounds(monkeypatch):
    monkeypatch.setattr(kernels, "Timed", Scripted)
    monkeypatch.setattr(Scripted, "scripts", iter([(4, 6, 8), (1, 3, 2), (2, 2, 4)]))
    bench = kernels.Bench("cpu", quick=True)
    case = next(case for case in CASES if case.operation == "sgd_step")
    bench.measure(case, "in cache")
    (row,) = bench.rows
    assert row["ratio"] == 4  # of 4, 2, 4
    assert row["fused"]["seconds"] == {"median": 2, "min": 1, "max": 3, "n": 3}
    assert row["bytes"] == 600_000
    assert row["fused"]["ns_per_element"] == pytest.approx(2e9 / 50_000)
    assert row["fused"]["gb_per_s"] == pytest.approx(600_000 / 2 / 1e9)
    # a copy moves 400,000 bytes: shares of 1.5 · (2, 2/3, 2)
    assert row["fused"]["of_stream"] == pytest.approx(3)
    assert bench.environment()["stream_gb_per_s"] == {"in cache": pytest.approx(200_000e-9)}


# ------------------------------------------------------------------------------ runs

FEW = ["begin_step", "gather", "matmul", "softmax_cross_entropy", "adam_step"]


@pytest.fixture
def small(monkeypatch):
    """A few operations, on arrays that take no time."""
    sizes = {"small": (2, 3), "in cache": (8, 20), "out of cache": (40, 20)}
    for module in (kernels, kernel_cases):
        monkeypatch.setattr(module, "SIZES", {"cpu": sizes, "cuda": sizes})
    cases = [case for case in CASES if case.operation in FEW]
    monkeypatch.setattr(kernels, "CASES", cases)
    monkeypatch.setattr(kernels, "TURN", 1e-4)
    monkeypatch.setattr(kernels, "FLUSH_BYTES", 400)
    return cases


def test_a_run_writes_the_fixed_json_figure_and_table(small, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    assert kernels.main(["--out", str(out), "--plot", str(plot)]) == 0
    content = json.loads(out.read_text())
    rows, environment = content["rows"], content["environment"]
    expected = [(case.operation, case.variant) for case in small] * 3
    assert [(row["operation"], row["variant"]) for row in rows] == expected
    for row in rows:
        assert row["device"] == "cpu"
        for kind in ("plain", "fused"):
            seconds = row[kind]["seconds"]
            assert seconds["n"] == 9
            assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
        fused = row["fused"]
        assert fused["ns_per_element"] == pytest.approx(
            1e9 * fused["seconds"]["median"] / row["elements"]
        )
        assert row["elements"] == np.prod(row["shape"])
        assert fused["of_stream"] > 0
    assert set(environment["stream_gb_per_s"]) == {"in cache", "out of cache"}
    assert environment["kernels"] == ("native" if get_backend("cpu").native else "numpy")
    assert plot.read_bytes().startswith(PNG)
    printed = capsys.readouterr().out.splitlines()
    assert f"kernels: {environment['kernels']}" in printed[0]
    assert printed[-1].startswith("speed-up:")
    assert sum(line.startswith("gather") for line in printed) == 6
    table = tables.table(tmp_path, "out.json").splitlines()
    assert table[0].startswith("| operation | µs, small | of copy, small | speed-up, small |")
    labels = [line.split(" | ")[0] for line in table[2 : 2 + len(small)]]
    assert labels[:3] == ["| begin_step", "| gather fp32", "| gather uint8"]
    assert "| softmax_cross_entropy of 10" in labels
    assert table[-1].endswith("benchmarks/results/out.json")


def test_quick_has_fewer_rounds_and_rows_and_the_same_operations(small, tmp_path):
    out = tmp_path / "out.json"
    assert kernels.main(["--quick", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 3 * len(small)
    assert {row["fused"]["seconds"]["n"] for row in rows} == {3}
    assert rows[-1]["shape"] == [400]


@pytest.mark.usefixtures("small")
def test_a_kernel_that_computes_something_else_exits_7_before_it_is_timed(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(kernels, "get_backend", lambda device: Wrong(1.01, 1))
    monkeypatch.setattr(kernels, "Timed", None)
    out = tmp_path / "out.json"
    assert kernels.main(["--out", str(out)]) == 7
    assert "begin_step  [6]: what Wrong('cpu', float32) computes differs" in capsys.readouterr().err
    assert not out.exists()


class Event:
    """A stand-in for a GPU's event, which counts what happens between two of them."""

    happened = 0

    def record(self):
        self.at = Event.happened


def test_a_gpu_is_timed_by_its_events_and_its_cache_is_emptied(monkeypatch):
    backend = FakeCudaBackend(tune=False)
    monkeypatch.setattr(CUPY.cuda, "Event", Event)
    elapsed = lambda began, ended: 1e3 * (ended.at - began.at)  # noqa: E731
    monkeypatch.setattr(CUPY.cuda, "get_elapsed_time", elapsed)
    monkeypatch.setattr(kernels, "FLUSH_BYTES", 400)

    def repeat(n):
        Event.happened += n

    clock = kernels.DeviceClock(backend)
    for out_of_cache in (False, True):
        read = clock.largest[...] = -1
        assert clock.seconds(repeat, 5, out_of_cache) == 1
        assert (clock.largest != read) == out_of_cache


@pytest.mark.usefixtures("small")
def test_a_run_on_a_gpu_says_which(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(kernels, "get_backend", lambda device: FakeCudaBackend(tune=False))
    monkeypatch.setattr(CUPY.cuda, "get_elapsed_time", lambda began, ended: 0.5)
    out = tmp_path / "out.json"
    assert kernels.main(["--device", "cuda", "--quick", "--out", str(out)]) == 0
    content = json.loads(out.read_text())
    assert {row["device"] for row in content["rows"]} == {"cuda"}
    assert content["environment"]["gpu"] == "Stand-In 1"
    assert "Stand-In 1" in capsys.readouterr().out


def test_the_plain_formulas_for_cuda_take_without_a_mode():
    taken = []

    class Source:
        def take(self, index, axis, out):
            taken.append((index, axis, out))

    class CupyLike:
        add = staticmethod(np.add)
        __name__ = "cupy"

    backend = kernels.plain(SimpleNamespace(xp=CupyLike()))
    clock = np.array(3)
    backend.bind("gather", "out", Source(), "index")()
    backend.bind("begin_step", clock, ["row"], [Source()])()
    assert taken == [("index", 0, "out"), (clock, 0, "row")]
    assert clock == 4
    assert type(kernels.plain(get_backend("cpu"))) is Backend


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "tpu"], "invalid choice: 'tpu'"),
        (["--operations", "softmax"], "unrecognized arguments: --operations softmax"),
        (["--out", "no/such/file.json"], "no/such/file.json: there is no folder no/such"),
        (["--plot", "no/such/file.png"], "no/such/file.png: there is no folder no/such"),
    ],
)
def test_a_wrong_option_exits_2(options, message, capsys):
    with pytest.raises(SystemExit) as caught:
        kernels.main(options)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
