"""`gpumlp doctor`: what it reports, what it advises, and its exit codes."""

import itertools
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from fake_cuda import FakeCudaBackend, installed

import gpumlp
from gpumlp import SGD, cli
from gpumlp.backend import get_backend
from gpumlp.backend.cuda import backend as cuda
from gpumlp.commands import doctor
from gpumlp.commands.doctor import Line
from gpumlp.data.mnist import STEMS
from gpumlp.errors import CheckFailed, DeviceError

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ["machine", "GPU", "optional packages", "data"]


@pytest.fixture
def run(capsys):
    def run_command(*arguments):
        code = cli.main(["doctor", *arguments])
        return code, *capsys.readouterr()

    return run_command


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(doctor, "driver_version", lambda: 0)
    hide(monkeypatch, *doctor.CUPY)


def hide(monkeypatch, *names):
    """Let distributions seem to be missing."""
    found = doctor.installed_version
    monkeypatch.setattr(doctor, "installed_version", lambda n: "" if n in names else found(n))


def entries(out):
    """Name → what was found and how to fix it, one text each, from a printed report."""
    found, name = {}, ""
    for line in out.splitlines():
        if line.startswith("  "):
            name = line[2:16].strip() or name
            found[name] = f"{found.get(name, '')} {line[16:].strip()}".strip()
    return found


