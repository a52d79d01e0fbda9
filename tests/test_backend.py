"""Each operation equals its textbook formula, in any memory and memory order, and on replay.

A case holds arrays by name, a call, and the formula. Arrays of float64 become arrays of the
backend's own type (but for "total"), others keep theirs; names that begin with "scratch" may hold
anything afterwards, and what the formula does not name must not have changed.
"""

import copy
import inspect
import pickle
import subprocess
import sys
import types
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from fake_cuda import CUPY
from threadpoolctl import ThreadpoolController

from gpumlp.backend import (
    ACTIVATIONS,
    OPERATIONS,
    POINTWISE,
    PRECISIONS,
    Backend,
    RecordingBackend,
    Workspace,
    choose_backend,
    get_backend,
)
from gpumlp.backend.cuda.backend import CudaBackend, CupyFormulas
from gpumlp.errors import DeviceError

SHAPES = [(0, 5), (1, 1), (3, 5), (31, 33), (257, 129)]
# the CPU's workspace is in Fortran order, but rows of data are gathered in C order
ORDERS = ["C", "F", "F, targets C"]


@dataclass
class Case:
    arrays: dict[str, np.ndarray]
    call: Callable  # of a backend and the arrays (a namespace)
    formula: Callable  # of the arrays in float64: name -> value afterwards
    ulps: float = 32  # tolerated error in units of the last place of the largest entry
    largest: float = 0.0  # of the terms of a sum, where they may cancel


# ------------------------------------------------------------------- textbook formulas


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def gelu_slope(z):
    return np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * z**2)


def gelu_tanh(z):
    return np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))


SIGMA = {  # name -> σ, σ'
    "identity": (lambda z: z, lambda z: np.ones_like(z)),
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * sigmoid(-z)),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "relu": (lambda z: np.where(z > 0, z, 0), lambda z: np.where(z > 0, 1.0, 0.0)),
    "leaky_relu": (lambda z: np.where(z > 0, z, 0.01 * z), lambda z: np.where(z > 0, 1.0, 0.01)),
    "elu": (lambda z: np.where(z > 0, z, np.exp(z) - 1), lambda z: np.exp(np.minimum(z, 0))),
    "gelu": (
        lambda z: z / 2 * (1 + gelu_tanh(z)),
        lambda z: (1 + gelu_tanh(z)) / 2 + z / 2 * (1 - gelu_tanh(z) ** 2) * gelu_slope(z),
    ),
    "silu": (lambda z: z * sigmoid(z), lambda z: sigmoid(z) + z * sigmoid(z) * sigmoid(-z)),
    "softplus": (lambda z: np.log(1 + np.exp(z)), sigmoid),
}


def smoothed(t, smoothing):
    return (1 - smoothing) * t + smoothing / 2


LOSS = {  # name -> l(z, t, parameter), ∂l/∂z, parameter
    "bce": (
        lambda z, t, e: (
            -smoothed(t, e) * np.log(sigmoid(z)) - (1 - smoothed(t, e)) * np.log(sigmoid(-z))
        ),
        lambda z, t, e: sigmoid(z) - smoothed(t, e),
        0.1,
    ),
    "mse": (lambda z, t, _: (z - t) ** 2, lambda z, t, _: 2 * (z - t), 0.0),
    "mae": (lambda z, t, _: abs(z - t), lambda z, t, _: np.sign(z - t), 0.0),
    "huber": (
        lambda z, t, d: np.where(abs(z - t) <= d, (z - t) ** 2 / 2, d * (abs(z - t) - d / 2)),
        lambda z, t, d: np.where(abs(z - t) <= d, z - t, d * np.sign(z - t)),
        0.75,
    ),
    "poisson": (lambda z, t, _: np.exp(z) - t * z, lambda z, t, _: np.exp(z) - t, 0.0),
}


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def mask(key, rows, units, rate, first_row=0):
    """Return which entries dropout keeps, from Python's whole numbers and the definition."""

    def kept(row, unit):
        return random_bits(first_row + row, unit, key) >= rate * 2**32

    numbers = [[kept(row, unit) for unit in range(units)] for row in range(rows)]
    return np.array(numbers, dtype=bool).reshape(rows, units)


def random_bits(row, unit, key):
    h = row * 0x9E3779B1 + unit * 0x85EBCA77 + key & 0xFFFFFFFF
    h = (h ^ h >> 16) * 0x7FEB352D & 0xFFFFFFFF
    h = ((h ^ h >> 15) + key) * 0x846CA68B & 0xFFFFFFFF
    return h ^ h >> 16


# --------------------------------------------------------------------- cases, by operation


def _single(numbers):
    return np.asarray(numbers, np.float32).astype(np.float64)


