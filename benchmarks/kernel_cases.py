"""The calls that benchmarks/kernels.py times: operations, their arrays, what they have to move."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np

from gpumlp.backend import ACTIVATIONS, POINTWISE, Activation, Array, Backend
from gpumlp.backend.base import Order
from gpumlp.backend.pointwise import Pointwise

OUT_OF_CACHE = "out of cache"
SIZES = {  # rows and columns of a matrix; a vector has as many entries
    "cpu": {"small": (10, 30), "in cache": (100, 500), OUT_OF_CACHE: (4096, 4096)},
    "cuda": {"small": (10, 30), "in cache": (1024, 1024), OUT_OF_CACHE: (16384, 4096)},
}
QUICK_DIVISOR = 2  # of the rows out of cache
CLASSES = 10
PRODUCT_ROWS = 128  # at most: a product is bound by its arithmetic, and not what this is about
TABLE_ENTRIES = 2**22  # of a table of steps
PERIOD = 65_537  # prime, so that rows differ
NORMAL = np.random.default_rng(0).standard_normal(PERIOD).astype(np.float32)
UNIT = np.random.default_rng(1).uniform(0.05, 0.95, PERIOD).astype(np.float32)


class Maker:
    """Makes the arrays of a call: the same numbers for every backend and precision.

    `steady` arrays are for calls that are repeated: what would add up is made small or zero.
    """

    def __init__(self, backend: Backend, order: Order, steady: bool = False) -> None:
        self.backend, self.order, self.steady = backend, order, steady
        self.compared: list[Array] = []  # all but scratch
        self.clock: Array | None = None  # to be set to 0 before the first of `lines` calls
        self.lines: int | None = None

    def array(self, host: Any, dtype: Any = None, order: Order | None = None) -> Array:
        """Return a copy of a host array on the device; matrices in the workspace's order."""
        return self._placed(self.backend.asarray(host, dtype), order)

    def _placed(self, values: Array, order: Order | None) -> Array:
        order = (order or self.order) if values.ndim == 2 else "C"
        placed = self.backend.empty(values.shape, values.dtype, order)
        placed[...] = values
        self.compared.append(placed)
        return placed

    def _tiled(self, pool: np.ndarray, shape: tuple[int, ...], order: Order | None) -> Array:
        shifted = self.backend.asarray(np.roll(pool, 7919 * len(self.compared)))
        return self._placed(self.backend.xp.resize(shifted, shape), order)

    def normal(self, *shape: int, order: Order | None = None) -> Array:
        """Normal numbers."""
        return self._tiled(NORMAL, shape, order)

    def unit(self, *shape: int, order: Order | None = None) -> Array:
        """Numbers between 0 and 1."""
        return self._tiled(UNIT, shape, order)

    def added(self, *shape: int) -> Array:
        """What a call adds to its output: normal numbers, or zeros where calls are repeated."""
        values = self.normal(*shape)
        if self.steady:
            values[...] = 0
        return values

    def nothing(self, *shape: int, dtype: Any = None, order: Order | None = None) -> Array:
        """Memory to be written, NaN or zero so far."""
        floating = np.dtype(dtype or self.backend.dtype).kind == "f"
        return self.array(np.full(shape, np.nan if floating else 0), dtype, order)

    def scalar(self, value: float, steady: float) -> Array:
        """A number in memory, as a recorded step has it."""
        return self.array(np.float32(steady if self.steady else value))

    def scratch(self, like: Array) -> Array:
        """Memory for the inside of the operation."""
        return self.backend.scratch(like)


