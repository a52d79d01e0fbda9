"""A thin binding of cuBLASLt, NVIDIA's library of matrix products, through ctypes.

CuPy's own products refuse to be captured into a CUDA graph. These can be, because a call is told
its stream and its workspace and keeps no state. The library has matrices in column-major order:
D ← epilogue(α op(A) op(B) + β C), here always with C = D. Numbers of enums and sizes of attributes
are those of its header, cublasLt.h.
"""

import ctypes as c
from enum import IntEnum
from math import gcd
from typing import Any, NamedTuple

from ...errors import DeviceError

FLOAT32 = 0  # cudaDataType: of results, sums, α and β
OPERANDS = {"fp32": FLOAT32, "tf32": FLOAT32, "bf16": 14, "fp16": 2}  # of A and B
COMPUTE = {"fp32": 68, "tf32": 77, "bf16": 68, "fp16": 68}  # cublasComputeType_t
CANDIDATES = 8  # algorithms that the library is asked for
ALIGNMENT = 256  # bytes: more is never asked about


class Epilogue(IntEnum):
    """What a product does with its result before it is stored.

    BIAS adds a vector, one entry for each row of D; AUX also writes what the derivative needs; D...
    multiplies by the derivative; BGRAD also writes the row sums of the result, BGRADB the column
    sums of op(B).
    """

    NONE = 1
    BIAS = 4
    RELU_AUX = 130
    RELU_AUX_BIAS = 134
    GELU_AUX = 160
    GELU_AUX_BIAS = 164
    DRELU = 136
    DRELU_BGRAD = 152
    DGELU = 192
    DGELU_BGRAD = 208
    BGRADB = 512


class Attribute(IntEnum):
    """Of a product's description (cublasLtMatmulDescAttributes_t)."""

    POINTER_MODE = 2
    TRANSPOSE_A = 3
    TRANSPOSE_B = 4
    EPILOGUE = 7
    BIAS_POINTER = 8
    AUX_POINTER = 11
    AUX_LD = 12
    BIAS_TYPE = 26


TYPES: dict[Attribute, Any] = {
    Attribute.POINTER_MODE: c.c_int32,
    Attribute.TRANSPOSE_A: c.c_int32,
    Attribute.TRANSPOSE_B: c.c_int32,
    Attribute.EPILOGUE: c.c_uint32,
    Attribute.BIAS_POINTER: c.c_void_p,
    Attribute.AUX_POINTER: c.c_void_p,
    Attribute.AUX_LD: c.c_int64,
    Attribute.BIAS_TYPE: c.c_int32,
}
# of what is asked of the heuristic (cublasLtMatmulPreferenceAttributes_t)
MAX_WORKSPACE_BYTES = 1
MIN_ALIGNMENT_BYTES = (5, 6, 7, 8)  # of A, B, C, D
ON_DEVICE = 1  # cublasLtPointerMode_t: where α and β lie


class Algorithm(c.Structure):
    """How a product is computed: opaque, and valid for one version of the library."""

    _fields_ = [("data", c.c_uint64 * 8)]