class Draw:
    """Random float64 numbers that float32 holds exactly, and whole numbers."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def normal(self, *shape):
        return _single(self.rng.normal(size=shape))

    def positive(self, *shape):
        return _single(self.rng.uniform(0.1, 2, shape))

    def integers(self, high, *shape, dtype=np.int64):
        return self.rng.integers(high, size=shape, dtype=dtype)

    def nothing(self, *shape, dtype=np.float64):
        """Memory that must not be read."""
        return np.full(shape, np.nan if np.dtype(dtype).kind == "f" else 123456789, dtype)


def begin_step(draw, rows, columns):
    rows = max(rows, 1)  # an epoch has steps
    yield Case(
        {
            "clock": draw.integers(rows),
            "row": draw.nothing(columns),
            "table": draw.normal(rows, columns),
            "keys": draw.nothing(2, dtype=np.uint32),
            "key_table": draw.integers(2**32, rows, 2, dtype=np.uint32),
            "order": draw.integers(99, rows, columns),
            "index": draw.nothing(columns, dtype=np.int64),
        },
        lambda b, a: b.begin_step(
            a.clock, [a.row, a.keys, a.index], [a.table, a.key_table, a.order]
        ),
        lambda a: {
            "clock": a.clock + 1,
            "row": a.table[a.clock],
            "keys": a.key_table[a.clock],
            "index": a.order[a.clock],
        },
        ulps=0,
    )


def gather(draw, rows, columns):
    for source in (
        draw.normal(rows + 3, columns),
        draw.normal(rows + 3),
        draw.integers(9, rows + 3),
    ):
        yield Case(
            {
                "out": draw.nothing(rows, *source.shape[1:], dtype=source.dtype),
                "source": source,
                "index": draw.integers(rows + 3, rows),
            },
            lambda b, a: b.gather(a.out, a.source, a.index),
            lambda a: {"out": a.source[a.index]},
            ulps=0,
        )


def gather_scaled(draw, rows, columns):
    source = draw.integers(256, rows + 3, columns).astype(np.uint8)
    yield Case(
        {
            "out": draw.nothing(rows, columns),
            "source": source,
            "index": draw.integers(rows + 3, rows),
            "scratch": draw.integers(256, rows, columns).astype(np.uint8),
        },
        lambda b, a: b.gather_scaled(a.out, a.source, a.index, 1 / 255, a.scratch),
        lambda a: {"out": a.source[a.index] / 255},
    )


def normalize(draw, rows, columns):
    for factor in (1, 0):
        yield Case(
            {"out": draw.nothing(rows), "weights": factor * draw.positive(rows)},
            lambda b, a: b.normalize(a.out, a.weights),
            lambda a: {"out": a.weights / (a.weights.sum() or 1)},
        )


def matmul(draw, rows, columns):
    inner = columns // 2 + 1
    arrays = {
        "out": draw.normal(rows, columns),
        "a": draw.normal(rows, inner),
        "b": draw.normal(columns, inner),
        "scratch": draw.nothing(rows, columns),
        "alpha": draw.positive(),
        "beta": draw.positive(),
    }
    precision = {"ulps": 8 + inner, "largest": 4 * np.sqrt(inner)}
    plain = {**arrays, "out": draw.nothing(rows, columns)}
    yield Case(
        plain,
        lambda b, a: b.matmul(a.out, a.a, a.b.T),
        lambda a: {"out": a.a @ a.b.T},
        **precision,
    )
    for alpha, beta in ((1.0, 1.0), (-0.5, 1.0), (1.0, 0.5), (2.0, 0.0), (None, None)):

        def call(b, a, alpha=alpha, beta=beta):
            factors = (a.alpha, a.beta) if alpha is None else (alpha, beta)
            b.matmul(a.out, a.a, a.b.T, *factors, a.scratch)

        def formula(a, alpha=alpha, beta=beta):
            factors = (a.alpha, a.beta) if alpha is None else (alpha, beta)
            return {"out": factors[0] * a.a @ a.b.T + factors[1] * a.out}

        yield Case(arrays, call, formula, **precision)


def bias_activation_forward(draw, rows, columns):
    for name, (sigma, _) in SIGMA.items():
        arrays = {"z": 3 * draw.normal(rows, columns), "bias": draw.normal(columns)}
        activation = ACTIVATIONS[name]
        yield Case(
            {**arrays, "a": draw.nothing(rows, columns)},
            lambda b, a, s=activation: b.bias_activation_forward(a.a, a.z, a.bias, s),
            lambda a, s=sigma: {"z": a.z + a.bias, "a": s(a.z + a.bias)},
        )
        yield Case(
            {**arrays, "a": draw.nothing(rows, columns)},
            lambda b, a, s=activation: b.bias_activation_forward(a.a, a.z, None, s),
            lambda a, s=sigma: {"a": s(a.z)},
        )
        if activation.keeps == "output":
            yield Case(
                arrays,
                lambda b, a, s=activation: b.bias_activation_forward(a.z, a.z, a.bias, s),
                lambda a, s=sigma: {"z": s(a.z + a.bias)},
            )


def bias_activation_backward(draw, rows, columns):
    for name, (sigma, derivative) in SIGMA.items():
        activation = ACTIVATIONS[name]
        z = 2 * draw.normal(rows, columns)
        output = activation.keeps == "output"
        arrays = {
            "dz": draw.nothing(rows, columns),
            "sink": draw.normal(columns),
            "da": draw.normal(rows, columns),
            "kept": sigma(z) if output else z,
            "z": z,
            "scratch": draw.nothing(rows, columns),
            "alpha": draw.positive(),
            "beta": draw.positive(),
        }

        def formula(a, alpha=1.0, beta=0.0, derivative=derivative):
            dz = a.da * derivative(a.z)
            return {"dz": dz, "sink": (beta * a.sink if beta else 0) + alpha * dz.sum(axis=0)}

        precision = {"ulps": 64, "largest": 4 * np.sqrt(rows)}
        yield Case(
            arrays,
            lambda b, a, s=activation: b.bias_activation_backward(
                a.dz, None, a.da, a.kept, s, scratch=a.scratch
            ),
            lambda a, f=formula: {"dz": f(a)["dz"]},
            **precision,
        )
        yield Case(
            {**arrays, "sink": draw.nothing(columns)},
            lambda b, a, s=activation: b.bias_activation_backward(
                a.dz, a.sink, a.da, a.kept, s, scratch=a.scratch
            ),
            formula,
            **precision,
        )
        yield Case(
            arrays,
            lambda b, a, s=activation: b.bias_activation_backward(
                a.dz, a.sink, a.da, a.kept, s, a.alpha, a.beta, a.scratch
            ),
            lambda a, f=formula: f(a, a.alpha, a.beta),
            **precision,
        )
        yield Case(
            arrays,
            lambda b, a, s=activation: b.bias_activation_backward(
                a.dz, a.sink, a.da, a.kept, s, -0.1, 0.9, a.scratch
            ),
            lambda a, f=formula: f(a, -0.1, 0.9),
            **precision,
        )
    yield Case(
        {"da": draw.normal(rows, columns), "sink": draw.nothing(columns), "scratch": z},
        lambda b, a: b.bias_activation_backward(
            a.da, a.sink, a.da, a.da, ACTIVATIONS["identity"], scratch=a.scratch
        ),
        lambda a: {"sink": a.da.sum(axis=0)},
        **precision,
    )


def dropout(draw, rows, columns):
    for rate, first_row in ((0.5, 0), (0.1, 7)):
        yield Case(
            {
                "out": draw.nothing(rows, columns),
                "x": draw.normal(rows, columns),
                "key": draw.integers(2**32, dtype=np.uint32),
                "scratch": draw.nothing(rows, 2 * columns, dtype=np.uint32),
            },
            lambda b, a, rate=rate, first=first_row: b.dropout(
                a.out, a.x, a.key, rate, first, a.scratch
            ),
            lambda a, rate=rate, first=first_row: {
                "out": a.x * mask(int(a.key), rows, columns, rate, first) / (1 - rate)
            },
        )


def _softmax(draw, rows, columns):
    yield Case(
        {"y": draw.nothing(rows, columns), "z": 5 * draw.normal(rows, columns)},
        lambda b, a: b.softmax(a.y, a.z),
        lambda a: {"y": softmax(a.z)},
    )


def softmax_cross_entropy(draw, rows, columns):
    labels = draw.integers(columns, rows)
    distribution = softmax(draw.normal(rows, columns))
    common = {
        "loss": draw.nothing(rows),
        "correct": draw.nothing(rows),
        "dz": draw.nothing(rows, columns),
        "weights": draw.positive(rows),
        "weight": draw.positive(),
        "scratch": draw.nothing(rows, columns),
    }

    def formula(a, smoothing, weight, count):
        one_hot = a.target.ndim == 2
        t = a.target if one_hot else np.eye(columns)[a.target]
        ideal = (1 - smoothing) * t + smoothing / columns
        y = softmax(a.z)
        values = {
            "loss": -(ideal * np.log(y)).sum(axis=1),
            "dz": (y - ideal) * np.reshape(weight, (-1, 1)),
        }
        if count:
            values["correct"] = a.z.argmax(axis=1) == t.argmax(axis=1)
        return values

    for target in (labels, np.eye(columns)[labels], distribution):
        for smoothing in (0.0, 0.1):
            # small whole numbers have ties
            z = np.round(2 * draw.normal(rows, columns))
            arrays = {**common, "z": z, "target": target}
            precision = {"ulps": 32 + columns, "largest": 5.0}
            yield Case(
                arrays,
                lambda b, a, e=smoothing: b.softmax_cross_entropy(
                    a.loss, a.correct, a.dz, a.z, a.target, a.weights, e, a.scratch
                ),
                lambda a, e=smoothing: formula(a, e, a.weights, True),
                **precision,
            )
            yield Case(
                arrays,
                lambda b, a, e=smoothing: b.softmax_cross_entropy(
                    a.loss, None, a.dz, a.z, a.target, 0.25, e, a.scratch
                ),
                lambda a, e=smoothing: formula(a, e, 0.25, False),
                **precision,
            )
            yield Case(
                arrays,
                lambda b, a, e=smoothing: b.softmax_cross_entropy(
                    a.loss, None, a.dz, a.z, a.target, a.weight, e, a.scratch
                ),
                lambda a, e=smoothing: formula(a, e, a.weight, False),
                **precision,
            )


def pointwise_loss(draw, rows, columns):
    def formula(a, name, weight, count):
        value, derivative, parameter = LOSS[name]
        values = {
            "loss": value(a.z, a.target, parameter).mean(axis=1),
            "dz": derivative(a.z, a.target, parameter) / columns * np.reshape(weight, (-1, 1)),
        }
        if count:
            values["correct"] = ((a.z > 0) == (a.target > 0.5)).all(axis=1)
        return values

    for name, (_, _, parameter) in LOSS.items():
        binary = name == "bce"
        z = 2 * draw.normal(rows, columns)
        if binary:  # an output of 0 says no
            z *= draw.integers(4, rows, columns) > 0
        # rows that are right must occur, also where there are many outputs
        right = np.where(draw.integers(4, rows, 1) > 0, z > 0, draw.integers(2, rows, columns))
        arrays = {
            "loss": draw.nothing(rows),
            "correct": draw.nothing(rows),
            "dz": draw.nothing(rows, columns),
            "z": z,
            "target": right.astype(float) if binary else draw.positive(rows, columns),
            "weights": draw.positive(rows),
            "scratch": draw.nothing(rows, columns),
        }
        yield Case(
            arrays,
            lambda b, a, n=name, p=parameter: b.pointwise_loss(
                a.loss, a.correct, a.dz, a.z, a.target, a.weights, POINTWISE[n], p, a.scratch
            ),
            lambda a, n=name: formula(a, n, a.weights, True),
            ulps=64,
        )
        yield Case(
            arrays,
            lambda b, a, n=name, p=parameter: b.pointwise_loss(
                a.loss, None, a.dz, a.z, a.target, 0.125, POINTWISE[n], p, a.scratch
            ),
            lambda a, n=name: formula(a, n, 0.125, False),
            ulps=64,
        )


def accumulate(draw, rows, columns):
    arrays = {
        "total": draw.normal(rows),
        "values": draw.normal(rows),
        "weights": draw.positive(rows),
        "scratch": draw.nothing(rows),
    }
    yield Case(
        arrays,
        lambda b, a: b.accumulate(a.total, a.values),
        lambda a: {"total": a.total + a.values},
    )
    yield Case(
        arrays,
        lambda b, a: b.accumulate(a.total, a.values, a.weights, a.scratch),
        lambda a: {"total": a.total + a.weights * a.values},
    )


def scale(draw, rows, columns):
    w, factor = draw.normal(rows * columns), draw.positive()
    yield Case(
        {"w": w, "factor": factor},
        lambda b, a: b.scale(a.w, a.factor),
        lambda a: {"w": a.w * a.factor},
    )


def split(draw, rows, columns):
    def part(x, digits):
        _, exponent = np.frexp(x)
        last = np.ldexp(1.0, exponent - digits)
        return np.rint(x / last) * last

    def formula(a, digits, count):
        parts, rest = {}, a.x
        for name in ("high", "middle", "low")[:count]:
            parts[name] = part(rest, digits)
            rest = rest - parts[name]
        return parts

    x = draw.normal(rows, columns).astype(np.float32).astype(np.float64)
    names = ("high", "middle", "low")
    for format, digits, count in (("bf16", 8, 1), ("bf16", 8, 2), ("bf16", 8, 3), ("tf32", 11, 1)):
        yield Case(
            {name: draw.nothing(rows, columns) for name in names[:count]} | {"x": x},
            lambda b, a, f=format, n=count: b.split([getattr(a, p) for p in names[:n]], a.x, f),
            lambda a, d=digits, n=count: formula(a, d, n),
            ulps=0,
        )


def unscale(draw, rows, columns):
    yield Case(
        {"g": draw.normal(rows * columns), "overflow": np.zeros(()), "scale": np.array(1024.0)},
        lambda b, a: b.unscale(a.g, a.overflow, a.scale),
        lambda a: {"g": a.g / 1024, "overflow": np.zeros(())},
    )


def loss_scale_step(draw, rows, columns):
    for before, after in (
        ([8, 3, 5, 0], [8, 4, 5, 0]),
        ([8, 4, 5, 0], [16, 0, 5, 0]),
        ([48, 4, 5, 0], [64, 0, 5, 0]),
        ([8, 4, 5, 1], [4, 0, 6, 0]),
    ):
        yield Case(
            {"state": np.array(before, np.float64)},
            lambda b, a: b.loss_scale_step(a.state, 5.0, 64.0),
            lambda a, after=after: {"state": np.array(after)},
        )


def add_penalty(draw, rows, columns):
    for decay, l1 in ((0.1, 0.0), (0.0, 0.1), (0.2, 0.1), (0.0, 0.0)):
        n = rows * columns
        yield Case(
            {"g": draw.normal(n), "w": np.round(draw.normal(n), 0), "scratch": draw.nothing(n)},
            lambda b, a, d=decay, l1=l1: b.add_penalty(a.g, a.w, d, l1, a.scratch),
            lambda a, d=decay, l1=l1: {"g": a.g + d * a.w + l1 * np.sign(a.w)},
        )


def clip_norm(draw, rows, columns):
    n = rows * columns
    for limit in (0.5, 1e6):
        yield Case(
            {"g": draw.normal(n), "scratch": draw.nothing(n)},
            lambda b, a, limit=limit: b.clip_norm(a.g, limit, a.scratch),
            lambda a, limit=limit: {
                "g": a.g * (limit / max(np.sqrt((a.g**2).sum()), limit)),
            },
        )


def clip_rows(draw, rows, columns):
    limit = np.sqrt(columns)  # about half of the rows exceed it

    def formula(a):
        norms = np.linalg.norm(a.w, axis=1, keepdims=True)
        return {"w": np.where(norms > limit, a.w * limit / np.where(norms, norms, 1), a.w)}

    yield Case(
        {
            "w": draw.normal(rows, columns) * (np.arange(rows) != 1)[:, None],
            "scratch": draw.nothing(rows, columns),
        },
        lambda b, a: b.clip_rows(a.w, float(limit), a.scratch),
        formula,
    )


def update(call, formula, slots):
    """Return the builder of an update's case: w, its state, g, and lr as a 0-d array."""

    def build(draw, rows, columns):
        n = rows * columns
        arrays = {slot: draw.positive(n) for slot in slots}
        arrays |= {"w": draw.normal(n), "g": draw.normal(n), "scratch": draw.nothing(n)}
        arrays |= {"lr": draw.positive(), "correction": draw.positive()}
        yield Case(arrays, call, formula, largest=4.0, ulps=64)

    return build


