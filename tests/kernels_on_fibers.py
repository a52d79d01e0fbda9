"""Builds the kernels for the GPU with a C++ compiler and launches them on the CPU (`fibers.h`)."""

import atexit
import ctypes
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from gpumlp.backend.geometry import LAUNCH
from gpumlp.backend.kernel_sources import kernel_folder, kernel_source


def crowded(name, **arguments):
    """Another geometry in which few threads do everything: loops are longer, strips many."""
    _, block = LAUNCH[name](**arguments)
    if len(block) == 2:
        return (1, 3), (4, 8)
    return ((1,), (min(*block, 64),)) if name in ONE_BLOCK else ((2,), (64,))


ONE_BLOCK = ("normalize", "loss_scale_step")


# ------------------------------------------------------------------------------ building

HEADER = Path(__file__).with_name("fibers.h")
FLAGS = [
    *("-std=c++17", "-fPIC", "-DGPUMLP_FIBERS"),
    "-fno-strict-aliasing",  # as on a device, where kernels reinterpret memory as wider types
    "-U_FORTIFY_SOURCE",  # fibers jump between stacks, which it takes for an attack
    "-fsanitize=alignment,null,bounds",
    "-fno-gnu-unique",  # each library has its own fibers
    "-w",  # warnings are for the compiler that these sources are meant for
]


def source_names():
    return [path.name for path in sorted(kernel_folder().glob("*.cu"))]


def require_compiler():
    """Return the C++ compiler; skip the test where fibers cannot be built."""
    if not sys.platform.startswith("linux"):
        pytest.skip("fibers need Linux (ucontext, ELF sections)")
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("fibers need a C++ compiler: install g++")
    return compiler


@cache
def precompiled_header(compiler, optimize):
    """Return the path of fibers.h in a folder where it is also compiled, for all sources."""
    folder = Path(tempfile.mkdtemp(prefix="gpumlp-fibers-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    header = folder / HEADER.name
    shutil.copy(HEADER, header)
    run([compiler, optimize, *FLAGS, "-x", "c++-header", header, "-o", f"{header}.gch"])
    return header


def build(folder, sources, optimize="-O1"):
    """Compile sources (file name -> text) into one library; return it as `Kernels`."""
    compiler = require_compiler()
    include = ["-include", precompiled_header(compiler, optimize), "-x", "c++"]

    def compile_one(name):
        path = folder / name
        path.write_text(sources[name], encoding="utf-8")
        run([compiler, optimize, *FLAGS, *include, "-c", path, "-o", path.with_suffix(".o")])
        return path.with_suffix(".o")

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    run([compiler, "-shared", *objects, "-o", folder / "kernels.so"])
    return Kernels(folder / "kernels.so", "\n".join(sources.values()))


@cache
def shipped_kernels():
    """Return every kernel that ships, built once."""
    folder = Path(tempfile.mkdtemp(prefix="gpumlp-kernels-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return build(folder, {name: kernel_source(name) for name in source_names()})


def run(command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


# ----------------------------------------------------------------------------- launching


@dataclass
class Parameter:
    name: str
    kind: str  # float, size_t, ...
    pointer: bool
    const: bool


def parameters_of(text):
    """Return the parameters of each kernel in a source text."""

    def parameter(declaration):
        const, kind, pointer, name = re.fullmatch(
            r"(const )?(\w+)(\*?) (\w+)", " ".join(declaration.split())
        ).groups()
        return Parameter(name, kind, bool(pointer), bool(const))

    declared = re.findall(r"^KERNEL\((\w+),([^)]*)\)", text, re.M)
    return {name: [parameter(p) for p in text.split(",")] for name, text in declared}


DTYPES = {
    "float": "f4",
    "double": "f8",
    "int64": "i8",
    "uint32": "u4",
    "uint16": "u2",
    "operand": "u2",
    "uint8": "u1",
}
FAILURES = ["", "deadlock: not all threads reach a barrier", "misaligned or foreign memory"]
GUARD = 512
FILL = 0x7B  # as float32 1.3e36, which nothing leaves as it is


class Guarded:
    """A copy of an array `shift` bytes off a multiple of 64, between bytes that must not change."""

    def __init__(self, array, shift):
        self.memory = np.full(array.nbytes + 2 * GUARD + 64, FILL, np.uint8)
        self.start = GUARD + (shift - GUARD - self.memory.ctypes.data) % 64
        self.end = self.start + array.nbytes
        self.array = self.memory[self.start : self.end].view(array.dtype).reshape(array.shape)
        self.array[...] = array

    @property
    def address(self):
        return self.memory.ctypes.data + self.start

    def intact(self):
        return (self.memory[: self.start] == FILL).all() and (self.memory[self.end :] == FILL).all()


class Kernels:
    """Kernels in a library made by `build`."""

    def __init__(self, path, text):
        self.library = ctypes.CDLL(str(path))
        self.parameters = parameters_of(text)

    def run(self, name, arguments, shape=None, shifts=0):
        """Launch in three orders of the threads; return the arrays as they are afterwards.

        Args:
            name: of the kernel.
            arguments: by name; arrays (the same one twice is the same memory), numbers, or None.
            shape: grid and block; `LAUNCH` says which by default.
            shifts: how many entries arrays are off their alignment: of all, or name -> number.
        """
        shape = shape or LAUNCH[name](**whole_numbers(arguments))
        results = [self._launch(name, arguments, shape, shifts, order) for order in range(3)]
        for order, result in enumerate(results):
            for key, array in result.items():
                same = array.tobytes() == results[0][key].tobytes()
                assert same, f"{name}: {key} depends on the order of threads ({order}, {shape})"
        return results[0]

    def _launch(self, name, arguments, shape, shifts, order):
        memory, slots = {}, []
        parameters = self.parameters[name]
        assert [p.name for p in parameters] == list(arguments), name
        for parameter in parameters:
            value = arguments[parameter.name]
            if not parameter.pointer:
                slots.append(packed(parameter.kind, value))
            elif value is None:
                slots.append(0)
            else:
                assert value.dtype == DTYPES[parameter.kind], parameter.name
                assert value.flags.c_contiguous, parameter.name
                shift = shifts if isinstance(shifts, int) else shifts.get(parameter.name, 0)
                if id(value) not in memory:
                    memory[id(value)] = Guarded(value, shift * value.itemsize)
                slots.append(memory[id(value)].address)
        grid, block = ((*dims, 1, 1)[:3] for dims in shape)
        failure = getattr(self.library, f"launch_{name}")(
            (ctypes.c_uint * 6)(*grid, *block), order, (ctypes.c_uint64 * len(slots))(*slots)
        )
        assert not failure, f"{name}: {FAILURES[failure]} ({shape})"
        result = {}
        for parameter in parameters:
            value = arguments[parameter.name]
            if parameter.pointer and value is not None:
                assert memory[id(value)].intact(), (
                    f"{name} writes outside {parameter.name} ({shape})"
                )
                result[parameter.name] = memory[id(value)].array
        return result


def whole_numbers(arguments):
    return {name: value for name, value in arguments.items() if isinstance(value, int)}


def packed(kind, value):
    """Return a number as the lowest bytes of a slot."""
    if kind == "float":
        return int.from_bytes(struct.pack("<f", value), "little")
    return int(value)
