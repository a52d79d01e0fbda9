"""What cuBLASLt is asked for, argument by argument, and the products that come out."""

import ctypes
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import CUPY, STATE, FakeCudaBackend, fake_cublaslt, on_device
from hypothesis import given
from hypothesis import strategies as st

from gpumlp.backend.cuda.cublaslt import (
    COMPUTE,
    MAX_WORKSPACE_BYTES,
    MIN_ALIGNMENT_BYTES,
    ON_DEVICE,
    TYPES,
    Algorithm,
    Attribute,
    CublasLt,
    Description,
    Epilogue,
    Heuristic,
    Problem,
    alignment,
)
from gpumlp.backend.cuda.products import WORKSPACE_BYTES, Extra
from gpumlp.backend.precision import PRECISIONS
from gpumlp.errors import DeviceError

BATCH, N_IN, N_OUT = 6, 5, 4


@pytest.fixture
def backend():
    return FakeCudaBackend(tune=False)


@pytest.fixture(autouse=True)
def asked():
    """What the library was asked for during a test."""
    fake_cublaslt().products.clear()
    yield fake_cublaslt().products
    fake_cublaslt().library.fake_offer(3)
    fake_cublaslt().library.fake_refuse(0)


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [on_device(rng.normal(size=shape).astype(np.float32)) for shape in shapes]


def shape_of(product):
    d = product.description
    flags = "".join("NT"[flag] for flag in (d.transpose_a, d.transpose_b))
    leading = product.lda, product.ldb, product.ldd
    return flags, (product.m, product.n, product.k), leading


def addresses(*arrays):
    return [array.data.ptr for array in arrays]


# ------------------------------------------------------------- the three products of a layer


def test_forward_is_asked_for_as_w_transposed_times_x(backend, asked):
    """Row-major Z = X Wᵀ is column-major Zᵀ = W X."""
    z, x, w = arrays((BATCH, N_OUT), (BATCH, N_IN), (N_OUT, N_IN))
    backend.matmul(z, x, w.T)
    (product,) = asked
    assert shape_of(product) == ("TN", (N_OUT, BATCH, N_IN), (N_IN, N_IN, N_OUT))
    assert [product.a, product.b, product.c, product.d] == addresses(w, x, z, z)
    assert (product.host_alpha, product.host_beta) == (1, 0)
    description = product.description
    assert (description.compute, description.scale, description.pointer_mode) == (68, 0, 0)
    assert (description.epilogue, description.bias, description.aux) == (1, 0, 0)
    assert product.stream == 0
    np.testing.assert_allclose(z.get(), x.get() @ w.get().T, 1e-5)


def test_the_gradient_of_inputs_is_w_times_dz(backend, asked):
    dx, dz, w = arrays((BATCH, N_IN), (BATCH, N_OUT), (N_OUT, N_IN))
    backend.matmul(dx, dz, w)
    (product,) = asked
    assert shape_of(product) == ("NN", (N_IN, BATCH, N_OUT), (N_IN, N_OUT, N_IN))
    assert [product.a, product.b, product.d] == addresses(w, dz, dx)
    np.testing.assert_allclose(dx.get(), dz.get() @ w.get(), 1e-5)


def test_the_weights_are_written_in_place_with_numbers_that_lie_on_the_device(backend, asked):
    """W ← β W + α dzᵀ x: C and D are W, α and β are read when it runs."""
    w, dz, x, scalars = arrays((N_OUT, N_IN), (BATCH, N_OUT), (BATCH, N_IN), (2,))
    before = w.get()
    alpha, beta = scalars[:1].reshape(()), scalars[1:].reshape(())
    call = backend.bind("matmul", w, dz.T, x, alpha, beta)
    scalars[...] = on_device(np.array([-0.5, 0.75], np.float32))
    call()
    (product,) = asked
    assert shape_of(product) == ("NT", (N_IN, N_OUT, BATCH), (N_IN, N_OUT, N_IN))
    assert [product.a, product.b, product.c, product.d] == addresses(x, dz, w, w)
    assert product.description.pointer_mode == ON_DEVICE
    assert [product.alpha, product.beta] == addresses(alpha, beta)
    expected = 0.75 * before - 0.5 * dz.get().T @ x.get()
    np.testing.assert_allclose(w.get(), expected, 1e-5, 1e-6)


