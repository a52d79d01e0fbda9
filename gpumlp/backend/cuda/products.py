"""Matrix products on a GPU: bound to arrays, by the algorithm that was measured fastest."""

import ctypes as c
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..activations import Array
from ..blas import Product, plan_product
from ..precision import Precision
from .capture import Capture
from .cublaslt import (
    Algorithm,
    Choice,
    CublasLt,
    Description,
    Epilogue,
    Problem,
    alignment,
)
from .launch import DeviceCall, Span, span_of
from .tuning import Choices

WORKSPACE_BYTES = 32 << 20  # what the library wants on Hopper; each stream has its own
TIMED_OPERATIONS = 2e9  # floating-point operations of a graph by which an algorithm is timed
MOST_TIMED = 20  # products in it


class Extra(NamedTuple):
    """What an epilogue does, and its arrays: the vector, and what the derivative needs."""

    epilogue: Epilogue = Epilogue.NONE
    vector: Array = None
    aux: Array = None
    aux_ld: int = 0

    @property
    def written(self) -> list[Array]:
        """The arrays that it writes besides the product's result."""
        name = self.epilogue.name
        written = [self.vector] if "BGRAD" in name else []
        return written + ([self.aux] if "_AUX" in name else [])


class ProductCall:
    """A matrix product bound to its arrays; calling it gives it to CuPy's current stream.

    It keeps its arrays alive. α and β are numbers, or 0-d arrays that are read when it runs.
    """

    name = "product"

    def __init__(
        self,
        products: "Products",
        product: Product,
        scalars: tuple[Any, Any],
        extra: Extra,
    ) -> None:
        self.product, self.scalars, self.extra = product, scalars, extra
        p, arrays = product, (product.a, product.b, product.c)
        on_device = any(hasattr(scalar, "strides") for scalar in scalars)
        if on_device:
            self.scalars = products.on_device(scalars[0]), products.on_device(scalars[1])
        self.problem = Problem(
            products.compute_of(p.a),
            *p[3:],
            extra.epilogue,
            extra.aux_ld,
            on_device,
            (_aligned(p.a), _aligned(p.b), _aligned(p.c)),
        )
        others = [a for a in (extra.vector, extra.aux) if a is not None]
        read = [*arrays, *others, *(self.scalars if on_device else ())]
        self.reads = tuple(map(span_of, read))
        self.writes: tuple[Span, ...] = tuple(map(span_of, [p.c, *extra.written]))
        self.operations = 2 * p.m * p.n * p.k
        self.nbytes = sum(span.end - span.start for span in self.reads)
        self._products = products
        self.description = Description(products.library, self.problem, *map(_address, extra[1:3]))

    def __repr__(self) -> str:
        p = self.product
        epilogue = f", {self.extra.epilogue.name}" if self.extra.epilogue > 1 else ""
        return f"ProductCall({p.m} x {p.n} x {p.k}{epilogue})"

    @property
    def is_plain(self) -> bool:
        """Whether it is C = A B alone."""
        plain = self.extra.epilogue == Epilogue.NONE and not self.problem.scalars_on_device
        return plain and self.scalars == (1.0, 0.0)

    def use(self, choice: Choice) -> None:
        """Take that algorithm."""
        p, on_device = self.product, self.problem.scalars_on_device
        la, lb, lc = self.description.layouts
        a, b, d = (c.c_void_p(_address(array)) for array in (p.a, p.b, p.c))
        alpha, beta = (
            c.c_void_p(_address(scalar)) if on_device else c.pointer(c.c_float(scalar))
            for scalar in self.scalars
        )
        self._algorithm = Algorithm.from_buffer_copy(choice.algorithm)
        self._needs = choice.workspace
        self._arguments = (
            *(self.description.product, alpha, a, la, b, lb, beta, d, lc, d, lc),
            c.byref(self._algorithm),
        )

    def __call__(self) -> None:
        """Run it on CuPy's current stream."""
        products = self._products
        stream = products.current_stream()
        workspace = products.workspace(stream).data.ptr if self._needs else None
        products.library.multiply(*self._arguments, workspace, self._needs, stream)


