"""WatchingBackend: runs a training step and names what it computes that is not finite.

Slow, for one purpose: to say where a run diverged. Every operation runs at once and its outputs are
looked at; what they are called follows from the layer under way, in the letters of the notes.
"""

from collections.abc import Callable
from copy import copy
from functools import wraps
from inspect import signature
from typing import Any, NamedTuple

from ..backend import OPERATIONS, Array, Backend, RecordingBackend, Workspace
from ..layers import Dense, Layer
from ..model import Sequential
from .step import TrainingStep

# What an operation computes, in this order; any other operation computes its first argument.
OUTPUTS = {
    "begin_step": ("rows",),
    "bias_activation_forward": ("z", "a"),
    "bias_activation_backward": ("dz", "bias_sink"),
    "softmax_cross_entropy": ("loss", "dz"),
    "pointwise_loss": ("loss", "dz"),
    "momentum_step": ("v", "w"),
    "nesterov_step": ("v", "w"),
    "adagrad_step": ("s", "w"),
    "rmsprop_step": ("s", "w"),
    "adam_step": ("m", "v", "w"),
}

# (pass of a layer, or the operation outside of layers, output) → its name
NAMES = {
    ("forward", "matmul", "out"): "z",
    ("forward", "bias_activation_forward", "z"): "z",
    ("forward", "bias_activation_forward", "a"): "a",
    ("forward", "dropout", "out"): "a after dropout",
    ("forward", "split", "parts"): "x as products read it",
    ("backward", "split", "parts"): "∂l/∂z as products read it",
    ("", "split", "parts"): "W as products read it",
    ("backward", "dropout", "out"): "∂l/∂a",
    ("backward", "bias_activation_backward", "dz"): "∂l/∂z",
    ("backward", "matmul", "out"): "∂l/∂x",
    ("", "begin_step", "rows"): "the optimizer's learning rate",
    ("", "softmax_cross_entropy", "loss"): "the sample losses",
    ("", "softmax_cross_entropy", "dz"): "∂l/∂z of the output",
    ("", "pointwise_loss", "loss"): "the sample losses",
    ("", "pointwise_loss", "dz"): "∂l/∂z of the output",
    ("", "accumulate", "total"): "the sum of the losses",
}


class Found(NamedTuple):
    """An output that is not finite, and what may explain it."""

    name: str
    fact: str = ""


class WatchingBackend(RecordingBackend):
    """Runs steps of a training one by one; `found` lists what was not finite in the last of them.

    They are the training's own steps, on its parameters, with memory of their own to work on.
    """

    def __init__(self, training: TrainingStep) -> None:
        super().__init__(training.backend, Workspace(training.backend))
        self.found: list[Found] = []
        self._pass, self._layer = "", ""
        self._weight: Array = None
        model = copy(training.model)
        model.layers = [self._announced(n, layer) for n, layer in enumerate(model.layers, 1)]
        self._step = copy(training)
        self._step.model = model
        self._names = parameter_names(training.model)

    def run_step(self) -> None:
        """Run the next step of the epoch."""
        self.found = []
        for rows, _ in self._step.batches.take(1):
            self.workspace.position = 0
            self._step(self, rows)

    def _announced(self, number: int, layer: Layer) -> Layer:
        """Return a copy of a layer, over the same parameters, that says when it is at work."""
        layer = copy(layer)
        title = f"layer {number} ({layer!r})"
        weight = layer.weight.value if isinstance(layer, Dense) else None

        def announcing(name: str) -> Callable[..., Any]:
            method = getattr(layer, name)

            def call(*args: Any, **kwargs: Any) -> Any:
                self._pass, self._layer, self._weight = name, title, weight
                result = method(*args, **kwargs)
                self._pass, self._layer, self._weight = "", "", None
                return result

            return call

        for name in ("forward", "backward"):
            setattr(layer, name, announcing(name))
        return layer

    def look(self, operation: str, arguments: dict[str, Any]) -> None:
        """Note the outputs of an operation, which has just run, that are not finite."""
        outputs = OUTPUTS.get(operation) or tuple(arguments)[:1]
        for output in outputs:
            value = arguments.get(output)
            for array in value if isinstance(value, (list, tuple)) else [value]:
                if array is not None and array.dtype.kind == "f" and not is_finite(self, array):
                    found = self._describe(operation, output, array, arguments.get("z"))
                    self.found.append(found)

    def _describe(self, operation: str, output: str, array: Array, z: Array) -> Found:
        share = self.xp.may_share_memory
        for name, buffer, parameters in self._buffers():
            if share(array, buffer):
                for parameter, its_name in parameters:
                    view = parameter.view(buffer)
                    if share(array, view) and not is_finite(self, view):
                        return Found(f"{name}{its_name}")
        name = NAMES.get((self._pass, operation, output), f"{output} of {operation}")
        letter, cause = ("W", self._weight) if self._layer else ("z", z)
        fact = ""
        if cause is not None and is_finite(self, cause):
            fact = f"largest |{letter}| {float(abs(cause).max()):.2g}"
        return Found(f"{name} of {self._layer}" if self._layer else name, fact)

    def _buffers(self) -> list[tuple[str, Array, Any]]:
        """Return (name, flat buffer, parameters with their names) of all that is updated."""
        optimizer, flat = self._step.optimizer, self._step.model.flat
        state = [(f"the optimizer's {slot} of ", a) for slot, a in optimizer.state.items()]
        buffers = [("", flat.values), ("∂l/∂", flat.gradients), *state]
        return [(name, buffer, self._names) for name, buffer in buffers]


def parameter_names(model: Sequential) -> list[tuple[Any, str]]:
    """Return each parameter of a network with its name in the notes' letters.

    >>> from gpumlp.model import multilayer_perceptron
    >>> [name for _, name in parameter_names(multilayer_perceptron([2, 1]))]
    ["W of layer 1 (Dense(2, 1, 'identity'))", "b of layer 1 (Dense(2, 1, 'identity'))"]
    """
    return [
        (parameter, f"{'W' if parameter.is_weight else 'b'} of layer {number} ({layer!r})")
        for number, layer in enumerate(model.layers, 1)
        for parameter in layer.parameters
    ]


def is_finite(backend: Backend, array: Array) -> bool:
    """Whether all entries are; waits for the device."""
    return bool(backend.xp.isfinite(array).all())


def _watched(name: str) -> Callable[..., None]:
    formula = getattr(Backend, name)
    parameters = signature(formula)

    @wraps(formula)
    def method(self: WatchingBackend, *args: Any, **kwargs: Any) -> None:
        getattr(self.target, name)(*args, **kwargs)
        arguments = dict(parameters.bind(self, *args, **kwargs).arguments)
        del arguments["self"]
        self.look(name, arguments)

    return method


for _name in OPERATIONS:
    setattr(WatchingBackend, _name, _watched(_name))
