"""What products read in each precision: on the CPU's emulation, plain and native, and on the GPU's
stand-in, whose kernels write 16 bits and whose products read them."""

from itertools import islice

import numpy as np
import pytest
from fake_cuda import FakeCudaBackend
from hypothesis import given
from hypothesis import strategies as st

from gpumlp import SGD, Adam, Dense, Sequential, SoftmaxCrossEntropy, Trainer, get_backend
from gpumlp.backend import PRECISIONS, Backend, CpuBackend, Operand, RecordingBackend, Workspace
from gpumlp.backend.precision import FORMATS, rounded, split_parts
from gpumlp.engine.footprint import step_bytes
from gpumlp.errors import DeviceError
from gpumlp.model import multilayer_perceptron
from gpumlp.optimizers import OPTIMIZERS

LOW = [name for name, precision in PRECISIONS.items() if precision.format]
MAKERS = {
    "native": lambda name: get_backend("cpu", name),
    "numpy": lambda name: CpuBackend(kernels=False, precision=PRECISIONS[name]),
    "plain": lambda name: Backend(np, "float32", PRECISIONS[name]),
    "cuda-stand-in": lambda name: FakeCudaBackend(precision=PRECISIONS[name]),
}
every_low_precision = pytest.mark.parametrize("name", LOW)
every_maker = pytest.mark.parametrize("maker", MAKERS)


def parts_of(x, format, count):
    with np.errstate(all="ignore"):
        return [*islice(split_parts(np, x, format), count)]


def exact_product(a, b, name):
    """The product of what the matrix units see, in float64."""
    precision = PRECISIONS[name]
    if precision.format is None:
        return a.astype(np.float64) @ b
    parts = [[part.astype(np.float64) for part in parts_of(x, precision.format, 3)] for x in (a, b)]
    return sum(parts[0][i] @ parts[1][j] for i, j in precision.products)


# --------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("format", FORMATS)
@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_no_number_of_the_format_is_nearer(format, value):
    digits, least, largest = {
        "bf16": (8, -133, 3.3895314e38),
        "fp16": (11, -24, 65504.0),
        "tf32": (11, -136, 3.4011621e38),
    }[format]
    near = float(rounded(np, np.float32([value]), format)[0])
    last = 2.0 ** max(np.frexp(value)[1] - digits, least)
    if np.isinf(near):
        assert abs(value) >= largest
    else:
        assert abs(near - value) <= last / 2
        assert float(rounded(np, np.float32([near]), format)[0]) == near


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_three_parts_of_bf16_hold_every_float32(value):
    x = np.float32([value])
    parts = [float(part[0]) for part in parts_of(x, "bf16", 3)]
    if np.isfinite(parts[0]) and abs(value) > 1e-30:
        assert sum(parts) == value


def test_of_an_infinite_number_nothing_is_left():
    x = np.float32([np.inf, -np.inf, np.nan])
    first, second = parts_of(x, "bf16", 2)
    np.testing.assert_array_equal(first, x)
    np.testing.assert_array_equal(second, [0, 0, 0])


@pytest.mark.parametrize("name", PRECISIONS)
def test_epsilon_is_the_step_from_1_that_products_can_tell(name):
    precision = PRECISIONS[name]

    def seen(x):
        x = np.array([x], precision.dtype)
        parts = parts_of(x, precision.format, precision.parts) if precision.format else [x]
        return sum(float(part[0]) for part in parts)

    assert precision.epsilon < 0.01
    assert seen(1 + precision.epsilon) == 1 + precision.epsilon
    if precision.parts == 1:
        assert seen(1 + 0.5 * precision.epsilon) == 1
    else:  # 16 digits, and 24 without what the products of the smallest parts would add
        assert precision.epsilon == {2: 2.0**-15, 3: 2.0**-22}[precision.parts]


