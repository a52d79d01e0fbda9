"""Each operation is a kernel where its arrays allow it, and the plain formula where they do not."""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from test_backend import CASES, cases, check, place

from gpumlp import Dense, Sequential, SoftmaxCrossEntropy, losses
from gpumlp.backend import (
    ACTIVATIONS,
    OPERATIONS,
    POINTWISE,
    Activation,
    Backend,
    CpuBackend,
)
from gpumlp.backend.fused import ACTIVATION_NUMBERS, LOSS_NUMBERS
from gpumlp.backend.kernel_backend import CallSequence
from gpumlp.backend.native import NativeCall, NativeSequence, load_native
from gpumlp.engine import Batches, TrainingStep, get_engine
from gpumlp.optimizers import OPTIMIZERS

pytestmark = pytest.mark.skipif(load_native()[0] is None, reason=f"native: {load_native()[1]}")

every_operation = pytest.mark.parametrize("name", OPERATIONS)


FOUR, BYTES = np.zeros((4, 3), np.float32), np.zeros((4, 3), np.uint8)
OF_ROWS = (
    "begin_step",
    "gather",
    "gather_scaled",
    "clip_rows",
)  # data, tables and weights are in C order


class Spy(CpuBackend):
    """Keeps what was bound."""

    def __init__(self):
        super().__init__()
        self.bound = []

    def bind(self, name, *args, **kwargs):
        call = super().bind(name, *args, **kwargs)
        self.bound += call if isinstance(call, CallSequence) else [call]
        return call


@every_operation
@pytest.mark.parametrize("order", ["F", "F, targets C"])
def test_every_operation_is_a_kernel_for_the_arrays_of_a_workspace(name, order):
    for case in cases(name, (31, 33)):
        backend = Spy()
        case.call(backend, place(case, backend, "C" if name in OF_ROWS else order))
        assert backend.bound
        assert all(isinstance(call, NativeCall) for call in backend.bound), backend.bound


def strided(placed):
    """The same arrays with other entries between theirs."""
    spread = {}
    for name, array in vars(placed).items():
        wide = np.repeat(array, 2, axis=-1) if array.ndim else array
        spread[name] = wide[..., ::2] if array.ndim else array
    return SimpleNamespace(**spread)


@every_operation
@pytest.mark.parametrize("shape", [(3, 5), (31, 33)], ids=str)
def test_an_operation_is_right_for_strided_arrays_too(name, shape):
    backend = CpuBackend()
    for i, case in enumerate(cases(name, shape)):
        placed = strided(place(case, backend, "C"))
        case.call(backend, placed)
        check(case, placed, backend, f"case {i}")


@every_operation
@pytest.mark.parametrize("shape", [(3, 5), (257, 4)], ids=str)
def test_nothing_is_written_around_the_arrays_of_an_operation(name, shape):
    for i, case in enumerate(cases(name, shape)):
        placed, around = place(case, CpuBackend(), "F"), {}
        for key, array in vars(placed).items():
            memory = np.full(array.size + 32, 77, array.dtype)
            inner = memory[16:-16].reshape(array.shape, order="F")
            inner[...] = array
            vars(placed)[key], around[key] = inner, (memory[:16], memory[-16:])
        case.call(CpuBackend(), placed)
        for key, edges in around.items():
            assert all((edge == 77).all() for edge in edges), f"{key} of case {i}"


