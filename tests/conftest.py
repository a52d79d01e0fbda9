"""What all tests share: a seeded generator, and every backend that is usable here."""

import numpy as np
import pytest

from gpumlp.backend import get_backend
from gpumlp.errors import DeviceError

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
