"""`gpumlp doctor`: what this machine has, what is missing, and the line that fixes it."""

import argparse
import os
import platform
import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from ctypes import CDLL, byref, c_int
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_info

from .. import SGD, Dense, Sequential, SoftmaxCrossEntropy, Trainer, __version__, get_backend
from ..backend import Backend
from ..backend.blas import find_gemm
from ..backend.cuda.backend import INSTALL, count_devices, find_libraries, products_folder
from ..backend.native import INSTALL as INSTALL_NATIVE
from ..backend.native import load_native
from ..backend.system_memory import system_memory
from ..console import show
from ..data.mnist import find_mnist, mnist_folder
from ..environment import describe
from ..errors import CheckFailed, ConfigError, DeviceError, GpumlpError
from ..wording import count, size

WIDTH = 80
TOLERANCE = 1e-5  # of parameters around 1 after one step in float32
CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")
WHEELS = {  # of the CUDA libraries; for CUDA 12 their names end in -cu12
    "cudart": "nvidia-cuda-runtime",
    "nvrtc": "nvidia-cuda-nvrtc",
    "cublas": "nvidia-cublas",
    "cublasLt": "nvidia-cublas",
}
EXTRAS = (  # distribution, extra, what for
    ("matplotlib", "plot", "figures"),
    ("tensorboardX", "tensorboard", "TensorBoard files"),
    ("pooch", "fetch", "gpumlp fetch"),
    ("scikit-learn", "sklearn", "gpumlp.sklearn: estimators"),
    ("pyarrow", "parquet", "parquet files"),
    ("onnx", "onnx", "gpumlp export --onnx"),
)


class Line(NamedTuple):
    """One thing that was looked for, what was found, and if it is missing how to get it."""

    name: str
    found: str
    fix: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `doctor` to a parser."""
    parser.add_argument(
        "--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:N: must work"
    )


def run(options: argparse.Namespace) -> int:
    """Print the report; 0 if the device works, else DeviceError or CheckFailed is raised last."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,4})?", options.device):
        raise ConfigError(f'--device: expected auto, cpu, cuda or cuda:N, got "{options.device}"')
    show(f"gpumlp {__version__}")
    for title, lines in (
        ("machine", machine()),
        ("GPU", gpu()),
        ("optional packages", optional_packages()),
        ("data", data()),
    ):
        show(f"\n{title}\n{table(list(lines))}")
    show("\nself-test: one training step against its formula")
    backend = get_backend(options.device)
    both = options.device == "auto" and backend.name != "cpu"
    for tested in [get_backend("cpu"), backend] if both else [backend]:
        found = f"works (largest error {self_test(tested):.0e})"
        show(table([Line(tested.name, found)]))
    return 0


def table(lines: list[Line]) -> str:
    """Return lines in two columns, each fix below what it fixes.

    >>> print(table([Line("CuPy", "not installed", "pip install cupy")]))
      CuPy          not installed
                    fix: pip install cupy
    """
    rows = []
    for name, found, fix in lines:
        for text, first in ((found, f"  {name:<14}"), (fix and f"fix: {fix}", " " * 16)):
            rows += textwrap.wrap(
                text,
                WIDTH,
                initial_indent=first,
                subsequent_indent=" " * (21 if text.startswith("fix: ") else 16),
                break_long_words=False,
                break_on_hyphens=False,
            )
    return "\n".join(rows)


def machine() -> Iterator[Line]:
    """Yield Python, platform, processors, memory, NumPy and its linear algebra."""
    yield Line("Python", f"{platform.python_version()} ({sys.executable})")
    yield Line("platform", platform.platform())
    usable = usable_cpus()
    yield Line("CPUs", f"{os.cpu_count()}, of which this process may use {usable:g}")
    yield Line("memory", memory())
    yield Line("NumPy", np.__version__)
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    for pool in pools:
        threads = pool["num_threads"]
        found = [pool["internal_api"], pool["version"], f"({pool.get('architecture', '?')})"]
        fix = ""
        if threads > max(1, usable):
            fix = f"more threads than CPUs are slow: export OMP_NUM_THREADS={max(1, int(usable))}"
        yield Line("BLAS", f"{' '.join(map(str, found))}, {count(threads, 'thread')}", fix)
    if not pools:
        yield Line("BLAS", "one that threadpoolctl does not know")
    yield from kernels()


def kernels() -> Iterator[Line]:
    """Yield how matrix products and everything else are computed on the CPU."""
    gemm = find_gemm()
    found = f"{gemm.name}, called directly" if gemm else "by numpy.matmul: BLAS not found in NumPy"
    yield Line("products", found)
    library, where = load_native()
    if library:
        yield Line("kernels", f"native, {where}")
    else:
        why = where.removesuffix(f": {INSTALL_NATIVE}")
        yield Line("kernels", f"NumPy's; the native ones are {why}", INSTALL_NATIVE)


def usable_cpus() -> float:
    """Return how many processors this process may use, by affinity and by the container's limit."""
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    with suppress(OSError, ValueError):  # no such file, or "max"
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        allowed = min(allowed, int(quota) / int(period))
    return allowed


