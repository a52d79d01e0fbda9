"""A stand-in for CuPy and an NVIDIA GPU: the CUDA backend runs here as it does there.

Arrays are NumPy's, but do not mix with those of the host. Kernels are the shipped sources, run by
fibers; cuBLASLt is `fake_cublaslt.cpp`. Streams can be captured: a graph keeps each launch with
what it must come after, by the rules of CUDA's streams and events, and runs them in any order that
these allow. Nothing may be allocated in a capture, and nothing but kernels and products be done.
"""

import ctypes
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import numpy as np
from kernels_on_fibers import (
    FAILURES,
    packed,
    parameters_of,
    require_compiler,
    shipped_kernels,
    source_names,
)

from gpumlp.backend.cuda import CudaBackend
from gpumlp.backend.kernel_sources import kernel_source
from gpumlp.backend.precision import FP32

ALIGNMENT = 512  # of what CuPy's pool hands out


class State:
    """What there is once in a process."""

    def __init__(self):
        self.streams = [Stream(0)]  # the current one last
        self.hooks = []
        self.graph_order = "first"  # of the launches that could be next, the first or the last one
        self.thread_order = 0
        self.joined = {}  # recording -> the streams that it came to, but the first
        self.launches = []  # names of kernels, and of products "product", as they run
        self.graphs = []
        self.free = 2**30


class CaptureError(RuntimeError):
    """What CUDA would refuse in a capture."""


# ------------------------------------------------------------------------------- arrays


class DeviceArray(np.ndarray):
    """An array in the memory of the stand-in."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.__array_interface__["data"][0])

    @property
    def __cuda_array_interface__(self):
        return {**self.__array_interface__, "version": 3}

    device = SimpleNamespace(id=0)

    def get(self):
        not_in_capture("a copy to the host")
        return np.array(self)

    def set(self, host, stream=None):
        not_in_capture("a copy from the host")
        assert not isinstance(host, DeviceArray)
        assert (host.dtype, host.shape) == (self.dtype, self.shape)
        self.view(np.ndarray)[...] = host

    # with no more options than CuPy's
    def max(self, axis=None, out=None, keepdims=False):
        return super().max(axis, out, keepdims)

    def min(self, axis=None, out=None, keepdims=False):
        return super().min(axis, out, keepdims)

    def sum(self, axis=None, dtype=None, out=None, keepdims=False):
        return super().sum(axis, dtype, out, keepdims)

    def take(self, indices, axis=None, out=None):
        not_in_capture("take")
        return super().take(indices, axis, out)

    def copy(self, order="C"):
        return on_device(np.ndarray.copy(self, order), order)

    def __setitem__(self, key, value):
        not_in_capture("an assignment")
        if isinstance(value, np.ndarray) and not isinstance(value, DeviceArray) and value.ndim:
            raise TypeError("an array of the host cannot be assigned to one of the device")
        super().__setitem__(key, value)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **keywords):
        not_in_capture(f"NumPy's {ufunc.__name__}")
        for array in (*inputs, *(out or ())):
            host = isinstance(array, np.ndarray) and not isinstance(array, DeviceArray)
            if host and array.ndim:
                raise TypeError(f"{ufunc.__name__}: an array of the host with one of the device")
        plain = [x.view(np.ndarray) if isinstance(x, DeviceArray) else x for x in inputs]
        if out is not None:
            keywords["out"] = tuple(x.view(np.ndarray) for x in out)
        result = getattr(ufunc, method)(*plain, **keywords)
        if out is not None:
            return out[0]
        return on_device(result) if isinstance(result, np.ndarray) else result


def not_in_capture(what):
    if STATE.streams[-1].recording is not None:
        raise CaptureError(f"{what} in a captured stream")


def allocate(size):
    """Return so many bytes, aligned; filled with what no computation can use."""
    if size > STATE.free:
        raise MemoryError(f"Out of memory allocating {size:,} bytes")
    for hook in STATE.hooks:
        hook.malloc_postprocess(device_id=0, size=size, mem_size=size, mem_ptr=0, pmem_id=0)
    memory = np.full(size + ALIGNMENT, 0xFF, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(DeviceArray)


def empty(shape, dtype=np.float64, order="C"):
    shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    dtype = np.dtype(dtype)
    flat = allocate(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize).view(dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def on_device(array, order="K"):
    """Return a copy of an array of the host."""
    in_fortran_order = order != "C" and array.flags.f_contiguous and not array.flags.c_contiguous
    out = empty(array.shape, array.dtype, "F" if in_fortran_order else "C")
    out.view(np.ndarray)[...] = array
    return out


def asarray(array, dtype=None):
    if isinstance(array, DeviceArray):
        wanted = array.dtype if dtype is None else np.dtype(dtype)
        return array if wanted == array.dtype else on_device(array.view(np.ndarray).astype(wanted))
    not_in_capture("a copy from the host")
    return on_device(np.asarray(array, dtype))


def asnumpy(array):
    return array.get() if isinstance(array, DeviceArray) else np.asarray(array)


class Cupy(ModuleType):
    """The module: its own functions, and NumPy's with their results on the device."""

    __version__ = "14.2.0"

    def __init__(self):
        super().__init__("cupy")
        self.ndarray = DeviceArray
        self.empty, self.asarray, self.asnumpy = empty, asarray, asnumpy
        self.RawModule = RawModule
        self.cuda = SimpleNamespace(
            Stream=lambda non_blocking=False: Stream(),
            Event=Event,
            Device=lambda index: SimpleNamespace(use=lambda: None, synchronize=lambda: None),
            MemoryHook=MemoryHook,
            get_current_stream=lambda: STATE.streams[-1],
            alloc_pinned_memory=bytearray,
            get_elapsed_time=lambda began, ended: ended.time - began.time,
            runtime=SimpleNamespace(
                getDeviceCount=lambda: 1,
                getDeviceProperties=lambda index: {
                    "name": b"Stand-In 1",
                    "major": 9,
                    "minor": 0,
                    "totalGlobalMem": 2**30,
                },
                runtimeGetVersion=lambda: 13000,
                driverGetVersion=lambda: 13000,
                memGetInfo=lambda: (STATE.free, 2**30),
                CUDARuntimeError=type("CUDARuntimeError", (RuntimeError,), {}),
            ),
        )
        self.get_default_memory_pool = lambda: SimpleNamespace(free_bytes=lambda: 0)

    def __getattr__(self, name):
        found = getattr(np, name)  # ufuncs, functions, types
        if isinstance(found, (type, np.ufunc)) or not callable(found):
            return found

        def function(*args, **keywords):
            not_in_capture(name)
            result = found(*args, **keywords)
            return on_device(result) if isinstance(result, np.ndarray) else result

        return function


