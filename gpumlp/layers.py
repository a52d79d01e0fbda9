"""Layers: forward keeps what backward needs; backward turns dl/da into dl/dz, and that into dl/dW.

The unit is the notes' layer a = σ(W x + b), because that is what the kernels fuse. A layer works
alone on arrays of its backend, where every call returns fresh memory; in a training step it is
handed a recording backend (see `backend.recording`) and works on a workspace.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .backend import Array, Backend, Scalar, get_activation, get_backend
from .initializers import initialize
from .parameters import FlatParameters, Parameter, Sink, gradient_sink

Into = Callable[[Parameter], Sink]
BATCH = ("_x", "_kept", "_key", "_first_row")  # what a layer keeps of the last forward pass


class Layer:
    """What every layer has: a backend, parameters (perhaps none), forward and backward."""

    # what the last forward pass left for `backward`
    _x: Array = None
    _kept: Array = None
    _key: Scalar | None = None
    _first_row: int = 0

    def __init__(self, backend: Backend | str = "cpu") -> None:
        self.backend = get_backend(backend)

    def __getstate__(self) -> dict[str, Any]:
        """A copy or a pickle carries the parameters, not the last batch."""
        return {name: value for name, value in self.__dict__.items() if name not in BATCH}

    def forget(self) -> None:
        """Give back the memory of the last forward pass."""
        for name in BATCH:
            self.__dict__.pop(name, None)

    @property
    def parameters(self) -> list[Parameter]:
        """The trained arrays: name, value and gradient of each."""
        return []

    def forward(
        self,
        x: Array,
        *,
        key: Scalar | None = None,
        first_row: int = 0,
        backend: Backend | None = None,
    ) -> Array:
        """Return the layer's output for a batch x (B, n_in), one sample a row.

        Args:
            x: the batch; kept, not copied, until `backward`.
            key: turns dropout on, with the mask of this key (uint32, see `randomness`).
            first_row: position of the first row in the whole effective batch (for dropout).
            backend: where to compute and take memory from; the layer's own by default.
        """
        backend = backend or self.backend
        return self._forward(backend.asarray(x), key, first_row, backend)

    def backward(
        self,
        da: Array,
        *,
        into: Into = gradient_sink,
        input_gradient: bool = True,
        backend: Backend | None = None,
    ) -> Array | None:
        """Return ∂loss/∂x (B, n_in) from da = ∂loss/∂output; gradients go where `into` says.

        With `input_gradient=False` it computes no ∂loss/∂x and returns None. Raises ValueError when
        there was no forward pass.
        """
        if self._kept is None:
            raise ValueError(f"{self!r}: backward needs a forward pass before it")
        backend = backend or self.backend
        return self._backward(backend.asarray(da), into, input_gradient, backend)

    def _forward(self, x: Array, key: Scalar | None, first_row: int, backend: Backend) -> Array:
        raise NotImplementedError

    def _backward(
        self, da: Array, into: Into, input_gradient: bool, backend: Backend
    ) -> Array | None:
        raise NotImplementedError


class Activation(Layer):
    """An activation alone: a = σ(x), entry by entry.

    In a `Sequential` it is folded into the `Dense` before it. Raises ValueError for an unknown
    name.

    >>> Activation("relu").forward([[-1.0, 2.0]]).tolist()
    [[0.0, 2.0]]
    """

    def __init__(self, name: str, backend: Backend | str = "cpu") -> None:
        super().__init__(backend)
        self.activation = get_activation(name)

    def __repr__(self) -> str:
        return f"Activation({self.activation.name!r})"

    def _forward(self, x: Array, key: Scalar | None, first_row: int, backend: Backend) -> Array:
        a = backend.empty(x.shape)
        backend.bias_activation_forward(a, x, None, self.activation)
        self._kept = a if self.activation.keeps == "output" else x
        return a

    def _backward(
        self, da: Array, into: Into, input_gradient: bool, backend: Backend
    ) -> Array | None:
        if not input_gradient:
            return None
        dx = backend.empty(da.shape)
        backend.bias_activation_backward(
            dx, None, da, self._kept, self.activation, scratch=backend.scratch(dx)
        )
        return dx


def _named(name: str, title: str) -> type[Activation]:
    def init(self: Activation, backend: Backend | str = "cpu") -> None:
        Activation.__init__(self, name, backend)

    return type(title, (Activation,), {"__init__": init, "__doc__": f"`Activation({name!r})`."})


Sigmoid = _named("sigmoid", "Sigmoid")
Tanh = _named("tanh", "Tanh")
ReLU = _named("relu", "ReLU")
LeakyReLU = _named("leaky_relu", "LeakyReLU")
ELU = _named("elu", "ELU")
GELU = _named("gelu", "GELU")
SiLU = _named("silu", "SiLU")
Softplus = _named("softplus", "Softplus")
Identity = _named("identity", "Identity")


class Dropout(Layer):
    """Dropout alone: entries are set to 0 with probability `rate`, the rest divided by 1 - rate.

    Off unless `forward` gets a `key`. In a `Sequential` it is folded into the `Dense` before it.
    """

    def __init__(self, rate: float, backend: Backend | str = "cpu") -> None:
        super().__init__(backend)
        if not 0 <= rate < 1:
            raise ValueError(f"dropout rate must lie in [0, 1), got {rate}")
        self.rate = rate

    def __repr__(self) -> str:
        return f"Dropout({self.rate})"

    def _forward(self, x: Array, key: Scalar | None, first_row: int, backend: Backend) -> Array:
        self._kept, self._key, self._first_row = x, key, first_row
        return self.masked(x, key, first_row, backend)

    def _backward(
        self, da: Array, into: Into, input_gradient: bool, backend: Backend
    ) -> Array | None:
        if not input_gradient:
            return None
        return self.masked(da, self._key, self._first_row, backend)

    def masked(self, x: Array, key: Scalar | None, first_row: int, backend: Backend) -> Array:
        """Return x (B, n) with the mask of (key, first_row), or x itself without a key."""
        if key is None or not self.rate:
            return x
        out = backend.empty(x.shape)
        scratch = backend.empty((x.shape[0], 2 * x.shape[1]), np.uint32)
        backend.dropout(out, x, key, self.rate, first_row, scratch)
        return out


class Dense(Layer):
    """A fully connected layer with its activation: a = σ(x Wᵀ + b), then dropout.

    W is (n_out, n_in), as in the notes and in torch.nn.Linear; b is (n_out,). Backward, with
    dz = da ⊙ σ'(z):  dW = dzᵀ x,  db = Σ_rows dz,  dx = dz W.

    Args:
        n_in, n_out: inputs and units.
        activation: name of σ, see `backend.ACTIVATIONS`.
        backend: a backend or a device name.
        init: initializer of W, see `initializers`; b starts at 0.
        init_gain: what the drawn W is multiplied by.
        bias: whether there is a b.
        dropout: probability with which an output is dropped in training.
        weight_decay: L2 of this layer's W in place of the optimizer's.
        max_norm: largest norm of the weights into one unit, kept after each update.
        seed: draws W (with layer number 0). Without it a `Sequential` draws W from its own seed and
            the layer's place; a layer alone uses seed 0.

    Raises ValueError for sizes below 1, rates out of range and unknown names.

    >>> layer = Dense(2, 3, activation="sigmoid")
    >>> layer.parameters[0].value[...] = [[1, 0], [0, 1], [1, 1]]
    >>> layer.forward([[0.0, 2.0]]).round(3).tolist()
    [[0.5, 0.8809999823570251, 0.8809999823570251]]
    >>> layer.backward([[1.0, 0.0, 0.0]]).tolist()
    [[0.25, 0.0]]
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        activation: str = "identity",
        backend: Backend | str = "cpu",
        *,
        init: str = "glorot_uniform",
        init_gain: float = 1.0,
        bias: bool = True,
        dropout: float = 0.0,
        weight_decay: float | None = None,
        max_norm: float | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(backend)
        if n_in < 1 or n_out < 1:
            raise ValueError(f"a layer needs at least one input and one unit, got {n_in}, {n_out}")
        if weight_decay is not None and not weight_decay >= 0:
            raise ValueError(f"weight_decay must be >= 0, got {weight_decay}")
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm must be > 0, got {max_norm}")
        if not 0 < init_gain < float("inf"):
            raise ValueError(f"init_gain must be a positive number, got {init_gain}")
        self.n_in, self.n_out = n_in, n_out
        self.activation = get_activation(activation)
        self.dropout = Dropout(dropout, self.backend)
        self.init, self.init_gain, self.seed = init, init_gain, seed
        self.weight = Parameter("weight", (n_out, n_in), weight_decay, max_norm)
        self.bias = Parameter("bias", (n_out,)) if bias else None
        self._drawn = False
        if seed is not None:
            self.initialize(seed, 0)

    def __repr__(self) -> str:
        dropout = f", dropout={self.dropout.rate}" if self.dropout.rate else ""
        return f"Dense({self.n_in}, {self.n_out}, {self.activation.name!r}{dropout})"

    def initialize(self, seed: int, layer: int) -> None:
        """Draw W from (seed, layer) and set b to 0, whatever they were."""
        weight = initialize(self.init, self.n_out, self.n_in, seed, layer, self.init_gain)
        self._drawn = True
        if not hasattr(self.weight, "flat"):
            FlatParameters(self.backend, self.parameters)
        self.weight.value[...] = self.backend.asarray(weight)
        if self.bias is not None:
            self.bias.value[...] = 0

    @property
    def drawn(self) -> bool:
        """Whether the parameters have values already (they get them when first looked at)."""
        return self._drawn

    @property
    def parameters(self) -> list[Parameter]:
        """[weight, bias], or [weight]."""
        if not self._drawn:
            self.initialize(0, 0)
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def _forward(self, x: Array, key: Scalar | None, first_row: int, backend: Backend) -> Array:
        weight, *bias = self.parameters
        if x.ndim != 2 or x.shape[1] != self.n_in:
            raise ValueError(f"{self!r} takes batches of shape (B, {self.n_in}), got {x.shape}")
        z = backend.empty((len(x), self.n_out))
        self._x = backend.operand(x)
        backend.matmul(z, self._x, weight.operand(backend).T)
        a = z if self.activation.keeps == "output" else backend.empty(z.shape)
        b = bias[0].value if bias else None
        backend.bias_activation_forward(a, z, b, self.activation)
        self._kept = a if self.activation.keeps == "output" else z
        self._key, self._first_row = key, first_row
        return self.dropout.masked(a, key, first_row, backend)

    def _backward(
        self, da: Array, into: Into, input_gradient: bool, backend: Backend
    ) -> Array | None:
        da = self.dropout.masked(da, self._key, self._first_row, backend)
        dz = da if self.activation.name == "identity" else backend.empty(da.shape)
        sink, alpha, beta = into(self.bias) if self.bias is not None else (None, 1.0, 0.0)
        backend.bias_activation_backward(
            dz, sink, da, self._kept, self.activation, alpha, beta, backend.scratch(dz)
        )
        dz, dx = backend.operand(dz), None
        if input_gradient:  # before dW, whose sink may be W itself
            dx = backend.empty(self._x.shape)
            backend.matmul(dx, dz, self.weight.operand(backend))
        sink, alpha, beta = into(self.weight)
        backend.matmul(sink, dz.T, self._x, alpha, beta, backend.scratch(sink))
        return dx
