"""NumPy's own BLAS, called directly: every mix of memory orders, α and β, and what it cannot do."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumlp.backend import CpuBackend, blas
from gpumlp.backend.blas import GemmCall, find_gemm, plan_product

GEMM = find_gemm()
needs_gemm = pytest.mark.skipif(GEMM is None, reason="NumPy's BLAS is one that is not known")
sizes = st.integers(1, 40)


def matrix(rng, shape, order):
    return np.asarray(rng.normal(size=shape), np.float32, order=order)


@needs_gemm
@pytest.mark.parametrize("orders", [*product("CF", repeat=3)], ids="".join)
@pytest.mark.parametrize("kernels", [True, False])
@given(m=sizes, n=sizes, k=sizes, seed=st.integers(0, 99))
def test_a_product_in_any_memory_order_equals_that_of_numpy(orders, kernels, m, n, k, seed):
    rng, backend = np.random.default_rng(seed), CpuBackend(kernels)
    c, a, b = map(matrix, [rng] * 3, [(m, n), (m, k), (k, n)], orders)
    expected = 0.5 * c - 2.0 * (a.astype(float) @ b)
    backend.matmul(c, a, b, -2.0, np.array(0.5, np.float32))
    np.testing.assert_allclose(c, expected, 0, 1e-5 * (k + 1))


@needs_gemm
@pytest.mark.parametrize("kernels", [True, False])
def test_factors_in_memory_are_read_at_every_run(kernels):
    backend = CpuBackend(kernels)
    a = np.eye(3, dtype=np.float32)
    c = np.ones((3, 3), np.float32)
    alpha, beta = np.array(1, np.float32), np.array(0, np.float32)
    call = backend.bind("matmul", c, a, a, alpha, beta)
    call()
    np.testing.assert_array_equal(c, a)
    alpha[...], beta[...] = 3, 10
    call()
    np.testing.assert_array_equal(c, 13 * a)


@needs_gemm
def test_with_beta_zero_the_old_content_is_not_read():
    c = np.full((2, 2), np.nan, np.float32)
    CpuBackend().matmul(c, np.eye(2, dtype="f"), np.eye(2, dtype="f"), 2.0, 0.0)
    np.testing.assert_array_equal(c, 2 * np.eye(2))


@pytest.mark.parametrize(
    ("c", "a", "b"),
    [
        (np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 2))),  # float64
        (np.zeros((4, 2), "f")[::2], np.zeros((2, 2), "f"), np.zeros((2, 2), "f")),
        (np.zeros((2, 2), "f"), np.zeros((2, 4), "f")[:, ::2], np.zeros((2, 2), "f")),
        (np.zeros((2, 0), "f"), np.zeros((2, 3), "f"), np.zeros((3, 0), "f")),
        (np.zeros((2, 2), "f"), np.zeros((2, 0), "f"), np.zeros((0, 2), "f")),
        (np.zeros(2, "f"), np.zeros((2, 2), "f"), np.zeros(2, "f")),
        (np.zeros((2, 2), "f"), np.zeros((2, 3), "f"), np.zeros((2, 2), "f")),
        (np.zeros((3, 2), "f"), np.zeros((2, 2), "f"), np.zeros((2, 2), "f")),
    ],
)
def test_what_blas_cannot_do_is_left_to_numpy(c, a, b):
    assert plan_product(c, a, b) is None


def test_products_without_rows_or_inner_size_are_numpys():
    backend = CpuBackend()
    c = np.full((2, 3), 7, np.float32)
    backend.matmul(c, np.zeros((2, 0), "f"), np.zeros((0, 3), "f"))
    np.testing.assert_array_equal(c, 0)
    empty = np.zeros((0, 3), "f")
    backend.matmul(empty, np.zeros((0, 2), "f"), np.zeros((2, 3), "f"))


def test_without_a_known_blas_products_are_numpys(monkeypatch):
    monkeypatch.setattr(blas, "NAMES", ("no_such_function",))
    assert find_gemm.__wrapped__() is None
    backend = CpuBackend(kernels=False)
    backend._gemm = None
    c, a = np.ones((2, 2), np.float32), np.eye(2, dtype="f")
    backend.matmul(c, a, a, 2.0, 3.0, np.empty_like(c))
    np.testing.assert_array_equal(c, 3 + 2 * a)


@needs_gemm
def test_a_function_that_computes_something_else_is_not_used(monkeypatch):
    def wrong(*arguments):
        pass

    monkeypatch.setattr(blas.ctypes, "CDLL", lambda path: type("L", (), {NAME: wrong}))
    assert find_gemm.__wrapped__() is None


NAME = blas.NAMES[0]


@needs_gemm
def test_the_call_of_a_product_keeps_its_arrays_alive():
    def bound():
        c = np.zeros((50, 50), np.float32)
        ones = np.ones((50, 50), np.float32)
        planned = plan_product(c, ones, ones.copy())
        return GemmCall(GEMM, planned, 1.0, 0.0), c

    call, c = bound()
    garbage = [np.full((50, 50), 9, np.float32) for _ in range(20)]
    call()
    assert (c == 50).all()
    assert len(garbage) == 20