@every_operation
def test_an_operation_on_float64_arrays_is_that_of_numpy(name):
    """They may come from a user's own arrays; the kernels take float32 alone."""
    for case in cases(name, (5, 4)):
        fused, plain = (place(case, Backend(np, "float64"), "F") for _ in range(2))
        case.call(CpuBackend(), fused)
        case.call(Backend(np, "float64"), plain)
        for array in vars(plain):
            if not array.startswith("scratch"):
                np.testing.assert_allclose(
                    getattr(fused, array), getattr(plain, array), 1e-6, 1e-6, err_msg=array
                )


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("sgd_step", [(5,), (6,), 0.1, (5,)]),
        ("bias_activation_forward", [(4, 3), (4, 3), (2,), ACTIVATIONS["tanh"]]),
        ("bias_activation_forward", [(4, 2), (4, 3), (3,), ACTIVATIONS["tanh"]]),
        ("bias_activation_backward", [(4, 3), (5,), (4, 3), (4, 3), ACTIVATIONS["tanh"]]),
        ("bias_activation_backward", [(4, 3), None, (4, 3), (5, 3), ACTIVATIONS["tanh"]]),
        ("softmax", [(4, 3), (4, 2)]),
        ("matmul", [(4, 3), (4, 2), (3, 3)]),
        ("matmul", [(4, 3), (4, 2), (2, 2)]),
        ("accumulate", [(4,), (5,)]),
        ("softmax_cross_entropy", [(4,), None, (4, 3), (4, 3), (4, 2), 1.0, 0.0, (4, 3)]),
        ("softmax_cross_entropy", [(5,), None, (4, 3), (4, 3), (4, 3), 1.0, 0.0, (4, 3)]),
        ("pointwise_loss", [(4,), None, (4, 3), (4, 3), (4, 2), 1.0, POINTWISE["mse"], 0, (4, 3)]),
        ("pointwise_loss", [(4,), None, *[(4, 3)] * 3, (5,), POINTWISE["mse"], 0, (4, 3)]),
        ("softmax_cross_entropy", [(4,), None, *[(4, 3)] * 3, (5,), 0.0, (4, 3)]),
        ("gather", [(4, 3), (9, 2), np.arange(4)]),
        ("gather_scaled", [FOUR, np.zeros((9, 2), np.uint8), np.arange(4), 0.5, BYTES]),
        ("gather_scaled", [FOUR, np.zeros((9, 3), np.uint8), np.arange(5), 0.5, BYTES]),
        ("adam_step", [(5,), (5,), (4,), (5,), 0.1, 1.0, (0.9, 0.9), 1e-8, (5,)]),
    ],
)
def test_shapes_that_do_not_fit_raise_and_never_reach_a_kernel(operation, arguments):
    backend = CpuBackend()
    arrays = [
        np.zeros(a, np.float32, order="F")
        if isinstance(a, tuple) and not any(isinstance(n, float) for n in a)
        else a
        for a in arguments
    ]
    with pytest.raises(ValueError, match=r"shape|broadcast|mismatch|size|dimension|align|match"):
        getattr(backend, operation)(*arrays)


def test_each_row_of_a_softmax_has_a_largest_entry_of_its_own():
    far = 1000.0 * np.arange(600)[:, None]  # of another row, e^(z - top) would be 0 or infinite
    z = np.asfortranarray(far + np.arange(3), np.float32)
    y = np.zeros_like(z)
    CpuBackend().softmax(y, z)
    expected = np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()
    np.testing.assert_allclose(y, np.tile(expected, (600, 1)), rtol=1e-6)


@pytest.mark.parametrize("order", ["C", "F"])
def test_right_rows_are_counted_in_any_order_of_memory(order):
    rng = np.random.default_rng(0)
    z = np.asfortranarray(rng.normal(size=(300, 4)), np.float32)
    target = np.asarray(rng.dirichlet(np.ones(4), 300), np.float32, order=order)
    loss, correct = np.zeros((2, 300), np.float32)
    dz, scratch = np.zeros_like(z), np.zeros_like(z)
    CpuBackend().softmax_cross_entropy(loss, correct, dz, z, target, 1.0, 0.0, scratch)
    np.testing.assert_array_equal(correct, z.argmax(axis=1) == target.argmax(axis=1))


@pytest.mark.parametrize("weight", [np.array([1.0, 0.0, 2.0]), np.array(0.5)], ids=["rows", "one"])
def test_weights_in_float64_count_as_much(weight):
    results = []
    for kind in ("float64", "float32"):
        z = np.asfortranarray([[1, 2], [3, 2], [0, 1]], np.float32)
        loss, dz = np.zeros(3, np.float32), np.zeros_like(z)
        scratch, mse = np.zeros_like(z), POINTWISE["mse"]
        given = weight.astype(kind)
        CpuBackend().pointwise_loss(loss, None, dz, z, np.zeros_like(z), given, mse, 0.0, scratch)
        results.append((loss, dz))
    np.testing.assert_array_equal(results[0][1], results[1][1])


@pytest.mark.parametrize("index", [np.arange(6)[::2], np.arange(3, dtype=np.int32)])
def test_rows_are_gathered_by_any_index(index):
    source, out = np.arange(12, dtype=np.float32).reshape(6, 2), np.empty((3, 2), np.float32)
    CpuBackend().gather(out, source, index)
    np.testing.assert_array_equal(out, source[index])


def test_a_gradient_of_another_batch_size_is_refused():
    layer = Dense(3, 2, "tanh", backend=CpuBackend())
    layer.forward(np.ones((4, 3), np.float32))
    with pytest.raises(ValueError, match="shape"):
        layer.backward(np.ones((5, 2), np.float32))


