"""benchmarks/roofline.py: operations and bytes of a step, its floor, and the figure."""

import numpy as np
import pytest
from device_rows import BANDWIDTHS, PEAKS, Net, cpu_rows, roofline, rows_of_both

from gpumlp import SGD, SoftmaxCrossEntropy
from gpumlp.backend import Backend
from gpumlp.engine import Batches, TrainingStep, get_engine
from gpumlp.model import multilayer_perceptron

ENVIRONMENT = {"peak_gflops": PEAKS, "bandwidth_gb_per_s": BANDWIDTHS}


def test_bytes_are_parameters_twice_the_batch_once_and_outputs_twice():
    net = Net.parse("5-3-4@7")
    parameters = 5 * 3 + 3 + 3 * 4 + 4
    batch = 7 * (5 * 4 + 8 + 8)  # rows in float32, a label and a row number of int64
    outputs = 7 * (3 + 4) * 4
    assert roofline.least_bytes(net) == 2 * 4 * parameters + batch + 2 * outputs
    assert roofline.batch_bytes(net) == 7 * (5 * 4 + 8)


def test_operations_are_those_of_the_products_that_a_step_really_asks_for():
    net = Net.parse("6-5-4-3@10")
    done = []

    class Counting(Backend):
        def matmul(self, out, a, b, *others, **named):
            done.append(2 * a.shape[0] * a.shape[1] * b.shape[1])
            super().matmul(out, a, b, *others, **named)

    backend = Counting(np)
    model = multilayer_perceptron(net.sizes, backend=backend)
    rows = np.zeros((20, 6), np.float32), np.zeros(20, np.int64)
    batches = Batches(*rows, weight=None, size=10, accumulate=1, shuffle=False, seed=0)
    training = TrainingStep(model, SoftmaxCrossEntropy(backend=backend), SGD(0.1), batches)
    training.begin_epoch(0, 0, np.ones(2))
    get_engine("eager", training).run(1)
    assert sum(done) == net.flops(10)


def test_the_floor_is_the_later_of_operations_and_bytes():
    assert roofline.floor_seconds(200, 30, peak=100, bandwidth=10) == 3
    assert roofline.floor_seconds(400, 30, peak=100, bandwidth=10) == 4
    assert roofline.floor_seconds(400, 30, peak=0, bandwidth=10) == 3
    assert roofline.floor_seconds(400, 30, peak=0, bandwidth=0) == 0


def test_rows_state_their_floor_by_their_own_devices_ceilings():
    for row in rows_of_both(0.001):
        seconds = row["flops"] / PEAKS[row["device"]], row["bytes"] / BANDWIDTHS[row["device"]]
        assert row["floor_seconds"] == pytest.approx(1e-9 * max(seconds))
        assert row["intensity"] == row["flops"] / row["bytes"]


@pytest.mark.parametrize(("rows", "devices"), [(cpu_rows(), 1), (rows_of_both(0.001), 2)])
def test_the_figure_has_a_point_for_each_cell_and_a_ceiling_for_each_device(rows, devices):
    pytest.importorskip("matplotlib")
    (axes,) = roofline.draw_roofline(rows, ENVIRONMENT).axes
    gids = [line.get_gid() for line in axes.lines]
    assert gids.count("ceiling") == devices
    assert gids.count("point") == 4 * 2 * devices  # fused and plain
    ceilings = [line.get_ydata() for line in axes.lines if line.get_gid() == "ceiling"]
    assert [max(line) for line in ceilings] == list(PEAKS.values())[:devices]


def test_the_bend_of_a_ceiling_is_where_bytes_and_operations_take_as_long():
    pytest.importorskip("matplotlib")
    (axes,) = roofline.draw_roofline(cpu_rows(), ENVIRONMENT).axes
    (line,) = [line for line in axes.lines if line.get_gid() == "ceiling"]
    assert (line.get_xdata()[1], line.get_ydata()[1]) == (5.0, 100.0)
    for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True):
        assert y == pytest.approx(min(100.0, 20.0 * x))
