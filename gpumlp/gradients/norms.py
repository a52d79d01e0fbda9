"""GradientNorms: how steep the cost is in each layer's weights, looked at after every epoch.

Norms that shrink from layer to layer towards the input are the vanishing gradients of deep sigmoid
networks; norms that grow are exploding ones.
"""

from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np

from ..backend import Array, Backend, RecordingBackend, Workspace
from ..events import Callback, Record
from ..layers import Layer
from ..losses import Loss
from ..parameters import Parameter, Sink
from ..samples import loss_weights
from ..trainer import Trainer

ROWS = 256


class GradientNorms(Callback):
    """Add ‖∂C/∂W_l‖₂ of each weight matrix l = 1 ... L to the epoch's record, as "grad_norm_l".

    W_1 is the matrix next to the input, the norm is the root of the sum of squares, and C is the
    cost, with its weights, of a probe batch: every k-th row given, without dropout. What
    training computes does not change, whether or not its steps store gradients of their own.
    Callbacks that write the record come after this one.

    Args:
        x: rows (N, D), as `Trainer.fit` takes them.
        y: their targets (N,) or (N, K).
        sample_weight: (N,) or None.
        rows: largest size of the probe batch.

    `initial` holds the norms before the first step, under the same names.

    >>> import numpy as np
    >>> from gpumlp.losses import MeanSquaredError
    >>> from gpumlp.model import multilayer_perceptron
    >>> from gpumlp.optimizers import SGD
    >>> x = np.ones((4, 2))
    >>> norms = GradientNorms(x, x[:, :1])
    >>> model = multilayer_perceptron([2, 3, 1], init="zeros")
    >>> history = Trainer(model, MeanSquaredError(), SGD(), callbacks=[norms]).fit(x, x[:, :1])
    >>> norms.initial  # dz = 2 (0 - 1), and each of the 3 hidden units gives 1/2
    {'grad_norm_1': 0.0, 'grad_norm_2': 1.7320508075688772}
    >>> history[-1]["grad_norm_2"] < 0.1
    True
    """

    def __init__(
        self, x: Array, y: Array, sample_weight: Array | None = None, rows: int = ROWS
    ) -> None:
        # over the whole data, because the first rows of a sorted file are all of one class
        probe = slice(0, len(x), -(-len(x) // rows) or 1)
        self._x, self._y = x[probe], y[probe]
        self._weight = None if sample_weight is None else sample_weight[probe]
        self.initial: dict[str, float] = {}
        self._workspace: Workspace | None = None

    def on_train_begin(self, trainer: Trainer) -> None:
        """Take the norms before the first step of all."""
        self._workspace = Workspace(trainer.model.backend)
        if trainer.epoch == 0:
            self.initial = self._norms(trainer)

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        """Add the norms to the record."""
        record |= self._norms(trainer)

    def on_train_end(self, trainer: Trainer) -> None:
        """Give the memory back."""
        self._workspace = None

    def state(self) -> dict[str, Any]:
        """Return the norms before the first step."""
        return {"initial": self.initial}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` returned."""
        self.initial = {name: float(norm) for name, norm in state["initial"].items()}

    def _norms(self, trainer: Trainer) -> dict[str, float]:
        model = trainer.model
        workspace = self._workspace or Workspace(model.backend)
        workspace.position = 0
        backend = RecordingBackend(model.backend, workspace)
        # copies, so that layers and loss keep what a step of the training left in them
        layers, loss = [copy(layer) for layer in model.layers], copy(trainer.loss)
        loss.backend, loss.reduction = backend, "mean"
        operations = model.operations_of_largest_product(len(self._x))
        # a diverging network is found by its loss
        with np.errstate(all="ignore"), model.backend.threads_for(operations):
            gradients = self._gradients(layers, loss, trainer.class_weight, backend)
            norms = [float((g.astype("float64") ** 2).sum()) ** 0.5 for g in gradients]
        return {f"grad_norm_{i}": norm for i, norm in enumerate(norms, start=1)}

    def _gradients(
        self, layers: list[Layer], loss: Loss, class_weight: Array | None, backend: Backend
    ) -> list[Array]:
        """Return ∂C/∂W of each weight matrix on the probe batch, the input's first."""
        z = backend.asarray(self._x)
        for layer in layers:
            z = layer.forward(z, backend=backend)
        target = loss.as_target(self._y, backend)
        weight = None if self._weight is None else backend.asarray(self._weight)
        loss.forward(z, target, loss_weights(target, weight, class_weight))
        gradients: list[Array] = []

        def into(parameter: Parameter) -> Sink:
            array = backend.empty(parameter.shape, order="C")
            if parameter.is_weight:
                gradients.append(array)
            return Sink(array, 1.0, 0.0)

        da = loss.backward()
        for i, layer in reversed(list(enumerate(layers))):
            da = layer.backward(da, into=into, input_gradient=i > 0, backend=backend)
        return gradients[::-1]