def memory() -> str:
    """Return how much memory there is and is free, as far as the system says."""
    found = system_memory()
    if found is None:
        return "unknown"
    limit = "" if found.limit is None else f"; the container may use {size(found.limit)}"
    return f"{size(found.total)}, {size(found.free)} free{limit}"


def gpu() -> Iterator[Line]:
    """Yield driver, CuPy, the CUDA libraries and the device."""
    driver = driver_version()
    yield (
        Line("driver", f"for CUDA up to {driver // 1000}.{driver % 1000 // 10}")
        if driver
        else Line("driver", "not found", "install NVIDIA's driver; then nvidia-smi lists the GPU")
    )
    installed = [f"{name} {found}" for name in CUPY if (found := installed_version(name))]
    extra = f'pip install "gpumlp[{"cuda13" if driver >= 13000 else "cuda12"}]"'
    fix = extra if driver else INSTALL
    if len(installed) > 1:
        yield Line("CuPy", ", ".join(installed), f"keep one: pip uninstall {' '.join(CUPY)}")
    else:
        yield Line("CuPy", *(installed or ("not installed", fix)))
    if not installed:
        return
    try:
        suffix = "-cu12" if installed[0].startswith("cupy-cuda12x") else ""
        for name, path in find_libraries().items():
            wheel = f"pip install {WHEELS[name]}{suffix}  (all of them: {fix})"
            yield Line(name, path) if path else Line(name, "not found", wheel)
        yield Line("devices", f"{count_devices()} usable")
        facts = describe(get_backend("cuda"))
        memory, capability = size(facts["gpu_memory"]), facts["compute_capability"]
        yield Line("cuda:0", f"{facts['gpu']}, {memory}, compute capability {capability}")
        yield Line("products", f"cuBLASLt {facts['cublaslt']}; choices in {products_folder()}")
    except DeviceError as error:
        yield Line("devices", *str(error).split("; ", 1))


def driver_version() -> int:
    """Return the newest CUDA version that the driver can run, as in 13000; 0 without a driver."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    found = c_int(0)
    try:
        failed = CDLL(library).cuDriverGetVersion(byref(found))
    except (OSError, AttributeError):
        return 0
    return 0 if failed else found.value


def optional_packages() -> Iterator[Line]:
    """Yield what only some commands need."""
    for name, extra, purpose in EXTRAS:
        found = installed_version(name)
        fix = "" if found else f'pip install "gpumlp[{extra}]"  ({purpose})'
        yield Line(name, found or "not installed", fix)


def installed_version(distribution: str) -> str:
    """Return the version of an installed distribution, or nothing.

    >>> installed_version("numpy") == np.__version__, installed_version("no-such-thing")
    (True, '')
    """
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def data() -> Iterator[Line]:
    """Yield where data sets are looked for, and whether MNIST is there."""
    place = os.environ.get("GPUMLP_DATA")
    yield Line("GPUMLP_DATA", place or f"not set; MNIST is looked for in {mnist_folder()}")
    try:
        yield Line("mnist", f"found in {find_mnist(None)}")
    except GpumlpError as error:
        found = str(error).splitlines()[0].removeprefix("mnist: ")
        yield Line("mnist", found, "gpumlp fetch mnist")


def self_test(backend: Backend) -> float:
    """Train a small network for one step; return the largest error of its parameters.

    The step is compared with the formulas of backpropagation, written out in float64:
    W ← W - η dzᵀ x with dz = (y - ŷ) / N behind the softmax and da ⊙ a (1 - a) below it.

    Raises CheckFailed where the error is not small.
    """
    x = np.sin(np.arange(48.0)).reshape(12, 4)
    labels, lr = np.arange(12) % 3, 0.5
    layers = Dense(4, 5, "sigmoid", backend), Dense(5, 3, backend=backend)
    model = Sequential(*layers, seed=0)
    w1, b1, w2, b2 = (backend.to_numpy(p.value).astype(float) for p in model.parameters)
    a = 1 / (1 + np.exp(-(x @ w1.T + b1)))
    y = np.exp(a @ w2.T + b2)
    dz2 = (y / y.sum(axis=1, keepdims=True) - np.eye(3)[labels]) / len(x)
    dz1 = dz2 @ w2 * a * (1 - a)
    gradients = dz1.T @ x, dz1.sum(axis=0), dz2.T @ a, dz2.sum(axis=0)
    trainer = Trainer(model, SoftmaxCrossEntropy(backend=backend), SGD(lr), batch_size="full")
    trainer.fit(x.astype(backend.dtype), labels, epochs=1)
    error = max(
        float(np.abs(backend.to_numpy(parameter.value) - (old - lr * gradient)).max())
        for parameter, old, gradient in zip(
            model.parameters, (w1, b1, w2, b2), gradients, strict=True
        )
    )
    if not error < TOLERANCE:  # written so that NaN fails
        raise CheckFailed(f"{backend.name}: a training step is wrong by {error:.2g}")
    return error
