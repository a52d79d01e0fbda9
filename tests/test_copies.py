"""Rounding where numbers are computed: the same bits as rounding afterwards, in fewer calls."""

import numpy as np
import pytest
from fake_cuda import FakeCudaBackend
from test_engine import CASES, assert_same_bits, build, train

from gpumlp.backend import PRECISIONS, RecordingBackend, Workspace, get_activation
from gpumlp.backend.cuda import backend as cuda_module
from gpumlp.backend.cuda.copies import with_copies

SIGMOID = get_activation("sigmoid")


def trained(precision, optimizer, case):
    backend = FakeCudaBackend(precision=PRECISIONS[precision], tune=False)
    return train(build(optimizer, case, backend=backend), "graph", epochs=1)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", ["bf16", "fp16", "bf16x3"])
def test_the_bits_are_those_of_rounding_afterwards(monkeypatch, precision, case):
    together = trained(precision, "adam", case)
    monkeypatch.setattr(cuda_module, "with_copies", lambda calls, bind: list(calls))
    assert_same_bits(together, trained(precision, "adam", case))


@pytest.fixture
def backend():
    return FakeCudaBackend(precision=PRECISIONS["bf16"], tune=False)


def recorded(backend, work):
    """Return the calls that `work` leaves behind, as they are captured."""
    plan = []
    work(RecordingBackend(backend, Workspace(backend), plan))
    return with_copies(plan, backend._kernels.bind)


def written(call):
    return {
        name
        for name, array in call.arguments.items()
        if name in ("a", "z", "dz", "copy") and array is not None
    }


def forward(recorder, between=None, again=False):
    z = recorder.empty((8, 12))
    z[...] = recorder.target.xp.asarray(np.linspace(-3, 3, 96, dtype=np.float32).reshape(8, 12))
    recorder.bias_activation_forward(z, z, None, SIGMOID)
    if between:
        between(recorder, z)
    recorder.operand(z)
    if again:
        recorder.operand(z)


def test_an_activation_writes_its_copy(backend):
    (call,) = recorded(backend, forward)
    assert written(call) == {"a", "z", "copy"}  # a is kept for the backward pass
    call()
    copy = backend.to_numpy(call.arguments["copy"]).reshape(8, 12)
    again = backend.operand(call.arguments["a"].copy()).parts[0]
    assert copy.shape == again.shape


def test_a_matrix_that_is_changed_in_between_is_rounded_afterwards(backend):
    calls = recorded(backend, lambda r: forward(r, lambda r, z: r.scale(z.reshape(-1), 2.0)))
    assert [call.name for call in calls] == ["bias_activation_forward", "scale", "split"]


def test_a_kernel_makes_one_copy(backend):
    calls = recorded(backend, lambda r: forward(r, again=True))
    assert [call.name for call in calls] == ["bias_activation_forward", "split"]


def test_two_parts_are_split_afterwards():
    backend = FakeCudaBackend(precision=PRECISIONS["bf16x3"], tune=False)
    calls = recorded(backend, forward)
    assert [call.name for call in calls] == ["bias_activation_forward", "split"]


def backward(recorder, reader=None, in_place=False):
    da, kept, bias = (recorder.empty(shape) for shape in ((8, 12), (8, 12), (12,)))
    for array in (da, kept):
        array[...] = 0.5
    dz = da if in_place else recorder.empty((8, 12))
    scratch = recorder.scratch(dz)
    recorder.bias_activation_backward(dz, bias, da, kept, SIGMOID, 1.0, 0.0, scratch)
    recorder.operand(dz)
    if reader:
        reader(recorder, dz)


def test_what_only_products_read_is_written_for_them_alone(backend):
    (call,) = recorded(backend, backward)
    assert written(call) == {"copy"}


def test_what_another_call_reads_is_written_as_well(backend):
    def reader(recorder, dz):
        recorder.softmax(recorder.empty(dz.shape), dz)

    call, _ = recorded(backend, lambda r: backward(r, reader))
    assert written(call) == {"dz", "copy"}


def test_what_is_computed_in_place_is_written_as_well(backend):
    (call,) = recorded(backend, lambda r: backward(r, in_place=True))
    assert written(call) == {"dz", "copy"}


def test_a_step_in_fp32_is_left_as_it_is():
    backend = FakeCudaBackend(tune=False)
    assert len(recorded(backend, forward)) == 1
