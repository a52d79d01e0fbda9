"""Kernels run in parts by several threads: the same bits, whoever runs them, whatever goes on."""

import os
import threading
from math import prod

import numpy as np
import pytest

from gpumlp.backend import CpuBackend, native
from gpumlp.backend.blas import find_gemm, find_threads
from gpumlp.backend.native import SHARED, SIZES, load_native
from gpumlp.layers import Dense, Dropout
from gpumlp.losses import SoftmaxCrossEntropy
from gpumlp.model import Sequential
from gpumlp.optimizers import Adam
from gpumlp.trainer import Trainer

LIBRARY, WHERE = load_native()
pytestmark = [
    pytest.mark.skipif(LIBRARY is None, reason=f"native: {WHERE}"),
    pytest.mark.skipif(find_threads() is None, reason="NumPy's BLAS is not OpenBLAS"),
]
ROWS, COLUMNS, INNER = 37, 53, 29


@pytest.fixture
def all_shared(monkeypatch):
    """Let threads share kernels of any size."""
    monkeypatch.setattr(native, "SHARED", dict.fromkeys(SHARED, 1))


@pytest.fixture
def three_threads(all_shared, monkeypatch):
    """Let BLAS, and so kernels, have three threads, however many cores there are."""
    get, set_ = find_threads()
    before = get()
    set_(3)
    yield
    assert get() == 3  # as it was before the runs
    set_(before)


def arguments_of(name, seed=0):
    """Return arguments of a kernel, with arrays large enough for any of its sizes."""
    rng = np.random.default_rng(seed)
    sizes = {"rows": ROWS, "columns": COLUMNS, "n": ROWS * COLUMNS, "bytes": COLUMNS * 4}
    numbers = {"activation": 0, "threshold": 2**31, "first_row": 5, "format": 0}
    length = ROWS * COLUMNS
    if name == "gemm":
        gemm = find_gemm()
        sizes |= {"m": ROWS, "n": COLUMNS, "k": INNER, "lda": ROWS, "ldb": INNER, "ldc": ROWS}
        numbers |= {"transpose_a": 0, "transpose_b": 0}
        numbers |= {"function": gemm.address, "wide": gemm.wide}
    arguments = {}
    for parameter, kind in LIBRARY._kernel(name)[1].items():
        if parameter in sizes | numbers:
            arguments[parameter] = (sizes | numbers)[parameter]
        elif parameter == "skip":
            arguments[parameter] = None
        elif kind in ("float*", "operand*"):
            arguments[parameter] = rng.uniform(0.1, 1, length).astype(np.float32)
        elif kind == "uint8*":
            arguments[parameter] = rng.integers(0, 9, 4 * length).astype(np.uint8)
        elif parameter == "index":
            arguments[parameter] = rng.permutation(ROWS)
        elif kind == "float":
            arguments[parameter] = 0.25
        else:
            arguments[parameter] = np.ones(length, native.POINTERS[kind])
    return arguments


@pytest.mark.parametrize("threads", [2, 3, 5, 60])
@pytest.mark.parametrize("name", sorted(SHARED))
def test_parts_make_the_whole_bit_for_bit(name, threads, all_shared):
    expected, arguments = arguments_of(name), arguments_of(name)
    before = {k: v.copy() for k, v in expected.items() if isinstance(v, np.ndarray)}
    LIBRARY.bind(name, expected)()
    call = LIBRARY.bind(name, arguments, threads)
    assert call.parts == threads
    call()
    changed = 0
    for parameter, array in before.items():
        if name == "gemm":  # its parts may end where BLAS adds in another order
            np.testing.assert_allclose(arguments[parameter], expected[parameter], 1e-6)
        else:
            assert arguments[parameter].tobytes() == expected[parameter].tobytes(), parameter
        changed += arguments[parameter].tobytes() != array.tobytes()
    assert changed


@pytest.mark.parametrize(("m", "n"), [(100, 7), (7, 100), (1, 1), (17, 16), (64, 64)])
@pytest.mark.parametrize("transposes", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_product_in_parts_has_every_entry(m, n, transposes, three_threads):
    rng, k = np.random.default_rng(m), 5
    a, b = (np.asarray(rng.normal(size=shape), "f") for shape in ((m, k), (k, n)))
    c = np.asfortranarray(rng.normal(size=(m, n)), "f")
    sides = [np.asarray(x, order="CF"[not t]) for x, t in zip((a, b), transposes, strict=True)]
    expected = 0.5 * c + 2.0 * (a @ b)
    CpuBackend().matmul(c, *sides, 2.0, 0.5)
    np.testing.assert_allclose(c, expected, 0, 1e-5)


def test_a_part_is_worth_waiting_for():
    for name, least in SHARED.items():
        arguments = arguments_of(name)
        kinds = LIBRARY._kernel(name)[1]
        size = prod(arguments[s] for s in SIZES if kinds.get(s) in ("size_t", "int64"))
        assert LIBRARY.bind(name, arguments, 4).parts == min(4, max(1, 2 * size // least))
    arguments = {"out": np.zeros(9, "f"), "weights": np.ones(9, "f"), "rows": 9}
    assert LIBRARY.bind("normalize", arguments, 4).parts == 1


def network():
    layers = [Dense(20, 64, "tanh"), Dropout(0.2), Dense(64, 32, "sigmoid"), Dense(32, 4)]
    return Sequential(*layers, seed=3)


def train(engine="auto", epochs=3):
    """Train a small network and return its parameters."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(150, 20)).astype("f"), rng.integers(0, 4, 150)
    model = network()
    trainer = Trainer(model, SoftmaxCrossEntropy(), Adam(0.01), batch_size=32, engine=engine)
    trainer.fit(x, y, epochs=epochs)
    return model.flat.values.copy()


@pytest.fixture
def unlimited(monkeypatch):
    """Keep `fit` from taking one thread for a small network."""
    monkeypatch.setattr("gpumlp.backend.base.SINGLE_THREADED", 0)


def test_training_with_threads_is_the_same_from_run_to_run_and_in_both_engines(
    three_threads, unlimited
):
    first = train("graph")
    for engine in ("graph", "eager", "graph"):
        assert train(engine).tobytes() == first.tobytes()


def test_training_with_threads_equals_training_without(three_threads, unlimited, monkeypatch):
    together = train()
    monkeypatch.setattr(native, "SHARED", {})
    np.testing.assert_allclose(train(), together, 1e-3, 1e-5)


def test_trainings_in_python_threads_do_not_disturb_each_other(three_threads, unlimited):
    """The threads are one's at a time; the other runs all parts by itself, to the same bits."""
    expected, results = train(), []
    runs = [threading.Thread(target=lambda: results.append(train(epochs=3))) for _ in range(4)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [result.tobytes() for result in results] == [expected.tobytes()] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_copy_of_the_process_has_threads_of_its_own(three_threads, unlimited):
    expected = train()
    child = os.fork()
    if not child:
        os._exit(0 if train().tobytes() == expected.tobytes() else 1)
    assert os.waitpid(child, 0)[1] == 0
