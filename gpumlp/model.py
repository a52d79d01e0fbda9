"""Sequential: a multilayer perceptron, layers one after another over one flat parameter buffer."""

from collections.abc import Callable, Sequence
from copy import copy
from itertools import pairwise

import numpy as np

from .backend import Array, Backend, RecordingBackend, Workspace, get_backend
from .layers import Activation, Dense, Dropout, Into, Layer
from .parameters import FlatParameters, Parameter, gradient_sink
from .randomness import dropout_keys
from .sparse import SparseRows, is_sparse

EVALUATION_ROWS = 4096


class Sequential:
    """Layers applied one after another: a feed-forward network.

    The network takes over the layers' parameters: they move into one flat buffer (`flat`), and are
    named by their layer, "0.weight", "0.bias", "1.weight" ... An activation or dropout that
    follows a `Dense` is folded into it, so `layers` may be shorter than what was given. The output
    is the last layer's: for classification the z to which the loss applies softmax or sigmoid.

    Args:
        layers: the layers, all on one backend.
        seed: draws the parameters of every layer that has none yet, from (seed, layer).

    Raises ValueError when there is no layer, sizes do not fit, or backends differ.

    >>> model = Sequential(Dense(4, 3), Activation("sigmoid"), Dense(3, 2), seed=1)
    >>> model
    Sequential(Dense(4, 3, 'sigmoid'), Dense(3, 2, 'identity'))
    >>> [p.name for p in model.parameters], model.flat.count
    (['0.weight', '0.bias', '1.weight', '1.bias'], 23)
    """

    def __init__(self, *layers: Layer, seed: int = 0) -> None:
        _check(layers)
        self.layers = _folded(layers)
        self.seed = seed
        self.backend: Backend = self.layers[0].backend
        for i, layer in enumerate(self.layers):
            if isinstance(layer, Dense) and not layer.drawn:
                layer.initialize(seed, i)
            for parameter in layer.parameters:
                parameter.name = f"{i}.{parameter.name.rpartition('.')[2]}"
        self.flat = FlatParameters(self.backend, self.parameters)

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))})"

    @property
    def parameters(self) -> list[Parameter]:
        """All parameters, layer by layer."""
        return [parameter for layer in self.layers for parameter in layer.parameters]

    @property
    def n_in(self) -> int | None:
        """Number of inputs; None when no layer says it."""
        return next((layer.n_in for layer in self.layers if isinstance(layer, Dense)), None)

    @property
    def n_out(self) -> int | None:
        """Number of outputs; None when no layer says it."""
        sizes = [layer.n_out for layer in self.layers if isinstance(layer, Dense)]
        return sizes[-1] if sizes else None

    def operations_of_largest_product(self, rows: int) -> float:
        """Return the floating-point operations of the largest matrix product for so many rows."""
        return 2.0 * rows * max((p.size for p in self.parameters if p.is_weight), default=0)

    @property
    def has_dropout(self) -> bool:
        """Whether any layer drops outputs in training."""
        return any(_dropout_rate(layer) for layer in self.layers)

    def dropout_keys(self, step: int, seed: int | None = None) -> Array:
        """Return the dropout key of each layer for one step, uint32 (layers,)."""
        seed = self.seed if seed is None else seed
        return self.backend.asarray(dropout_keys(seed, len(self.layers), step, 1)[0], np.uint32)

    def forward(
        self,
        x: Array,
        *,
        keys: Array | None = None,
        first_row: int = 0,
        backend: Backend | None = None,
    ) -> Array:
        """Return the last layer's output for a batch x (B, n_in).

        `keys` (uint32, one per layer, see `dropout_keys`) turn dropout on; the rest as in `Layer`.
        """
        for i, layer in enumerate(self.layers):
            key = None if keys is None else keys[i : i + 1].reshape(())
            x = layer.forward(x, key=key, first_row=first_row, backend=backend)
        return x

    def backward(
        self,
        da: Array,
        *,
        into: Into = gradient_sink,
        input_gradient: bool = True,
        backend: Backend | None = None,
        done: Callable[[Layer], None] | None = None,
    ) -> Array | None:
        """Send ∂loss/∂output back through the layers; as in `Layer`.

        `done` is called with each layer whose gradients are complete, the last layer first.
        """
        for i, layer in reversed(list(enumerate(self.layers))):
            wanted = input_gradient or i > 0
            da = layer.backward(da, into=into, input_gradient=wanted, backend=backend)
            if done is not None:
                done(layer)
        return da

    def features(
        self,
        x: Array,
        layer: int = -2,
        scale: float = 1.0,
        between: Callable[[], None] | None = None,
    ) -> Array:
        """Return the activations of one layer for every row of x (N, n_in): the notes' features.

        Args:
            x: rows, on this model's device or on the host; SciPy's sparse matrices, too.
            layer: 0 is the input itself, 1 the first layer, ...; negative counts from the end:
                -1 is the output and -2 the last hidden layer.
            scale: what x is multiplied by first, a few thousand rows at a time.
            between: called after each few thousand rows.

        Raises IndexError when there is no such layer.
        """
        last = len(self.layers)
        if not -last - 1 <= layer <= last:
            raise IndexError(f"layer must lie in {-last - 1}..{last}, got {layer}")
        if is_sparse(x):
            x = SparseRows(x, self.backend.dtype)
        # copies, so that a backward pass that is still to come finds what its forward pass kept
        chosen = [copy(one) for one in self.layers[: layer % (last + 1)]]
        backend = RecordingBackend(self.backend, Workspace(self.backend))
        parts = []
        for start in range(0, max(len(x), 1), EVALUATION_ROWS):
            rows = x[start : start + EVALUATION_ROWS]
            rows = self.backend.asarray(rows) if scale == 1 else self._scaled(rows, scale)
            backend.workspace.position = 0
            for one in chosen:
                rows = one.forward(rows, backend=backend)
            parts.append(rows.copy(order="C"))
            if between is not None:
                between()
        return self.backend.xp.concatenate(parts)

    def _scaled(self, rows: Array, scale: float) -> Array:
        xp, dtype = self.backend.xp, self.backend.dtype
        return xp.multiply(xp.asarray(rows), scale, dtype=dtype)

    def predict(
        self, x: Array, scale: float = 1.0, between: Callable[[], None] | None = None
    ) -> Array:
        """Return the last layer's output for every row of scale · x (N, n_in); see `features`."""
        return self.features(x, -1, scale, between)