def momentum_formula(a, look_ahead):
    v = 0.9 * a.v + a.g
    return {"v": v, "w": a.w - a.lr * (a.g + 0.9 * v if look_ahead else v)}


def adam_formula(a):
    m, v = 0.9 * a.m + 0.1 * a.g, 0.99 * a.v + 0.01 * a.g**2
    return {"m": m, "v": v, "w": a.w - a.lr * m / (a.correction * np.sqrt(v) + 1e-3)}


def scaled_formula(a, s):
    return {"s": s, "w": a.w - a.lr * a.g / (np.sqrt(s) + 1e-3)}


CASES = {
    "begin_step": begin_step,
    "gather": gather,
    "gather_scaled": gather_scaled,
    "normalize": normalize,
    "matmul": matmul,
    "bias_activation_forward": bias_activation_forward,
    "bias_activation_backward": bias_activation_backward,
    "dropout": dropout,
    "softmax": _softmax,
    "softmax_cross_entropy": softmax_cross_entropy,
    "pointwise_loss": pointwise_loss,
    "accumulate": accumulate,
    "split": split,
    "unscale": unscale,
    "loss_scale_step": loss_scale_step,
    "scale": scale,
    "add_penalty": add_penalty,
    "clip_norm": clip_norm,
    "clip_rows": clip_rows,
    "sgd_step": update(
        lambda b, a: b.sgd_step(a.w, a.g, a.lr, a.scratch),
        lambda a: {"w": a.w - a.lr * a.g},
        [],
    ),
    "momentum_step": update(
        lambda b, a: b.momentum_step(a.w, a.v, a.g, a.lr, 0.9, a.scratch),
        lambda a: momentum_formula(a, look_ahead=False),
        ["v"],
    ),
    "nesterov_step": update(
        lambda b, a: b.nesterov_step(a.w, a.v, a.g, a.lr, 0.9, a.scratch),
        lambda a: momentum_formula(a, look_ahead=True),
        ["v"],
    ),
    "adagrad_step": update(
        lambda b, a: b.adagrad_step(a.w, a.s, a.g, a.lr, 1e-3, a.scratch),
        lambda a: scaled_formula(a, a.s + a.g**2),
        ["s"],
    ),
    "rmsprop_step": update(
        lambda b, a: b.rmsprop_step(a.w, a.s, a.g, a.lr, 0.99, 1e-3, a.scratch),
        lambda a: scaled_formula(a, 0.99 * a.s + 0.01 * a.g**2),
        ["s"],
    ),
    "adam_step": update(
        lambda b, a: b.adam_step(
            a.w, a.m, a.v, a.g, a.lr, a.correction, (0.9, 0.99), 1e-3, a.scratch
        ),
        adam_formula,
        ["m", "v"],
    ),
}

