"""The native library: the kernels compiled for the CPU, called through ctypes.

It is an optional part of the installation, built where there is a C++ compiler (see `kernels/`).
Every kernel takes one pointer, to an array of 8-byte slots that hold its arguments; so a call is
bound once, whatever it takes, and a list of bound calls is run by the library itself.
"""

import ctypes
import struct
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from itertools import chain
from math import inf, prod
from typing import Any

import numpy as np

from .blas import find_threads
from .kernel_sources import Parameters, declared_kernels, parse_parameters

NAME = "_gpumlp_native"
INSTALL = "install g++ or clang++, then gpumlp once more (pip install .)"

POINTERS: dict[str, Any] = {  # C type → type of an array's entries; bytes may be anything
    "float*": np.dtype("float32"),
    "operand*": np.dtype("float32"),
    "double*": np.dtype("float64"),
    "int64*": np.dtype("int64"),
    "uint32*": np.dtype("uint32"),
    "uint8*": None,
}

# Kernels that may be run in parts, one for each thread, and the size that is worth two of them:
# about 5 µs of work. The size is the product of these parameters.
SIZES = ("n", "rows", "columns", "bytes", "m", "k")
SHARED = {
    "gemm": 200_000,
    "gather": 100_000,
    "gather_scaled": 30_000,
    "bias_activation_forward": 8_000,
    "bias_activation_backward": 16_000,
    "dropout": 8_000,
    "clip_rows": 16_000,
    "clip_scale": 30_000,
    "sgd_step": 30_000,
    "momentum_step": 20_000,
    "nesterov_step": 20_000,
    "adagrad_step": 10_000,
    "rmsprop_step": 10_000,
    "adam_step": 10_000,
    "scale": 30_000,
    "add_penalty": 30_000,
    "split": 30_000,
    "unscale": 30_000,
}
WORTH_WAKING = 20  # times that size: what a call by itself is before it wakes sleeping threads


class NativeCall:
    """A kernel bound to its arguments; calling it runs it. It keeps its arrays alive.

    It is run in `parts`: each does its share of the work, all of them the whole. Results do not
    depend on which thread runs which part, only those of products on how many parts there are.
    """

    __slots__ = ("_function", "_run", "_slots", "_threads", "arguments", "name", "parts")

    def __init__(
        self, name: str, function: Any, slots: Any, arguments: dict[str, Any], run: Any
    ) -> None:
        self.name, self._function, self.parts = name, function, 1
        self._slots, self.arguments, self._run, self._threads = slots, arguments, run, 1

    def share(self, size: int, threads: int) -> None:
        """Cut work of that size into as many parts as it is worth."""
        worth = size / SHARED.get(self.name, inf)
        self.parts = max(1, min(threads, int(2 * worth)))
        self._threads = self.parts if worth >= WORTH_WAKING else 1

    def __repr__(self) -> str:
        return f"NativeCall({self.name!r})"

    def __call__(self) -> None:
        """Run the kernel."""
        if self.parts == 1:
            self._function(self._slots)
        else:
            NativeSequence(self._run, [self], self._threads)()

    @property
    def entry(self) -> tuple[int, int, int]:
        """The `Call` of threads.h: where the function and its slots lie, and the parts."""
        function = ctypes.cast(self._function, ctypes.c_void_p).value
        return function or 0, ctypes.addressof(self._slots), self.parts


class NativeSequence:
    """Native calls that the library runs one after another, as often as asked."""

    def __init__(self, run: Any, calls: Sequence[NativeCall], threads: int) -> None:
        entries = list(chain(*(call.entry for call in calls)))
        self.calls = tuple(calls)
        self._run, self._count = run, ctypes.c_size_t(len(calls))
        self._table = (ctypes.c_uint64 * len(entries))(*entries)
        self._threads = ctypes.c_size_t(threads)
        self._blas_threads = find_threads() or (None, None)

    def __call__(self, times: int = 1) -> None:
        """Run all of them, `times` times."""
        self._run(
            self._table, self._count, ctypes.c_size_t(times), self._threads, *self._blas_threads
        )