def test_one_number_on_the_device_takes_the_other_there(backend, asked):
    w, dz, x, alpha = arrays((N_OUT, N_IN), (BATCH, N_OUT), (BATCH, N_IN), ())
    before = w.get()
    backend.matmul(w, dz.T, x, alpha, 1.0)
    (product,) = asked
    assert product.description.pointer_mode == ON_DEVICE
    np.testing.assert_allclose(w.get(), before + alpha.get() * dz.get().T @ x.get(), 1e-5, 1e-6)


def test_tf32_is_another_way_to_compute(asked):
    backend = FakeCudaBackend(precision=PRECISIONS["tf32"], tune=False)
    z, x, w = arrays((BATCH, N_OUT), (BATCH, N_IN), (N_OUT, N_IN))
    backend.matmul(z, x, w.T)
    assert asked[0].description.compute == 77


# ---------------------------------------------------------------------------- epilogues

EPILOGUES = {
    Epilogue.BIAS: lambda z, b, aux: (z + b, None),
    Epilogue.RELU_AUX_BIAS: lambda z, b, aux: (np.maximum(z + b, 0), None),
}


@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_an_epilogue_is_asked_for_with_its_arrays(backend, asked, epilogue):
    z, x, w, bias = arrays((BATCH, N_OUT), (BATCH, N_IN), (N_OUT, N_IN), (N_OUT,))
    mask = on_device(np.zeros(BATCH * 16, np.uint8))
    call = backend.bind("matmul", z, x, w.T)
    needs_mask = epilogue == Epilogue.RELU_AUX_BIAS
    extra = Extra(epilogue, bias, mask if needs_mask else None, 128 * needs_mask)
    fused = backend.products.with_epilogue(call, None, extra)
    fused()
    description = asked[-1].description
    assert description.epilogue == epilogue
    assert (description.bias, description.bias_type) == (bias.data.ptr, 0)
    assert (description.aux, description.aux_ld) == ((mask.data.ptr, 128) if needs_mask else (0, 0))
    expected, _ = EPILOGUES[epilogue](x.get() @ w.get().T, bias.get(), None)
    np.testing.assert_allclose(z.get(), expected, 1e-5, 1e-6)
    assert len({*fused.writes}) == 1 + needs_mask


# ----------------------------------------------------------- streams, workspace, alignment


def test_a_product_goes_to_the_current_stream_with_a_workspace_of_that_stream(asked):
    fake_cublaslt().library.fake_offer(3)
    backend = FakeCudaBackend()  # its clock ticks evenly, so the first of three is chosen
    z, x, w = arrays((BATCH, N_OUT), (BATCH, N_IN), (N_OUT, N_IN))
    call = backend.bind("matmul", z, x, w.T)
    favourites = backend.products.library.candidates(
        call.problem, call.description, WORKSPACE_BYTES
    )
    call.use(favourites[2])  # the one that needs workspace
    streams = [CUPY.cuda.Stream(non_blocking=True) for _ in range(2)]
    asked.clear()
    for stream in [*streams, streams[0]]:
        with stream:
            call()
    assert [product.stream for product in asked] == [s.ptr for s in [*streams, streams[0]]]
    spaces = [product.workspace for product in asked]
    assert spaces[0] == spaces[2] != spaces[1]
    assert all(spaces)
    call.use(favourites[0])
    asked.clear()
    call()
    assert asked[0].workspace == 0