every_operation = pytest.mark.parametrize("name", CASES)


def cases(name, shape, seed=0):
    draw = Draw([zlib.crc32(name.encode()), *shape, seed])
    return list(CASES[name](draw, *shape))


def place(case, backend, order):
    """Copy a case's arrays to `backend`, those with two dimensions in `order`."""
    placed = {}
    for name, array in case.arrays.items():
        own = array.dtype == np.float64 and name != "total"
        dtype = backend.dtype if own else array.dtype
        its_order = "C" if array.ndim != 2 or (name == "target" and "," in order) else order[0]
        placed[name] = backend.empty(array.shape, dtype, its_order)
    fill(placed, case, backend)
    return SimpleNamespace(**placed)


def fill(placed, case, backend):
    for name, array in case.arrays.items():
        placed[name][...] = backend.asarray(array, placed[name].dtype)


def check(case, placed, backend, context):
    expected = case.formula(SimpleNamespace(**case.arrays))
    for name, array in case.arrays.items():
        actual = backend.to_numpy(getattr(placed, name))
        if name in expected:
            value = np.asarray(expected[name], dtype=np.float64)
            largest = max(case.largest, np.abs(value).max(initial=0))
            tolerance = case.ulps * np.finfo(backend.dtype).eps * largest
            np.testing.assert_allclose(actual, value, 0, tolerance, err_msg=f"{name}, {context}")
        elif not name.startswith("scratch"):
            same = array.astype(actual.dtype)
            np.testing.assert_array_equal(actual, same, f"{name} changed, {context}")


