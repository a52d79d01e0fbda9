"""Products take over the elementwise calls beside them: only where that is right, and faster."""

from itertools import pairwise

import numpy as np
import pytest
from fake_cuda import STATE, FakeCudaBackend, Product, fake_cublaslt
from test_cuda import captured

from gpumlp import SGD, Adam, Dense, Momentum, Sequential, SoftmaxCrossEntropy
from gpumlp.backend import Backend
from gpumlp.backend.cuda import epilogues as epilogues_module
from gpumlp.backend.cuda.capture import Capture
from gpumlp.backend.cuda.cublaslt import Epilogue
from gpumlp.engine import Batches, TrainingStep, get_engine


@pytest.fixture(autouse=True)
def library_as_it_was():
    yield
    fake_cublaslt().library.fake_offer(3)
    fake_cublaslt().library.fake_refuse(0)


def used(activation, optimizer, backend=None):
    """The epilogues and the elementwise kernels of a step of a network of three layers."""
    lines = captured([20, 16, 24, 10], activation, optimizer, backend or FakeCudaBackend())
    epilogues = [line.rpartition(", ")[2].partition(")")[0] for line in lines if "," in line]
    return epilogues, sum("bias_activation" in line for line in lines)


@pytest.mark.parametrize(
    ("activation", "optimizer", "epilogues", "kernels"),
    [
        ("sigmoid", SGD(), ["BIAS"], 2 + 3),
        ("sigmoid", Adam(), ["BIAS", "BGRADB"], 2 + 2),
        ("relu", SGD(), ["RELU_AUX_BIAS", "RELU_AUX_BIAS", "BIAS"], 3),
        (
            "relu",
            Adam(),
            ["RELU_AUX_BIAS", "RELU_AUX_BIAS", "BIAS", "DRELU_BGRAD", "BGRADB", "DRELU_BGRAD"],
            0,
        ),
        ("gelu", SGD(), ["GELU_AUX_BIAS", "GELU_AUX_BIAS", "BIAS"], 3),
        (
            "gelu",
            Adam(),
            ["GELU_AUX_BIAS", "GELU_AUX_BIAS", "BIAS", "DGELU_BGRAD", "BGRADB", "DGELU_BGRAD"],
            0,
        ),
        ("relu", Momentum(), ["RELU_AUX_BIAS", "RELU_AUX_BIAS", "BIAS"], 3),
    ],
)
def test_each_activation_has_the_epilogues_that_there_are(
    activation, optimizer, epilogues, kernels
):
    """Where the bias itself is the sink, the sums need α and β, which the library does not know."""
    assert used(activation, optimizer) == (epilogues, kernels)


def train(backend, activation, optimizer, accumulate=1, widths=(16, 24), **layer):
    rng = np.random.default_rng(0)
    sizes = [20, *widths]
    hidden = [Dense(n_in, n_out, activation, backend, **layer) for n_in, n_out in pairwise(sizes)]
    model = Sequential(*hidden, Dense(sizes[-1], 5, backend=backend), seed=0)
    loss = SoftmaxCrossEntropy(backend=backend)
    batches = Batches(
        x=backend.asarray(rng.normal(size=(40, 20))),
        target=loss.as_target(rng.integers(0, 5, 40), backend),
        weight=None,
        size=8,
        accumulate=accumulate,
        shuffle=True,
        seed=0,
    )
    training = TrainingStep(model, loss, optimizer, batches)
    engine = get_engine("graph", training)
    for epoch in range(3):
        training.begin_epoch(epoch, epoch * batches.steps, np.ones(batches.steps))
        engine.run(batches.steps)
    names = [
        call.extra.epilogue.name
        for plan in engine._plans.values()
        for call in getattr(plan, "calls", ())
        if hasattr(call, "extra") and call.extra.epilogue > 1
    ]
    return backend.to_numpy(model.flat.values), names


@pytest.mark.parametrize("optimizer", [SGD, Adam])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("layer", [{}, {"dropout": 0.3}, {"bias": False}], ids=str)
def test_training_with_epilogues_equals_the_plain_formulas(
    activation, optimizer, accumulate, layer
):
    actual, names = train(FakeCudaBackend(), activation, optimizer(0.05), accumulate, **layer)
    expected, _ = train(Backend(np, "float64"), activation, optimizer(0.05), accumulate, **layer)
    np.testing.assert_allclose(actual, expected, 0, 2e-5 * abs(expected).max())
    assert names


