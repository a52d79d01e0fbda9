"""The shim between NumPy and CuPy: one explicit backend object is passed to whatever computes."""

import re

import numpy as np

from ..errors import DeviceError
from .activations import ACTIVATIONS, Activation, Array, get_activation
from .base import OPERATIONS, Backend, Plan, Scalar
from .cpu import CpuBackend
from .pointwise import POINTWISE
from .recording import RecordingBackend, Workspace

__all__ = [
    "ACTIVATIONS",
    "OPERATIONS",
    "POINTWISE",
    "Activation",
    "Array",
    "Backend",
    "CpuBackend",
    "Plan",
    "RecordingBackend",
    "Scalar",
    "Workspace",
    "choose_backend",
    "get_activation",
    "get_backend",
]

PRECISIONS = {
    "fp32": "float32",
    "tf32": "float32",
    "fp64": "float64",
    "float32": "float32",
    "float64": "float64",
}


def get_backend(device: str | Backend = "auto", precision: str | None = None) -> Backend:
    """Return the backend of a device.

    Args:
        device: "cpu"; "cuda" or "cuda:N" (CuPy); "auto", which takes CUDA where it works and the
            CPU elsewhere; or a backend, which is passed through.
        precision: "fp32" (the default) or "fp64"; "tf32" on CUDA: fp32 but for matrix products,
            which read their numbers with 10 bits of mantissa. A backend that is passed through has
            its own.

    Raises:
        DeviceError: an explicit CUDA device cannot be used; the text says what fixes it.
        ValueError: an unknown device or precision, or a backend of another precision.

    >>> get_backend("cpu")
    CpuBackend('cpu', float32)
    """
    return choose_backend(device, precision)[0]


def choose_backend(
    device: str | Backend = "auto", precision: str | None = None
) -> tuple[Backend, str | None]:
    """Return the backend of a device as `get_backend` does, and why "auto" did not take CUDA.

    The second is None where CUDA was taken or a device was named.
    """
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    dtype = PRECISIONS[precision or "fp32"]
    if isinstance(device, Backend):
        if precision is not None and device.dtype != dtype:
            raise ValueError(f"{device} cannot be used for {precision}; name the device instead")
        return device, None
    if device == "cpu":
        return _cpu(precision, dtype), None
    match = re.fullmatch(r"auto|cuda(?::(\d+))?", device)
    if not match:
        raise ValueError(f"unknown device {device!r}; choose auto, cpu, cuda or cuda:N")
    from .cuda import CudaBackend

    try:
        products = "tf32" if precision == "tf32" else "fp32"
        return CudaBackend(int(match[1] or 0), dtype, compute=products), None
    except DeviceError as error:
        if device == "auto":
            return _cpu(precision, dtype), str(error)
        raise


def _cpu(precision: str | None, dtype: str) -> Backend:
    """Return the CPU's backend; float64 is for checks and takes the plain formulas."""
    if precision == "tf32":
        raise ValueError('precision "tf32" is one of NVIDIA GPUs; the CPU has fp32 and fp64')
    return CpuBackend() if dtype == "float32" else Backend(np, dtype)
