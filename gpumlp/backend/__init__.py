"""The shim between NumPy and CuPy: one explicit backend object is passed to whatever computes."""

import re

import numpy as np

from ..errors import DeviceError
from .activations import ACTIVATIONS, Activation, Array, get_activation
from .base import OPERATIONS, Backend, Scalar
from .pointwise import POINTWISE
from .recording import Plan, RecordingBackend, Workspace

__all__ = [
    "ACTIVATIONS",
    "OPERATIONS",
    "POINTWISE",
    "Activation",
    "Array",
    "Backend",
    "Plan",
    "RecordingBackend",
    "Scalar",
    "Workspace",
    "get_activation",
    "get_backend",
]

PRECISIONS = {"fp32": "float32", "fp64": "float64", "float32": "float32", "float64": "float64"}


def get_backend(device: str | Backend = "auto", precision: str = "fp32") -> Backend:
    """Return the backend of a device.

    Args:
        device: "cpu"; "cuda" or "cuda:N" (CuPy); "auto", which takes CUDA where it works and the
        CPU
            elsewhere; or a backend, which is passed through.
        precision: "fp32" or "fp64".

    Raises:
        DeviceError: an explicit CUDA device cannot be used; the text says what fixes it.
        ValueError: an unknown device or precision.

    >>> get_backend("cpu")
    Backend('cpu', float32)
    """
    if isinstance(device, Backend):
        return device  # whose precision it is
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    dtype = PRECISIONS[precision]
    if device == "cpu":
        return Backend(np, dtype)
    match = re.fullmatch(r"auto|cuda(?::(\d+))?", device)
    if not match:
        raise ValueError(f"unknown device {device!r}; choose auto, cpu, cuda or cuda:N")
    from .cuda import CudaBackend

    try:
        return CudaBackend(int(match[1] or 0), dtype)
    except DeviceError:
        if device == "auto":
            return Backend(np, dtype)
        raise