@dataclass(frozen=True)
class Case:
    """An operation with its arguments.

    `arguments` is called with a maker and the shape; `moved` with the shape: the bytes of each
    operand, once where it is read and once where it is written, in float32. `rounded` are entries
    of what matrix products read in a low precision: 2 bytes on a GPU, 4 on a CPU.
    """

    operation: str
    kind: str  # of its shapes, see `shape`
    arguments: Callable[..., tuple[Any, ...]]
    moved: Callable[..., int]
    variant: str = ""
    rounded: int = 0  # times the entries

    def bytes_moved(self, backend: Backend, shape: tuple[int, ...]) -> int:
        """Return the bytes that a call moves on a backend."""
        return self.moved(*shape) + self.rounded * prod(shape) * _operand(backend).itemsize

    def shape(self, rows: int, columns: int) -> tuple[int, ...]:
        """Return this case's shape of about rows · columns entries."""
        match self.kind:
            case "vector":
                return (rows * columns,)
            case "classes":
                return (max(rows * columns // CLASSES, 1), CLASSES)
            case "state":
                return (4,)
            case "product":
                return (min(rows, PRODUCT_ROWS), columns, columns)
        return (rows, columns)

    def bind(self, make: Maker, shape: tuple[int, ...]) -> Callable[[], None]:
        """Return the operation of the maker's backend, bound to fresh arguments."""
        return make.backend.bind(self.operation, *self.arguments(make, *shape))


# ------------------------------------------------------------------- a step's inputs


def _begin_step(make: Maker, n: int) -> tuple[Any, ...]:
    lines = make.lines = max(TABLE_ENTRIES // n, 1)
    clock = make.clock = make.array(0, np.int64)
    row, index = make.nothing(2), make.nothing(n, dtype=np.int64)
    order = np.arange(lines * n, dtype=np.int64).reshape(lines, n)
    tables = [make.normal(lines, 2, order="C"), make.array(order, np.int64, "C")]
    return clock, [row, index], tables


def _gather(dtype: str, make: Maker, rows: int, columns: int) -> tuple[Any, ...]:
    out = make.nothing(rows, columns, dtype=dtype, order="C")
    source = make.array(np.resize(np.arange(251), (rows, columns)), dtype, "C")
    return out, source, make.array(np.random.default_rng(2).permutation(rows), np.int64)


def _gather_scaled(make: Maker, rows: int, columns: int) -> tuple[Any, ...]:
    source = make.array(np.resize(np.arange(251), (rows, columns)), np.uint8, "C")
    index = make.array(np.random.default_rng(2).permutation(rows), np.int64)
    out = make.nothing(rows, columns, order="C")
    return out, source, index, 1 / 255, make.scratch(source)


def _normalize(make: Maker, n: int) -> tuple[Any, ...]:
    return make.nothing(n), make.unit(n)


# ------------------------------------------------------------------------- operands


def _operand(backend: Backend) -> np.dtype[Any]:
    """Return the type of what kernels write for matrix products to read."""
    return np.dtype("float32" if backend.xp is np else "uint16")


def _split(format: str, count: int, make: Maker, n: int) -> tuple[Any, ...]:
    parts = [make.nothing(n, dtype=_operand(make.backend)) for _ in range(count)]
    return parts, make.normal(n), format


def _unscale(make: Maker, n: int) -> tuple[Any, ...]:
    return make.normal(n), make.array(np.float32(0)), make.scalar(1024.0, 1.0)


def _loss_scale_step(make: Maker, n: int) -> tuple[Any, ...]:
    return make.array(np.array([1024, 0, 0, 0], np.float32)), 1e9, 2.0**24


# --------------------------------------------------------------------------- network


def _forward_product(make: Maker, rows: int, columns: int, inner: int) -> tuple[Any, ...]:
    x, w = make.normal(rows, inner), make.normal(columns, inner, order="C")
    return make.nothing(rows, columns), x, w.T


def _update_product(make: Maker, rows: int, columns: int, inner: int) -> tuple[Any, ...]:
    dz, x = make.normal(rows, columns), make.normal(rows, inner)
    w = make.normal(columns, inner, order="C")
    return w, dz.T, x, make.scalar(-0.1, -1e-6), 1.0, make.scratch(w)


def _forward(activation: Activation, make: Maker, rows: int, columns: int) -> tuple[Any, ...]:
    z = make.normal(rows, columns)
    a = z if activation.keeps == "output" else make.nothing(rows, columns)
    return a, z, make.added(columns), activation


def _backward(activation: Activation, make: Maker, rows: int, columns: int) -> tuple[Any, ...]:
    da = dz = kept = make.normal(rows, columns)
    if activation.name != "identity":
        kept = (make.unit if activation.keeps == "output" else make.normal)(rows, columns)
        dz = make.nothing(rows, columns)
    lr = make.scalar(-0.1, -1e-6)
    return dz, make.normal(columns), da, kept, activation, lr, 1.0, make.scratch(da)


def _activations() -> list[Case]:
    cases = []
    for name, sigma in ACTIVATIONS.items():
        forward = partial(_forward, sigma)
        in_place = 8 if sigma.keeps == "output" else 12  # z is read and written, or a besides
        cases.append(
            Case(
                "bias_activation_forward",
                "matrix",
                forward,
                lambda b, n, each=in_place: each * b * n + 4 * n,
                name,
            )
        )
    for name, sigma in ACTIVATIONS.items():
        backward = partial(_backward, sigma)
        each = 4 if name == "identity" else 12  # dz is da there, and stays
        cases.append(
            Case(
                "bias_activation_backward",
                "matrix",
                backward,
                lambda b, n, each=each: each * b * n + 8 * n,
                name,
            )
        )
    return cases


def _dropout(make: Maker, rows: int, columns: int) -> tuple[Any, ...]:
    out, x = make.nothing(rows, columns), make.normal(rows, columns)
    scratch = make.backend.empty((rows, 2 * columns), np.uint32, make.order)
    return out, x, make.array(12345, np.uint32), 0.5, 0, scratch


# ------------------------------------------------------------------------------ loss


def _softmax(make: Maker, rows: int, columns: int) -> tuple[Any, ...]:
    return make.nothing(rows, columns), make.normal(rows, columns)


def _cross_entropy(make: Maker, rows: int, columns: int) -> tuple[Any, ...]:
    loss, correct, dz = make.nothing(rows), make.nothing(rows), make.nothing(rows, columns)
    z, labels = make.normal(rows, columns), make.array(np.arange(rows) % columns, np.int64)
    return loss, correct, dz, z, labels, 1 / rows, 0.0, make.scratch(z)


def _pointwise(formula: Pointwise, make: Maker, rows: int, columns: int) -> tuple[Any, ...]:
    loss, correct, dz = make.nothing(rows), make.nothing(rows), make.nothing(rows, columns)
    z, target = make.normal(rows, columns), make.unit(rows, columns)
    parameter = 1.0 if formula.name == "huber" else 0.1
    return loss, correct, dz, z, target, 1 / rows, formula, parameter, make.scratch(z)


def _accumulate(make: Maker, n: int) -> tuple[Any, ...]:
    return make.array(np.zeros(n), np.float64), make.normal(n)


# ---------------------------------------------------------------------------- update


def _scale(make: Maker, n: int) -> tuple[Any, ...]:
    return make.normal(n), make.scalar(0.9, 1.0)


def _add_penalty(make: Maker, n: int) -> tuple[Any, ...]:
    g, w = make.normal(n), make.normal(n)
    return g, w, 1e-4, 1e-5, make.scratch(g)


def _clip_norm(make: Maker, n: int) -> tuple[Any, ...]:
    g = make.normal(n)
    return g, 1.0, make.scratch(g)


def _clip_rows(make: Maker, rows: int, columns: int) -> tuple[Any, ...]:
    w = make.normal(rows, columns, order="C")
    return w, 1e9 if make.steady else columns**0.5, make.scratch(w)


def _update(states: int, rest: tuple[Any, ...], make: Maker, n: int) -> tuple[Any, ...]:
    """W, the optimizer's arrays, gradient, learning rate and what the optimizer adds."""
    w, g = make.normal(n), make.normal(n)
    own = [make.unit(n) for _ in range(states)]
    return w, *own, g, make.scalar(0.1, 0.0), *rest, make.scratch(w)


CASES = [
    Case("begin_step", "vector", _begin_step, lambda n: 16 * n),
    Case("gather", "matrix", partial(_gather, "float32"), lambda b, n: 8 * b * n + 8 * b, "fp32"),
    Case("gather", "matrix", partial(_gather, "uint8"), lambda b, n: 2 * b * n + 8 * b, "uint8"),
    Case("gather_scaled", "matrix", _gather_scaled, lambda b, n: 5 * b * n + 8 * b),
    # the sum must be known before the second pass, so out of cache its operand is read twice
    Case("normalize", "vector", _normalize, lambda n: 12 * n),
    Case(
        "matmul", "product", _forward_product, lambda b, n, k: 4 * (b * k + n * k + b * n), "x Wᵀ"
    ),
    Case(
        "matmul",
        "product",
        _update_product,
        lambda b, n, k: 4 * (b * n + b * k) + 8 * n * k,
        "W - η dzᵀx",
    ),
    *_activations(),
    Case("dropout", "matrix", _dropout, lambda b, n: 8 * b * n),
    *(
        case
        for kind in ("classes", "matrix")
        for case in (
            Case("softmax", kind, _softmax, lambda b, n: 8 * b * n),
            # a label of 8 bytes, a loss and whether it is right for each row
            Case("softmax_cross_entropy", kind, _cross_entropy, lambda b, n: 8 * b * n + 16 * b),
        )
    ),
    *(
        Case(
            "pointwise_loss",
            "classes",
            partial(_pointwise, formula),
            lambda b, n: 12 * b * n + 8 * b,
            name,
        )
        for name, formula in POINTWISE.items()
    ),
    Case("split", "vector", partial(_split, "bf16", 1), lambda n: 4 * n, "bf16", 1),
    Case("split", "vector", partial(_split, "fp16", 1), lambda n: 4 * n, "fp16", 1),
    Case("split", "vector", partial(_split, "bf16", 3), lambda n: 4 * n, "bf16 x 3", 3),
    Case("unscale", "vector", _unscale, lambda n: 8 * n),
    Case("loss_scale_step", "state", _loss_scale_step, lambda n: 8 * n),
    Case("accumulate", "vector", _accumulate, lambda n: 20 * n),
    Case("scale", "vector", _scale, lambda n: 8 * n),
    Case("add_penalty", "vector", _add_penalty, lambda n: 12 * n),
    # as in normalize
    Case("clip_norm", "vector", _clip_norm, lambda n: 12 * n),
    # in training few rows exceed the limit, here none: what remains is reading them
    Case("clip_rows", "matrix", _clip_rows, lambda b, n: 4 * b * n),
    Case("sgd_step", "vector", partial(_update, 0, ()), lambda n: 12 * n),
    Case("momentum_step", "vector", partial(_update, 1, (0.9,)), lambda n: 20 * n),
    Case("nesterov_step", "vector", partial(_update, 1, (0.9,)), lambda n: 20 * n),
    Case("adagrad_step", "vector", partial(_update, 1, (1e-8,)), lambda n: 20 * n),
    Case("rmsprop_step", "vector", partial(_update, 1, (0.9, 1e-8)), lambda n: 20 * n),
    Case("adam_step", "vector", partial(_update, 2, (1.0, (0.9, 0.999), 1e-8)), lambda n: 28 * n),
]