# ------------------------------------------------------------- streams, events and graphs


class Recording:
    """A capture under way: launches, each with the numbers of those it comes after."""

    def __init__(self):
        self.launches, self.after = [], []


class Stream:
    """A stream; while it is captured, `frontier` are the launches that its next one comes after."""

    made = 0

    def __init__(self, ptr=None):
        Stream.made += 1
        self.ptr = Stream.made if ptr is None else ptr
        self.recording, self.frontier = None, frozenset()

    def __enter__(self):
        STATE.streams.append(self)
        return self

    def __exit__(self, *_):
        STATE.streams.pop()

    def begin_capture(self):
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self.recording, self.frontier = Recording(), frozenset()

    def end_capture(self):
        recording, self.recording = self.recording, None
        for stream in STATE.joined.pop(recording, ()):
            stream.recording = None
        reached, new = set(), set(self.frontier)
        while new:
            reached |= new
            new = set().union(*(recording.after[number] for number in new)) - reached
        if len(reached) < len(recording.launches):
            raise CaptureError("a branch was not joined before the capture ended")
        STATE.graphs.append(Graph(recording))
        return STATE.graphs[-1]

    def wait_event(self, event):
        if event.recording is None:
            if self.recording is not None:
                raise CaptureError("an event from outside of the capture")
            return
        if self.recording is None:
            self.recording, self.frontier = event.recording, frozenset()
            STATE.joined.setdefault(event.recording, []).append(self)
        assert self.recording is event.recording
        self.frontier |= event.frontier

    def synchronize(self):
        if self.recording is not None:
            raise CaptureError("waiting for a captured stream")

    def give(self, name, work):
        """Run work now, or keep it in the graph that is being captured."""
        if self.recording is None:
            STATE.launches.append(name)
            work()
            return
        self.recording.launches.append((name, work))
        self.recording.after.append(self.frontier)
        self.frontier = frozenset([len(self.recording.launches) - 1])


class Event:
    """A point in a stream."""

    clock = 0

    def __init__(self, block=False, disable_timing=False):
        self.recording, self.frontier, self.time = None, frozenset(), None

    def record(self, stream=None):
        stream = stream or STATE.streams[-1]
        self.recording, self.frontier = stream.recording, stream.frontier
        Event.clock += 1
        self.time = Event.clock

    def synchronize(self):
        if self.recording is not None:
            raise CaptureError("waiting for an event of a captured stream")


class Graph:
    """Launches in the order that their streams and events require, or any other that they allow."""

    def __init__(self, recording):
        self.launches, self.after = recording.launches, recording.after
        self.launched = 0

    def launch(self, stream=None):
        assert (stream or STATE.streams[-1]).recording is None
        self.launched += 1
        left, done = set(range(len(self.launches))), set()
        while left:
            ready = [number for number in left if self.after[number] <= done]
            number = min(ready) if STATE.graph_order == "first" else max(ready)
            name, work = self.launches[number]
            STATE.launches.append(name)
            work()
            left.remove(number)
            done.add(number)


class MemoryHook:
    """Is told of every allocation."""

    def __enter__(self):
        STATE.hooks.append(self)

    def __exit__(self, *_):
        STATE.hooks.remove(self)


# ------------------------------------------------------------------ kernels and products


