"""The shim between NumPy and CuPy: one explicit backend object is passed to whatever computes."""

import re

import numpy as np

from ..errors import DeviceError
from .activations import ACTIVATIONS, Activation, Array, get_activation
from .base import Backend, Plan
from .cpu import CpuBackend
from .operations import OPERATIONS, Scalar
from .pointwise import POINTWISE
from .precision import FP64, PRECISIONS, Matrix, Operand, Precision
from .recording import RecordingBackend, Workspace

__all__ = [
    "ACTIVATIONS",
    "OPERATIONS",
    "POINTWISE",
    "PRECISIONS",
    "Activation",
    "Array",
    "Backend",
    "CpuBackend",
    "Matrix",
    "Operand",
    "Plan",
    "Precision",
    "RecordingBackend",
    "Scalar",
    "Workspace",
    "choose_backend",
    "get_activation",
    "get_backend",
]

# as NumPy calls them, too
ALIASES = {"float32": "fp32", "float64": "fp64"}


def get_backend(device: str | Backend = "auto", precision: str | None = None) -> Backend:
    """Return the backend of a device.

    Args:
        device: "cpu"; "cuda" or "cuda:N" (CuPy); "auto", which takes CUDA where it works and the
            CPU elsewhere; or a backend, which is passed through.
        precision: "fp32" (the default), "fp64", or what matrix products read: "tf32", "bf16",
            "fp16", "bf16x3", "bf16x6" (see `backend.precision`), which the CPU emulates. A backend
            that is passed through has its own.

    Raises:
        DeviceError: an explicit CUDA device cannot be used; the text says what fixes it.
        ValueError: an unknown device or precision, or a backend of another precision.

    >>> get_backend("cpu")
    CpuBackend('cpu', float32)
    >>> get_backend("cpu", "bf16")
    CpuBackend('cpu', float32, bf16)
    """
    return choose_backend(device, precision)[0]


def choose_backend(
    device: str | Backend = "auto", precision: str | None = None
) -> tuple[Backend, str | None]:
    """Return the backend of a device as `get_backend` does, and why "auto" did not take CUDA.

    The second is None where CUDA was taken or a device was named.
    """
    given = "fp32" if precision is None else precision
    name = ALIASES.get(given, given)
    if name not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    chosen = PRECISIONS[name]
    if isinstance(device, Backend):
        if precision is not None and device.precision != chosen:
            raise ValueError(f"{device} cannot be used for {precision}; name the device instead")
        return device, None
    if device == "cpu":
        return _cpu(chosen), None
    match = re.fullmatch(r"auto|cuda(?::(\d+))?", device)
    if not match:
        raise ValueError(f"unknown device {device!r}; choose auto, cpu, cuda or cuda:N")
    from .cuda import CudaBackend

    try:
        return CudaBackend(int(match[1] or 0), chosen), None
    except DeviceError as error:
        if device == "auto":
            return _cpu(chosen), str(error)
        raise


def _cpu(precision: Precision) -> Backend:
    """Return the CPU's backend; float64 is for checks and takes the plain formulas."""
    return Backend(np, "float64") if precision is FP64 else CpuBackend(precision=precision)
