"""A saved model as an ONNX graph: scaling, layers, and the output function, for raw rows.

Everything is written with plain operators of opset 17, which runtimes have in float32 and float64
alike, and by our own definitions: the GELU, say, is the tanh form.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from . import __version__
from .backend.activations import GELU_CUBIC, GELU_SCALE, LEAKY_SLOPE
from .data.scaling import Scaler
from .data.types import Array
from .errors import CheckFailed, ConfigError
from .layers import Dense
from .saved_model import SavedModel

OPSET, IR_VERSION = 17, 8
LARGEST = 2**31 - 2**20  # bytes of parameters: protobuf ends at 2 GiB
CHECKED_ROWS = 256
TOLERANCE = 1e-5


class _Graph:
    """The nodes and constants of a graph under construction; values are called by name."""

    def __init__(self, dtype: Any) -> None:
        from onnx import numpy_helper

        self.dtype = np.dtype(dtype)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._to_tensor = numpy_helper.from_array

    def node(self, operator: str, *inputs: str | float | Array, name: str = "", **how: Any) -> str:
        """Add a node and return its output; numbers and arrays among its inputs are constants."""
        from onnx import helper

        names = [one if isinstance(one, str) else self.constant(one) for one in inputs]
        out = name or f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [out], name=f"{out}_node", **how))
        return out

    def constant(self, value: float | Array) -> str:
        """Return a constant's name; a number has the type of the graph."""
        array = np.asarray(value, None if isinstance(value, np.ndarray) else self.dtype)
        name = f"constant{len(self.constants)}"
        self.constants.append(self._to_tensor(np.ascontiguousarray(array), name))
        return name

    def cast(self, value: str, dtype: Any, name: str = "") -> str:
        """Return a value in another type."""
        from onnx import helper

        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.node("Cast", value, to=kind, name=name)


def _gelu(graph: _Graph, z: str) -> str:
    cube = graph.node("Mul", graph.node("Mul", z, z), z)
    inner = graph.node("Add", z, graph.node("Mul", cube, GELU_CUBIC))
    t = graph.node("Tanh", graph.node("Mul", inner, GELU_SCALE))
    return graph.node("Mul", graph.node("Mul", graph.node("Add", t, 1.0), z), 0.5)


def _softplus(graph: _Graph, z: str) -> str:
    tail = graph.node("Exp", graph.node("Neg", graph.node("Abs", z)))
    return graph.node("Add", graph.node("Relu", z), graph.node("Log", graph.node("Add", tail, 1.0)))


def _elu(graph: _Graph, z: str) -> str:
    left = graph.node("Sub", graph.node("Exp", graph.node("Min", z, 0.0)), 1.0)
    return graph.node("Add", graph.node("Relu", z), left)


ACTIVATIONS: dict[str, Callable[[_Graph, str], str]] = {
    "identity": lambda graph, z: z,
    "sigmoid": lambda graph, z: graph.node("Sigmoid", z),
    "tanh": lambda graph, z: graph.node("Tanh", z),
    "relu": lambda graph, z: graph.node("Relu", z),
    "leaky_relu": lambda graph, z: graph.node("Max", z, graph.node("Mul", z, LEAKY_SLOPE)),
    "elu": _elu,
    "gelu": _gelu,
    "silu": lambda graph, z: graph.node("Mul", z, graph.node("Sigmoid", z)),
    "softplus": _softplus,
}


def onnx_model(model: SavedModel) -> Any:
    """Return the onnx.ModelProto of a model.

    Its input `x` is float64 (N, D): raw rows, because a year or a price of a million loses in
    float32 what scaling would have kept; layers compute in float32, those of an fp64 model in
    float64. NaN is a missing value where the model has means to fill in. Outputs, with C classes
    and K columns:

    - multiclass and binary: `probabilities` (N, C), and `label` int64 (N,), an index of `classes`;
    - multilabel: `probabilities` (N, K), and `labels` int64 (N, K) of 0 and 1;
    - regression: `prediction` (N, K), in the units of the data.

    Metadata, as JSON: `columns` (the names of the D columns, if they have any), `classes`, `task`.
    The same model gives the same bytes. Raises ConfigError without the package onnx, and for more
    parameters than a file of ONNX can hold.
    """
    try:
        from onnx import TensorProto, checker, helper
    except ImportError:
        raise ConfigError(
            '--onnx needs onnx, which is missing; pip install "gpumlp[onnx]"'
        ) from None
    if model.network.flat.values.nbytes > LARGEST:
        raise ConfigError("--onnx: the model has more than the 2 GB that an ONNX file can hold")
    dtype = model.network.backend.dtype
    graph = _Graph(dtype)
    a = _scaled(graph, model.scaler)
    for layer in model.network.layers:
        assert isinstance(layer, Dense)
        a = ACTIVATIONS[layer.activation.name](graph, _affine(graph, a, layer, model))
    outputs = _outputs(graph, a, model)
    kinds = {
        "int64": TensorProto.INT64,
        "float32": TensorProto.FLOAT,
        "float64": TensorProto.DOUBLE,
    }
    width = len(model.scaler.offset)
    proto = helper.make_graph(
        graph.nodes,
        "gpumlp",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["N", width])],
        [
            helper.make_tensor_value_info(name, kinds[str(kind)], ["N", *columns])
            for name, kind, columns in outputs
        ],
        graph.constants,
    )
    made = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="gpumlp",
        producer_version=__version__,
    )
    about = {
        "columns": list(model.columns.columns),
        "classes": list(model.targets.classes),
        "task": model.targets.task,
    }
    helper.set_model_props(made, {k: json.dumps(v, ensure_ascii=False) for k, v in about.items()})
    checker.check_model(made, full_check=True)
    return made