@pytest.mark.parametrize("offset", [0, 1, 2, 4, 8, 64])
def test_the_heuristic_is_told_how_arrays_are_aligned(backend, offset):
    memory = on_device(np.ones(4096, np.float32))
    x = memory[offset : offset + BATCH * N_IN].reshape(BATCH, N_IN)
    z, w = arrays((BATCH, N_OUT), (N_OUT, N_IN))
    backend.matmul(z, x, w.T)
    told = (ctypes.c_uint64 * 5)()
    fake_cublaslt().library.fake_asked(told)
    expected = min(256, 4 * offset & -(4 * offset) if offset else 256)
    assert [*told] == [WORKSPACE_BYTES, 256, expected, 256, 256]
    assert alignment(x.data.ptr) == expected


# ------------------------------------------------------------------------ right numbers

sizes = st.integers(1, 9)


@given(sizes, sizes, sizes, st.tuples(*[st.sampled_from("CF")] * 3), st.sampled_from([0.0, 0.5]))
def test_any_mix_of_memory_orders_gives_the_product(rows, columns, inner, orders, beta):
    backend = FakeCudaBackend(tune=False)
    out, a, b = arrays((rows, columns), (rows, inner), (inner, columns), seed=rows)
    placed = []
    for array, order in zip((out, a, b), orders, strict=True):
        held = CUPY.empty(array.shape, np.float32, order=order)
        held[...] = array
        placed.append(held)
    expected = beta * out.get() + 2.0 * a.get() @ b.get()
    scratch = CUPY.empty(out.shape, np.float32, order=orders[0])
    backend.matmul(*placed, 2.0, beta, scratch)
    np.testing.assert_allclose(placed[0].get(), expected, 1e-4, 1e-5)


# ----------------------------------------------------------------------- what goes wrong


def test_a_library_that_cannot_be_loaded_says_so(tmp_path):
    with pytest.raises(DeviceError, match=r"cuBLASLt cannot be loaded.*nowhere"):
        CublasLt(str(tmp_path / "nowhere.so"))


def test_another_library_says_what_it_lacks():
    with pytest.raises(DeviceError, match="cublasLt"):
        CublasLt(importlib.util.find_spec("_ctypes").origin)


def test_a_call_that_fails_names_the_function_and_its_status():
    library = CublasLt(fake_cublaslt().path)
    value = ctypes.c_int64(1)
    description = Description(library, Problem("fp32", False, False, 2, 2, 2, 2, 2, 2))
    with pytest.raises(DeviceError, match="cublasLtMatmulDescSetAttribute failed with status 7"):
        library.check("MatmulDescSetAttribute", description.product, 3, ctypes.byref(value), 8)
    with pytest.raises(DeviceError, match="cublasLtMatrixLayoutCreate failed with status 7"):
        Description(library, Problem("fp32", False, False, 2, 2, 2, 1, 2, 2))


def test_a_product_that_the_library_has_no_algorithm_for_is_none(backend):
    fake_cublaslt().library.fake_offer(0)
    z, x, w = arrays((BATCH, N_OUT), (BATCH, N_IN), (N_OUT, N_IN))
    assert backend.products.bind(z, x, w.T) is None
    backend.matmul(z, x, w.T)  # by the plain formula
    np.testing.assert_allclose(z.get(), x.get() @ w.get().T, 1e-5)


@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2), (3, 2, 0)])
def test_a_product_without_entries_is_left_to_the_plain_formula(backend, asked, shape):
    rows, columns, inner = shape
    out, a, b = arrays((rows, columns), (rows, inner), (inner, columns))
    backend.matmul(out, a, b)
    assert not asked
    assert not out.get().any()


