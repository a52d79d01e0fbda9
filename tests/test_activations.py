"""Each activation: its derivative, its accuracy up to saturation, and torch's opinion of both."""

import numpy as np
import pytest

import gpumlp
from gpumlp import layers
from gpumlp.backend import ACTIVATIONS, get_activation

NAMED = {
    "sigmoid": gpumlp.Sigmoid,
    "tanh": gpumlp.Tanh,
    "relu": gpumlp.ReLU,
    "leaky_relu": gpumlp.LeakyReLU,
    "elu": gpumlp.ELU,
    "gelu": gpumlp.GELU,
    "silu": gpumlp.SiLU,
    "softplus": gpumlp.Softplus,
    "identity": gpumlp.Identity,
}
KINKS = {"relu", "leaky_relu"}  # not differentiable at 0

every_activation = pytest.mark.parametrize("name", ACTIVATIONS)


def forward(name, z):
    a = np.empty_like(z)
    ACTIVATIONS[name].forward(np, a, z)
    return a


def derivative(name, z):
    activation = ACTIVATIONS[name]
    kept = z if activation.keeps == "input" else forward(name, z)
    d = np.full_like(z, np.nan)
    activation.derivative(np, d, kept, np.full_like(z, np.nan))
    return d


def grid(end, step, dtype=np.float64):
    """Return numbers from -end to end, 0 among them, each exact in float32 and float64."""
    n = round(end / step)
    return (np.arange(-n, n + 1) * step).astype(dtype)


@every_activation
def test_the_derivative_matches_central_differences(name):
    z, h = grid(12, 1 / 64), 2.0**-16
    if name in KINKS | {"elu"}:  # whose second derivative jumps
        z = z[z != 0]
    numerical = (forward(name, z + h) - forward(name, z - h)) / (2 * h)
    np.testing.assert_allclose(derivative(name, z), numerical, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", sorted(KINKS))
def test_at_a_kink_the_derivative_is_that_of_the_left_side(name):
    left = derivative(name, np.array([-1.0]))
    assert derivative(name, np.array([0.0])) == left


@every_activation
@pytest.mark.parametrize("function", [forward, derivative])
def test_float32_agrees_with_float64_up_to_saturation(name, function):
    z = grid(100, 1 / 32)
    single = function(name, z.astype(np.float32))
    assert single.dtype == np.float32
    # 1 + tanh, 1 - a and 1 - a² cancel: the error is one of the terms, not of what is left
    error = abs(single - function(name, z)) / np.maximum(1, abs(z))
    assert error.max() <= 4 * np.finfo(np.float32).eps


@every_activation
def test_float32_has_few_wrong_bits_where_nothing_cancels(name):
    z = grid(10, 1 / 64)
    z = z[z > 0] if name == "gelu" else z
    single, double = forward(name, z.astype(np.float32)), forward(name, z)
    assert (abs(single - double) <= 4 * np.finfo(np.float32).eps * abs(double)).all()


@every_activation
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_saturated_values_are_finite(name, dtype):
    z = np.array([-1e4, -800, -100, 100, 800, 1e4], dtype)
    assert np.isfinite(forward(name, z)).all()
    assert np.isfinite(derivative(name, z)).all()


@pytest.mark.parametrize("name", [n for n, a in ACTIVATIONS.items() if a.keeps == "output"])
def test_an_activation_that_keeps_its_output_runs_in_place(name):
    z, a = grid(100, 1 / 8), grid(100, 1 / 8)
    ACTIVATIONS[name].forward(np, a, a)
    np.testing.assert_array_equal(a, forward(name, z))


@pytest.mark.parametrize("name", [n for n, a in ACTIVATIONS.items() if a.keeps == "input"])
def test_an_activation_that_keeps_its_input_leaves_it_alone(name):
    z = grid(100, 1 / 8)
    forward(name, z)
    derivative(name, z)
    np.testing.assert_array_equal(z, grid(100, 1 / 8))


@every_activation
@pytest.mark.parametrize("function", [forward, derivative])
def test_torch_agrees(name, function):
    torch = pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")
    F = torch.nn.functional
    oracle = {
        "identity": lambda z: z,
        "gelu": lambda z: F.gelu(z, approximate="tanh"),
        "softplus": lambda z: torch.logaddexp(z, torch.zeros(())),
    }
    z = grid(100, 1 / 16)
    x = torch.tensor(z, requires_grad=True)
    a = oracle.get(name) or getattr(F, name)
    a = a(x)
    expected = a if function is forward else torch.autograd.grad(a.sum(), x)[0]
    np.testing.assert_allclose(function(name, z), expected.detach().numpy(), rtol=1e-13, atol=1e-14)


@every_activation
def test_a_named_layer_is_its_activation_forward_and_backward(backend, rng, name):
    layer = NAMED[name](backend)
    z, da = rng.normal(size=(2, 4, 3)).astype(np.float32).astype(np.float64)
    tolerance = 8 * np.finfo(backend.dtype).eps
    a = backend.to_numpy(layer.forward(backend.asarray(z)))
    dx = backend.to_numpy(layer.backward(backend.asarray(da)))
    np.testing.assert_allclose(a, forward(name, z), tolerance, tolerance)
    np.testing.assert_allclose(dx, da * derivative(name, z), tolerance, tolerance)


def test_every_activation_has_a_layer():
    named = [cls for cls in vars(layers).values() if isinstance(cls, type)]
    named = [cls for cls in named if issubclass(cls, layers.Activation)]
    names = {cls().activation.name for cls in named if cls is not layers.Activation}
    assert names == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ["", "ReLU", "swish", "softmax"])
def test_an_unknown_name_is_refused_with_the_names_there_are(name):
    with pytest.raises(ValueError, match=rf"'{name}'.*{', '.join(ACTIVATIONS)}"):
        get_activation(name)


@every_activation
def test_far_out_values_are_those_of_float64(backend, name):
    far = np.array([1e2, 1e4, 1e9, 1e12, 1e20, 1e33, 3e38], np.float32).astype(np.float64)
    z = np.concatenate([-far, far])[None]
    layer = NAMED[name](backend)
    with np.errstate(over="ignore", under="ignore", invalid="raise"):
        a = backend.to_numpy(layer.forward(backend.asarray(z)))
        dx = backend.to_numpy(layer.backward(backend.asarray(np.ones_like(z))))
        expected, slope = forward(name, z), derivative(name, z)
    np.testing.assert_allclose(a, expected, rtol=1e-6, atol=2e-5)
    np.testing.assert_allclose(dx, slope, rtol=1e-6, atol=2e-5)
    # and those of float64 are what they tend to
    right = {"sigmoid": 1, "tanh": 1}.get(name, z[z > 0])
    left = {"tanh": -1, "elu": -1, "leaky_relu": 0.01 * z[z < 0], "identity": z[z < 0]}
    np.testing.assert_allclose(expected[z > 0], right, rtol=1e-6)
    np.testing.assert_allclose(expected[z < 0], left.get(name, 0), rtol=1e-6, atol=1e-30)
    slopes = {"sigmoid": (0, 0), "tanh": (0, 0), "leaky_relu": (0.01, 1), "identity": (1, 1)}
    for side, limit in zip((z < 0, z > 0), slopes.get(name, (0, 1)), strict=True):
        np.testing.assert_allclose(slope[side], limit, rtol=1e-6, atol=1e-30)