class Products:
    """The matrix products of one device.

    Args:
        cupy: the module.
        library: cuBLASLt.
        precision: what is multiplied: float32, perhaps as TF32, or 16 bits of a format.
        capture: whose streams have their workspace before anything is captured.
        tune: whether candidates are timed; else the library's favourite is taken.
        choices: what was chosen before.
        constant: returns a number as a 0-d array on the device.
    """

    def __init__(
        self,
        cupy: Any,
        library: CublasLt,
        precision: Precision,
        capture: Capture,
        tune: bool,
        choices: Choices,
        constant: Callable[[float], Array],
    ) -> None:
        self.library, self._precision, self._cupy = library, precision, cupy
        self._capture, self._tune = capture, tune
        self.choices, self._constant = choices, constant
        self._chosen: dict[Problem, Choice | None] = {}
        self._workspaces: dict[int, Array] = {}

    def bind(
        self,
        out: Array,
        a: Array,
        b: Array,
        alpha: Any = 1.0,
        beta: Any = 0.0,
        extra: Extra | None = None,
    ) -> ProductCall | None:
        """Return out ← β out + α a b as a call, or None where the library cannot do it."""
        product = plan_product(out, a, b)
        if product is None:
            return None
        call = ProductCall(self, product, (alpha, beta), extra or Extra())
        choice = self._choose(call)
        if choice is None:
            return None
        call.use(choice)
        return call

    def with_epilogue(
        self, call: ProductCall, out: Array | None, extra: Extra
    ) -> ProductCall | None:
        """Return the same product with an epilogue, or None where there is no algorithm for it.

        `out` takes the place of its result C, in column-major order.
        """
        product = call.product if out is None else call.product._replace(c=out)
        fused = ProductCall(self, product, call.scalars, extra)
        choice = self._choose(fused)
        if choice is None:
            return None
        fused.use(choice)
        return fused

    def prefers(self, fused: ProductCall, apart: Sequence[DeviceCall]) -> bool:
        """Whether one product is faster than several calls; measured once for each problem."""
        key = f"epilogue {_key(fused.problem)}"
        kept = self.choices.get(key)
        if kept is None and self._tune:
            times = self._times(fused)
            seconds = [self._capture.seconds(calls, times) for calls in ([fused], apart)]
            kept = [seconds[0] <= seconds[1], *(round(1e6 * s, 2) for s in seconds)]
            self.choices.keep(key, kept)
        return kept is None or bool(kept[:1] == [True])

    def compute_of(self, operand: Array) -> str:
        """Return what the matrix units make of such an operand: fp32, tf32, bf16 or fp16."""
        if operand.dtype == np.float32:
            return "tf32" if self._precision.format == "tf32" else "fp32"
        return self._precision.format or ""

    @property
    def plain_scalars(self) -> tuple[Array, Array]:
        """α = 1 and β = 0 as kernels have them."""
        return self._constant(1.0), self._constant(0.0)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return memory of the device."""
        return self._cupy.empty(shape, dtype)

    def on_device(self, scalar: Any) -> Array:
        """Return α or β as a 0-d array on the device."""
        return scalar if hasattr(scalar, "strides") else self._constant(float(scalar))

    def current_stream(self) -> int:
        """Return the address of CuPy's current stream."""
        return int(self._cupy.cuda.get_current_stream().ptr)

    def workspace(self, stream: int) -> Array:
        """Return the memory that products on a stream may use meanwhile, always the same."""
        if stream not in self._workspaces:
            self._workspaces[stream] = self._cupy.empty(WORKSPACE_BYTES, np.uint8)
        return self._workspaces[stream]

    def _choose(self, call: ProductCall) -> Choice | None:
        """Return the algorithm for a product; the choice is made once for each problem."""
        problem = call.problem
        if problem not in self._chosen:
            choice = self._chosen[problem] = self._kept(call) or self._fastest(call)
            if choice is not None and choice.workspace:
                for stream in self._capture.streams:
                    self.workspace(stream.ptr)
        return self._chosen[problem]

    def _kept(self, call: ProductCall) -> Choice | None:
        """Return what was chosen in an earlier process, where it is still valid."""
        kept = self.choices.get(_key(call.problem))
        try:
            algorithm = bytes.fromhex(kept[0]) if kept else b""
        except (TypeError, ValueError, IndexError):
            return None
        if len(algorithm) != c.sizeof(Algorithm):
            return None
        workspace = self.library.workspace_of(call.description, algorithm)
        if workspace is None or workspace > WORKSPACE_BYTES:
            return None
        return Choice(algorithm, workspace)

    def _fastest(self, call: ProductCall) -> Choice | None:
        """Time the library's candidates on this problem; return the fastest, and keep it."""
        candidates = self.library.candidates(call.problem, call.description, WORKSPACE_BYTES)
        if not candidates or not self._tune:
            return candidates[0] if candidates else None
        for stream in self._capture.streams:
            self.workspace(stream.ptr)
        copied = self._on_copies(call)
        times = self._times(call)
        seconds = []
        for candidate in candidates:
            copied.use(candidate)
            copied()  # loads its code, which must not happen in a capture
            seconds.append(self._capture.seconds([copied], times))
        best = candidates[seconds.index(min(seconds))]
        self.choices.keep(
            _key(call.problem),
            [best.algorithm.hex(), best.workspace, [round(1e6 * s, 2) for s in seconds]],
        )
        return best

    def _times(self, call: ProductCall) -> int:
        """Return how often a product is run to be timed."""
        return max(1, min(MOST_TIMED, int(TIMED_OPERATIONS / max(call.operations, 1))))

    def _on_copies(self, call: ProductCall) -> ProductCall:
        """Return a call whose outputs are copies, because timing runs it many times."""
        copies = {id(array): array.copy("K") for array in [call.product.c, *call.extra.written]}

        def copied(array: Array) -> Array:
            return copies.get(id(array), array)

        extra = call.extra._replace(vector=copied(call.extra.vector), aux=copied(call.extra.aux))
        product = call.product._replace(c=copied(call.product.c))
        return ProductCall(self, product, call.scalars, extra)


def _aligned(array: Array) -> int:
    return alignment(int(array.data.ptr))


def _address(array: Array) -> int:
    return 0 if array is None else int(array.data.ptr)


def _key(problem: Problem) -> str:
    """Return a problem as text, as in "fp32 TN 30x10x784 ...".

    >>> _key(Problem("fp32", True, False, 30, 10, 784, 784, 784, 30))
    'fp32 TN 30x10x784 ld 784,784,30 NONE aux 0 host aligned 256,256,256'
    """
    p = problem
    flags = "".join("NT"[flag] for flag in (p.transpose_a, p.transpose_b))
    scalars = "device" if p.scalars_on_device else "host"
    return (
        f"{p.compute} {flags} {p.m}x{p.n}x{p.k} ld {p.lda},{p.ldb},{p.ldc} "
        f"{p.epilogue.name} aux {p.aux_ld} {scalars} aligned {','.join(map(str, p.alignments))}"
    )
