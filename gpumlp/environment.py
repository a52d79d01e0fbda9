"""What a run ran on: versions, device, linear-algebra library and its threads."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from threadpoolctl import threadpool_info

from . import __version__
from .backend import Backend, CpuBackend
from .backend.cuda import CudaBackend

BLAS_FACTS = ("internal_api", "version", "num_threads", "architecture")
PACKAGES = ("numpy", "pydantic", "safetensors", "tqdm", "cupy-cuda12x", "cupy-cuda13x")


def describe(backend: Backend) -> dict[str, Any]:
    """Return the environment as values that JSON can hold."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "packages": {"gpumlp": __version__}
        | {name: found for name in PACKAGES if (found := _version(name))},
        "device": backend.name,
        "blas": [
            {key: pool[key] for key in BLAS_FACTS if key in pool}
            for pool in threadpool_info()
            if pool["user_api"] == "blas"
        ],
        "command": sys.argv,
    } | _device(backend)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device(backend: Backend) -> dict[str, Any]:
    if backend.name == "cpu":
        native = isinstance(backend, CpuBackend) and backend.native
        return {"kernels": "native" if native else "numpy"}
    runtime = backend.xp.cuda.runtime
    properties = runtime.getDeviceProperties(int(backend.name.rpartition(":")[2]))
    facts = {
        "gpu": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "gpu_memory": properties["totalGlobalMem"],
        "cuda_runtime": runtime.runtimeGetVersion(),
        "cuda_driver": runtime.driverGetVersion(),
    }
    if isinstance(backend, CudaBackend) and backend.dtype == "float32":
        library = backend.products.library
        facts |= {"cublaslt": library.version, "products": backend.precision.name}
        facts["kernels"] = "cuda"
    return facts
