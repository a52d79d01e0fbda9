"""CudaBackend: the operations on an NVIDIA GPU through CuPy, called one by one.

The only module that imports CuPy, and only when a CUDA device is asked for. Nothing here was run
on a device yet (see the README); operations are the plain formulas on CuPy arrays, overridden
where CuPy spells something differently.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

from ..errors import DeviceError
from .activations import Array
from .base import Backend, Order

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


class CudaBackend(Backend):
    """Arrays and operations on CUDA device `index`, which becomes the thread's current one.

    Raises DeviceError where CuPy, the driver or that device is missing.
    """

    workspace_order: Order = "C"

    def __init__(self, index: int = 0, dtype: str = "float32") -> None:
        devices = count_devices()
        if index >= devices:
            raise DeviceError(f"there is no cuda:{index}; devices found: {devices}")
        cupy = load_cupy()
        super().__init__(cupy, dtype)
        self.name = f"cuda:{index}"
        self._device = cupy.cuda.Device(index)
        self._device.use()

    def __reduce__(self) -> tuple[Any, ...]:
        return CudaBackend, (int(self.name.partition(":")[2]), self.dtype.name)

    def threads_for(self, operations: float) -> AbstractContextManager[Any]:
        """Change nothing: products run on the GPU."""
        return nullcontext()

    def to_numpy(self, array: Array) -> Any:
        """Copy `array` to the host; waits for the device."""
        return self.xp.asnumpy(array)

    def synchronize(self) -> None:
        """Wait until all work given to the device is done."""
        self._device.synchronize()

    def begin_step(self, clock: Array, rows: Sequence[Array], tables: Sequence[Array]) -> None:
        """As in `Backend`; CuPy's take has no mode, and the indices are in range."""
        for row, table in zip(rows, tables, strict=True):
            table.take(clock, 0, row)
        self.xp.add(clock, 1, out=clock)

    def gather(self, out: Array, source: Array, index: Array) -> None:
        """As in `Backend`; see `begin_step`."""
        source.take(index, 0, out)
