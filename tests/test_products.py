"""Which algorithm a product takes: the fastest, once and for all; timing it changes nothing."""

import json

import numpy as np
import pytest
from fake_cuda import STATE, FakeCudaBackend, fake_cublaslt, on_device

from gpumlp.backend.cuda.capture import Capture

ROWS, COLUMNS, INNER = 6, 5, 4


@pytest.fixture(autouse=True)
def library_as_it_was():
    yield
    fake_cublaslt().library.fake_offer(3)
    fake_cublaslt().library.fake_refuse(0)


@pytest.fixture
def times(monkeypatch):
    """Seconds that the algorithms 1, 2 and 3 take; whatever is timed is noted in "timed"."""
    seconds = {1: 3.0, 2: 1.0, 3: 2.0, "timed": []}

    def timed(capture, calls, times, repeats=3):
        capture.graph(calls, times).launch()
        seconds["timed"].append([*map(repr, calls)])
        return seconds[algorithm_of(calls[0])]

    monkeypatch.setattr(Capture, "seconds", timed)
    return seconds


def algorithm_of(call):
    return int(call._algorithm.data[0])


def arrays():
    rng = np.random.default_rng(0)
    shapes = ((ROWS, COLUMNS), (ROWS, INNER), (INNER, COLUMNS))
    return [on_device(rng.normal(size=shape).astype(np.float32)) for shape in shapes]


def kept_file(folder):
    (path,) = (folder / "gpumlp" / "products").glob("*.json")
    return path


def test_the_fastest_of_the_candidates_is_taken_and_kept(tmp_path, times):
    backend = FakeCudaBackend(cache=tmp_path)
    call = backend.bind("matmul", *arrays())
    assert algorithm_of(call) == 2
    assert len(times["timed"]) == 3
    path = kept_file(tmp_path)
    assert path.name == "stand-in-1-130000.json"
    ((key, kept),) = json.loads(path.read_text()).items()
    assert key.startswith("fp32 NN 5x6x4 ld 5,4,5 NONE aux 0 host aligned ")
    assert kept[1:] == [0, [3e6, 1e6, 2e6]]
    assert bytes.fromhex(kept[0])[0] == 2


def test_the_same_problem_is_timed_once(tmp_path, times):
    backend = FakeCudaBackend(cache=tmp_path)
    first, second = (backend.bind("matmul", *arrays()) for _ in range(2))
    assert algorithm_of(first) == algorithm_of(second) == 2
    assert len(times["timed"]) == 3
    out, a, b = arrays()
    backend.bind("matmul", out, a, b, 1.0, 0.5)  # numbers alone make no other problem
    assert len(times["timed"]) == 3
    backend.bind("matmul", out[:3], a[:3], b)
    assert len(times["timed"]) == 6


def test_the_next_process_takes_what_was_chosen_without_timing(tmp_path, times):
    FakeCudaBackend(cache=tmp_path).bind("matmul", *arrays())
    times["timed"].clear()
    times[1] = 0.1  # it would win now
    assert algorithm_of(FakeCudaBackend(cache=tmp_path).bind("matmul", *arrays())) == 2
    assert not times["timed"]


def test_a_workspace_of_a_kept_choice_is_there_before_a_capture(tmp_path, times):
    times[3] = 0.1
    FakeCudaBackend(cache=tmp_path).bind("matmul", *arrays())
    backend = FakeCudaBackend(cache=tmp_path)
    out, a, b = arrays()
    call = backend.bind("matmul", out, a, b)
    assert algorithm_of(call) == 3
    backend._capture.graph([call]).launch()  # an allocation in it would be an error
    np.testing.assert_allclose(out.get(), a.get() @ b.get(), 1e-5)


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: "{",
        lambda kept: json.dumps({key: ["zz", *rest] for key, (_, *rest) in kept.items()}),
        lambda kept: json.dumps({key: ["00" * 64, *rest] for key, (_, *rest) in kept.items()}),
        lambda kept: json.dumps({key: ["0102", *rest] for key, (_, *rest) in kept.items()}),
        lambda kept: json.dumps({key: [7] for key in kept}),
        lambda kept: json.dumps({key: [] for key in kept}),
    ],
    ids=["no JSON", "no hexadecimal", "unknown algorithm", "too short", "a number", "nothing"],
)
def test_a_choice_that_cannot_be_used_is_made_anew(tmp_path, times, damage):
    FakeCudaBackend(cache=tmp_path).bind("matmul", *arrays())
    path = kept_file(tmp_path)
    path.write_text(damage(json.loads(path.read_text())))
    times["timed"].clear()
    assert algorithm_of(FakeCudaBackend(cache=tmp_path).bind("matmul", *arrays())) == 2
    assert len(times["timed"]) == 3
    assert bytes.fromhex(next(iter(json.loads(path.read_text()).values()))[0])[0] == 2


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, times):
    (tmp_path / "gpumlp").write_text("in the way")
    assert algorithm_of(FakeCudaBackend(cache=tmp_path).bind("matmul", *arrays())) == 2


def test_without_tuning_the_librarys_favourite_is_taken_and_nothing_kept(tmp_path, times):
    backend = FakeCudaBackend(tune=False, cache=tmp_path)
    assert algorithm_of(backend.bind("matmul", *arrays())) == 1
    assert not times["timed"]
    assert not (tmp_path / "gpumlp").exists()


def test_timing_changes_no_array(tmp_path):
    backend = FakeCudaBackend(cache=tmp_path)
    held = arrays()
    before = [array.get() for array in held]
    backend.bind("matmul", *held, 1.0, 1.0)
    for array, old in zip(held, before, strict=True):
        np.testing.assert_array_equal(array.get(), old)


def test_large_products_are_timed_fewer_times(tmp_path, monkeypatch):
    counts = []
    monkeypatch.setattr(Capture, "seconds", lambda self, calls, times: counts.append(times) or 1.0)
    backend = FakeCudaBackend(cache=tmp_path)
    backend.bind("matmul", *arrays())
    shapes = ((700, 700), (700, 700), (700, 700))
    backend.bind("matmul", *(on_device(np.zeros(shape, np.float32)) for shape in shapes))
    assert counts == [20] * 3 + [2] * 3


def test_a_time_is_that_of_the_shortest_graph_divided_by_its_runs(tmp_path, monkeypatch):
    backend = FakeCudaBackend(tune=False, cache=tmp_path)
    call, elapsed = backend.bind("matmul", *arrays()), iter([9.0, 5.0, 2.0, 4.0])
    monkeypatch.setattr(backend.xp.cuda, "get_elapsed_time", lambda began, ended: next(elapsed))
    graphs = len(STATE.graphs)
    assert backend._capture.seconds([call], 10) == pytest.approx(2e-4)
    assert len(STATE.graphs) == graphs + 1
    assert STATE.graphs[-1].launched == 4
    assert len(STATE.graphs[-1].launches) == 10