class RawModule:
    """A source, which must be one of those that ship."""

    def __init__(self, code, options=()):
        assert options == ("-std=c++17",)
        first, _, source = code.partition("\n")
        self.copies = {"#define GPUMLP_COPIES 0": False, "#define GPUMLP_COPIES 1": True}[first]
        assert source in {kernel_source(name) for name in source_names()}
        self.parameters = parameters_of(source)

    def get_function(self, name):
        launch = getattr(shipped_kernels().library, f"launch_{name}")
        parameters = self.parameters[name]

        def kernel(grid, block, arguments):
            values = [np.copy(a) if not isinstance(a, DeviceArray) and a is not None else a
                      for a in arguments]  # numbers are read at the launch  # fmt: skip
            slots = [slot(*pair) for pair in zip(parameters, values, strict=True)]
            given = dict(zip((p.name for p in parameters), values, strict=True))
            assert self.copies or given.get("copy") is None  # it would not be written
            shape = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])

            def work(_kept=values):
                table = (ctypes.c_uint64 * len(slots))(*slots)
                failure = launch(shape, STATE.thread_order, table)
                assert not failure, f"{name}: {FAILURES[failure]}"

            STATE.streams[-1].give(name, work)

        return kernel


def slot(parameter, value):
    """Return an argument as a launch passes it on: 8 bytes, whatever their meaning."""
    if value is None:
        return 0
    if parameter.pointer:
        assert isinstance(value, DeviceArray), parameter.name
        return value.data.ptr
    expected = {"float": "f4", "int": "i4", "int64": "i8", "uint32": "u4", "size_t": "u8"}
    assert value.dtype == expected[parameter.kind], parameter.name
    return packed(parameter.kind, value)


class Description(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("compute", "scale", "pointer_mode")),
        *((name, ctypes.c_int) for name in ("transpose_a", "transpose_b")),
        ("epilogue", ctypes.c_uint32),
        *((name, ctypes.c_uint64) for name in ("bias", "aux")),
        ("aux_ld", ctypes.c_int64),
        ("bias_type", ctypes.c_int),
    ]


class Product(ctypes.Structure):
    """What the stand-in for cuBLASLt was asked for (see fake_cublaslt.cpp)."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("m", "n", "k", "lda", "ldb", "ldd", "type")),
        ("description", Description),
        *((name, ctypes.c_uint64) for name in ("alpha", "a", "b", "beta", "c", "d")),
        *((name, ctypes.c_uint64) for name in ("algorithm", "workspace", "workspace_bytes")),
        ("stream", ctypes.c_uint64),
        *((name, ctypes.c_float) for name in ("host_alpha", "host_beta")),
    ]


class CublasLt:
    """The stand-in library; `products` are copies of what it was asked for."""

    def __init__(self):
        source, folder = Path(__file__).with_name("fake_cublaslt.cpp"), tempfile.mkdtemp()
        self.path = f"{folder}/libcublasLt.so"
        command = [require_compiler(), "-O2", "-std=c++17", "-shared", "-fPIC", "-Wall", "-Werror"]
        subprocess.run([*command, source, "-o", self.path], check=True)
        self.library = ctypes.CDLL(self.path)
        self.library.fake_copy.restype = ctypes.c_void_p
        self.products = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Product))
        self._hook = kind(self._on_product)
        self.library.fake_set_hook(self._hook)

    def _on_product(self, pointer):
        product = Product.from_buffer_copy(pointer.contents)
        self.products.append(product)
        stream = STATE.streams[-1]
        if stream.ptr != product.stream or stream.recording is None:
            STATE.launches.append("product")
            return 0
        kept = self._copy(pointer)
        stream.give("product", lambda: self.library.fake_run(ctypes.c_void_p(self._copy(kept))))
        return 1

    def _copy(self, product):
        return self.library.fake_copy(
            ctypes.c_void_p(product) if isinstance(product, int) else product
        )


STATE = State()


@cache
def fake_cublaslt():
    return CublasLt()


class FakeCudaBackend(CudaBackend):
    """The backend on the stand-in; copies and pickles are on the stand-in, too."""

    def __init__(self, index=0, precision=FP32, tune=True, cache=None):
        with installed(cache or tempfile.mkdtemp()):
            super().__init__(index, precision, tune)
            if self.dtype == "float32":
                _ = self.products

    def __reduce__(self):
        return FakeCudaBackend, (self.index, self.precision, self.tune)


def installed(cache):
    """Return a context in which `import cupy` finds the stand-in."""
    finder = ModuleType("cuda.pathfinder")
    finder.load_nvidia_dynamic_lib = lambda name: SimpleNamespace(
        abs_path=fake_cublaslt().path if name == "cublasLt" else f"/nowhere/lib{name}.so"
    )
    modules = {"cupy": CUPY, "cuda": ModuleType("cuda"), "cuda.pathfinder": finder}
    context = patch.dict(sys.modules, modules)
    environment = patch.dict(os.environ, {"XDG_CACHE_HOME": str(cache)})
    return Both(context, environment)


class Both:
    """Two contexts as one."""

    def __init__(self, *contexts):
        self.contexts = contexts

    def __enter__(self):
        for context in self.contexts:
            context.__enter__()

    def __exit__(self, *error):
        for context in reversed(self.contexts):
            context.__exit__(*error)


CUPY = Cupy()