class NativeLibrary:
    """The loaded library.

    Raises OSError where it cannot be loaded and ValueError where it was built from other sources.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._library = ctypes.CDLL(path)
        self._kernels: dict[str, tuple[Any, Parameters]] = {}
        for name, parameters in declared_kernels().items():
            if self._kernel(name)[1] != parameters:
                raise ValueError(f"built from other sources ({path}): {INSTALL}")

    def _kernel(self, name: str) -> tuple[Any, Parameters]:
        """Return a kernel's function and its parameters, as the library itself states them."""
        if name not in self._kernels:
            try:
                text = ctypes.c_char.in_dll(self._library, f"gpumlp_{name}_parameters")
                function = getattr(self._library, f"gpumlp_{name}")
            except (ValueError, AttributeError):
                raise ValueError(f"without {name!r} ({self.path}): {INSTALL}") from None
            parameters = ctypes.string_at(ctypes.addressof(text)).decode()
            function.restype = None
            self._kernels[name] = function, parse_parameters(parameters)
        return self._kernels[name]

    def threads(self) -> int:
        """Return how many threads kernels may take: as many as BLAS, so its settings hold here too.

        1 with a BLAS that is not OpenBLAS, whose threads cannot be told to stay out.
        """
        blas = find_threads()
        return 1 if blas is None else int(self._library.gpumlp_threads(blas.get))

    def bind(self, name: str, arguments: dict[str, Any], threads: int = 1) -> NativeCall:
        """Return a kernel bound to arguments by name: arrays, numbers, or None for no array.

        A number where the kernel wants a pointer becomes memory that holds it. Where it is worth
        it, the work is shared by so many threads. Raises TypeError
        where names differ or an array has another type than the kernel takes; that its memory is
        laid out as the kernel expects is the caller's business.
        """
        function, parameters = self._kernel(name)
        if arguments.keys() != parameters.keys():
            different = ", ".join(sorted(arguments.keys() ^ parameters.keys()))
            raise TypeError(f"kernel {name}: missing or unknown arguments: {different}")
        slots = (ctypes.c_uint64 * len(parameters))()
        for i, (parameter, kind) in enumerate(parameters.items()):
            value = arguments[parameter]
            if kind == "float":
                slots[i] = int.from_bytes(struct.pack("<f", value), "little")
            elif kind not in POINTERS:
                slots[i] = value
            elif value is not None:
                dtype = POINTERS[kind]
                if not isinstance(value, np.ndarray):
                    value = arguments[parameter] = np.asarray(value, dtype)
                elif dtype is not None and value.dtype != dtype:
                    raise TypeError(f"kernel {name}: {parameter} has {value.dtype}, not {dtype}")
                slots[i] = value.__array_interface__["data"][0]
        call = NativeCall(name, function, slots, arguments, self._library.gpumlp_run)
        sizes = (arguments[n] for n in SIZES if parameters.get(n) in ("size_t", "int64"))
        call.share(prod(sizes), threads)
        return call

    def sequence(self, calls: Sequence[NativeCall]) -> "NativeSequence":
        """Return calls as one that the library runs by itself."""
        threads = max((call.parts for call in calls), default=1)
        return NativeSequence(self._library.gpumlp_run, calls, threads)


@cache
def load_native() -> tuple[NativeLibrary | None, str]:
    """Return the native library, or None, and where it is or why there is none."""
    spec = find_spec(NAME)
    if spec is None or spec.origin is None:
        return None, f"not built: {INSTALL}"
    try:
        return NativeLibrary(spec.origin), spec.origin
    except (OSError, ValueError) as error:
        return None, f"unusable ({error})" if isinstance(error, OSError) else str(error)
