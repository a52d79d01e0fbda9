"""Layers that are updated during the backward pass end with the same bits, and earlier."""

import numpy as np
import pytest
from fake_cuda import FakeCudaBackend
from test_engine import CASES, assert_same_bits, build, train

from gpumlp import get_backend
from gpumlp.backend import PRECISIONS, Backend, CpuBackend, RecordingBackend, Workspace
from gpumlp.optimizers import OPTIMIZERS

every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def names_of(training):
    """Return the operations of a step with what they write first."""
    seen = []

    class Watching(RecordingBackend):
        pass

    def watched(name):
        def method(self, *arguments, **named):
            getattr(RecordingBackend, name)(self, *arguments, **named)
            seen.append((name, arguments[0]))

        return method

    for name in ("matmul", "adam_step", "add_penalty", "scale", "momentum_step"):
        setattr(Watching, name, watched(name))
    training.begin_epoch(0, 0, np.ones(training.batches.steps))
    training(Watching(training.backend, Workspace(training.backend)), training.batches.effective)
    return seen


@every_optimizer
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("least", [1, 100])
def test_early_updates_leave_the_same_bits(optimizer, case, least):
    results = []
    for early in (np.inf, least):
        backend = CpuBackend()
        backend.early_update = early
        results.append(train(build(optimizer, case, backend=backend), "graph"))
    assert_same_bits(*results)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "momentum"])
@pytest.mark.parametrize("case", ["plain", "weight_decay", "max_norm"])
def test_they_do_so_in_every_precision(optimizer, case, precision):
    results = []
    for early in (np.inf, 1):
        backend = get_backend("cpu", precision)
        backend.early_update = early
        results.append(train(build(optimizer, case, backend=backend), "graph"))
    assert_same_bits(*results)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16x3"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "momentum"])
def test_they_do_so_in_captured_steps(optimizer, precision):
    """Where they may run beside the products of the layers below."""
    results = []
    for early in (np.inf, 1):
        backend = FakeCudaBackend(precision=PRECISIONS[precision], tune=False)
        backend.early_update = early
        results.append(train(build(optimizer, "plain", backend=backend), "graph", epochs=1))
    assert_same_bits(*results)


def test_a_layer_is_updated_before_the_gradients_of_the_layers_below_it():
    backend = Backend(np)
    backend.early_update = 1
    training = build("adam", "plain", backend=backend)
    *layers, _ = [p for p in training.model.flat.parameters if p.is_weight]
    seen = names_of(training)
    updates = [i for i, (name, _) in enumerate(seen) if name == "adam_step"]
    assert len(updates) == 4  # three layers, and all biases
    for update, below in zip(updates, reversed(layers), strict=False):
        gradient = [
            i
            for i, (name, out) in enumerate(seen)
            if name == "matmul" and np.may_share_memory(out, below.gradient)
        ]
        assert update < gradient[0]


def test_small_layers_wait_for_each_other():
    backend = Backend(np)
    backend.early_update = 100  # the blocks of the weights are 64, 64 and 64 long
    training = build("adam", "plain", backend=backend)
    sizes = [out.size for name, out in names_of(training) if name == "adam_step"]
    assert sizes == [128, 64, 192]
    backend.early_update = 10_000
    sizes = [out.size for name, out in names_of(training) if name == "adam_step"]
    assert sizes == [3 * 64 + 3 * 64]


@pytest.mark.parametrize(
    ("optimizer", "case", "early"),
    [
        ("adam", "plain", True),
        ("adam", "clip_norm", False),  # needs the whole gradient
        ("adam", "accumulate", False),  # is complete with the last micro-batch
        ("sgd", "plain", False),  # products write W themselves
        ("sgd", "l1", True),
    ],
)
def test_only_steps_whose_gradients_are_complete_layer_by_layer_have_them(optimizer, case, early):
    backend = Backend(np)
    backend.early_update = 1
    training = build(optimizer, case, backend=backend)
    called = []
    update = training.optimizer.update_early
    training.optimizer.update_early = lambda *arguments: called.append(1) or update(*arguments)
    names_of(training)
    assert len(called) == (4 if early else 1)


def test_they_are_for_gpus():
    assert np.isinf(get_backend("cpu").early_update)
    assert FakeCudaBackend(tune=False).early_update == 2**20


@pytest.mark.parametrize(
    ("optimizer", "precision", "early"),
    [
        ("adam", "bf16", True),
        ("adam", "fp16", False),  # any gradient may overflow
        ("sgd", "bf16", True),  # products write W, and its copy is still to be made
        ("momentum", "fp32", True),  # products write v, and W is still to be changed
    ],
)
def test_what_products_have_written_is_finished_early_too(optimizer, precision, early):
    backend = get_backend("cpu", precision)
    backend.early_update = 1
    training = build(optimizer, "plain", backend=backend)
    called = []
    update = training.optimizer.update_early
    training.optimizer.update_early = lambda *arguments: called.append(1) or update(*arguments)
    names_of(training)
    assert len(called) == (4 if early else 1)
