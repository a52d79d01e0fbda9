"""The initializers have the spread of their papers and depend on seed and layer alone."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest

from gpumlp.initializers import INITIALIZERS, initialize

N_OUT, N_IN = 300, 500

DEVIATIONS = {
    "glorot_uniform": math.sqrt(2 / (N_IN + N_OUT)),
    "glorot_normal": math.sqrt(2 / (N_IN + N_OUT)),
    "he_uniform": math.sqrt(2 / N_IN),
    "he_normal": math.sqrt(2 / N_IN),
    "lecun_uniform": math.sqrt(1 / N_IN),
    "lecun_normal": math.sqrt(1 / N_IN),
    "normal": 0.01,
    "uniform": 0.05 / math.sqrt(3),
    "orthogonal": math.sqrt(1 / N_IN),
}

RANDOM = sorted(set(INITIALIZERS) - {"zeros"})
random_ones = pytest.mark.parametrize("name", RANDOM)


@pytest.mark.parametrize("name", INITIALIZERS)
@pytest.mark.parametrize("shape", [(N_OUT, N_IN), (1, 7), (7, 1), (1, 1)])
def test_weights_are_float64_rows_by_output(name, shape):
    W = initialize(name, *shape, seed=0, layer=0)
    assert W.shape == shape
    assert W.dtype == np.float64
    assert W.flags.c_contiguous
    assert np.isfinite(W).all()


@random_ones
def test_weights_have_mean_zero_and_the_deviation_of_the_paper(name):
    W = initialize(name, N_OUT, N_IN, seed=1, layer=2)
    deviation, n = DEVIATIONS[name], W.size
    assert abs(W.mean()) < 5 * deviation / math.sqrt(n)
    # the relative error of a sample's deviation is 1 / √(2n) for normal numbers, less for uniform
    assert W.std() == pytest.approx(deviation, rel=5 / math.sqrt(2 * n))


@pytest.mark.parametrize("name", [name for name in RANDOM if "uniform" in name])
def test_uniform_weights_fill_their_bounds_and_stay_within(name):
    bound = DEVIATIONS[name] * math.sqrt(3)
    largest = np.abs(initialize(name, N_OUT, N_IN, seed=1, layer=2)).max()
    assert 0.999 * bound < largest <= bound


@pytest.mark.parametrize("name", [name for name in RANDOM if "normal" in name])
def test_normal_weights_have_normal_tails(name):
    W = initialize(name, N_OUT, N_IN, seed=1, layer=2)
    beyond = (np.abs(W) > 2 * DEVIATIONS[name]).mean()
    assert beyond == pytest.approx(math.erfc(math.sqrt(2)), rel=0.05)


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (1, 5), (5, 1)])
def test_the_shorter_side_of_an_orthogonal_matrix_is_orthonormal(shape):
    W = initialize("orthogonal", *shape, seed=0, layer=0)
    gram = W @ W.T if shape[0] <= shape[1] else W.T @ W
    np.testing.assert_allclose(gram, np.eye(min(shape)), atol=1e-14)


def test_orthogonal_matrices_have_no_preferred_sign():
    # without the correction of signs, LAPACK's Q has a first entry that is never positive
    first = [initialize("orthogonal", 3, 3, seed, layer=0)[0, 0] for seed in range(1000)]
    assert abs(np.mean(np.sign(first))) < 5 / math.sqrt(1000)


def test_zeros_are_zero():
    assert not initialize("zeros", 3, 4, seed=0, layer=0).any()


@pytest.mark.parametrize("name", INITIALIZERS)
def test_a_gain_multiplies_what_is_drawn(name):
    plain = initialize(name, 5, 4, seed=3, layer=2)
    np.testing.assert_array_equal(initialize(name, 5, 4, seed=3, layer=2, gain=1.0), plain)
    np.testing.assert_array_equal(initialize(name, 5, 4, seed=3, layer=2, gain=3.7), 3.7 * plain)


@pytest.mark.parametrize("gain", [0.0, -1.0, float("nan"), float("inf")])
def test_a_gain_that_is_not_a_positive_number_is_refused(gain):
    with pytest.raises(ValueError, match=f"gain must be a positive number, got {gain}"):
        initialize("normal", 2, 2, seed=0, layer=0, gain=gain)


@random_ones
def test_another_seed_or_layer_draws_unrelated_weights(name):
    drawn = [initialize(name, 60, 50, s, layer).ravel() for s in range(3) for layer in range(3)]
    correlation = np.corrcoef(drawn) - np.eye(9)
    assert np.abs(correlation).max() < 5 / math.sqrt(60 * 50)


DIGEST = """
import hashlib
from gpumlp.initializers import INITIALIZERS, initialize
weights = b"".join(initialize(name, 5, 4, seed=3, layer=2).tobytes() for name in INITIALIZERS)
digest = hashlib.sha256(weights).hexdigest()
"""


def test_a_fresh_process_draws_the_same_bits():
    here = {}
    exec(DIGEST, here)
    done = subprocess.run(
        [sys.executable, "-c", DIGEST + "print(digest)"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.strip() == here["digest"]


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown initializer 'xavier'; known: glorot_uniform, "):
        initialize("xavier", 2, 2, seed=0, layer=0)


@pytest.mark.parametrize("shape", [(0, 2), (2, 0)])
def test_a_layer_without_inputs_or_outputs_is_refused(shape):
    with pytest.raises(ValueError, match="at least one input and output"):
        initialize("zeros", *shape, seed=0, layer=0)
