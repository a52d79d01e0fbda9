"""The kernels compile for every GPU we support: with NVRTC, as CuPy does it, on any machine."""

import ctypes
import importlib.util
import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path

import pytest
from kernels_on_fibers import LAUNCH, parameters_of, run, source_names

from gpumlp.backend.kernel_sources import kernel_folder, kernel_source

ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]
OPTIONS = ["-std=c++17", "-ftz=true", "-default-device"]  # CuPy's own, and the language
PACKAGES = ["nvidia.cu13", "nvidia.cuda_nvrtc"]


def folder_of_nvrtc():
    """Return where the wheel's libraries lie, or None."""
    for package in PACKAGES:
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        for place in spec.submodule_search_locations or [] if spec else []:
            for library in Path(place).rglob("*nvrtc*"):
                if re.match(r"libnvrtc\.so|nvrtc64_.*\.dll", library.name):
                    return library.parent
    return None


@pytest.fixture(scope="module")
def nvrtc():
    folder = folder_of_nvrtc()
    if folder is None:
        pytest.skip("NVRTC is missing: pip install nvidia-cuda-nvrtc")
    if sys.platform == "win32":
        os.add_dll_directory(str(folder))
        names = [p for p in folder.glob("nvrtc64_*.dll") if "alt" not in p.name]
    else:
        for builtins in folder.glob("libnvrtc-builtins.so*"):
            ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
        names = [p for p in folder.glob("libnvrtc.so*") if "alt" not in p.name]
    return ctypes.CDLL(str(names[0]))


def compile_with(nvrtc, text, options):
    """Return whether the text compiles, and the compiler's log."""
    program = ctypes.c_void_p()
    assert not nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), None, 0, None, None)
    encoded = [option.encode() for option in options]
    status = nvrtc.nvrtcCompileProgram(
        program, len(encoded), (ctypes.c_char_p * len(encoded))(*encoded)
    )
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return status == 0, log.value.decode()


@pytest.fixture(scope="module")
def compilations(nvrtc):
    """What becomes of each source on each architecture, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        yield {
            (name, architecture): pool.submit(
                compile_with, nvrtc, kernel_source(name), [*OPTIONS, f"-arch={architecture}"]
            )
            for architecture in ARCHITECTURES
            for name in source_names()
        }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", source_names())
def test_a_source_compiles_without_a_warning(compilations, name, architecture):
    assert compilations[name, architecture].result() == (True, "")


@pytest.mark.parametrize("name", ["activation.cu", "update.cu"])
def test_a_source_compiles_without_copies_too(nvrtc, name):
    text = f"#define GPUMLP_COPIES 0\n{kernel_source(name)}"
    assert compile_with(nvrtc, text, [*OPTIONS, "-arch=sm_90"]) == (True, "")


def test_a_warning_or_an_error_would_be_seen(nvrtc):
    text = kernel_source("update.cu")
    assert "unused" in compile_with(nvrtc, text + "void f() { int unused; }", OPTIONS)[1]
    good, log = compile_with(nvrtc, text + "void f() { return 1; }", OPTIONS)
    assert not good
    assert "error" in log


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc (the CUDA toolkit)")
@pytest.mark.parametrize("name", source_names())
def test_no_kernel_spills_registers_or_needs_more_than_a_block_has(name):
    command = ["nvcc", "-std=c++17", "-arch=sm_90", "-Xptxas", "-v", "-cubin", "-o", os.devnull]
    output = run([*command, kernel_folder() / name])
    found = re.findall(
        r"entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers",
        output,
        re.S,
    )
    text = (kernel_folder() / name).read_text(encoding="utf-8")
    assert sorted(kernel for kernel, *_ in found) == sorted(parameters_of(text))
    lines = {"bytes_1": 4000, "bytes_2": 8000, "bytes_3": 12}
    for kernel, *spilled, registers in found:
        assert spilled == ["0", "0", "0"], kernel
        _, block = LAUNCH[kernel](n=10**6, rows=1000, columns=1000, bytes=4000, **lines)
        assert int(registers) * prod(block) <= 65536, kernel