def test_a_product_launched_in_a_capture_is_kept_for_its_graph(backend, asked):
    z, x, w = arrays((BATCH, N_OUT), (BATCH, N_IN), (N_OUT, N_IN))
    call = backend.bind("matmul", z, x, w.T)
    z.fill(7)
    graph = backend._capture.graph([call])
    assert (z.get() == 7).all()
    STATE.launches.clear()
    graph.launch()
    assert STATE.launches == ["product"]
    np.testing.assert_allclose(z.get(), x.get() @ w.get().T, 1e-5)


# ----------------------------------------------------------------- the library of NVIDIA


def test_structures_have_the_sizes_of_the_header():
    assert ctypes.sizeof(Algorithm) == 64
    assert ctypes.sizeof(Heuristic) == 96


@pytest.fixture(scope="module")
def real_folder():
    """Where the wheel nvidia-cublas lies, or skip."""
    for package in ("nvidia.cu13", "nvidia.cublas"):
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        for place in (spec.submodule_search_locations or []) if spec else []:
            if [*Path(place).glob("lib/libcublasLt.so*")]:
                return Path(place)
    pytest.skip("cuBLASLt is missing: pip install nvidia-cublas")


def test_attributes_have_the_sizes_that_the_real_library_wants(real_folder):
    """Descriptions, layouts and preferences need no GPU."""
    library = ctypes.CDLL(str(next(real_folder.glob("lib/libcublasLt.so*"))))
    product, preference = ctypes.c_void_p(), ctypes.c_void_p()
    assert not library.cublasLtMatmulDescCreate(ctypes.byref(product), COMPUTE["fp32"], 0)
    assert not library.cublasLtMatmulPreferenceCreate(ctypes.byref(preference))
    cases = [("MatmulDesc", product, int(a), kind) for a, kind in TYPES.items()]
    cases.append(("MatmulPreference", preference, MAX_WORKSPACE_BYTES, ctypes.c_uint64))
    cases += [("MatmulPreference", preference, a, ctypes.c_uint32) for a in MIN_ALIGNMENT_BYTES]
    for what, handle, attribute, kind in cases:
        value = (kind * 2)(1)
        function = getattr(library, f"cublasLt{what}SetAttribute")
        size = ctypes.sizeof(kind)
        for told, status in ((size, 0), (size + 1, 7)):
            arguments = handle, attribute, ctypes.byref(value), ctypes.c_size_t(told)
            assert function(*arguments) == status, (what, attribute, told)


def test_numbers_are_those_of_the_header(real_folder):
    header = real_folder / "include" / "cublasLt.h"
    if not header.is_file():
        pytest.skip("the wheel has no cublasLt.h")
    text = header.read_text(encoding="utf-8")
    names = {
        **{f"CUBLASLT_EPILOGUE_{e.name}": int(e) for e in Epilogue if e != Epilogue.NONE},
        "CUBLASLT_MATMUL_DESC_POINTER_MODE": Attribute.POINTER_MODE,
        "CUBLASLT_MATMUL_DESC_TRANSA": Attribute.TRANSPOSE_A,
        "CUBLASLT_MATMUL_DESC_TRANSB": Attribute.TRANSPOSE_B,
        "CUBLASLT_MATMUL_DESC_EPILOGUE": Attribute.EPILOGUE,
        "CUBLASLT_MATMUL_DESC_BIAS_POINTER": Attribute.BIAS_POINTER,
        "CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER": Attribute.AUX_POINTER,
        "CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD": Attribute.AUX_LD,
        "CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE": Attribute.BIAS_TYPE,
        "CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES": MAX_WORKSPACE_BYTES,
        "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES": MIN_ALIGNMENT_BYTES[0],
        "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES": MIN_ALIGNMENT_BYTES[3],
    }
    found = dict(re.findall(r"^ *(CUBLASLT_\w+) = ([^,]+),", text, re.M))

    def value(expression):
        expression = re.sub(r"CUBLASLT_\w+", lambda m: f"({found[m[0]]})", expression)
        return value(expression) if "CUBLASLT" in expression else eval(expression)

    assert {name: value(found[name]) for name in names} == names
