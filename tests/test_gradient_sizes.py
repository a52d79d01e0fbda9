"""SizingBackend: what the sums of a training step are made of, beside their results."""

import numpy as np
import pytest

from gpumlp.backend import ACTIVATIONS, PRECISIONS, Backend
from gpumlp.gradients.sizes import SizingBackend
from gpumlp.parameters import FlatParameters, Parameter

DZ = np.array([[1.0, -2.0, 0.5], [-1.5, 1.0, 0.25]])
X = np.array([[3.0, -1.0], [2.0, -40.0]])


@pytest.fixture
def backend():
    return SizingBackend()


@pytest.fixture
def parameters(backend):
    weight, bias = Parameter("weight", (3, 2)), Parameter("bias", (3,))
    flat = FlatParameters(backend, [weight, bias])
    backend.watch(flat, [flat.gradients])
    return weight, bias


def test_the_size_of_a_product_is_the_largest_sum_of_sizes_and_its_result_is_as_ever(
    backend, parameters
):
    weight, _ = parameters
    backend.matmul(weight.gradient, DZ.T, X)
    np.testing.assert_array_equal(weight.gradient, DZ.T @ X)
    assert backend.sizes == {"weight": (abs(DZ).T @ abs(X)).max()}


def test_sizes_of_several_batches_add_up_each_times_its_factor(backend, parameters):
    weight, _ = parameters
    backend.matmul(weight.gradient, DZ.T, X)
    scratch = np.empty((3, 2))
    backend.matmul(weight.gradient, DZ.T, X, alpha=-0.5, beta=1.0, scratch=scratch)
    np.testing.assert_allclose(weight.gradient, 0.5 * DZ.T @ X, 1e-15)
    assert backend.sizes == {"weight": 1.5 * (abs(DZ).T @ abs(X)).max()}


def test_the_size_of_a_bias_is_the_largest_sum_of_its_column(backend, parameters):
    _, bias = parameters
    identity, dz = ACTIVATIONS["identity"], np.empty((2, 3))
    backend.bias_activation_backward(
        dz, bias.gradient, DZ, DZ, identity, 2.0, 1.0, np.empty((2, 3))
    )
    np.testing.assert_array_equal(bias.gradient, 2 * DZ.sum(axis=0))
    np.testing.assert_array_equal(dz, DZ)
    assert backend.sizes == {"bias": 2 * 3.0}
    backend.bias_activation_backward(dz, None, DZ, DZ, identity, scratch=np.empty((2, 3)))
    assert backend.sizes == {"bias": 2 * 3.0}
    backend.bias_activation_backward(dz, bias.gradient, DZ, DZ, identity, scratch=np.empty((2, 3)))
    np.testing.assert_array_equal(bias.gradient, DZ.sum(axis=0))
    assert backend.sizes == {"bias": 3 * 3.0}


def test_other_products_have_no_size(backend, parameters):
    out = np.empty((3, 2))
    backend.matmul(out, DZ.T, X)
    np.testing.assert_array_equal(out, DZ.T @ X)
    assert backend.sizes == {}


def test_clipping_makes_sizes_smaller_as_it_does_the_gradient(backend):
    backend.sizes = {"weight": 10.0, "bias": 4.0}
    g = np.array([3.0, 4.0])
    backend.clip_norm(g, 1.0, np.empty(2))
    np.testing.assert_allclose(g, [0.6, 0.8], 1e-15)
    assert backend.sizes == pytest.approx({"weight": 2.0, "bias": 0.8})
    backend.clip_norm(g, 5.0, np.empty(2))  # nothing to clip
    assert backend.sizes == pytest.approx({"weight": 2.0, "bias": 0.8})


def test_clipping_a_gradient_of_zeros_leaves_sizes_finite(backend):
    backend.sizes = {"weight": 10.0}
    backend.clip_norm(np.zeros(2), 1.0, np.empty(2))
    assert backend.sizes == {"weight": 0.0}


def test_losses_are_counted_by_their_sizes_and_weights(backend):
    total = np.zeros(2)
    backend.accumulate(total, np.array([1.0, -2.0]))
    assert backend.accumulated == 3.0
    weights = np.array([0.5, 2.0])
    backend.accumulate(total, np.array([1.0, -2.0]), weights, np.empty(2))
    assert backend.accumulated == 3.0 + 4.5
    np.testing.assert_array_equal(total, [1.5, -6.0])


def test_cleared_sizes_begin_anew(backend, parameters):
    backend.matmul(parameters[0].gradient, DZ.T, X)
    backend.accumulate(np.zeros(1), np.ones(1))
    backend.clear()
    assert (backend.sizes, backend.accumulated) == ({}, 0.0)


def test_products_read_rounded_numbers_in_a_low_precision_alone():
    x = np.array([[1 + 2.0**-12]])
    found = {}
    for name in ("bf16", "fp32", "fp64"):
        backend, out = SizingBackend(PRECISIONS[name]), np.empty((1, 1))
        assert backend.dtype == np.float64
        backend.matmul(out, backend.operand(x), backend.operand(np.ones((1, 1))))
        found[name] = out.item()
    assert found == {"bf16": 1.0, "fp32": 1 + 2.0**-12, "fp64": 1 + 2.0**-12}
    for precision in (None, PRECISIONS["fp32"], PRECISIONS["fp64"]):
        assert SizingBackend(precision).precision == Backend(np, "float64").precision


def test_the_size_of_a_product_of_several_parts_is_that_of_the_largest():
    backend = SizingBackend(PRECISIONS["bf16x3"])
    weight = Parameter("weight", (3, 2))
    flat = FlatParameters(backend, [weight])
    backend.watch(flat, [flat.gradients])
    backend.matmul(weight.gradient, backend.operand(DZ.T), backend.operand(X))
    np.testing.assert_array_equal(weight.gradient, DZ.T @ X)
    assert backend.sizes == {"weight": (abs(DZ).T @ abs(X)).max()}
