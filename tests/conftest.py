"""What all tests share: a seeded generator, and every backend that is usable here."""

import os

import numpy as np
import pytest
from fake_cuda import FakeCudaBackend
from hypothesis import settings

from gpumlp.backend import Backend, CpuBackend, get_backend
from gpumlp.backend.native import load_native
from gpumlp.errors import DeviceError

# Machines may be slow; CI tries the same examples each time, elsewhere new ones are looked for.
settings.register_profile("gpumlp", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("gpumlp")

BACKENDS = {
    "cpu-native": lambda: CpuBackend(),
    "cpu-numpy": lambda: CpuBackend(kernels=False),  # as without a compiler
    "cpu-plain": lambda: Backend(np),  # the plain formulas in float32
    "cpu-fp64": lambda: get_backend("cpu", "fp64"),
    "cuda-stand-in": lambda: FakeCudaBackend(),  # the GPU's kernels on fibers, see fake_cuda.py
    "cuda-fp32": lambda: get_backend("cuda"),
}
MARKS = {"cuda-fp32": pytest.mark.gpu}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(
    scope="session", params=[pytest.param(name, marks=MARKS.get(name, ())) for name in BACKENDS]
)
def backend(request):
    if request.param == "cpu-native" and load_native()[0] is None:
        pytest.skip(f"the native library is missing: {load_native()[1]}")
    try:
        return BACKENDS[request.param]()
    except DeviceError as error:
        pytest.skip(str(error))