def test_the_mask_of_a_batch_is_not_that_of_another():
    """Two micro-batches share their activations' memory, but each has a mask of its own."""
    results = []
    for STATE.graph_order in ("first", "last"):
        results.append(train(FakeCudaBackend(), "relu", Adam(0.05), 2)[0])
    STATE.graph_order = "first"
    np.testing.assert_array_equal(*results)


def test_units_that_the_library_cannot_take_for_gelu_stay_with_the_kernel():
    actual, names = train(FakeCudaBackend(), "gelu", Adam(0.05), widths=(12, 16))
    expected, _ = train(Backend(np, "float64"), "gelu", Adam(0.05), widths=(12, 16))
    np.testing.assert_allclose(actual, expected, 0, 2e-5 * abs(expected).max())
    assert names.count("GELU_AUX_BIAS") == names.count("DGELU_BGRAD") == 1


@pytest.mark.parametrize("epilogue", ["BIAS", "RELU_AUX_BIAS", "DRELU_BGRAD", "BGRADB"])
def test_an_epilogue_that_the_library_refuses_is_left_to_the_kernels(epilogue):
    fake_cublaslt().library.fake_refuse(int(Epilogue[epilogue]))
    actual, names = train(FakeCudaBackend(), "relu", Adam(0.05))
    assert epilogue not in names
    assert ("DRELU_BGRAD" in names) == (epilogue not in ("DRELU_BGRAD", "RELU_AUX_BIAS"))
    expected, _ = train(Backend(np, "float64"), "relu", Adam(0.05))
    np.testing.assert_allclose(actual, expected, 0, 2e-5 * abs(expected).max())


class Spoiler:
    """Changes what one epilogue leaves behind."""

    def __init__(self, monkeypatch, epilogue, spoil):
        library, run = fake_cublaslt(), fake_cublaslt().library.fake_run

        def on_product(pointer):
            product = Product.from_buffer_copy(pointer.contents)
            if product.description.epilogue != epilogue or STATE.streams[-1].recording:
                return original(pointer)
            run(pointer)
            spoil(product)
            return 1

        original = library._on_product
        kind = type(library._hook)
        self.hook = kind(on_product)
        library.library.fake_set_hook(self.hook)
        monkeypatch.setattr(library, "spoiled", self, raising=False)


@pytest.fixture
def spoil(monkeypatch):
    yield lambda epilogue, change: Spoiler(monkeypatch, epilogue, change)
    fake_cublaslt().library.fake_set_hook(fake_cublaslt()._hook)


def floats(address, n):
    import ctypes

    return np.ctypeslib.as_array((ctypes.c_float * n).from_address(address))


@pytest.mark.parametrize("epilogue", ["BIAS", "RELU_AUX_BIAS", "GELU_AUX_BIAS", "BGRADB"])
def test_an_epilogue_that_leaves_other_numbers_is_not_used(spoil, epilogue):
    def change(product):
        written = product.description.bias if epilogue == "BGRADB" else product.d
        floats(written, 1)[0] += 0.5

    spoil(Epilogue[epilogue], change)
    activation = "gelu" if "GELU" in epilogue else "relu"
    actual, names = train(FakeCudaBackend(), activation, Adam(0.05))
    assert epilogue not in names
    expected, _ = train(Backend(np, "float64"), activation, Adam(0.05))
    np.testing.assert_allclose(actual, expected, 0, 2e-5 * abs(expected).max())


def test_a_bias_gradient_that_is_wrong_is_not_used(spoil):
    spoil(
        Epilogue.DRELU_BGRAD,
        lambda product: floats(product.description.bias, 1).__setitem__(0, 7),
    )
    assert "DRELU_BGRAD" not in train(FakeCudaBackend(), "relu", Adam(0.05))[1]


def test_a_relu_that_makes_nan_zero_is_not_used(spoil):
    """A network that has diverged would look well."""

    def hide(product):
        written = floats(product.d, product.m * product.n)
        written[np.isnan(written)] = 0

    spoil(Epilogue.RELU_AUX_BIAS, hide)
    assert not {"RELU_AUX_BIAS", "DRELU_BGRAD"} & {*train(FakeCudaBackend(), "relu", Adam())[1]}


def test_an_epilogue_that_is_slower_is_not_used_and_that_is_kept(monkeypatch, tmp_path):
    timed = []

    def seconds(capture, calls, times, repeats=3):
        timed.append([*map(repr, calls)])
        return 2.0 if len(calls) == 1 else 1.0  # what two calls do takes one call longer

    monkeypatch.setattr(Capture, "seconds", seconds)
    assert train(FakeCudaBackend(cache=tmp_path), "relu", Adam())[1] == []
    assert any(len(calls) == 2 for calls in timed)
    timed.clear()
    monkeypatch.setattr(Capture, "seconds", lambda *args: pytest.fail("it is known by now"))
    assert train(FakeCudaBackend(cache=tmp_path), "relu", Adam())[1] == []