@pytest.mark.parametrize("format", ["bf16", "fp16"])
def test_a_part_of_16_bits_holds_what_a_part_of_numbers_does(format, rng):
    x = rng.normal(size=(4, 5)).astype(np.float32)
    bits, numbers = np.empty((2, 4, 5), np.uint16), np.empty((2, 4, 5), np.float32)
    for parts in (bits, numbers):
        Backend(np).split([*parts], x, format)
    if format == "fp16":
        np.testing.assert_array_equal(bits.view(np.float16), numbers)
    else:
        np.testing.assert_array_equal((bits.astype(np.uint32) << 16).view(np.float32), numbers)


# -------------------------------------------------------------------------------- products


@every_maker
@pytest.mark.parametrize("name", PRECISIONS)
def test_a_product_is_that_of_what_the_matrix_units_see(maker, name, rng):
    if name == "fp64" and maker in ("native", "numpy"):
        pytest.skip("fp64 takes the plain formulas")
    backend = Backend(np, "float64") if name == "fp64" else MAKERS[maker](name)
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((9, 33), (33, 5)))
    placed = [backend.asarray(x) for x in (a, b)]
    out = backend.zeros((9, 5))
    out[...] = 1
    operands = [backend.operand(x) for x in placed]
    backend.matmul(out, *operands)
    expected = exact_product(a, b, name)
    size = abs(a).astype(np.float64) @ abs(b)
    assert (abs(backend.to_numpy(out) - expected) <= 40 * 2.0**-24 * size).all()
    # and near what it should be
    assert (abs(backend.to_numpy(out) - a.astype(np.float64) @ b)
            <= (2 * PRECISIONS[name].epsilon + 40 * 2.0**-24) * size).all()  # fmt: skip
    backend.matmul(out, *operands, alpha=2.0, beta=-1.0, scratch=backend.scratch(out))
    assert (abs(backend.to_numpy(out) - expected) <= 120 * 2.0**-24 * size).all()


@every_low_precision
def test_every_backend_makes_the_same_parts(name, rng):
    x = rng.normal(size=(7, 33)).astype(np.float32) * np.float32(2.0) ** rng.integers(-20, 15, 33)
    found = {}
    for maker, make in MAKERS.items():
        backend = make(name)
        operand = backend.operand(backend.asarray(x))
        if maker == "cuda-stand-in" and name == "tf32":
            assert not isinstance(operand, Operand)  # its units round by themselves
            continue
        assert isinstance(operand, Operand)
        assert operand.shape == (7, 33)
        assert operand.T.shape == (33, 7)
        parts = [backend.to_numpy(part) for part in operand.parts]
        if maker == "cuda-stand-in":
            assert {part.dtype.name for part in parts} == {"uint16"}
            parts = [from_bits(part, PRECISIONS[name].format) for part in parts]
        found[maker] = parts
    for parts in found.values():
        assert len(parts) == PRECISIONS[name].parts
        np.testing.assert_array_equal(parts, found["plain"])


def from_bits(bits, format):
    if format == "fp16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


@every_maker
@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_an_operand_may_have_any_order(maker, order, rng):
    backend = MAKERS[maker]("bf16x3")
    x = rng.normal(size=(6, 10)).astype(np.float32)
    placed = backend.empty((6, 10), order="F" if order == "F" else "C")
    placed[...] = backend.asarray(x)
    if order == "strided":
        placed, x = placed[:, ::2], x[:, ::2]
    z, w = backend.empty((6, 4)), backend.asarray(np.eye(4, x.shape[1], dtype=np.float32))
    backend.matmul(z, backend.operand(placed), backend.operand(w).T)
    np.testing.assert_allclose(backend.to_numpy(z), x[:, :4], 2**-15)