def _scaled(graph: _Graph, scaler: Scaler) -> str:
    """(x - offset) · factor in float64, as `Scaler.transform` computes it."""
    x = "x"
    if scaler.fill is not None:
        x = graph.node("Where", graph.node("IsNaN", x), scaler.fill, x)
    if scaler.name != "none":
        x = graph.node("Mul", graph.node("Sub", x, scaler.offset), scaler.factor)
    return x if graph.dtype == np.float64 else graph.cast(x, graph.dtype)


def _affine(graph: _Graph, a: str, layer: Dense, model: SavedModel) -> str:
    to_numpy = model.network.backend.to_numpy
    bias = () if layer.bias is None else (to_numpy(layer.bias.value),)
    return graph.node("Gemm", a, to_numpy(layer.weight.value), *bias, transB=1)


def _outputs(graph: _Graph, z: str, model: SavedModel) -> list[tuple[str, Any, list[int]]]:
    """Add what follows the last layer; return name, type and columns of each output."""
    task, outputs, kind = model.targets.task, model.targets.outputs, graph.dtype
    if task == "regression":
        if model.loss.name == "poisson":
            z = graph.node("Exp", z)
        if model.target_scaler is not None:
            wide = z if kind == np.float64 else graph.cast(z, np.float64)
            unscaled = graph.node("Div", wide, model.target_scaler.factor)
            z = graph.node("Add", unscaled, model.target_scaler.offset)
        graph.cast(z, kind, name="prediction")
        return [("prediction", kind, [outputs])]
    if task == "multiclass":
        y = graph.node("Softmax", z, axis=1, name="probabilities")
        graph.node("ArgMax", y, axis=1, keepdims=0, name="label")
        return [("probabilities", kind, [outputs]), ("label", "int64", [])]
    if task == "binary":
        y = graph.node("Sigmoid", z)
        # y and 1 - y to full precision, as 1 - y would lose what is near 0
        other = graph.node("Sigmoid", graph.node("Neg", z))
        both = graph.node("Concat", other, y, axis=1, name="probabilities")
        # as the model decides: y > 1/2, of equal ones the first class
        graph.node("ArgMax", both, axis=1, keepdims=0, name="label")
        return [("probabilities", kind, [2]), ("label", "int64", [])]
    y = graph.node("Sigmoid", z, name="probabilities")
    graph.cast(graph.node("Greater", y, 0.5), np.int64, name="labels")
    return [("probabilities", kind, [outputs]), ("labels", "int64", [outputs])]


def largest_difference(model: SavedModel, proto: Any) -> float | None:
    """Return how far onnxruntime is from the model on rows drawn like its data; None without it.

    The largest |difference| / max(1, |value|) over 256 rows.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    x = _rows_like(model.scaler)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = session.run(None, {"x": x})[0]
    expected = model.predict(x)
    if model.targets.task == "binary":
        found = found[:, 1:]
    difference = abs(found - expected) / np.maximum(1, abs(expected))
    return float(difference.max())


def _rows_like(scaler: Scaler) -> Array:
    """Return rows (256, D) of the size of the data's; some values missing, if they may be."""
    generator = np.random.default_rng(0)
    shape = (CHECKED_ROWS, len(scaler.offset))
    scaled = generator.normal(size=shape)
    if scaler.name == "minmax":
        scaled = generator.uniform(size=shape)
    x = scaled / scaler.factor + scaler.offset
    if scaler.fill is not None:
        x[generator.random(shape) < 0.1] = np.nan
    return np.asarray(x, np.float64)


def checked_onnx_model(model: SavedModel) -> tuple[bytes, str]:
    """Return the file of a model, and a sentence about the check against onnxruntime.

    Raises CheckFailed when the two differ by more than 1e-5.
    """
    proto = onnx_model(model)
    difference = largest_difference(model, proto)
    if difference is None:
        said = 'not checked: onnxruntime is missing; pip install "gpumlp[onnx]"'
    elif not difference <= TOLERANCE:
        raise CheckFailed(
            f"onnxruntime differs from the model by {difference:.1e}, more than {TOLERANCE:g}"
        )
    else:
        said = f"onnxruntime differs by {difference:.1e} at most on {CHECKED_ROWS} rows"
    return proto.SerializeToString(deterministic=True), said