# ------------------------------------------------------------------- calls in between


def fuse(backend, *calls):
    """Return the names of calls after fusing them."""
    fused = epilogues_module.with_epilogues(calls, backend.products)
    return [call.name for call in fused]


@pytest.fixture
def backend():
    return FakeCudaBackend(tune=False)


def forward(backend):
    """A product, the call that adds the bias to it, and z."""
    x, w, bias, z = (backend.asarray(np.ones(s)) for s in ((4, 3), (5, 3), (5,), (4, 5)))
    identity = epilogues_module.ACTIVATION_NUMBERS
    activation = next(a for a in identity if a.name == "identity")
    product = backend.bind("matmul", z, x, w.T)
    return product, backend.bind("bias_activation_forward", z, z, bias, activation), z, bias


def test_a_product_and_its_bias_are_one_call(backend):
    product, bias, *_ = forward(backend)
    assert fuse(backend, product, bias) == ["product"]


def test_not_where_another_call_reads_the_result_first(backend):
    product, bias, z, _ = forward(backend)
    reads = backend.bind("sgd_step", backend.zeros((20,)), z.reshape(-1), 0.0, None)
    assert fuse(backend, product, reads, bias) == ["product", "sgd_step", *fuse(backend, bias)]


def test_not_where_another_call_writes_it_first(backend):
    product, bias, z, _ = forward(backend)
    writes = backend.bind("scale", z.reshape(-1), 2.0)
    assert len(fuse(backend, product, writes, bias)) == 3


def test_a_call_in_between_that_has_nothing_to_do_with_it_does_no_harm(backend):
    product, bias, *_ = forward(backend)
    other = backend.bind("scale", backend.zeros((3,)), 2.0)
    assert fuse(backend, product, other, bias) == ["product", "scale"]


def test_not_where_the_product_adds_to_what_was_there(backend):
    _, bias, z, _ = forward(backend)
    x, w = backend.asarray(np.ones((4, 3))), backend.asarray(np.ones((5, 3)))
    assert len(fuse(backend, backend.bind("matmul", z, x, w.T, 1.0, 1.0), bias)) == 2


def test_an_identity_without_a_bias_is_no_call_at_all(backend):
    product, _, z, _ = forward(backend)
    activation = next(a for a in epilogues_module.ACTIVATION_NUMBERS if a.name == "identity")
    nothing = backend.bind("bias_activation_forward", z, z, None, activation)
    assert fuse(backend, product, nothing) == ["product"]


def backward(backend):
    """The product da = dz W, and the call that makes dz of the layer below of it."""
    rng = np.random.default_rng(0)
    shapes = {
        "upper": (4, 5),
        "w": (5, 8),
        "da": (4, 8),
        "kept": (4, 8),
        "dz": (4, 8),
        "sink": (8,),
    }
    a = {name: backend.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    gelu = next(a for a in epilogues_module.ACTIVATION_NUMBERS if a.name == "gelu")
    product = backend.bind("matmul", a["da"], a["upper"], a["w"])
    scratch = backend.scratch(a["dz"])
    kernel = backend.bind(
        *("bias_activation_backward", a["dz"], a["sink"], a["da"], a["kept"], gelu, 1.0, 0.0),
        scratch,
    )
    return product, kernel, a


def test_the_way_back_through_gelu_is_one_call(backend):
    product, kernel, _ = backward(backend)
    assert fuse(backend, product, kernel) == ["product"]


@pytest.mark.parametrize("name", ["da", "dz", "sink"])
def test_not_where_a_call_in_between_uses_what_is_written_or_no_longer_written(backend, name):
    """Fused, da is written no more, and dz and the sums earlier than before."""
    product, kernel, arrays = backward(backend)
    between = backend.bind("sgd_step", backend.zeros((8,)), arrays[name].reshape(-1)[:8], 0.0, None)
    assert len(fuse(backend, product, between, kernel)) == 3


def test_sums_that_are_scaled_or_added_to_stay_with_the_kernel(backend):
    product, _, a = backward(backend)
    gelu = next(a for a in epilogues_module.ACTIVATION_NUMBERS if a.name == "gelu")
    for alpha, beta in ((-0.5, 0.0), (1.0, 1.0)):
        kernel = backend.bind(
            *("bias_activation_backward", a["dz"], a["sink"], a["da"], a["kept"], gelu),
            *(alpha, beta, backend.scratch(a["dz"])),
        )
        assert len(fuse(backend, product, kernel)) == 2