def test_a_product_that_a_gpu_does_not_have_is_said_to_be_missing(monkeypatch):
    """The plain formula cannot take its place: it would take bits for numbers."""
    backend = FakeCudaBackend(precision=PRECISIONS["bf16"], tune=False)
    z, x, w = (backend.zeros(shape) for shape in ((5, 4), (5, 3), (4, 3)))
    monkeypatch.setattr(backend.products.library, "candidates", lambda *arguments: [])
    with pytest.raises(DeviceError, match=r"no product of 5 x 3 x 4 in bf16 .*\"fp32\" has one"):
        backend.matmul(z, backend.operand(x), backend.operand(w).T)
    backend.matmul(z, x, w.T)  # of float32 arrays there is the plain formula
    empty = backend.zeros((0, 3))
    backend.matmul(backend.zeros((0, 4)), backend.operand(empty), backend.operand(w).T)


def test_in_fp32_an_operand_is_the_array_itself():
    backend = get_backend("cpu")
    x = backend.zeros((2, 3))
    assert backend.operand(x) is x


STEPS = {  # its arrays of state, its constants
    "sgd_step": (0, ()),
    "momentum_step": (1, (0.9,)),
    "nesterov_step": (1, (0.9,)),
    "adagrad_step": (1, (1e-8,)),
    "rmsprop_step": (1, (0.9, 1e-8)),
    "adam_step": (2, (1.0, (0.9, 0.99), 1e-8)),
}


@every_maker
@pytest.mark.parametrize("step", STEPS)
def test_a_step_writes_the_copy_that_products_read(maker, step, rng):
    backend, (states, constants) = MAKERS[maker]("bf16"), STEPS[step]
    w, g, *state = (backend.asarray(rng.uniform(0.5, 2, 40)) for _ in range(2 + states))
    before = backend.to_numpy(w).copy()
    copy = backend.zeros(w.shape, backend.operand_dtype)  # not what another test left in memory
    scratch = backend.scratch(w)
    getattr(backend, step)(w, *state, g, 0.1, *constants, scratch, copy)
    after = backend.to_numpy(w)
    assert (after != before).all()
    found = backend.to_numpy(copy)
    found = from_bits(found, "bf16") if found.dtype == np.uint16 else found
    np.testing.assert_array_equal(found, rounded(np, after, "bf16"))


# --------------------------------------------------------------------------------- training


def data(rng, rows=50, columns=12, classes=4):
    x = rng.normal(size=(rows, columns)).astype(np.float32)
    return x, rng.integers(classes, size=rows)


def fitted(backend, optimizer, engine="auto", epochs=3, activation="tanh", **layer):
    x, labels = data(np.random.default_rng(5))
    model = Sequential(
        Dense(12, 17, activation, backend, **layer),
        Dense(17, 10, activation, backend, **layer),
        Dense(10, 4, backend=backend),
        seed=2,
    )
    trainer = Trainer(
        model, SoftmaxCrossEntropy(backend=backend), optimizer, batch_size=16, engine=engine
    )
    trainer.fit(x, labels, epochs=epochs)
    return [backend.to_numpy(p.value).copy() for p in model.parameters], trainer


@every_low_precision
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_both_engines_train_to_the_same_bits(name, optimizer):
    make = OPTIMIZERS[optimizer]
    backend = get_backend("cpu", name)
    results = [fitted(backend, make(0.05), engine)[0] for engine in ("eager", "graph")]
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@every_low_precision
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
def test_the_stand_in_of_a_gpu_trains_as_the_emulation_does(name, optimizer):
    make = OPTIMIZERS[optimizer]
    emulated, trained = (
        fitted(MAKERS[maker](name), make(0.01))[0] for maker in ("native", "cuda-stand-in")
    )
    start = fitted(MAKERS["native"](name), make(1e-30), epochs=1)[0]
    for one, other, first in zip(emulated, trained, start, strict=True):
        moved = np.abs(one - first).max()
        assert moved > 0
        # where a sum differs in its last bit, rounding may choose the other neighbour
        assert np.abs(one - other).max() <= 8 * PRECISIONS[name].epsilon * moved + 1e-5 * moved


