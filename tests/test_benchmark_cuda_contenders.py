"""benchmarks/cuda_contenders.py on the stand-in: both train what gpumlp trains."""

import numpy as np
import pytest
from device_rows import Net, Problem, contenders, cuda_contenders
from fake_cuda import STATE, installed

NET = Net.parse("6-5-4-3@10")


@pytest.fixture(autouse=True)
def stand_in(tmp_path):
    with installed(tmp_path):
        yield


def assert_trained(contender, steps):
    expected = contender.problem.trained(steps)
    for ours, plain in zip(contender.weights(), expected, strict=True):
        for a, b in zip(ours, plain, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("kind", "engine"),
    [
        (contenders.Gpumlp, "graph"),
        (cuda_contenders.GpumlpCupy, "eager"),
        (cuda_contenders.GpumlpFed, "graph"),
    ],
)
def test_each_takes_the_steps_of_the_plain_formulas(kind, engine):
    contender = kind(Problem(NET, 85, "sgd", "cuda"))
    contender.prepare(3)
    contender.run(1)
    contender.run(2)
    assert contender.engine == engine
    assert_trained(contender, 3)


def test_the_plain_formulas_launch_no_kernel_of_ours_and_no_product():
    contender = cuda_contenders.GpumlpCupy(Problem(NET, 85, "sgd", "cuda"))
    contender.prepare(2)
    STATE.launches.clear()
    contender.run(2)
    assert STATE.launches == []
    assert contender.kernels is None


def test_fed_rows_arrive_step_by_step_in_each_epochs_own_order():
    contender = cuda_contenders.GpumlpFed(Problem(NET, 85, "sgd", "cuda"))
    contender.prepare(3)
    x, labels = contender._on_device
    assert not np.asarray(x).any()
    contender.run(3)
    assert np.asarray(x[:30]).all(axis=1).all()
    assert not np.asarray(x[30:]).any()
    first = np.array(x[:10])
    contender.prepare(8)  # more than the epoch has left
    contender.run(8)
    assert (contender.epochs_begun, contender.position) == (2, 8)
    assert not np.array_equal(first, x[:10])
    assert np.asarray(labels).dtype == np.int64
