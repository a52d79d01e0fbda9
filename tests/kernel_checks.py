"""What each kernel for the GPU must compute: the plain formula in float64, case by case.

A check yields arguments of its kernel and what its arrays must be afterwards; arrays that it does
not name must not have changed. Every launch is done in three orders of the threads, with bytes
around each array that must stay as they are (see `kernels_on_fibers.py`).
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np
from kernels_on_fibers import crowded, whole_numbers

from gpumlp.backend import ACTIVATIONS, POINTWISE, Backend
from gpumlp.backend.precision import bits, rounded, split_parts

PLAIN = Backend(np, "float64")
EPS = float(np.finfo(np.float32).eps)
SMALLEST = 1.2e-38  # smaller numbers may become zero, or the smallest normal number
NUMBERS = {name: i for i, name in enumerate(ACTIVATIONS)}
SIZES = [0, 1, 31, 32, 33, 255, 256, 257, 100_003]
SHAPES = [(0, 4), (4, 0), (1, 1), (3, 5), (31, 33), (32, 32), (33, 31), (257, 129), (9, 260)]
ONE_MISALIGNED = (256, (32, 32))  # shapes that allow wide access
SPECIAL = [s * x for x in (0.0, 1e-8, 15.0, 88.0, 104.0, np.inf, np.nan) for s in (1, -1)]


@dataclass
class Expected:
    value: np.ndarray
    ulps: float = 4
    terms: np.ndarray | float = 0.0  # the size of terms that may cancel; ulps are theirs, then


def plain(operation, *arguments):
    """Run an operation of the plain backend on float64 copies; return the copies."""
    copies = {
        id(a): a.astype(np.float64) if a.dtype == np.float32 else a.copy()
        for a in arguments
        if isinstance(a, np.ndarray)
    }
    placed = [copies.get(id(argument), argument) for argument in arguments]
    with np.errstate(all="ignore"):
        getattr(PLAIN, operation)(*placed)
    return placed


def check_close(actual, expected, context):
    value = np.broadcast_to(np.asarray(expected.value, np.float64), actual.shape)
    with np.errstate(all="ignore"):
        size = np.maximum(np.abs(value), expected.terms)
        limit = np.where(np.isfinite(size), expected.ulps * EPS * size, 0) + SMALLEST
        wrong = ~(np.abs(actual - value) <= limit)
        wrong &= ~((actual == value) | (np.isnan(actual) & np.isnan(value)))
    assert not wrong.any(), (
        f"{context}: {wrong.sum()} of {wrong.size} differ, the first from {value[wrong][0]} "
        f"to {actual[wrong][0]}"
    )


def check_kernel(kernels, name, shape):
    """Run all cases of a kernel, in two geometries, aligned and not, or all arrays but one."""
    seed = zlib.crc32(name.encode()), *np.atleast_1d(shape)
    for number, (arguments, expected) in enumerate(CHECKS[name](Draw(seed), *np.atleast_1d(shape))):
        alternative = crowded(name, **whole_numbers(arguments))
        shift = 4 if name == "begin_step" else 1  # lines hold entries of at least four bytes
        with_copy = arguments.get("copy") is not None
        variants = [(None, 0), (alternative, shift), (alternative, 0), (None, shift)]
        if np.prod(shape) > 10_000:
            variants = variants[:2]
        elif shape in ONE_MISALIGNED and (number == 0 or (with_copy and number < 3)):
            arrays = [key for key, value in arguments.items() if isinstance(value, np.ndarray)]
            variants += [
                (None, {key: 1 if key in ("clock", "tickets") else shift}) for key in arrays
            ]
        for geometry, shifts in variants:
            result = kernels.run(name, arguments, geometry, shifts)
            for key, array in result.items():
                context = f"{name}, case {number}, {key}, {geometry or 'usual'} geometry, {shifts}"
                if callable(expected.get(key)):
                    np.testing.assert_array_equal(array, expected[key](result), context)
                elif key in expected:
                    check_close(array, expected[key], context)
                elif key != "partial":
                    np.testing.assert_array_equal(array, arguments[key], f"{context} changed")


# ------------------------------------------------------------------------------- checks


class Draw:
    """Random arguments."""

    def __init__(self, seed):
        self.rng = np.random.default_rng([*map(int, seed)])

    def normal(self, *shape):
        return self.rng.normal(size=shape).astype(np.float32)

    def positive(self, *shape):
        return self.rng.uniform(0.1, 2, shape).astype(np.float32)

    def integers(self, high, *shape, dtype=np.int64):
        return self.rng.integers(high, size=shape, dtype=dtype)


def nothing(*shape, dtype=np.float32):
    """Memory that must not be read."""
    return np.full(shape, np.nan if np.dtype(dtype).kind == "f" else 0xEE, dtype)


def tickets():
    return np.zeros(1024, np.uint32)


def update(operation, states, numbers, plain_numbers=None):
    """Return the check of an optimizer's step with those states and constants."""

    def check(draw, n):
        for arguments, expected in cases(draw, n):
            yield arguments, expected
            for number, format in enumerate(FORMATS_OF_16_BITS):
                copied = {"copy": nothing(n, dtype=np.uint16), "format": number}
                to = {"copy": lambda result, format=format: bits_of(result["w"], format)}
                yield arguments | copied, expected | to
            yield arguments | {"skip": np.ones(1, np.float32)}, {}

    def cases(draw, n):
        arrays = {"w": draw.normal(n)} | {state: draw.positive(n) for state in states}
        arrays |= {"g": draw.normal(n), "lr": draw.positive(1)}
        if operation == "adam_step":
            arrays["correction"] = draw.positive(1)
        constants = plain_numbers if plain_numbers is not None else numbers.values()
        after = plain(operation, *arrays.values(), *constants, np.empty(n))
        expected = {state: Expected(after[1 + i]) for i, state in enumerate(states)}
        step = np.abs(arrays["lr"] * arrays["g"])
        if "v" in states and "m" not in states:  # v = mu v + g may cancel
            expected["v"].terms = np.abs(arrays["v"]) + np.abs(arrays["g"])
            step = 2 * arrays["lr"] * expected["v"].terms
        if "m" in states:
            expected["m"].terms = np.abs(arrays["m"]) + np.abs(arrays["g"])
            step = arrays["lr"] * expected["m"].terms / (arrays["correction"] * np.sqrt(after[2]))
        if "s" in states:
            step = step / np.sqrt(after[1])
        expected["w"] = Expected(after[0], terms=np.maximum(np.abs(arrays["w"]), step))
        last = {"skip": np.zeros(1, np.float32), "format": 0, "n": int(n)}
        yield {"w": arrays.pop("w"), "copy": None} | arrays | numbers | last, expected

    return check


