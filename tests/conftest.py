"""What all tests share: a seeded generator, and every backend that is usable here."""

import os

import numpy as np
import pytest
from hypothesis import settings

from gpumlp.backend import get_backend
from gpumlp.errors import DeviceError

# Machines may be slow; CI tries the same examples each time, elsewhere new ones are looked for.
settings.register_profile("gpumlp", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("gpumlp")

BACKENDS = [
    pytest.param(("cpu", "fp32"), id="cpu-fp32"),
    pytest.param(("cpu", "fp64"), id="cpu-fp64"),
    pytest.param(("cuda", "fp32"), id="cuda-fp32", marks=pytest.mark.gpu),
]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request):
    device, precision = request.param
    try:
        return get_backend(device, precision)
    except DeviceError as error:
        pytest.skip(str(error))