# ----------------------------------------------------------------------------- operations


def test_the_table_of_cases_has_every_operation_and_nothing_else():
    assert sorted(CASES) == sorted(OPERATIONS)


def test_the_tables_of_formulas_have_every_activation_and_every_loss():
    assert list(SIGMA) == list(ACTIVATIONS)
    assert sorted(LOSS) == sorted(POINTWISE)


@every_operation
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_operation_equals_its_textbook_formula(backend, name, shape, order):
    for i, case in enumerate(cases(name, shape)):
        placed = place(case, backend, order)
        case.call(backend, placed)
        check(case, placed, backend, f"case {i}")


@every_operation
@pytest.mark.parametrize("shape", [(3, 5), (31, 33)], ids=str)
def test_an_operation_is_right_on_a_used_workspace_and_on_replay(backend, name, shape):
    workspace = Workspace(backend)
    for size in (300, 30_000):  # memory of other sizes, full of what must not be read
        for _ in range(12):
            workspace.empty((size,), np.uint8, "C")[...] = 255
    first, second = cases(name, shape), cases(name, shape, seed=1)
    for i, (case, changed) in enumerate(zip(first, second, strict=True)):
        plan = []
        recorder = RecordingBackend(backend, workspace, plan)
        workspace.position = 0
        placed = place(case, recorder, recorder.workspace_order)
        case.call(recorder, placed)
        check(case, placed, backend, f"case {i}")
        assert len(plan) == 1
        fill(vars(placed), changed, backend)
        plan[0]()
        check(changed, placed, backend, f"replay of case {i}")