@pytest.mark.usefixtures("no_gpu")
def test_the_report_fits_80_columns_and_ends_with_a_self_test_that_works(run):
    code, out, err = run()
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"gpumlp {gpumlp.__version__}"
    assert [line for line in lines[1:] if line[:1].strip()][:4] == SECTIONS
    assert max(map(len, lines)) <= 80 or any(len(word) > 60 for word in out.split())
    assert lines[-1].startswith("  cpu           works (largest error ")
    found = entries(out)
    assert found["NumPy"].startswith(np.__version__)
    assert found["Python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert {"platform", "CPUs", "memory", "BLAS", "driver", "CuPy", "mnist"} <= set(found)


@pytest.mark.usefixtures("no_gpu")
def test_what_is_missing_comes_with_the_line_that_fixes_it(run, monkeypatch, tmp_path):
    hide(monkeypatch, "matplotlib", "tensorboardX", "pooch", *doctor.CUPY)
    monkeypatch.setenv("GPUMLP_DATA", str(tmp_path))
    found = entries(run("--device", "cpu")[1])
    assert found["driver"].endswith("fix: install NVIDIA's driver; then nvidia-smi lists the GPU")
    assert found["CuPy"].startswith("not installed fix: pip install ")
    assert found["matplotlib"] == 'not installed fix: pip install "gpumlp[plot]"  (figures)'
    assert 'pip install "gpumlp[tensorboard]"' in found["tensorboardX"]
    assert 'pip install "gpumlp[fetch]"' in found["pooch"]
    assert found["mnist"].endswith("fix: gpumlp fetch mnist")


def test_every_extra_that_is_advised_exists_and_installs_the_package():
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    for name, extra, _ in doctor.EXTRAS:
        assert any(requirement.startswith(name) for requirement in extras[extra])
    assert {"cuda12", "cuda13"} <= set(extras)


@pytest.mark.usefixtures("no_gpu")
def test_cuda_that_does_not_work_exits_5_after_the_report(run):
    code, out, err = run("--device", "cuda")
    assert code == 5
    assert "CuPy is not installed; pip install" in err
    assert "\ndata\n" in out
    assert "works" not in out


def test_an_unknown_device_exits_2_at_once(run):
    assert run("--device", "gpu") == (
        2,
        "",
        '--device: expected auto, cpu, cuda or cuda:N, got "gpu"\n',
    )


@pytest.mark.gpu
def test_on_a_gpu_both_devices_are_tested(run):
    try:
        get_backend("cuda")
    except DeviceError as error:
        pytest.skip(str(error))
    code, out, _ = run()
    assert code == 0
    assert out.splitlines()[-2].startswith("  cpu           works")
    assert out.splitlines()[-1].startswith("  cuda:0        works")
    found = entries(out)
    assert {"cublas", "nvrtc", "cudart", "driver"} <= set(found)


def test_the_self_test_passes_in_both_precisions():
    assert doctor.self_test(get_backend("cpu")) < 1e-6
    assert doctor.self_test(get_backend("cpu", "fp64")) < 1e-14


def test_the_self_test_finds_a_step_that_is_wrong(monkeypatch):
    monkeypatch.setattr(doctor, "SGD", lambda lr: SGD(1.01 * lr))
    with pytest.raises(CheckFailed, match="cpu: a training step is wrong by"):
        doctor.self_test(get_backend("cpu"))


def test_mnist_is_reported_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("GPUMLP_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    for stem in STEMS:
        (tmp_path / "mnist" / stem).touch()
    place, mnist = doctor.data()
    assert place == Line("GPUMLP_DATA", str(tmp_path))
    assert mnist == Line("mnist", f"found in {tmp_path / 'mnist'}")


# ------------------------------------------------------------------------------------- GPU


def pathfinder(monkeypatch, missing=()):
    """Put a stand-in for CuPy's search of libraries in its place."""

    def load(name):
        if name in missing:
            raise RuntimeError(f"Failure finding {name}")
        return SimpleNamespace(abs_path=f"/cuda/lib{name}.so")

    module = ModuleType("cuda.pathfinder")
    module.load_nvidia_dynamic_lib = load
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", module)


def install_cupy(monkeypatch, *names):
    monkeypatch.setattr(doctor, "installed_version", lambda n: "14.0" if n in names else "")


def test_libraries_are_found_or_empty(monkeypatch):
    pathfinder(monkeypatch, missing=["nvrtc"])
    assert cuda.find_libraries() == {
        "cudart": "/cuda/libcudart.so",
        "nvrtc": "",
        "cublas": "/cuda/libcublas.so",
        "cublasLt": "/cuda/libcublasLt.so",
    }


def test_without_the_search_for_libraries_the_fix_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    with pytest.raises(DeviceError, match="pip install"):
        cuda.find_libraries()


def test_a_missing_library_is_fixed_by_the_extra_for_the_driver(monkeypatch):
    pathfinder(monkeypatch, missing=["cublas"])
    install_cupy(monkeypatch, "cupy-cuda13x")
    monkeypatch.setattr(doctor, "count_devices", lambda: 1)
    monkeypatch.setattr(doctor, "get_backend", lambda device: device)
    facts = {"gpu": "GPU 7", "gpu_memory": 2**30, "compute_capability": "9.0", "cublaslt": 130100}
    monkeypatch.setattr(doctor, "describe", lambda backend: facts)
    for driver, shown, extra in ((13010, "13.1", "cuda13"), (12080, "12.8", "cuda12")):
        monkeypatch.setattr(doctor, "driver_version", lambda driver=driver: driver)
        lines = {line.name: line for line in doctor.gpu()}
        assert lines["driver"].found == f"for CUDA up to {shown}"
        assert lines["CuPy"] == Line("CuPy", "cupy-cuda13x 14.0")
        fix = f'pip install nvidia-cublas  (all of them: pip install "gpumlp[{extra}]")'
        assert lines["cublas"] == Line("cublas", "not found", fix)
        assert lines["nvrtc"] == Line("nvrtc", "/cuda/libnvrtc.so")
        assert lines["cuda:0"].found == "GPU 7, 1.1 GB, compute capability 9.0"
        assert lines["products"].found.startswith("cuBLASLt 130100; choices in ")


def test_wheels_for_cuda_12_have_names_of_their_own(monkeypatch):
    pathfinder(monkeypatch, missing=["nvrtc"])
    install_cupy(monkeypatch, "cupy-cuda12x")
    monkeypatch.setattr(doctor, "count_devices", lambda: 0)
    lines = {line.name: line for line in itertools.islice(doctor.gpu(), 6)}
    assert lines["nvrtc"].fix.startswith("pip install nvidia-cuda-nvrtc-cu12  (all of them: ")


def test_on_the_stand_in_everything_is_found(monkeypatch, tmp_path):
    install_cupy(monkeypatch, "cupy-cuda13x")
    with installed(tmp_path):
        lines = {line.name: line.found for line in doctor.gpu()}
        error = doctor.self_test(FakeCudaBackend())
    assert lines["cuda:0"] == "Stand-In 1, 1.1 GB, compute capability 9.0"
    assert lines["products"] == f"cuBLASLt 130000; choices in {tmp_path / 'gpumlp' / 'products'}"
    assert error < 1e-6


def test_cupy_without_a_usable_device_is_reported_with_its_reason(monkeypatch):
    def count_devices():
        raise DeviceError("no usable GPU; install NVIDIA's driver; or use the CPU")

    pathfinder(monkeypatch)
    install_cupy(monkeypatch, "cupy-cuda12x")
    monkeypatch.setattr(doctor, "count_devices", count_devices)
    *_, last = doctor.gpu()
    assert last == Line("devices", "no usable GPU", "install NVIDIA's driver; or use the CPU")


def test_two_cupys_are_one_too_many(monkeypatch):
    pathfinder(monkeypatch)
    install_cupy(monkeypatch, "cupy-cuda12x", "cupy-cuda13x")
    lines = {line.name: line for line in doctor.gpu()}
    assert lines["CuPy"].fix == "keep one: pip uninstall cupy-cuda13x cupy-cuda12x cupy"


# ------------------------------------------------------------------------------------- machine


def test_more_threads_than_cpus_are_advised_against(monkeypatch):
    pool = {"user_api": "blas", "internal_api": "openblas", "version": "0.3", "num_threads": 8}
    monkeypatch.setattr(doctor, "threadpool_info", lambda: [pool])
    for usable, fix in ((2.5, "OMP_NUM_THREADS=2"), (8.0, ""), (0.5, "OMP_NUM_THREADS=1")):
        monkeypatch.setattr(doctor, "usable_cpus", lambda usable=usable: usable)
        (blas,) = (line for line in doctor.machine() if line.name == "BLAS")
        assert blas.found == "openblas 0.3 (?), 8 threads"
        assert blas.fix.endswith(fix)
        assert bool(blas.fix) == bool(fix)


def test_the_kernels_in_use_are_named_or_how_to_get_them(monkeypatch):
    monkeypatch.setattr(doctor, "load_native", lambda: (object(), "/lib/native.so"))
    assert doctor.Line("kernels", "native, /lib/native.so") in [*doctor.kernels()]
    for why in ("not built", "built from other sources (/lib/native.so)", "unusable (no ELF file)"):
        monkeypatch.setattr(
            doctor, "load_native", lambda why=why: (None, f"{why}: {doctor.INSTALL_NATIVE}")
        )
        line = {line.name: line for line in doctor.kernels()}["kernels"]
        assert line.found == f"NumPy's; the native ones are {why}"
        assert line.fix == doctor.INSTALL_NATIVE


def test_products_say_how_they_are_computed(monkeypatch):
    lines = {line.name: line.found for line in doctor.kernels()}
    assert "directly" in lines["products"] or "numpy.matmul" in lines["products"]
    monkeypatch.setattr(doctor, "find_gemm", lambda: None)
    lines = {line.name: line.found for line in doctor.kernels()}
    assert lines["products"].startswith("by numpy.matmul")


def test_the_limits_of_a_container_count(monkeypatch):
    files = {
        "/proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n",
        "/sys/fs/cgroup/memory.max": "2000000000\n",
        "/sys/fs/cgroup/cpu.max": "50000 100000\n",
    }
    monkeypatch.setattr(Path, "read_text", lambda path: files[str(path)])
    assert doctor.memory() == "8.2 GB, 2.0 GB free; the container may use 2.0 GB"
    assert doctor.usable_cpus() == 0.5
    files |= {"/sys/fs/cgroup/memory.max": "max\n", "/sys/fs/cgroup/cpu.max": "max 100000\n"}
    assert doctor.memory() == "8.2 GB, 4.1 GB free"
    assert doctor.usable_cpus() >= 1


def test_a_system_that_says_nothing_of_its_memory_is_no_problem(monkeypatch):
    def refuse(path):
        raise FileNotFoundError(str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    assert doctor.memory() == "unknown"