@pytest.mark.parametrize("label", [-1, 3, 2**40])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_label_that_is_no_class_touches_no_memory_of_others(label, smoothing):
    results = []
    for backend in (CpuBackend(), Backend(np)):
        z = np.asfortranarray([[1, 2, 3], [3, 2, 1]], np.float32)
        arrays = [np.zeros(2, np.float32), np.zeros(2, np.float32), np.zeros_like(z), z]
        target = np.array([label, 0])
        backend.softmax_cross_entropy(*arrays, target, 1.0, smoothing, np.zeros_like(z))
        results.append(arrays)
    for ours, plain in zip(*results, strict=True):
        np.testing.assert_allclose(ours, plain, 1e-6, 1e-6)


def test_the_numbers_of_activations_and_losses_are_their_places():
    assert [*ACTIVATION_NUMBERS.items()] == [(a, i) for i, a in enumerate(ACTIVATIONS.values())]
    assert [*LOSS_NUMBERS.items()] == [(loss, i) for i, loss in enumerate(POINTWISE.values())]


def test_an_activation_of_ones_own_has_the_name_of_a_kernel_but_is_computed_by_its_formula():
    def forward(xp, a, z):
        xp.multiply(z, 10, out=a)

    def derivative(xp, d, kept, scratch):
        d[...] = 10

    own = Activation("sigmoid", "output", forward, derivative)
    layer = Dense(2, 2, backend=CpuBackend())
    layer.activation = own
    layer.parameters[0].value[...] = np.eye(2)
    assert layer.forward([[1.0, 2.0]]).tolist() == [[10.0, 20.0]]
    assert layer.backward([[1.0, 1.0]]).tolist() == [[10.0, 10.0]]


# ------------------------------------------------------------------------- a recorded step


def training_step(optimizer="sgd", loss=None, rows=64, batch=16, **options):
    backend, rng = CpuBackend(), np.random.default_rng(0)
    loss = loss or SoftmaxCrossEntropy(backend=backend)
    layers = (
        Dense(6, 5, "sigmoid", backend, dropout=0.2, max_norm=2.0),
        Dense(5, 4, "gelu", backend),
        Dense(4, 3, backend=backend),
    )
    labels = isinstance(loss, SoftmaxCrossEntropy)
    batches = Batches(
        x=rng.random((rows, 6), np.float32),
        target=rng.integers(0, 3, rows) if labels else rng.random((rows, 3), np.float32),
        weight=rng.random(rows, np.float32),
        host_weight=np.ones(rows),
        size=batch,
        accumulate=1,
        shuffle=True,
        seed=0,
    )
    chosen = OPTIMIZERS[optimizer](lr=0.01, **options)
    return TrainingStep(Sequential(*layers, seed=1), loss, chosen, batches)


def run(training, engine="graph"):
    runner = get_engine(engine, training)
    for epoch in range(2):
        training.begin_epoch(epoch, epoch * training.batches.steps, np.ones(training.batches.steps))
        runner.run(training.batches.steps)
    return runner, training.model.flat.values.copy()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1, "l1": 1e-3, "weight_decay": 0.1}])
def test_a_whole_recorded_step_is_one_call_of_the_library(optimizer, options):
    runner, _ = run(training_step(optimizer, rows=70, **options))
    assert len(runner._plans) == 2  # full batches, and the rest
    assert all(isinstance(plan, NativeSequence) for plan in runner._plans.values())


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_a_step_with_any_loss_is_one_call_of_the_library(loss):
    runner, values = run(training_step("adam", losses.LOSSES[loss]()))
    assert all(isinstance(plan, NativeSequence) for plan in runner._plans.values())
    assert np.isfinite(values).all()


def test_training_gives_the_same_bits_each_time_and_those_of_the_plain_formulas_nearly():
    first, again = run(training_step("adam"))[1], run(training_step("adam"))[1]
    np.testing.assert_array_equal(first, again)
    plain = training_step("adam")
    for part in (plain, plain.model, plain.loss, *plain.model.layers):
        part.backend = Backend(np)
    np.testing.assert_allclose(run(plain)[1], first, 1e-4, 1e-6)


def test_a_plan_of_kernels_and_numpy_calls_runs_them_in_order():
    backend = CpuBackend()
    w = np.ones(3, np.float32)
    plan = [
        backend.bind("scale", w, 2.0),
        lambda: np.add(w, 1, out=w),
        backend.bind("scale", w, 10.0),
        CallSequence([backend.bind("scale", w, 0.5)]),
    ]
    backend.replay(plan)(2)  # ((1 · 2 + 1) · 5 · 2 + 1) · 5
    np.testing.assert_array_equal(w, 155)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
@pytest.mark.parametrize("kernels", [True, False])
def test_a_copy_has_kernels_where_the_original_has(copied, kernels):
    clone = copied(CpuBackend(kernels))
    assert (type(clone), clone.native) == (CpuBackend, kernels)


def test_every_operation_is_in_the_table_of_cases():
    assert set(CASES) == set(OPERATIONS)