def test_recording_without_a_plan_runs_the_operation_and_keeps_nothing(backend):
    recorder = RecordingBackend(backend, Workspace(backend))
    w = recorder.asarray([1.0, 2.0])
    recorder.scale(w, 2.0)
    assert w.tolist() == [2.0, 4.0]
    assert recorder.plan is None


# --------------------------------------------------------------------------- workspace


def test_a_rewound_workspace_gives_the_same_memory_in_the_same_order(backend):
    workspace = Workspace(backend)
    requests = [((4, 3), "F"), ((5,), "C"), ((2, 6), "C")]

    def take():
        workspace.position = 0
        return [workspace.empty(shape, backend.dtype, order) for shape, order in requests]

    first, held = take(), workspace.nbytes
    for i, array in enumerate(first):
        array[...] = i
    second = take()
    assert workspace.nbytes == held == sum(array.nbytes for array in first)
    for i, (array, (shape, order)) in enumerate(zip(second, requests, strict=True)):
        assert array.shape == shape
        assert array.flags[f"{order}_CONTIGUOUS"]
        assert (array == i).all()


def test_memory_that_grows_leaves_arrays_taken_before_alone(backend):
    workspace = Workspace(backend)
    small = workspace.empty((3,), backend.dtype, "C")
    small[...] = 7
    workspace.position = 0
    workspace.empty((300,), backend.dtype, "C")[...] = 0
    assert (small == 7).all()


# -------------------------------------------------------------------------- activations


@pytest.mark.parametrize("size", [0, 1e-8, 15, 88, 104, np.inf])
@pytest.mark.parametrize("sign", [1, -1])
def test_sigmoid_is_within_four_ulps_from_end_to_end(backend, size, sign):
    z = backend.asarray([[sign * size]])
    a = backend.empty(z.shape)
    backend.bias_activation_forward(a, z, None, ACTIVATIONS["sigmoid"])
    x = np.longdouble(backend.to_numpy(z)[0, 0])
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-x))
    ulps = 4 * np.finfo(backend.dtype).eps * expected
    # subnormal numbers may become zero or the smallest normal one: 1.2e-38 in float32
    assert abs(backend.to_numpy(a)[0, 0] - expected) <= max(
        ulps, 1.001 * np.finfo(backend.dtype).tiny
    )


def test_sigmoid_keeps_its_relative_accuracy_in_the_left_tail(backend):
    z = backend.asarray(np.linspace(-86, -10, 1000)[None])
    a = backend.empty(z.shape)
    backend.bias_activation_forward(a, z, None, ACTIVATIONS["sigmoid"])
    x = backend.to_numpy(z).astype(np.longdouble)
    error = abs(backend.to_numpy(a) * (1 + np.exp(-x)) - 1)
    assert error.max() <= 4 * np.finfo(backend.dtype).eps


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_stays_nan(backend, name):
    z = backend.asarray([[np.nan, 1.0]])
    a = backend.empty(z.shape)
    with np.errstate(invalid="ignore"):
        backend.bias_activation_forward(a, z, None, ACTIVATIONS[name])
    assert np.isnan(backend.to_numpy(a)).tolist() == [[True, False]]


def test_arrays_have_the_type_and_the_order_that_were_asked_for(backend):
    assert backend.empty((2, 3)).dtype == backend.zeros((2, 3)).dtype == backend.dtype
    assert backend.asarray([[1, 2]]).dtype == backend.dtype
    assert backend.empty((2, 3), np.uint16).dtype == np.uint16
    assert backend.zeros((2, 3), np.int64).dtype == backend.asarray(3, np.int64).dtype == np.int64
    assert backend.empty((2, 3)).flags.c_contiguous
    assert backend.empty((2, 3), order="F").flags.f_contiguous
    np.testing.assert_array_equal(backend.to_numpy(backend.zeros((2, 3))), np.zeros((2, 3)))


# ------------------------------------------------------------------------------ dropout

ROWS, UNITS = 400, 250


def dropped(backend, x, key, rate, first_row=0, order="C"):
    out = backend.empty(x.shape, order=order)
    source = backend.empty(x.shape, order=order)
    source[...] = backend.asarray(x)
    scratch = backend.empty((x.shape[0], 2 * x.shape[1]), np.uint32, order)
    backend.dropout(out, source, backend.asarray(key, np.uint32), rate, first_row, scratch)
    return backend.to_numpy(out)


def kept(backend, key, rate=0.5, **where):
    return dropped(backend, np.ones((ROWS, UNITS)), key, rate, **where) > 0


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("key", [0, 1, 2**32 - 1])
def test_the_share_that_dropout_keeps_is_right_in_all_rows_and_columns(backend, key, rate):
    mask, sigma = kept(backend, key, rate), np.sqrt(rate * (1 - rate))
    assert abs(mask.mean() - (1 - rate)) <= 4 * sigma / np.sqrt(mask.size)
    for axis in (0, 1):  # squared deviations of n shares: their mean is 1, its deviation √(2/n)
        n, shares = mask.shape[axis], mask.mean(axis=axis)
        spread = (((shares - (1 - rate)) / sigma) ** 2 * n).mean()
        # the kurtosis of a rare event adds to the deviation
        deviation = np.sqrt((2 + 1 / (sigma**2 * n)) / len(shares))
        assert abs(spread - 1) <= 5 * deviation


def test_a_rate_next_to_one_drops_nearly_all(backend):
    for rate in (1 - 2.0**-40, 1 - 2.0**-53):
        for order in "CF":
            assert kept(backend, 5, rate, order=order).mean() < 1e-3


