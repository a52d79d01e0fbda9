"""NumPy's own matrix product, with what np.matmul leaves out: C ← β C + α A B in one call.

The BLAS library that NumPy links is found through NumPy's extension module, so there is one pool of
threads; a second BLAS in the process would fight it for the cores (measured: ten times slower).
"""

import ctypes
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .activations import Array

COLUMN_MAJOR, NOT_TRANSPOSED, TRANSPOSED = 102, 111, 112
# NumPy's wheels have the first, builds with 64-bit integers the second, others the third
NAMES = ("scipy_cblas_sgemm64_", "cblas_sgemm64_", "cblas_sgemm")
THREADS = (
    "scipy_openblas_{}_num_threads64_",
    "openblas_{}_num_threads64_",
    "openblas_{}_num_threads",
)


class Gemm(NamedTuple):
    """The BLAS function `sgemm`, and whether its integers have 64 bits."""

    name: str
    function: Any
    wide: bool

    @property
    def address(self) -> int:
        """Where the function lies in memory."""
        return ctypes.cast(self.function, ctypes.c_void_p).value or 0


class BlasThreads(NamedTuple):
    """The BLAS functions that read and set how many threads a product takes."""

    get: Any
    set: Any


class Product(NamedTuple):
    """How C ← β C + α A B is asked of a BLAS that has matrices in column-major order."""

    a: Array
    b: Array
    c: Array
    transpose_a: bool
    transpose_b: bool
    m: int
    n: int
    k: int
    lda: int
    ldb: int
    ldc: int


def plan_product(c: Array, a: Array, b: Array) -> Product | None:
    """Return how to ask for C (m, n) ← A (m, k) B (k, n); None where BLAS cannot.

    Any mix of C and Fortran order will do, in float32 (on a GPU A and B may be 16 bits, both); a C
    in C order is its transpose, the product of the transposes, in Fortran order.

    >>> c, a, b = (np.zeros(shape, "f") for shape in ((2, 3), (2, 4), (4, 3)))
    >>> plan_product(c, a, b)[3:]
    (False, False, 3, 2, 4, 3, 4, 3)
    """
    if not all(x.ndim == 2 and x.size for x in (a, b, c)) or c.dtype != np.float32:
        return None
    if a.dtype != b.dtype or a.dtype not in (np.float32, np.uint16):
        return None
    if c.shape != (len(a), b.shape[1]) or a.shape[1] != len(b):
        return None
    if not c.flags.f_contiguous:
        a, b, c = b.T, a.T, c.T
    sides = [_layout(x) for x in (a, b, c)]
    if None in sides or sides[2][0]:  # type: ignore[index]
        return None
    (ta, lda), (tb, ldb), (_, ldc) = sides  # type: ignore[misc]
    return Product(a, b, c, ta, tb, c.shape[0], c.shape[1], a.shape[1], lda, ldb, ldc)


def _layout(matrix: Array) -> tuple[bool, int] | None:
    """Return (whether column-major order means its transpose, distance of its columns)."""
    rows, columns = matrix.shape
    if matrix.flags.f_contiguous:
        return False, max(1, rows)
    return (True, max(1, columns)) if matrix.flags.c_contiguous else None


class GemmCall:
    """A product bound to BLAS; 0-d arrays α and β are read each time it runs."""

    name = "gemm"

    def __init__(self, gemm: Gemm, product: Product, alpha: Any, beta: Any) -> None:
        p, integer = product, ctypes.c_int64 if gemm.wide else ctypes.c_int
        self.arguments = p._asdict()  # keeps the arrays alive, too
        self._scalars = alpha, beta
        self._changing = isinstance(alpha, np.ndarray) or isinstance(beta, np.ndarray)
        self._alpha, self._beta = ctypes.c_float(alpha), ctypes.c_float(beta)
        flags = (NOT_TRANSPOSED, TRANSPOSED)
        self._function = gemm.function
        self._given = (
            ctypes.c_int(COLUMN_MAJOR),
            ctypes.c_int(flags[p.transpose_a]),
            ctypes.c_int(flags[p.transpose_b]),
            *(integer(x) for x in (p.m, p.n, p.k)),
            self._alpha,
            ctypes.c_void_p(p.a.ctypes.data),
            integer(p.lda),
            ctypes.c_void_p(p.b.ctypes.data),
            integer(p.ldb),
            self._beta,
            ctypes.c_void_p(p.c.ctypes.data),
            integer(p.ldc),
        )

    def __call__(self) -> None:
        """Run it."""
        if self._changing:
            self._alpha.value, self._beta.value = map(float, self._scalars)
        self._function(*self._given)


def _library() -> Any:
    """Return NumPy's extension module, through which its BLAS is found; None where it is not."""
    try:
        return ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return None


@cache
def find_threads() -> BlasThreads | None:
    """Return how the threads of NumPy's BLAS are read and set; None for another than OpenBLAS."""
    library = _library()
    for name in THREADS:
        get, set_ = (getattr(library, name.format(what), None) for what in ("get", "set"))
        if get is not None and set_ is not None:
            get.restype, set_.restype = ctypes.c_int, None
            return BlasThreads(get, set_)
    return None


@cache
def find_gemm() -> Gemm | None:
    """Return the `sgemm` of NumPy's BLAS; None where it is not found, or not right when tried."""
    library = _library()
    for name in NAMES:
        function = getattr(library, name, None)
        if function is not None:
            function.restype = None
            gemm = Gemm(name, function, "64" in name)
            return gemm if _is_right(gemm) else None
    return None


def _is_right(gemm: Gemm) -> bool:
    """Whether it computes a product with every option."""
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    b = np.arange(12, dtype=np.float32).reshape(4, 3).T
    c = np.ones((2, 4), np.float32, order="F")
    expected = 0.5 * c - 2 * (a @ b)
    product = plan_product(c, a, b)
    assert product is not None
    GemmCall(gemm, product, -2.0, 0.5)()
    return bool((c == expected).all())
