"""CudaBackend: operations on an NVIDIA GPU, as kernels launched through CuPy and cuBLASLt products.

The only module that imports CuPy, and only when a CUDA device is asked for. Where an operation's
arrays are not what its kernel takes, and in float64, the plain formula runs on CuPy's arrays.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DeviceError
from ...files import cache_folder
from ..activations import Activation, Array
from ..base import Backend, Call, Order, Plan
from ..fused import FusedBackend
from ..kernel_backend import flat, together
from ..operations import Scalar
from ..precision import FP32, Matrix, Precision, partial_products
from .capture import Capture, CapturedCalls
from .copies import with_copies
from .cublaslt import CublasLt
from .epilogues import with_epilogues
from .launch import DeviceCall, KernelCall, Kernels
from .products import ProductCall, Products
from .tuning import Choices, choices_of

INSTALL = 'pip install "cupy-cuda12x[ctk]"  (or cupy-cuda13x: nvidia-smi shows the CUDA version)'

LIBRARIES = ("cudart", "nvrtc", "cublas", "cublasLt")  # CuPy loads them when they are first used


def load_cupy() -> Any:
    """Return the cupy module, or raise DeviceError with the line that fixes what is missing."""
    try:
        import cupy
    except ModuleNotFoundError:
        raise DeviceError(f"CuPy is not installed; {INSTALL}") from None
    except ImportError as error:
        raise DeviceError(f"CuPy cannot be loaded ({error}); {INSTALL}") from None
    return cupy


def count_devices() -> int:
    """Return the number of usable CUDA devices, or raise DeviceError that says what is missing."""
    cupy = load_cupy()
    try:
        return int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(
            f"CuPy {cupy.__version__} is installed but finds no usable GPU ({error}); "
            'install NVIDIA\'s driver (nvidia-smi must list the GPU), or use device = "cpu"'
        ) from None


def find_libraries() -> dict[str, str]:
    """Return the path of each of LIBRARIES, or "" where it is not found.

    It is CuPy's own search, which comes with CuPy 14; raises DeviceError where that is missing.
    """
    try:
        pathfinder = import_module("cuda.pathfinder")
    except ImportError:
        raise DeviceError(f"CuPy's search for libraries is not installed; {INSTALL}") from None
    paths = {}
    for name in LIBRARIES:
        try:
            paths[name] = str(pathfinder.load_nvidia_dynamic_lib(name).abs_path)
        except (RuntimeError, OSError):  # DynamicLibNotFoundError is a RuntimeError
            paths[name] = ""
    return paths


def products_folder() -> Path:
    """Return where is kept which algorithm was fastest for each matrix product."""
    return cache_folder() / "products"


class CupyFormulas(Backend):
    """The plain formulas where CuPy spells something differently: its `take` has no mode."""

    def begin_step(self, clock: Array, rows: Sequence[Array], tables: Sequence[Array]) -> None:
        """As in `Backend`; the indices are in range."""
        for row, table in zip(rows, tables, strict=True):
            table.take(clock, 0, row)
        self.xp.add(clock, 1, out=clock)

    def gather(self, out: Array, source: Array, index: Array) -> None:
        """As in `Backend`; the indices are in range."""
        source.take(index, 0, out)


class CudaBackend(FusedBackend):
    """Arrays and operations on CUDA device `index`, which becomes the thread's current one.

    Work goes to CuPy's current stream, and a recorded step is captured into CUDA graphs.

    Args:
        index: number of the device.
        precision: what matrix products read; fp64 is for checks by the plain formulas.
        tune: whether algorithms of matrix products are timed, once for each shape (kept in
            ~/.cache/gpumlp); else the library's favourites are taken.

    `branches` is how many calls of a captured step may run at the same time; it is read when the
    first step is captured. `early_update` is an estimate, too, and has not been measured yet.

    Raises DeviceError where CuPy, the driver, a library or that device is missing.
    """

    workspace_order: Order = "C"
    formulas = CupyFormulas
    kernel_operand: np.dtype[Any] = np.dtype("uint16")
    branches = 2
    early_update = 1 << 20

    def __init__(self, index: int = 0, precision: Precision = FP32, tune: bool = True) -> None:
        devices = count_devices()
        if index >= devices:
            raise DeviceError(f"there is no cuda:{index}; devices found: {devices}")
        cupy = load_cupy()
        super().__init__(cupy, precision.dtype, precision)
        self.name, self.index, self.tune = f"cuda:{index}", index, tune
        if self.operand_format is not None:
            self.operand_dtype = self.kernel_operand
        self._device = cupy.cuda.Device(index)
        self._device.use()
        self._kernels = Kernels(cupy)

    def __reduce__(self) -> tuple[Any, ...]:
        return CudaBackend, (self.index, self.precision, self.tune)

    @property
    def operand_format(self) -> str | None:
        """As in `Backend`; TF32 is what the matrix units make of a float32 themselves."""
        return None if self.precision.format == "tf32" else self.precision.format

    @property
    def device_name(self) -> str:
        """What NVIDIA calls the device."""
        return str(self.xp.cuda.runtime.getDeviceProperties(self.index)["name"].decode())

    def threads_for(self, operations: float) -> AbstractContextManager[Any]:
        """Change nothing: products run on the GPU."""
        return nullcontext()

    def to_numpy(self, array: Array) -> Any:
        """Copy `array` to the host; waits for the device."""
        return self.xp.asnumpy(array)

    def synchronize(self) -> None:
        """Wait until all work given to the device is done."""
        self._device.synchronize()

    def free_memory(self) -> int | None:
        """Return how many bytes could still be allocated, CuPy's own reserve included."""
        free, _ = self.xp.cuda.runtime.memGetInfo()
        return int(free) + int(self.xp.get_default_memory_pool().free_bytes())

    @property
    def choices(self) -> dict[str, Any]:
        """As in `Backend`: which algorithm each matrix product takes."""
        return dict(self.products.choices.used) if self.dtype == np.float32 else {}

    def choose_as(self, choices: Mapping[str, Any]) -> None:
        """As in `Backend`."""
        if self.dtype == np.float32:  # in float64 products are CuPy's own
            self.products.choices.given = choices_of(choices)

    # ------------------------------------------------------------ kernels and products

    def kernel(self, name: str, **arguments: Any) -> Call | None:
        """As in `FusedBackend`."""
        return self._kernels.bind(name, arguments)

    @cached_property
    def products(self) -> Products:
        """The device's matrix products; DeviceError where cuBLASLt is missing."""
        path = find_libraries()["cublasLt"]
        if not path:
            raise DeviceError(f"cuBLASLt is not found; {INSTALL}")
        library = CublasLt(path)
        name = re.sub("[^a-z0-9]+", "-", self.device_name.lower()).strip("-")
        kept = products_folder() / f"{name}-{library.version}.json"
        return Products(
            self.xp,
            library,
            self.precision,
            self._capture,
            self.tune,
            Choices(kept if self.tune else None),
            lambda number: self._kernels.constant("float*", number),
        )

    def _bind_matmul(
        self,
        out: Array,
        a: Matrix,
        b: Matrix,
        alpha: Scalar = 1.0,
        beta: Scalar = 0.0,
        scratch: Array = None,
    ) -> Call | None:
        if self.dtype != np.float32:
            return None
        calls: list[Call | None] = []
        for left, right in partial_products(self.precision, a, b):
            call = self.products.bind(out, left, right, alpha, beta)
            if call is None and left.dtype == self.kernel_operand and left.size and right.size:
                # the plain formula would take bits for numbers
                shape = f"{left.shape[0]} x {left.shape[1]} x {right.shape[1]}"
                raise DeviceError(
                    f"cuBLASLt has no product of {shape} in {self.precision.name} on "
                    f'{self.device_name}; precision = "fp32" has one'
                )
            calls.append(call)
            beta = 1.0
        return together(calls)

    def _bind_bias_activation_backward(
        self,
        dz: Array,
        bias_sink: Array | None,
        da: Array,
        kept: Array,
        activation: Activation,
        alpha: Scalar = 1.0,
        beta: Scalar = 0.0,
        scratch: Array = None,
    ) -> Call | None:
        scratch = self.scratch(dz) if scratch is None else scratch  # for sums of blocks
        arguments = (dz, bias_sink, da, kept, activation, alpha, beta, scratch)
        return super()._bind_bias_activation_backward(*arguments)

    # ------------------------------------------------------------------------ graphs

    @cached_property
    def _capture(self) -> Capture:
        return Capture(self.xp, self.branches)

    def replay(self, plan: Plan) -> Callable[[int], None]:
        """As in `Backend`; neighbouring calls of kernels and products are CUDA graphs."""
        parts: list[Call] = []
        for captured, calls in groupby(flat(plan), is_captured):
            if captured:
                parts.append(CapturedCalls(self._capture, [*calls], self._fused))  # type: ignore
            else:
                parts += calls
        if len(parts) == 1 and isinstance(parts[0], CapturedCalls):
            return parts[0]
        return super().replay(parts)

    def calls(self, plan: Plan) -> list[Call]:
        """As in `Backend`, with what is fused when a plan is captured."""
        found: list[Call] = []
        for captured, group in groupby(flat(plan), is_captured):
            calls = [*group]
            found += self._fused(calls) if captured else calls  # type: ignore[arg-type]
        return found

    def seconds(self, call: Call, times: int) -> float:
        """As in `Backend`; where a graph can hold the call, by the device's own clock."""
        if is_captured(call):
            return self._capture.seconds([call], times)  # type: ignore[list-item]
        return super().seconds(call, times)

    def _fused(self, calls: Sequence[DeviceCall]) -> list[DeviceCall]:
        """Return a step's calls with what products and kernels can do besides their own work."""
        if any(isinstance(call, ProductCall) for call in calls):
            calls = with_epilogues(calls, self.products)
        return with_copies(calls, self._kernels.bind)


def is_captured(call: Call) -> bool:
    """Whether a CUDA graph can hold the call."""
    return isinstance(call, (KernelCall, ProductCall))