@every_low_precision
@pytest.mark.parametrize("options", [{}, {"max_norm": 0.8}, {"dropout": 0.3}], ids=str)
@pytest.mark.parametrize("maker", ["native", "plain", "cuda-stand-in"])
def test_what_products_read_follows_the_parameters(name, options, maker):
    """After each step the copies are the rounded parameters, whoever wrote them."""
    seen = []

    class Watching(Adam):
        def update(self, backend, *arguments):
            super().update(backend, *arguments)
            operand = self.flat.operand
            if operand is None:
                assert backend.operand_format is None
                seen.append(True)
                return
            values = backend.target.to_numpy(self.flat.values)
            format = backend.precision.format
            expected = parts_of(values, format, len(operand.parts))
            for part, right in zip(operand.parts, expected, strict=True):
                found = backend.target.to_numpy(part)
                found = from_bits(found, format) if found.dtype == "uint16" else found
                np.testing.assert_array_equal(found, right)
            seen.append(True)

    _, trainer = fitted(MAKERS[maker](name), Watching(0.05), "eager", 1, **options)
    assert len(seen) == 4
    assert trainer.model.flat.operand is None  # of steps alone


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_parameters_that_a_callback_changes_are_what_the_next_step_reads(engine, rng):
    x, labels = data(rng)
    results = []
    for name in ("fp32", "bf16"):
        backend = get_backend("cpu", name)
        model = multilayer_perceptron([12, 8, 4], backend=backend)
        trainer = Trainer(model, SoftmaxCrossEntropy(backend=backend), SGD(1e-6), engine=engine)
        trainer.fit(x, labels, epochs=1)
        for parameter in model.parameters:
            parameter.value[...] *= 3
        trainer.fit(x, labels, epochs=1)
        results.append(trainer.history[-1]["loss"])
    assert abs(results[0] - results[1]) < 0.01 * results[0]


@every_low_precision
def test_a_layer_alone_and_predictions_read_rounded_numbers(name, rng):
    backend = get_backend("cpu", name)
    layer = Dense(12, 7, backend=backend, bias=False)
    x = rng.normal(size=(5, 12)).astype(np.float32)
    expected = exact_product(x, backend.to_numpy(layer.parameters[0].value).T, name)
    model = Sequential(layer)
    for z in (layer.forward(x), model.predict(x)):
        np.testing.assert_allclose(backend.to_numpy(z), expected, 1e-5, 1e-6)
    dx = layer.backward(np.ones((5, 7), np.float32))
    ones = np.ones((5, 7), np.float32)
    expected = exact_product(ones, backend.to_numpy(layer.parameters[0].value), name)
    np.testing.assert_allclose(backend.to_numpy(dx), expected, 1e-5, 1e-6)


@every_low_precision
def test_what_a_step_takes_is_known_before(name, rng):
    x, labels = data(rng, 1500)
    for maker in ("native", "cuda-stand-in") if name == "bf16x3" else ("native",):
        backend = MAKERS[maker](name)
        model = multilayer_perceptron([12, 8, 4], backend=backend)
        loss, optimizer = SoftmaxCrossEntropy(backend=backend), Adam(0.01)
        trainer = Trainer(model, loss, optimizer, batch_size=1000)
        trainer.fit(x, labels, epochs=1)
        step = trainer.training_step(x, labels)
        found = step_bytes(model, loss, optimizer, step.batches)
        assert trainer.workspace_bytes + step.row_bytes == found.of(1000)


def test_a_recording_backend_rounds_as_its_target_does():
    backend = FakeCudaBackend(precision=PRECISIONS["fp16"])
    recorder = RecordingBackend(backend, Workspace(backend), [])
    operand = recorder.operand(backend.zeros((4, 3)))
    assert operand.parts[0].dtype == np.uint16
    assert [call.name for call in recorder.plan] == ["split"]
