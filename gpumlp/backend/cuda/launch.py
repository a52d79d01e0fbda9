"""Kernels launched through CuPy: compiled once, checked and bound to their arguments.

CuPy itself checks nothing: it ignores strides, and passes a Python float as a double. Here every
argument has the type that the kernel declares, and every array is contiguous, or else TypeError.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..activations import Array
from ..geometry import LAUNCH
from ..kernel_sources import kernel_declarations, kernel_source

OPTIONS = ("-std=c++17",)  # besides CuPy's own
POINTERS: dict[str, np.dtype[Any] | None] = {  # C type → type of entries; bytes may be anything
    "float*": np.dtype("float32"),
    "operand*": np.dtype("uint16"),
    "double*": np.dtype("float64"),
    "int64*": np.dtype("int64"),
    "uint32*": np.dtype("uint32"),
    "uint8*": None,
}
NUMBERS: dict[str, type] = {
    "float": np.float32,
    "int": np.int32,
    "int64": np.int64,
    "uint32": np.uint32,
    "size_t": np.uint64,
}
STRIDED = {"target", "distribution", "weight"}  # whose distances are arguments, too


class Span(NamedTuple):
    """The bytes of an array: first address, and the one behind the last."""

    start: int
    end: int


def span_of(array: Array) -> Span:
    """Return where an array lies in the device's memory, gaps between its entries included."""
    start = int(array.data.ptr)
    reach = sum((n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True))
    return Span(start, start + (int(reach) + array.itemsize if array.size else 0))


class DeviceCall(Protocol):
    """Work for the device: it can be captured, and says which memory it reads and writes."""

    @property
    def reads(self) -> Sequence[Span]:
        """What it reads, and may write as well."""

    @property
    def writes(self) -> Sequence[Span]:
        """What it writes."""

    @property
    def operations(self) -> int:
        """About how many floating-point operations its matrix product takes; 0 for a kernel."""

    @property
    def nbytes(self) -> int:
        """About how many bytes it moves."""

    def __call__(self) -> None:
        """Give it to CuPy's current stream."""


class KernelCall:
    """A kernel bound to its arguments; calling it launches it. It keeps its arrays alive."""

    operations = 0
    __slots__ = ("_function", "_packed", "arguments", "block", "grid", "name", "reads", "writes")

    def __init__(self, name: str, function: Any, arguments: dict[str, Any], packed: Any) -> None:
        kernel = kernel_declarations()[name]
        sizes = {key: value for key, value in arguments.items() if isinstance(value, int)}
        self.name, self.arguments = name, arguments
        self.grid, self.block = LAUNCH[name](**sizes)
        self._function, self._packed = function, packed
        arrays = {key: value for key, value in arguments.items() if hasattr(value, "strides")}
        self.reads = tuple(span_of(array) for array in arrays.values())
        self.writes = tuple(span_of(a) for key, a in arrays.items() if key in kernel.outputs)

    def __repr__(self) -> str:
        return f"KernelCall({self.name!r})"

    def __call__(self) -> None:
        """Launch the kernel on CuPy's current stream."""
        self._function(self.grid, self.block, self._packed)

    @property
    def nbytes(self) -> int:
        """About what it moves: its outputs and twice as much read, for of data it reads a part."""
        return 3 * sum(span.end - span.start for span in self.writes)


class Kernels:
    """The kernels of one device. A source is compiled when one of its kernels is first bound."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._modules: dict[tuple[str, bool], Any] = {}
        self._functions: dict[tuple[str, bool], Any] = {}
        self._constants: dict[tuple[str, float], Array] = {}

    def bind(self, name: str, arguments: dict[str, Any]) -> KernelCall:
        """Return a kernel bound to arguments by name: arrays, numbers, or None for no array.

        A number where the kernel reads from memory becomes an array. Raises TypeError where names
        differ, or an array is of another type than the kernel takes or not contiguous.
        """
        parameters = kernel_declarations()[name].parameters
        if arguments.keys() != parameters.keys():
            different = ", ".join(sorted(arguments.keys() ^ parameters.keys()))
            raise TypeError(f"kernel {name}: missing or unknown arguments: {different}")
        packed: list[Any] = []
        for key, kind in parameters.items():
            value = arguments[key]
            if isinstance(value, np.generic):  # a number, though it has what arrays have
                value = arguments[key] = value.item()
            if kind in NUMBERS:
                # an array of one entry is handed over by value, with this very type
                packed.append(np.array(value, NUMBERS[kind]))
                continue
            if isinstance(value, (int, float)):
                value = arguments[key] = self.constant(kind, value)
            elif value is not None:
                _check(name, key, kind, value)
            packed.append(value)
        copies = arguments.get("copy") is not None
        return KernelCall(name, self._function(name, copies), arguments, tuple(packed))

    def constant(self, kind: str, value: float) -> Array:
        """Return a number in the device's memory; the same number is always the same array."""
        key = kind, float(value)
        if key not in self._constants:
            self._constants[key] = self._cupy.asarray(np.asarray(value, POINTERS[kind]))
        return self._constants[key]

    def _function(self, name: str, copies: bool) -> Any:
        """Return a kernel; one that makes no copies for products to read is compiled without."""
        key = name, copies
        if key not in self._functions:
            file = kernel_declarations()[name].file
            if (file, copies) not in self._modules:
                code = f"#define GPUMLP_COPIES {int(copies)}\n{kernel_source(file)}"
                self._modules[file, copies] = self._cupy.RawModule(code=code, options=OPTIONS)
            self._functions[key] = self._modules[file, copies].get_function(name)
        return self._functions[key]


def _check(name: str, key: str, kind: str, array: Array) -> None:
    """Raise TypeError unless the kernel can take the array for that parameter."""
    dtype = POINTERS[kind]
    if dtype is not None and array.dtype != dtype:
        raise TypeError(f"kernel {name}: {key} has {array.dtype}, not {dtype}")
    if key not in STRIDED and not array.flags.c_contiguous:
        shape = f"{prod(array.shape)} entries {array.shape} at {array.strides}"
        raise TypeError(f"kernel {name}: {key} is not contiguous: {shape}")
