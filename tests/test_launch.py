"""The launcher: what CuPy would silently misread is refused, and numbers get their types."""

import gc
import weakref

import numpy as np
import pytest
from fake_cuda import CUPY, RawModule, on_device

from gpumlp.backend.cuda.launch import Kernels, Span, span_of
from gpumlp.backend.kernel_sources import kernel_declarations


@pytest.fixture
def kernels():
    return Kernels(CUPY)


def device(*shape, dtype=np.float32):
    return on_device(np.arange(np.prod(shape, dtype=int), dtype=dtype).reshape(shape))


def sgd(**changed):
    others = {"copy": None, "skip": None, "format": 0}
    return {"w": device(5), "g": device(5), "lr": 0.5, "n": 5} | others | changed


def test_a_kernel_runs_on_its_arrays(kernels):
    arguments = sgd()
    kernels.bind("sgd_step", arguments)()
    assert arguments["w"].get().tolist() == [0, 0.5, 1, 1.5, 2]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"g": device(5, dtype=np.float64)}, r"kernel sgd_step: g has float64, not float32"),
        ({"g": device(10)[::2]}, r"kernel sgd_step: g is not contiguous: 5 entries \(5,\) at"),
        ({"w": device(3, 2).T}, r"kernel sgd_step: w is not contiguous"),
        ({"lr": device(1, dtype=np.int64)}, r"kernel sgd_step: lr has int64, not float32"),
        ({"eps": 1.0}, r"kernel sgd_step: missing or unknown arguments: eps"),
    ],
)
def test_what_a_kernel_would_misread_is_refused(kernels, changed, message):
    with pytest.raises(TypeError, match=message):
        kernels.bind("sgd_step", sgd(**changed))


def test_a_missing_argument_is_named(kernels):
    arguments = sgd()
    del arguments["n"]
    with pytest.raises(TypeError, match="missing or unknown arguments: n"):
        kernels.bind("sgd_step", arguments)


def test_targets_and_weights_may_have_gaps_because_their_distances_are_arguments(kernels):
    rows, columns = 4, 3
    z, target = device(rows, columns), device(rows, 2 * columns)[:, ::2]
    loss, dz = device(rows), device(rows, columns)
    arguments = {
        **{"loss": loss, "correct": None, "dz": dz, "z": z, "target": target},
        **{"row_stride": 2 * columns, "column_stride": 2, "weight": 1.0, "weight_stride": 0},
        **{"formula": 1, "parameter": 0.0, "rows": rows, "columns": columns},
    }
    kernels.bind("pointwise_loss", arguments)()
    expected = ((z.get() - target.get()) ** 2).mean(axis=1)
    np.testing.assert_allclose(loss.get(), expected, 1e-6)


def test_numbers_have_the_types_that_the_kernel_declares(kernels):
    packed = kernels.bind("sgd_step", sgd())._packed
    assert packed[-1].dtype == np.uint64
    arguments = {"g": device(4), "w": device(4), "weight_decay": 1, "l1": 0, "n": 4}
    packed = kernels.bind("add_penalty", arguments)._packed
    assert [packed[i].dtype for i in (2, 3)] == [np.float32, np.float32]
    arguments = {
        **{"out": device(2, 2), "x": device(2, 2), "key": 7, "threshold": 2**31},
        **{"factor": 2.0, "first_row": 2**33, "rows": 2, "columns": 2},
    }
    call = kernels.bind("dropout", arguments)
    kinds = [*kernel_declarations()["dropout"].parameters.values()]
    found = [
        value.dtype.name
        for kind, value in zip(kinds, call._packed, strict=True)
        if not kind.endswith("*")
    ]
    assert found == ["uint32", "float32", "uint64", "uint64", "uint64"]
    assert call.arguments["key"].dtype == np.uint32


def test_the_same_number_in_memory_is_the_same_array(kernels):
    one, other = (kernels.bind("sgd_step", sgd()).arguments["lr"] for _ in range(2))
    assert one is other
    assert float(one) == 0.5
    assert kernels.constant("float*", 0.25) is not one
    assert kernels.constant("uint32*", 1).dtype == np.uint32


def test_no_array_is_null(kernels):
    arguments = {"a": device(2, 4), "copy": None, "z": device(2, 4), "bias": None, "activation": 0}
    arguments |= {"format": 0, "rows": 2, "columns": 4}
    call = kernels.bind("bias_activation_forward", arguments)
    assert call._packed[1] is None
    call()
    np.testing.assert_array_equal(arguments["a"].get(), arguments["z"].get())


def test_a_call_keeps_its_arrays_alive(kernels):
    arguments = sgd()
    seen = weakref.ref(arguments["g"])
    call = kernels.bind("sgd_step", arguments)
    del arguments
    gc.collect()
    assert seen() is not None
    del call
    gc.collect()
    assert seen() is None


def test_a_source_is_compiled_once_and_when_it_is_needed(monkeypatch):
    made = []

    def module(code, options):
        made.append(code)
        return RawModule(code, options)

    monkeypatch.setattr(CUPY, "RawModule", module)
    kernels = Kernels(CUPY)
    assert not made
    for _ in range(2):
        kernels.bind("sgd_step", sgd())
        kernels.bind("scale", {"w": device(3), "factor": 2.0, "skip": None, "n": 3})
    assert len(made) == 1


# --------------------------------------------------------------------- memory of a call


def test_the_span_of_an_array_is_from_its_first_byte_to_behind_its_last():
    array = device(6, 4)
    start = array.data.ptr
    assert span_of(array) == Span(start, start + 96)
    assert span_of(array.T) == span_of(array)
    assert span_of(array[2:4]) == Span(start + 32, start + 64)
    assert span_of(array[:, ::2]) == Span(start, start + 5 * 16 + 8 + 4)
    assert span_of(array[1, 2:3].reshape(())) == Span(start + 24, start + 28)
    empty = span_of(array[2:2])
    assert empty.start == empty.end


def test_a_call_writes_what_the_kernel_does_not_declare_constant(kernels):
    arguments = sgd()
    call = kernels.bind("sgd_step", arguments)
    assert set(call.writes) == {span_of(arguments["w"])}
    assert set(call.reads) == {span_of(arguments[name]) for name in ("w", "g", "lr")}
    assert call.nbytes == 3 * 20
    assert call.operations == 0


def test_every_kernel_writes_something_and_every_array_is_of_a_known_type():
    for name, kernel in kernel_declarations().items():
        assert kernel.outputs, name
        assert kernel.outputs < set(kernel.parameters)
    outputs = {name: kernel.outputs for name, kernel in kernel_declarations().items()}
    assert outputs["adam_step"] == {"w", "copy", "m", "v"}
    assert outputs["softmax_cross_entropy"] == {"loss", "correct", "dz"}
    assert outputs["bias_activation_backward"] == {"dz", "copy", "bias_sink", "partial", "tickets"}