FORMATS_OF_16_BITS = ("bf16", "fp16")


def bits_of(values, format):
    """Return the 16 bits of values rounded to a format."""
    return bits(rounded(np, values, format), format)


def split(draw, n):
    x = draw.normal(n) * np.exp2(draw.integers(60, n).astype(np.float32) - 40)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 65519.0, 65520.0, 2**-24, 2**-25, 1e-40, 3.4e38]
    x[: len(special)] = special[:n]
    for number, format in enumerate(FORMATS_OF_16_BITS):
        for count in (1, 2, 3):
            with np.errstate(all="ignore"):
                parts = [*islice(split_parts(np, x, format), count)]
            names = ("high", "middle", "low")
            arguments = {name: nothing(n, dtype=np.uint16) for name in names[:count]}
            arguments |= dict.fromkeys(names[count:])
            expected = {}
            for name, part in zip(names, parts, strict=False):
                expected[name] = lambda _, part=part, format=format: bits_of(part, format)
            yield arguments | {"x": x, "format": number, "n": int(n)}, expected


def unscale(draw, n):
    for bad in (0.0, np.inf, np.nan):
        g, scale = draw.normal(n), np.array([1024], np.float32)
        g[n // 2 : n // 2 + 1] += np.float32(bad)
        overflow = np.zeros(1, np.float32)
        after = plain("unscale", g, overflow, scale[0])
        flag = Expected(np.array([bool(bad) and n > 0]), ulps=0)
        arguments = {"g": g, "overflow": overflow, "scale": scale, "n": int(n)}
        yield arguments, {"g": Expected(after[0]), "overflow": flag}


def loss_scale_step(draw, n):
    for state in ([8, 3, 5, 0], [8, 4, 5, 0], [8, 4, 5, 1], [60, 4, 0, 0], [2**-20, 0, 0, 1]):
        state = np.array(state, np.float32)
        after = plain("loss_scale_step", state, 5.0, 64.0)
        arguments = {"state": state, "patience": 5.0, "largest": 64.0}
        yield arguments, {"state": Expected(after[0], ulps=0)}


def scale(draw, n):
    w, factor = draw.normal(n), draw.positive(1)
    yield (
        {"w": w, "factor": factor, "skip": None, "n": int(n)},
        {"w": Expected(plain("scale", w, factor)[0])},
    )
    yield {"w": w, "factor": factor, "skip": np.ones(1, np.float32), "n": int(n)}, {}


def add_penalty(draw, n):
    for decay, l1 in ((0.1, 0.0), (0.0, 0.1), (0.2, 0.1)):
        g, w = draw.normal(n), np.round(draw.normal(n))
        after = plain("add_penalty", g, w, decay, l1, np.empty(n))
        terms = np.maximum(np.abs(g), np.abs(w))
        yield (
            {"g": g, "w": w, "weight_decay": decay, "l1": l1, "n": int(n)},
            {"g": Expected(after[0], terms=terms)},
        )


def accumulate(draw, n):
    for weights in (draw.positive(n), None):
        total, values = draw.normal(n).astype(np.float64), draw.normal(n)
        after = plain("accumulate", total, values, weights, np.empty(n))
        yield (
            {"total": total, "values": values, "weights": weights, "n": int(n)},
            {"total": Expected(after[0], ulps=1, terms=np.abs(values) * 2)},
        )


def with_specials(draw, rows, columns, factor=3):
    z = factor * draw.normal(rows, columns)
    z.ravel()[::3][: len(SPECIAL)] = SPECIAL[: z.ravel()[::3].size]
    return z


def conditioning(name, z):
    """How much an ulp of an inner value may become in σ(z): only GELU's e^-2u in the far tail."""
    return 1 + np.abs(1.6 * z + 0.0714 * z**3) if name == "gelu" else 1.0


def tail(name, z):
    """What is lost far left: GELU's 1 + tanh u in float64, SiLU's s below SMALLEST times z."""
    lost = {"gelu": 1e-9, "silu": SMALLEST / EPS}
    return lost.get(name, 0.0) * np.abs(z)


def copies(of, rows, columns, number):
    """Yield arguments that ask for a copy of an output in 16 bits, and what it must be."""
    format = FORMATS_OF_16_BITS[number % 2]
    copied = {"copy": nothing(rows, columns, dtype=np.uint16), "format": number % 2}
    yield copied, {"copy": lambda result: bits_of(result[of], format)}


def bias_activation_forward(draw, rows, columns):
    for name, activation in ACTIVATIONS.items():
        for bias in (draw.normal(columns), None):
            z = with_specials(draw, rows, columns)
            if name in ("gelu", "silu"):
                z[np.isinf(z)] = 200  # -inf times 0 has no value
            biased = z + (bias if bias is not None else np.float32(0))
            exact = plain(
                "bias_activation_forward", nothing(rows, columns), biased, None, activation
            )
            with np.errstate(all="ignore"):
                terms = np.abs(exact[0]) * conditioning(name, exact[1]) + tail(name, exact[1])
            sigma = Expected(exact[0], terms=terms)
            arguments = {
                "a": nothing(rows, columns),
                "copy": None,
                "z": z,
                "bias": bias,
                "activation": NUMBERS[name],
                "format": 0,
                "rows": int(rows),
                "columns": int(columns),
            }
            yield arguments, {"a": sigma, "z": Expected(biased, ulps=0)}
            for copied, to in copies("a", rows, columns, NUMBERS[name]):
                yield arguments | copied, {"a": sigma, "z": Expected(biased, ulps=0)} | to
            if activation.keeps == "output":
                yield arguments | {"a": z}, {"a": sigma, "z": sigma}


def bias_activation_backward(draw, rows, columns):
    for number, (name, activation) in enumerate(ACTIVATIONS.items()):
        z = 2 * draw.normal(rows, columns)
        z.ravel()[::7] = 0
        kept = z
        if activation.keeps == "output":
            kept = plain("bias_activation_forward", z, z, None, activation)[0].astype(np.float32)
        da = draw.normal(rows, columns)
        # dz apart and in place, with a sink or none; in place only what the number asks for
        alpha, beta = [(1.0, 0.0), (0.5, 1.0), (-0.25, 0.5)][number % 3]
        sink = draw.normal(columns) if beta else nothing(columns)
        after = plain(
            *("bias_activation_backward", nothing(rows, columns), sink, da, kept, activation),
            *(alpha, beta, nothing(rows, columns)),
        )
        with np.errstate(all="ignore"):
            terms = np.abs(da) * np.maximum(1, np.abs(z) if activation.keeps == "input" else 1)
        dz = Expected(after[0], ulps=4, terms=terms)
        sums = np.abs(alpha) * terms.sum(axis=0, dtype=np.float64)
        sink_after = Expected(after[1], 16, sums + (np.abs(beta * sink) if beta else 0))
        arguments = {
            "dz": nothing(rows, columns),
            "copy": None,
            "bias_sink": sink,
            "da": da,
            "kept": kept,
            "alpha": np.array([alpha], np.float32),
            "beta": np.array([beta], np.float32),
            "activation": NUMBERS[name],
            "format": 0,
            "rows": int(rows),
            "columns": int(columns),
            "partial": nothing(rows, columns),
            "tickets": tickets(),
        }
        yield arguments, {"dz": dz, "bias_sink": sink_after}
        for copied, to in copies("dz", rows, columns, number):
            yield arguments | copied, {"dz": dz, "bias_sink": sink_after} | to
        yield arguments | {"dz": None}, {"bias_sink": sink_after}
        if number < 2:
            yield arguments | {"dz": da}, {"dz": dz, "da": dz, "bias_sink": sink_after}
            yield arguments | {"bias_sink": None}, {"dz": dz}


def dropout(draw, rows, columns):
    for rate, first_row in ((0.5, 0), (0.1, 7), (0.9, 2**31 + 5)):
        x, key = draw.normal(rows, columns), draw.integers(2**32, 1, dtype=np.uint32)
        threshold = round(rate * 2**32)
        rows_, units = (
            np.arange(rows, dtype=np.uint64)[:, None],
            np.arange(columns, dtype=np.uint64),
        )
        kept = random_bits(rows_ + np.uint64(first_row), units, int(key[0])) >= threshold
        factor = float(np.float32(1 / (1 - rate)))
        yield (
            {
                "out": nothing(rows, columns),
                "x": x,
                "key": key,
                "threshold": threshold,
                "factor": factor,
                "first_row": first_row,
                "rows": int(rows),
                "columns": int(columns),
            },
            {"out": Expected(kept * x * factor, ulps=1)},
        )


def random_bits(row, unit, key):
    """The definition, in 64-bit whole numbers; all below 2³²."""
    low = np.uint64(0xFFFFFFFF)

    def times(h, factor):
        return (h & low) * np.uint64(factor) & low

    key = np.uint64(key)
    h = (times(row, 0x9E3779B1) + times(unit, 0x85EBCA77) + key) & low
    h = times(h ^ h >> np.uint64(16), 0x7FEB352D)
    h = times((h ^ h >> np.uint64(15)) + key, 0x846CA68B)
    return h ^ h >> np.uint64(16)


def softmax(draw, rows, columns):
    z = 5 * draw.normal(rows, columns)
    if rows > 2:
        z[0], z[1] = z[0] * 20 + 1000, np.nan
        z[2, : columns // 2] = -np.inf
    arguments = {"y": nothing(rows, columns), "z": z, "rows": int(rows), "columns": int(columns)}
    expected = {}
    if columns:
        y, _ = plain("softmax", nothing(rows, columns), z)
        with np.errstate(all="ignore"):  # e^x multiplies the error of x by x
            expected["y"] = Expected(y, 8, y * (1 + np.nan_to_num(np.abs(np.log(y)), posinf=0)))
    yield arguments, expected


def weights(draw, rows):
    yield {"weight": draw.positive(rows), "weight_stride": 1}
    yield {"weight": draw.positive(1), "weight_stride": 0}


def softmax_cross_entropy(draw, rows, columns):
    labels = draw.integers(max(columns, 1), rows)
    distribution = draw.positive(rows, columns) * (draw.integers(3, rows, columns) > 0)
    sums = distribution.sum(axis=1, keepdims=True)
    distribution = (distribution / np.where(sums > 0, sums, 1)).astype(np.float32)
    if columns:
        distribution[sums[:, 0] == 0, 0] = 1
    tied = np.full((rows, columns), 1 / max(columns, 1), np.float32)
    targets = [labels, distribution, np.asfortranarray(distribution), tied]
    for number, target in enumerate(targets):
        z = np.round(2 * draw.normal(rows, columns))  # has ties
        if rows > 4 and columns > 1:
            impossible = (labels[:5] + 1) % columns
            z[0, impossible[0]] = -np.inf
            z[1] += 3000
            z[2, labels[2]], z[2, impossible[2]] = 50, np.nan
            z[3, labels[3]] = np.inf
            z[4, 1:] = -np.inf
        hard = target.ndim == 1
        for smoothing, weight in zip((0.1, 0.0), weights(draw, rows), strict=True):
            with_correct = number != 1 or smoothing > 0
            yield _cross_entropy_case(z, target, hard, smoothing, weight, with_correct)


def _cross_entropy_case(z, target, hard, smoothing, weight, with_correct):
    rows, columns = z.shape
    arguments = {
        "loss": nothing(rows),
        "correct": nothing(rows) if with_correct else None,
        "dz": nothing(rows, columns),
        "z": z,
        "labels": target if hard else None,
        "distribution": None if hard else np.ascontiguousarray(target.T).T,
        "row_stride": 1 if hard else target.strides[0] // 4,
        "column_stride": 1 if hard else target.strides[1] // 4,
        **weight,
        "smoothing": smoothing,
        "rows": rows,
        "columns": columns,
    }
    if not hard:  # memory in the target's own order
        order = "F" if target.flags.f_contiguous and not target.flags.c_contiguous else "C"
        memory = target.T if order == "F" else target
        arguments["distribution"] = np.ascontiguousarray(memory)
    if not columns:
        return arguments, {}
    w = weight["weight"] if weight["weight_stride"] else float(weight["weight"][0])
    after = plain(
        *("softmax_cross_entropy", arguments["loss"], arguments["correct"], arguments["dz"], z),
        *(target, w, smoothing, np.empty(z.shape)),
    )
    with np.errstate(all="ignore"):
        spread = np.where(np.isfinite(z), np.abs(z), 0).max(axis=1)
        most = np.reshape(w, (-1, 1)) * np.ones(z.shape)
    expected = {"loss": Expected(after[0], 16, spread), "dz": Expected(after[2], 16, most)}
    if with_correct:
        expected["correct"] = Expected(after[1], ulps=0)
    return arguments, expected


def pointwise_loss(draw, rows, columns):
    for number, (name, formula) in enumerate(POINTWISE.items()):
        parameter = {"bce": 0.1, "huber": 0.75}.get(name, 0.0)
        z = 2 * draw.normal(rows, columns)
        agree = draw.integers(4, rows, 1) > 0
        sides = np.where(agree, z > 0, draw.integers(2, rows, columns))
        target = (sides if name == "bce" else sides + 0.25 * draw.normal(rows, columns)).astype(
            "f4"
        )
        if z.size > 4:
            z.ravel()[[0, 1, 2, 3]] = [0, 80, -80, np.nan]
            target.ravel()[0] = 0.5 if name != "bce" else 0
        for weight in weights(draw, rows):
            arguments = {
                "loss": nothing(rows),
                "correct": nothing(rows) if weight["weight_stride"] else None,
                "dz": nothing(rows, columns),
                "z": z,
                "target": np.ascontiguousarray(target.T) if number % 2 else target,
                "row_stride": 1 if number % 2 else int(columns),
                "column_stride": int(rows) if number % 2 else 1,
                **weight,
                "formula": number,
                "parameter": parameter,
                "rows": int(rows),
                "columns": int(columns),
            }
            if not columns:
                yield arguments, {}
                continue
            w = weight["weight"] if weight["weight_stride"] else float(weight["weight"][0])
            after = plain(
                *("pointwise_loss", arguments["loss"], arguments["correct"], arguments["dz"], z),
                *(target, w, formula, parameter, np.empty(z.shape)),
            )
            with np.errstate(all="ignore"):
                big = np.exp(z) if name == "poisson" else z**2 if name == "mse" else np.abs(z)
                terms = np.nan_to_num(big + np.abs(target) + 1)
                slopes = terms / columns * np.reshape(w, (-1, 1))
            expected = {
                "loss": Expected(after[0], 16, terms.mean(axis=1)),
                "dz": Expected(after[2], 4, slopes),
            }
            if arguments["correct"] is not None:
                expected["correct"] = Expected(after[1], ulps=0)
            yield arguments, expected


def begin_step(draw, rows, columns):
    rows, kinds = max(rows, 1), (np.float32, np.int64, np.uint32)
    for tables in (3, 2, 1):
        clock = draw.integers(rows, 1)
        arguments, expected = {"clock": clock}, {"clock": Expected(clock + 1, ulps=0)}
        for i, dtype in enumerate(kinds, 1):
            row = table = None
            size = 0
            if i <= tables:
                entries = columns * (1 if i == 2 else 3)
                numbers = draw.integers(2**31, rows, entries, dtype=np.int64).astype(dtype)
                size = numbers.itemsize * entries
                row, table = nothing(size, dtype=np.uint8), numbers.view(np.uint8)
                expected[f"row_{i}"] = Expected(numbers[clock[0]].view(np.uint8), ulps=0)
            arguments |= {f"row_{i}": row, f"table_{i}": table, f"bytes_{i}": int(size)}
        yield arguments | {"tickets": tickets()}, expected


def gather(draw, rows, columns):
    for entry in (1, 3, 4, 8, 16):
        source = draw.integers(256, rows + 3, columns * entry, dtype=np.uint8)
        index = draw.integers(rows + 3, rows)
        yield (
            {
                "out": nothing(rows, columns * entry, dtype=np.uint8),
                "source": source,
                "index": index,
                "rows": int(rows),
                "bytes": int(columns) * entry,
            },
            {"out": Expected(source[index], ulps=0)},
        )


def gather_scaled(draw, rows, columns):
    source, index = (
        draw.integers(256, rows + 3, columns, dtype=np.uint8),
        draw.integers(rows + 3, rows),
    )
    yield (
        {
            "out": nothing(rows, columns),
            "source": source,
            "index": index,
            "factor": 1 / 255,
            "rows": int(rows),
            "columns": int(columns),
        },
        {"out": Expected(source[index] * np.float64(np.float32(1 / 255)), ulps=1)},
    )


def normalize(draw, n):
    for w in (draw.positive(n), 0 * draw.positive(n), draw.positive(n) * np.float32(np.nan)):
        after = plain("normalize", nothing(n), w)
        yield {"out": nothing(n), "weights": w, "rows": int(n)}, {"out": Expected(after[0])}


def square_sum(draw, n):
    for factor in (1, np.float32(1e30)):
        g = factor * draw.normal(n)
        arguments = {
            "sum": nothing(1, dtype=np.float64),
            "partial": nothing(1024, dtype=np.float64),
            "tickets": tickets(),
            "g": g,
            "n": int(n),
        }
        yield arguments, {"sum": Expected((g.astype(np.float64) ** 2).sum(), ulps=1e-6)}


def clip_scale(draw, n):
    for limit in (0.5, 1e6):
        for bad in (0, np.float32(np.nan)):
            g = draw.normal(n)
            g[:1] += bad
            total = np.array([(g.astype(np.float64) ** 2).sum()])
            after = plain("clip_norm", g, limit, np.empty(n))
            yield {"g": g, "sum": total, "limit": limit, "n": int(n)}, {"g": Expected(after[0])}


def clip_rows(draw, rows, columns):
    limit = float(np.float32(np.sqrt(columns)))  # about half of the rows exceed it
    w = draw.normal(rows, columns)
    w[1:2], w[2:3] = 0, w[2:3] * np.float32(np.nan)
    after = plain("clip_rows", w, limit, np.empty(w.shape))
    arguments = {"w": w, "limit": limit, "rows": int(rows), "columns": int(columns)}
    yield arguments, {"w": Expected(after[0])}


CHECKS: dict[str, Callable] = {
    "sgd_step": update("sgd_step", [], {}),
    "momentum_step": update("momentum_step", ["v"], {"mu": 0.9}),
    "nesterov_step": update("nesterov_step", ["v"], {"mu": 0.9}),
    "adagrad_step": update("adagrad_step", ["s"], {"eps": 1e-3}),
    "rmsprop_step": update(
        *("rmsprop_step", ["s"], {"rho": 0.99, "one_less_rho": 0.01, "eps": 1e-3}), (0.99, 1e-3)
    ),
    "adam_step": update(
        "adam_step",
        ["m", "v"],
        {"beta1": 0.9, "one_less_beta1": 0.1, "beta2": 0.99, "one_less_beta2": 0.01, "eps": 1e-3},
        ((0.9, 0.99), 1e-3),
    ),
    "scale": scale,
    "split": split,
    "unscale": unscale,
    "loss_scale_step": loss_scale_step,
    "add_penalty": add_penalty,
    "accumulate": accumulate,
    "bias_activation_forward": bias_activation_forward,
    "bias_activation_backward": bias_activation_backward,
    "dropout": dropout,
    "softmax": softmax,
    "softmax_cross_entropy": softmax_cross_entropy,
    "pointwise_loss": pointwise_loss,
    "begin_step": begin_step,
    "gather": gather,
    "gather_scaled": gather_scaled,
    "normalize": normalize,
    "square_sum": square_sum,
    "clip_scale": clip_scale,
    "clip_rows": clip_rows,
}
OF_VECTORS = {name for name, check in CHECKS.items() if check.__code__.co_varnames[1] == "n"}


def shapes(name):
    return SIZES if name in OF_VECTORS else SHAPES