def test_the_mean_of_what_dropout_returns_is_the_mean_of_its_input(backend):
    x = np.random.default_rng(1).uniform(0, 1, (ROWS, UNITS))
    out, rate = dropped(backend, x, 3, 0.3), 0.3
    deviation = np.sqrt((x**2).sum() * rate / (1 - rate)) / x.size
    assert abs(out.mean(dtype=np.float64) - x.mean()) <= 4 * deviation


def test_the_mask_does_not_depend_on_memory_order_or_precision(backend):
    reference = kept(get_backend("cpu", "fp64"), 5)
    for order in ("C", "F"):
        np.testing.assert_array_equal(kept(backend, 5, order=order), reference)


@pytest.mark.parametrize("unit", [0, 1, 249])
def test_an_entry_is_kept_up_to_the_rate_that_its_bits_are(backend, unit):
    bits = random_bits(3, unit, 12345)
    for rate, is_kept in ((bits / 2**32, True), ((bits + 1) / 2**32, False)):
        out = dropped(backend, np.ones((4, 250)), 12345, rate)
        assert (out[3, unit] > 0) is np.bool_(is_kept)


@pytest.mark.parametrize("cut", [1, 64, 399])
def test_micro_batches_have_the_masks_of_the_whole_batch(backend, cut):
    x = np.ones((ROWS, UNITS))
    parts = [dropped(backend, x[:cut], 9, 0.5), dropped(backend, x[cut:], 9, 0.5, first_row=cut)]
    np.testing.assert_array_equal(np.concatenate(parts), dropped(backend, x, 9, 0.5))


@pytest.mark.parametrize("other", [1, 2, 3, 2**16, 2**31, 0x9E3779B1, 0x85EBCA77])
def test_masks_of_different_keys_agree_in_as_many_entries_as_chance_has_it(backend, other):
    for key in (0, 12345):
        agree = kept(backend, key) == kept(backend, (key + other) % 2**32)
        assert abs(agree.mean() - 0.5) <= 4.5 * 0.5 / np.sqrt(agree.size)


def test_a_shifted_mask_is_no_mask_of_another_row_or_unit(backend):
    mask = kept(backend, 7)
    for a, b in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
        assert abs((a == b).mean() - 0.5) <= 4.5 * 0.5 / np.sqrt(a.size)


# ------------------------------------------------------------------------------- devices


def public_methods(cls):
    return {
        name: method
        for name, method in vars(cls).items()
        if inspect.isfunction(method) and not name.startswith("_")
    }


@pytest.mark.parametrize("cls", [CudaBackend, CupyFormulas, RecordingBackend])
def test_overrides_have_the_signatures_of_the_backend(cls):
    overrides = {
        name: method
        for name, method in public_methods(cls).items()
        if not (cls is RecordingBackend and name in OPERATIONS)  # those pass everything on
    }
    assert overrides
    base = public_methods(Backend)
    for name, method in overrides.items():
        if hasattr(Backend, name):
            assert inspect.signature(method) == inspect.signature(base[name]), name


def test_recording_covers_every_operation():
    assert set(OPERATIONS) <= set(public_methods(RecordingBackend))


def run_python(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )


def test_importing_the_cuda_module_imports_no_cupy():
    done = run_python("import sys, gpumlp.backend.cuda; print('cupy' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.fixture
def no_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # makes the import fail, installed or not


class FakeError(Exception):
    pass


def stand_in(devices):
    """Return a module that looks like CuPy and computes with NumPy."""

    def count():
        if devices is None:
            raise FakeError("cudaErrorNoDevice")
        return devices

    module = types.ModuleType("cupy")
    module.current = 0

    class Device:
        def __init__(self, index):
            self.index = index

        def use(self):
            module.current = self.index

        def synchronize(self):
            pass

    module.__version__ = "0"
    module.__getattr__ = lambda name: getattr(np, name)
    module.asnumpy = np.asarray
    runtime = SimpleNamespace(getDeviceCount=count, CUDARuntimeError=FakeError)
    module.cuda = SimpleNamespace(runtime=runtime, Device=Device)
    return module


@pytest.mark.usefixtures("no_cupy")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_without_cupy_says_what_to_install_and_exits_with_5(device):
    with pytest.raises(DeviceError, match=r"pip install .*cupy-cuda1\dx\[ctk\]") as caught:
        get_backend(device)
    assert caught.value.exit_code == 5


def test_a_cupy_that_cannot_be_loaded_says_why_and_what_to_install(monkeypatch, tmp_path):
    (tmp_path / "cupy.py").write_text("raise ImportError('no libcudart.so.12')")
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DeviceError, match=r"no libcudart\.so\.12.*pip install"):
        get_backend("cuda")


