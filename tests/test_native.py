"""The native library: binding checks names and types, keeps memory alive, says what is wrong."""

import gc
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest

from gpumlp.backend import native
from gpumlp.backend.kernel_sources import declared_kernels, kernel_folder
from gpumlp.backend.native import NativeLibrary, load_native

LIBRARY, WHERE = load_native()
SOURCES = "native.cpp", "native.h", "threads.h", "portable.h", "update.cu"
needs_library = pytest.mark.skipif(LIBRARY is None, reason=f"native: {WHERE}")


def vectors(n=4):
    return np.ones(n, np.float32), np.full(n, 2, np.float32)


def sgd(w, g, lr, **changed):
    """The arguments of `sgd_step`."""
    others = {"copy": None, "skip": None, "format": 0}
    return {"w": w, "g": g, "lr": lr, "n": len(w)} | others | changed


@needs_library
def test_the_library_is_as_new_as_its_sources():
    """Else `pip install -e .` builds it again."""
    folder = kernel_folder()
    if Path(WHERE).parent != folder.parent:
        pytest.skip("installed apart from this checkout; its parameters were compared")
    sources = [folder / name for name in SOURCES]
    assert Path(WHERE).stat().st_mtime >= max(source.stat().st_mtime for source in sources)


@needs_library
def test_it_has_every_kernel_of_the_gpu_with_the_same_parameters():
    assert {name: LIBRARY._kernel(name)[1] for name in declared_kernels()} == declared_kernels()


@needs_library
def test_a_bound_call_runs_as_often_as_it_is_called():
    w, g = vectors()
    call = LIBRARY.bind("sgd_step", sgd(w, g, 0.25))
    call()
    call()
    assert w.tolist() == [0.0] * 4
    assert repr(call) == "NativeCall('sgd_step')"


@needs_library
def test_a_call_reads_arrays_each_time_and_keeps_them_alive():
    w, lr = np.ones(1000, np.float32), np.array(0.5, np.float32)
    arguments = sgd(w, np.full(1000, 2, np.float32), lr)
    call = LIBRARY.bind("sgd_step", arguments)
    del arguments
    gc.collect()
    garbage = [np.full(1000, 7, np.float32) for _ in range(50)]
    lr[...] = 1
    call()
    assert (w == -1).all()
    assert len(garbage) == 50


@needs_library
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": None}, "sgd_step: missing or unknown arguments: n"),
        ({"size": 3}, "sgd_step: missing or unknown arguments: size"),
        ({"w": np.ones(4)}, "sgd_step: w has float64, not float32"),
        ({"lr": np.ones((), "int64")}, "sgd_step: lr has int64, not float32"),
    ],
)
def test_wrong_arguments_raise(change, message):
    w, g = vectors()
    arguments = sgd(w, g, 0.1) | change
    if arguments["n"] is None:
        del arguments["n"]
    with pytest.raises(TypeError, match=message):
        LIBRARY.bind("sgd_step", arguments)


@needs_library
def test_an_unknown_kernel_is_named():
    with pytest.raises(ValueError, match="without 'magic'"):
        LIBRARY.bind("magic", {})


@needs_library
def test_a_sequence_runs_all_its_calls_as_often_as_asked():
    w, g = vectors()
    calls = [
        LIBRARY.bind("scale", {"w": w, "factor": 3.0, "skip": None, "n": 4}),
        LIBRARY.bind("sgd_step", sgd(w, g, 1.0)),
    ]
    sequence = LIBRARY.sequence(calls)
    sequence(3)  # ((1 · 3 - 2) · 3 - 2) ...
    assert w.tolist() == [1.0] * 4
    w[...] = 2
    sequence()
    assert w.tolist() == [4.0] * 4
    sequence(0)
    assert w.tolist() == [4.0] * 4


# --------------------------------------------------------------------------------- loading


@pytest.fixture
def find(monkeypatch):
    """Set what the search for the library finds, and load it."""

    def load(origin):
        spec = None if origin is None else ModuleSpec(native.NAME, None, origin=str(origin))
        monkeypatch.setattr(native, "find_spec", lambda name: spec)
        return load_native.__wrapped__()

    return load


def test_a_library_that_was_not_built_is_no_error_and_says_what_to_do(find):
    assert find(None) == (None, f"not built: {native.INSTALL}")


def test_a_file_that_is_no_library_is_no_error_and_is_named(find, tmp_path):
    (tmp_path / "broken.so").write_text("no library")
    library, reason = find(tmp_path / "broken.so")
    assert library is None
    assert "broken.so" in reason


@needs_library
def test_a_library_built_from_other_sources_is_not_used(find, monkeypatch):
    kernels = declared_kernels() | {"sgd_step": {"w": "float*", "n": "size_t"}}
    monkeypatch.setattr(native, "declared_kernels", lambda: kernels)
    library, reason = find(WHERE)
    assert library is None
    assert "built from other sources" in reason
    monkeypatch.setattr(native, "declared_kernels", lambda: {"new": {"n": "size_t"}})
    assert "without 'new'" in find(WHERE)[1]


@needs_library
def test_the_library_is_loaded_once():
    assert load_native()[0] is LIBRARY
    assert isinstance(LIBRARY, NativeLibrary)
