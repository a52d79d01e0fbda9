"""Initial weights: random matrices whose spread keeps signals and gradients alive in deep nets.

Every initializer is a function ``f(generator, n_out, n_in)`` returning a float64 matrix W of shape
(n_out, n_in), for z = x Wᵀ + b; `INITIALIZERS` names them all. U(±r) is the uniform distribution
from -r to r, whose standard deviation is r/√3, and N(0, s²) the normal one.
"""

from __future__ import annotations  # np.random is loaded when it is used: a tenth of NumPy's import

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from . import randomness

Matrix = npt.NDArray[np.float64]
Initializer = Callable[["np.random.Generator", int, int], Matrix]


def glorot_uniform(generator: np.random.Generator, n_out: int, n_in: int) -> Matrix:
    """U(±√(6 / (n_in + n_out))): for tanh, sigmoid and softmax.

    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural
    networks (AISTATS 2010), equation 16.

    >>> bool(abs(glorot_uniform(np.random.default_rng(0), 2, 4)).max() <= 1.0)
    True
    """
    return _uniform(generator, n_out, n_in, np.sqrt(6 / (n_in + n_out)))


def glorot_normal(generator: np.random.Generator, n_out: int, n_in: int) -> Matrix:
    """N(0, 2 / (n_in + n_out)): for tanh, sigmoid and softmax.

    Source: Glorot and Bengio (AISTATS 2010), equation 12.

    >>> glorot_normal(np.random.default_rng(0), 2, 4).shape
    (2, 4)
    """
    return _normal(generator, n_out, n_in, np.sqrt(2 / (n_in + n_out)))


def he_uniform(generator: np.random.Generator, n_out: int, n_in: int) -> Matrix:
    """U(±√(6 / n_in)): for ReLU and what resembles it.

    Source: He et al., Delving Deep into Rectifiers (ICCV 2015), equation 10, as a uniform one.

    >>> bool(abs(he_uniform(np.random.default_rng(0), 2, 6)).max() <= 1.0)
    True
    """
    return _uniform(generator, n_out, n_in, np.sqrt(6 / n_in))


def he_normal(generator: np.random.Generator, n_out: int, n_in: int) -> Matrix:
    """N(0, 2 / n_in): for ReLU and what resembles it.

    Source: He et al., Delving Deep into Rectifiers (ICCV 2015), equation 10.

    >>> he_normal(np.random.default_rng(0), 2, 4).shape
    (2, 4)
    """
    return _normal(generator, n_out, n_in, np.sqrt(2 / n_in))


def lecun_uniform(generator: np.random.Generator, n_out: int, n_in: int) -> Matrix:
    """U(±√(3 / n_in)): variance 1 stays 1 through a linear layer.

    Source: LeCun, Bottou, Orr and Müller, Efficient BackProp (1998), equation 16.

    >>> bool(abs(lecun_uniform(np.random.default_rng(0), 2, 3)).max() <= 1.0)
    True
    """
    return _uniform(generator, n_out, n_in, np.sqrt(3 / n_in))


def lecun_normal(generator: np.random.Generator, n_out: int, n_in: int) -> Matrix:
    """N(0, 1 / n_in): variance 1 stays 1 through a linear layer.

    Source: LeCun, Bottou, Orr and Müller, Efficient BackProp (1998), equation 16.

    >>> lecun_normal(np.random.default_rng(0), 2, 4).shape
    (2, 4)
    """
    return _normal(generator, n_out, n_in, np.sqrt(1 / n_in))


def normal(generator: np.random.Generator, n_out: int, n_in: int) -> Matrix:
    """N(0, 0.01²) whatever the size.

    Source: Krizhevsky, Sutskever and Hinton, ImageNet Classification with Deep Convolutional Neural
    Networks (NIPS 2012), section 5.

    >>> normal(np.random.default_rng(0), 2, 4).shape
    (2, 4)
    """
    return _normal(generator, n_out, n_in, 0.01)


def uniform(generator: np.random.Generator, n_out: int, n_in: int) -> Matrix:
    """U(±0.05) whatever the size, as Keras' "random_uniform".

    >>> bool(abs(uniform(np.random.default_rng(0), 2, 4)).max() <= 0.05)
    True
    """
    return _uniform(generator, n_out, n_in, 0.05)


def orthogonal(generator: np.random.Generator, n_out: int, n_in: int) -> Matrix:
    """Return a random matrix whose shorter side is orthonormal: W Wᵀ = I, or Wᵀ W = I if taller.

    Q of the QR decomposition of a normal matrix, each column with the sign that makes the diagonal
    of R positive: without that, Q is not uniformly distributed. Sources: Saxe, McClelland and
    Ganguli, Exact solutions to the nonlinear dynamics of learning in deep linear neural networks
    (ICLR 2014); Mezzadri, How to generate random matrices from the classical compact groups (2007).

    >>> W = orthogonal(np.random.default_rng(0), 2, 4)
    >>> bool(np.allclose(W @ W.T, np.eye(2)))
    True
    """
    Q, R = np.linalg.qr(generator.standard_normal((max(n_out, n_in), min(n_out, n_in))))
    Q = Q * np.where(np.diagonal(R) < 0, -1.0, 1.0)
    return np.ascontiguousarray(Q if n_out >= n_in else Q.T)


def zeros(generator: np.random.Generator, n_out: int, n_in: int) -> Matrix:
    """All 0: for an output layer, or to see that equal hidden units stay equal for ever.

    >>> zeros(np.random.default_rng(0), 1, 2)
    array([[0., 0.]])
    """
    return np.zeros((n_out, n_in))


INITIALIZERS: dict[str, Initializer] = {
    function.__name__: function
    for function in (
        glorot_uniform,
        glorot_normal,
        he_uniform,
        he_normal,
        lecun_uniform,
        lecun_normal,
        normal,
        uniform,
        orthogonal,
        zeros,
    )
}


def initialize(
    name: str, n_out: int, n_in: int, seed: int, layer: int, gain: float = 1.0
) -> Matrix:
    """Return the initial weights of a layer, a function of the arguments alone: (n_out, n_in).

    They are `gain` times what the initializer draws. A sigmoid, whose slope is at most 1/4, needs a
    gain of about 4 for gradients to keep their size through many layers (Glorot and Bengio 2010).

    Raises ValueError for a name that `INITIALIZERS` lacks, sizes below 1, a gain that is not a
    positive number, or a negative seed or layer.

    >>> bool((initialize("normal", 2, 3, seed=0, layer=0) ==
    ...       initialize("normal", 2, 3, seed=0, layer=0)).all())
    True
    """
    if name not in INITIALIZERS:
        raise ValueError(f"unknown initializer {name!r}; known: {', '.join(INITIALIZERS)}")
    if n_out < 1 or n_in < 1:
        raise ValueError(f"a layer needs at least one input and output, not {n_in} and {n_out}")
    if not 0 < gain < np.inf:
        raise ValueError(f"gain must be a positive number, got {gain}")
    return gain * INITIALIZERS[name](randomness.generator("parameters", seed, layer), n_out, n_in)


def _uniform(generator: np.random.Generator, n_out: int, n_in: int, bound: float) -> Matrix:
    return generator.uniform(-bound, bound, (n_out, n_in))


def _normal(generator: np.random.Generator, n_out: int, n_in: int, deviation: float) -> Matrix:
    return generator.normal(0.0, deviation, (n_out, n_in))