def test_cupy_without_a_gpu_says_to_install_the_driver(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", stand_in(devices=None))
    with pytest.raises(DeviceError, match=r"driver .*nvidia-smi"):
        get_backend("cuda")
    assert get_backend("auto").name == "cpu"


@pytest.mark.parametrize("devices", [0, 1])
def test_a_device_that_is_not_there_is_named(monkeypatch, devices):
    monkeypatch.setitem(sys.modules, "cupy", stand_in(devices))
    with pytest.raises(DeviceError, match=f"cuda:1.*{devices}"):
        get_backend("cuda:1")


@pytest.mark.usefixtures("no_cupy")
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", np.float32), ("fp64", np.float64)])
def test_auto_falls_to_the_cpu(precision, dtype):
    backend = get_backend("auto", precision)
    assert (backend.name, backend.dtype) == ("cpu", dtype)


def test_auto_takes_a_gpu_that_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", stand_in(devices=2))
    assert get_backend("auto").name == "cuda:0"


def test_the_device_of_a_backend_is_the_current_one(monkeypatch):
    cupy = stand_in(devices=2)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert (get_backend("cuda:1").name, cupy.current) == ("cuda:1", 1)
    assert (get_backend("cuda").name, cupy.current) == ("cuda:0", 0)


@pytest.mark.parametrize("name", sorted({*public_methods(CupyFormulas)} & {*OPERATIONS}))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_formulas_as_cupy_spells_them_compute_the_same(name, shape):
    backend = CupyFormulas(CUPY)
    for i, case in enumerate(cases(name, shape)):
        placed = place(case, backend, "C")
        case.call(backend, placed)
        check(case, placed, backend, f"case {i}")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_is_there_on_both_devices(monkeypatch, precision):
    monkeypatch.setitem(sys.modules, "cupy", stand_in(devices=1))
    for device in ("cpu", "cuda"):
        backend = get_backend(device, precision)
        assert backend.precision.name == precision
        assert backend.dtype == ("float64" if precision == "fp64" else "float32")
        assert (backend == get_backend(device)) == (precision == "fp32")
        assert copy.deepcopy(backend) == backend
    assert get_backend("cuda", "tf32").operand_format is None  # its units round by themselves


@pytest.mark.parametrize("device", ["gpu", "CPU", "cuda:", "cuda:-1", "cuda:x", "cuda:0 ", ""])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(ValueError, match="unknown device"):
        get_backend(device)


@pytest.mark.parametrize("precision", ["fp8", "double", ""])
def test_an_unknown_precision_is_refused(precision):
    with pytest.raises(ValueError, match="unknown precision"):
        get_backend("cpu", precision)


def test_a_backend_is_passed_through(backend):
    assert get_backend(backend) is backend
    assert get_backend(backend, backend.dtype.name) is backend


@pytest.mark.parametrize(("precision", "other"), [("fp32", "fp64"), ("fp64", "float32")])
def test_a_backend_of_another_precision_is_refused(precision, other):
    with pytest.raises(ValueError, match=rf"Backend\('cpu', .*\) cannot be used for {other}"):
        get_backend(get_backend("cpu", precision), other)


@pytest.mark.usefixtures("no_cupy")
def test_auto_says_why_it_did_not_take_cuda():
    backend, reason = choose_backend("auto", "fp64")
    assert backend == get_backend("cpu", "fp64")
    assert reason.startswith("CuPy is not installed; pip install")
    assert choose_backend("cpu") == (get_backend("cpu"), None)


def test_auto_gives_no_reason_for_cuda(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", stand_in(devices=1))
    backend, reason = choose_backend("auto")
    assert (backend.name, reason) == ("cuda:0", None)


@pytest.mark.parametrize(("operations", "threads"), [(2e6, 1), (2.1e6, 3)])
def test_small_products_get_one_thread_of_the_blas_alone_and_give_the_others_back(
    operations, threads
):
    """Which decides about bits, too: what threads add up is rounded in another order."""
    controller = ThreadpoolController()
    with controller.limit(limits=3):
        before = controller.info()
        with Backend(np).threads_for(operations):
            within = controller.info()
        assert controller.info() == before
    of_blas = {pool["num_threads"] for pool in within if pool["user_api"] == "blas"}
    assert of_blas == {threads}
    others = {pool["num_threads"] for pool in within if pool["user_api"] != "blas"}
    assert others <= {3}


def test_backends_are_equal_when_device_and_type_are():
    assert get_backend("cpu") == get_backend("cpu")
    assert hash(get_backend("cpu")) == hash(get_backend("cpu"))
    assert get_backend("cpu") != get_backend("cpu", "fp64")
    recorder = RecordingBackend(get_backend("cpu"), Workspace(get_backend("cpu")))
    assert get_backend("cpu") != recorder
    assert get_backend("cpu") != "cpu"


def test_constants_of_many_batch_sizes_are_few_and_right():
    """Of vectors twice as long each time there is one for every doubling, however many sizes."""
    backend = Backend()
    for rows in range(1, 200):
        np.testing.assert_array_equal(backend._constant("ones", rows), np.ones(rows))
        np.testing.assert_array_equal(backend._constant("numbers", rows), np.arange(rows))
        ranks = backend._constant("ranks", rows)
        assert (np.diff(ranks) == -1).all()
        assert ranks[-1] >= 1
        products = np.arange(rows) * 0x9E3779B1 % 2**32
        np.testing.assert_array_equal(backend._constant(0x9E3779B1, rows), products)
    held = sum(array.nbytes for array in backend._constants.values())
    assert len(backend._constants) == 4 * 9  # 1, 2, 4, ..., 256
    assert held <= 4 * 2 * 256 * 8


def test_the_vector_of_a_size_stays_the_same_memory():
    backend = Backend()
    first = backend._constant("ones", 5)
    backend._constant("ones", 1000)
    assert np.shares_memory(first, backend._constant("ones", 5))


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda backend: pickle.loads(pickle.dumps(backend))],
    ids=["deepcopy", "pickle"],
)
def test_a_backend_is_copied_as_its_name_and_precision(backend, copied):
    backend.softmax(backend.empty((1, 2)), backend.zeros((1, 2)))
    clone = copied(backend)
    assert (repr(clone), clone.dtype) == (repr(backend), backend.dtype)
    assert clone.asarray([1, 2]).tolist() == [1.0, 2.0]