def _dropout_rate(layer: Layer) -> float:
    if isinstance(layer, Dense):
        return layer.dropout.rate
    return layer.rate if isinstance(layer, Dropout) else 0.0


def _check(layers: Sequence[Layer]) -> None:
    """Raise ValueError for layers that make no network; done first, so that none is changed."""
    if not layers:
        raise ValueError("a network needs at least one layer")
    if len(set(map(id, layers))) < len(layers):
        raise ValueError("the same layer object stands twice in a network; make two layers")
    for i, layer in enumerate(layers):
        if layer.backend != layers[0].backend:
            raise ValueError(f"layer {i} is on {layer.backend}, layer 0 on {layers[0].backend}")
    for before, after in pairwise(layer for layer in layers if isinstance(layer, Dense)):
        if before.n_out != after.n_in:
            raise ValueError(f"{after!r} cannot follow {before!r}: sizes differ")


def _folded(layers: Sequence[Layer]) -> list[Layer]:
    """Fold each activation, then dropout, into the Dense before it."""
    kept: list[Layer] = []
    for layer in layers:
        last = kept[-1] if kept else None
        if isinstance(last, Dense) and not last.dropout.rate:
            if isinstance(layer, Dropout):
                last.dropout = layer
                continue
            if isinstance(layer, Activation) and last.activation.name == "identity":
                last.activation = layer.activation
                continue
        kept.append(layer)
    return kept


def multilayer_perceptron(
    sizes: Sequence[int],
    activation: str = "sigmoid",
    *,
    backend: Backend | str = "cpu",
    dropout: float = 0.0,
    init: str = "glorot_uniform",
    seed: int = 0,
) -> Sequential:
    """Return the network with these layer sizes: hidden layers alike, a linear output layer.

    >>> multilayer_perceptron([4, 3, 2])
    Sequential(Dense(4, 3, 'sigmoid'), Dense(3, 2, 'identity'))
    """
    backend = get_backend(backend)
    hidden = [
        Dense(a, b, activation, backend, dropout=dropout, init=init)
        for a, b in pairwise(sizes[:-1])
    ]
    return Sequential(*hidden, Dense(sizes[-2], sizes[-1], backend=backend, init=init), seed=seed)