class Heuristic(c.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = [
        ("algorithm", Algorithm),
        ("workspace", c.c_size_t),
        ("state", c.c_int),
        ("waves", c.c_float),
        ("reserved", c.c_int * 4),
    ]


class Choice(NamedTuple):
    """An algorithm, and the bytes of workspace it takes."""

    algorithm: bytes
    workspace: int


class Problem(NamedTuple):
    """A product but for its numbers: what decides which algorithms there are, and how fast."""

    compute: str
    transpose_a: bool
    transpose_b: bool
    m: int
    n: int
    k: int
    lda: int
    ldb: int
    ldc: int
    epilogue: Epilogue = Epilogue.NONE
    aux_ld: int = 0
    scalars_on_device: bool = False
    alignments: tuple[int, int, int] = (ALIGNMENT, ALIGNMENT, ALIGNMENT)


def alignment(address: int) -> int:
    """Return the largest power of two, up to ALIGNMENT, that divides an address.

    >>> alignment(4096 + 16), alignment(4096)
    (16, 256)
    """
    return gcd(address, ALIGNMENT)


class Description:
    """A problem in the library's own objects, and the addresses of bias and auxiliary arrays."""

    def __init__(self, library: "CublasLt", problem: Problem, bias: int = 0, aux: int = 0) -> None:
        self._library, p = library, problem
        self.product, *self.layouts = (c.c_void_p() for _ in range(4))
        library.check("MatmulDescCreate", c.byref(self.product), COMPUTE[p.compute], FLOAT32)
        attributes = {
            Attribute.POINTER_MODE: ON_DEVICE * p.scalars_on_device,
            Attribute.TRANSPOSE_A: p.transpose_a,
            Attribute.TRANSPOSE_B: p.transpose_b,
            Attribute.EPILOGUE: p.epilogue,
        }
        if bias:
            attributes |= {Attribute.BIAS_POINTER: bias, Attribute.BIAS_TYPE: FLOAT32}
        if aux:
            attributes |= {Attribute.AUX_POINTER: aux, Attribute.AUX_LD: p.aux_ld}
        for attribute, value in attributes.items():
            held = TYPES[attribute](value)
            size = c.sizeof(held)
            library.check("MatmulDescSetAttribute", self.product, attribute, c.byref(held), size)
        shapes = (
            (p.k, p.m, p.lda) if p.transpose_a else (p.m, p.k, p.lda),
            (p.n, p.k, p.ldb) if p.transpose_b else (p.k, p.n, p.ldb),
            (p.m, p.n, p.ldc),
        )
        types = OPERANDS[p.compute], OPERANDS[p.compute], FLOAT32
        for layout, type_, shape in zip(self.layouts, types, shapes, strict=True):
            library.check("MatrixLayoutCreate", c.byref(layout), type_, *shape)

    def __del__(self) -> None:
        """Free the library's objects."""
        for layout in self.layouts:
            self._library.call("MatrixLayoutDestroy", layout)
        self._library.call("MatmulDescDestroy", self.product)


POINTER, INT, SIZE = c.c_void_p, c.c_int, c.c_size_t
SIGNATURES: dict[str, list[Any]] = {
    "Create": [POINTER],
    "MatmulDescCreate": [POINTER, INT, INT],
    "MatmulDescSetAttribute": [POINTER, INT, POINTER, SIZE],
    "MatmulDescDestroy": [POINTER],
    "MatrixLayoutCreate": [POINTER, INT, c.c_uint64, c.c_uint64, c.c_int64],
    "MatrixLayoutDestroy": [POINTER],
    "MatmulPreferenceCreate": [POINTER],
    "MatmulPreferenceSetAttribute": [POINTER, INT, POINTER, SIZE],
    "MatmulPreferenceDestroy": [POINTER],
    # handle, description, layouts of A, B, C, D, preference, how many are wanted, results, found
    "MatmulAlgoGetHeuristic": [*[POINTER] * 7, INT, POINTER, POINTER],
    "MatmulAlgoCheck": [*[POINTER] * 8],
    # handle, description, α, A, B, β, C and D with their layouts, algorithm, workspace, stream
    "Matmul": [*[POINTER] * 14, SIZE, POINTER],
}


class CublasLt:
    """The library. Raises DeviceError where it cannot be loaded, and for every call that fails."""

    def __init__(self, path: str) -> None:
        try:
            self._library = c.CDLL(path)
            self._functions = {name: self._function(name) for name in SIGNATURES}
            get_version = self._library.cublasLtGetVersion
        except (OSError, AttributeError) as error:
            raise DeviceError(f"cuBLASLt cannot be loaded: {error}") from None
        get_version.restype = c.c_size_t
        self.version = int(get_version())
        self.path, self.handle = path, c.c_void_p()
        self.check("Create", c.byref(self.handle))

    def _function(self, name: str) -> Any:
        function = getattr(self._library, f"cublasLt{name}")
        function.argtypes, function.restype = SIGNATURES[name], c.c_int
        return function

    def call(self, name: str, *arguments: Any) -> int:
        """Call a function of the library; return its status, 0 for success."""
        return int(self._functions[name](*arguments))

    def check(self, name: str, *arguments: Any) -> None:
        """Call a function; DeviceError where it fails."""
        status = self.call(name, *arguments)
        if status:
            raise DeviceError(f"cublasLt{name} failed with status {status} ({self.path})")

    def candidates(
        self, problem: Problem, description: Description, most_workspace: int
    ) -> list[Choice]:
        """Return algorithms for a problem, the library's own favourite first; perhaps none."""
        preference, found = c.c_void_p(), c.c_int()
        results = (Heuristic * CANDIDATES)()
        self.check("MatmulPreferenceCreate", c.byref(preference))
        try:
            a, b, d = problem.alignments
            aligned = zip(MIN_ALIGNMENT_BYTES, map(c.c_uint32, (a, b, d, d)), strict=True)
            for attribute, value in [(MAX_WORKSPACE_BYTES, c.c_uint64(most_workspace)), *aligned]:
                size = c.sizeof(value)
                self.check(
                    "MatmulPreferenceSetAttribute", preference, attribute, c.byref(value), size
                )
            status = self.call(
                "MatmulAlgoGetHeuristic",
                self.handle,
                description.product,
                *description.layouts,
                description.layouts[2],
                preference,
                CANDIDATES,
                results,
                c.byref(found),
            )
        finally:
            self.call("MatmulPreferenceDestroy", preference)
        if status:  # how the library says that it has none
            return []
        return [
            Choice(bytes(result.algorithm), result.workspace)
            for result in results[: found.value]
            if result.state == 0
        ]

    def workspace_of(self, description: Description, algorithm: bytes) -> int | None:
        """Return the workspace that an algorithm takes for a problem; None where it will not do."""
        held, result = Algorithm.from_buffer_copy(algorithm), Heuristic()
        status = self.call(
            "MatmulAlgoCheck",
            self.handle,
            description.product,
            *description.layouts,
            description.layouts[2],
            c.byref(held),
            c.byref(result),
        )
        return None if status or result.state else int(result.workspace)

    def multiply(self, *arguments: Any) -> None:
        """Give a product to a stream; the arguments are those of cublasLtMatmul but the handle."""
        status = self._functions["Matmul"](self.handle, *arguments)
        if status:
            raise DeviceError(f"cublasLtMatmul failed with status {status}")
