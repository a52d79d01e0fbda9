"""CpuBackend: NumPy arrays with native kernels and direct matrix products where they are found.

What is missing (no compiler at the installation, an unknown BLAS) is computed by the plain NumPy
formulas instead, with the same results within rounding.
"""

from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np

from .activations import Array
from .base import Call, Order, Plan
from .blas import GemmCall, find_gemm, plan_product
from .fused import FusedBackend
from .kernel_backend import flat, together
from .native import NativeCall, NativeSequence, load_native
from .operations import Scalar
from .precision import Matrix, Precision, partial_products


class CpuBackend(FusedBackend):
    """The CPU in float32.

    Args:
        kernels: whether to use the native kernels if they were built.
        precision: what matrix products read; one of matrix units is emulated.

    >>> backend = CpuBackend()
    >>> w, g = backend.asarray([1.0, 2.0]), backend.asarray([2.0, 2.0])
    >>> backend.sgd_step(w, g, 0.5, backend.scratch(w))
    >>> w.tolist()
    [0.0, 1.0]
    """

    # In Fortran order a batch is, in memory, the notes' own Z = W X with samples as columns, which
    # matrix products on a CPU prefer (measured) and native kernels expect.
    workspace_order: Order = "F"

    def __init__(self, kernels: bool = True, precision: Precision | None = None) -> None:
        super().__init__(np, "float32", precision)
        self._library = load_native()[0] if kernels else None
        self._gemm = find_gemm()

    def __reduce__(self) -> tuple[Any, ...]:
        return CpuBackend, (self.native, self.precision)

    @property
    def native(self) -> bool:
        """Whether native kernels are used."""
        return self._library is not None

    def kernel(self, name: str, **arguments: Any) -> Call | None:
        """As in `FusedBackend`."""
        if self._library is None:
            return None
        return self._library.bind(name, arguments, self._library.threads())

    def _tickets(self) -> None:
        """Loops need none."""

    def _bind_matmul(
        self,
        out: Array,
        a: Matrix,
        b: Matrix,
        alpha: Scalar = 1.0,
        beta: Scalar = 0.0,
        scratch: Array = None,
    ) -> Call | None:
        calls = []
        for left, right in partial_products(self.precision, a, b):
            calls.append(self._bind_product(out, left, right, alpha, beta))
            beta = 1.0
        return together(calls)

    def _bind_product(
        self, out: Array, a: Array, b: Array, alpha: Scalar, beta: Scalar
    ) -> Call | None:
        product = None if self._gemm is None else plan_product(out, a, b)
        if self._gemm is None or product is None:
            return None
        if self._library is None:
            return GemmCall(self._gemm, product, alpha, beta)
        return self.kernel(
            "gemm",
            function=self._gemm.address,
            wide=self._gemm.wide,
            alpha=alpha,
            beta=beta,
            **product._asdict(),
        )

    def replay(self, plan: Plan) -> Callable[[int], None]:
        """As in `Backend`; neighbouring native calls are run by the library itself."""
        parts: list[Call] = []
        for native, calls in groupby(flat(plan), lambda call: isinstance(call, NativeCall)):
            if native and self._library is not None:
                parts.append(self._library.sequence([*calls]))  # type: ignore[list-item]
            else:
                parts += calls
        if len(parts) == 1 and isinstance(parts[0], NativeSequence):
            return parts[0]
        return super().replay(parts)
