"""What `explain` found for one sample, in words and tables of at most 100 columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import starmap

import numpy as np

from ..backend import Array, get_backend
from ..config import Config
from ..data.scaling import Scaler
from ..data.targets import Targets
from ..losses import Loss
from ..wording import count
from .explain import LayerExplanation, largest

UNITS, WEIGHTS, TERMS = 10, 8, 3  # how much of a large layer is shown
FROM_LOSS = {  # ∂l/∂z of the output layer; for K outputs, all but the first / K
    "cross_entropy": "y - ŷ",
    "bce": "y - ŷ",
    "mse": "2 (y - ŷ)",
    "mae": "sign(y - ŷ)",
    "huber": "y - ŷ, cut to ±δ",
    "poisson": "y - ŷ",
}


@dataclass(frozen=True, eq=False)
class Sample:
    """One row, scaled and encoded, with the words for it."""

    title: str
    origin: str
    x: Array
    target: Array
    targets: Targets
    target_scaler: Scaler | None
    loss: Loss


def report(
    config: Config,
    sample: Sample,
    layers: Sequence[LayerExplanation],
    chosen: Sequence[LayerExplanation],
    *,
    whole: bool = False,
) -> list[str]:
    """Return the lines about a sample: what it is, the formulas, the chosen layers, the error.

    `whole` shows every unit and every weight.
    """
    lines = [*_head(config, sample, layers), "", *_formulas(config, len(layers[-1].z))]
    for layer in chosen:
        after = layers[layer.number] if layer.case == 2 else None
        lines += ["", *_layer(layer, after, len(layers), whole)]
    taken = sum(
        int((~np.isnan(numeric)).sum())
        for layer in chosen
        for numeric in (layer.numeric_dw, layer.numeric_db)
        if numeric is not None
    )
    error = float(np.fmax.reduce([layer.error for layer in chosen]))
    last = f"{error:.1e}" if taken else "-"
    return [*lines, "", f"largest relative error {last} ({count(taken, 'central difference')})"]


def four(value: float) -> str:
    """Return a number with four significant digits, in at most ten characters.

    >>> [four(value) for value in (0.5, -1234.4, 0, -1.23456e-7, 12345678.0, float("nan"))]
    ['0.5000', '-1234', '0', '-1.235e-07', '1.235e+07', 'kink']
    """
    if np.isnan(value):
        return "kink"
    return f"{value:#.4g}".rstrip(".") if value else "0"


def _head(config: Config, sample: Sample, layers: Sequence[LayerExplanation]) -> list[str]:
    double, loss = get_backend("cpu", "fp64"), sample.loss
    z = layers[-1].a[None]
    value = loss.forward(z, np.asarray(sample.target)[None])
    y = loss.link(z, double)[0]
    sizes = [len(layers[0].x), *(len(layer.z) for layer in layers)]
    activations = sorted({layer.activation for layer in layers if layer.case == 2})
    number = sum(layer.w.size + (0 if layer.b is None else layer.b.size) for layer in layers)
    smoothing = config.loss.label_smoothing
    classes = 2 if config.loss_name == "bce" else sizes[-1]
    about = f", ŷ smoothed to {1 - smoothing:g} ŷ + {smoothing:g} / {classes}" if smoothing else ""
    lines = [
        sample.title,
        sample.origin,
        f"network {'-'.join(map(str, sizes))} ({', '.join(activations) or 'linear'}), "
        f"{count(number, 'parameter')}; float64, dropout off",
        f"target ŷ: {_target(sample)}",
        f"prediction y: {_prediction(sample.targets, y)}",
        f"loss l = {four(value)} ({config.loss_name}{about})",
    ]
    if sample.target_scaler is not None:
        target, prediction = sample.target_scaler.inverse(np.stack([sample.target, y]))
        lines.append(f"in the units of the data: ŷ = {_values(target)}; y = {_values(prediction)}")
    return lines


def _target(sample: Sample) -> str:
    targets, row = sample.targets, np.atleast_1d(sample.target)
    if targets.task == "regression":
        return _values(row)
    if targets.task == "multilabel":
        return ", ".join(targets.decode(np.flatnonzero(row))) or "none"
    if len(row) == 1:
        return targets.decode([int(row[0])])[0]
    return _ranked(targets.classes, row)


def _prediction(targets: Targets, y: Array) -> str:
    if targets.task == "regression":
        return _values(y)
    return _ranked(targets.classes[1:] if targets.task == "binary" else targets.classes, y)


def _values(row: Array) -> str:
    return ", ".join(map(four, row[:UNITS])) + _more(len(row) - UNITS)


def _ranked(names: Sequence[str], y: Array) -> str:
    best = largest(y, 5)[:, 0]
    return ", ".join(f"{names[i]}: {four(y[i])}" for i in best) + _more(len(y) - 5)


def _more(number: int) -> str:
    return f" and {number:,} more" if number > 0 else ""


def _formulas(config: Config, outputs: int) -> list[str]:
    from_loss = FROM_LOSS[config.loss_name]
    if outputs > 1 and config.loss_name != "cross_entropy":
        from_loss = f"{from_loss} / K" if from_loss.endswith(")") else f"({from_loss}) / K"
    return [
        "forward pass   z = W x + b    a = σ(z)    ∂z/∂w = x",
        f"backward pass  case 1, output layer:  ∂l/∂z = {from_loss}  (from the loss)",
        "               case 2, hidden layer:  ∂l/∂z = σ'(z) · Σ w ∂l/∂z  (of the next layer)",
        "product        ∂l/∂w = ∂z/∂w · ∂l/∂z     ∂l/∂b = ∂l/∂z",
        "w[i,j]         leads from input j to unit i, both counted from 0",
        "difference     (l(w + h) - l(w - h)) / 2h, central; for a unit: by its bias",
    ]


def _layer(
    layer: LayerExplanation, after: LayerExplanation | None, total: int, whole: bool
) -> list[str]:
    kind = "output layer" if layer.case == 1 else "hidden layer"
    weights = layer.dw.size
    title = (
        f"layer {layer.number} of {total}: {len(layer.x):,} -> {len(layer.z):,}, "
        f"{layer.activation}; {kind}, case {layer.case}"
    )
    units = largest(layer.dz, None if whole or len(layer.z) <= UNITS else UNITS)[:, 0]
    first = int(units[0])
    units = np.sort(units) if len(units) == len(layer.z) else units
    entries = largest(layer.dw, None if whole or weights <= UNITS else WEIGHTS)
    if len(entries) == weights:
        entries = np.argwhere(np.ones(layer.dw.shape))
    example = largest(layer.dw, 1)[0]
    lines = [title, "-" * len(title), *_units(layer, units), "", *_weights(layer, entries), ""]
    lines += _product(layer, int(example[0]), int(example[1]))
    return lines if after is None else [*lines, *_sum(layer, after, first)]


def _units(layer: LayerExplanation, units: Array) -> list[str]:
    head = "∂l/∂a" if layer.case == 1 else "Σ w ∂l/∂z"
    lines = [_row("unit", "z", "a", "σ'(z)", head, "∂l/∂z", "difference")]
    for i in units:
        numeric = "-" if layer.numeric_db is None else four(layer.numeric_db[i])
        numbers = (layer.z, layer.a, layer.sigma_prime, layer.da, layer.dz)
        lines.append(_row(str(i), *(four(array[i]) for array in numbers), numeric))
    return [*lines, _which(len(units), len(layer.z), "unit", "|∂l/∂z|")]


def _weights(layer: LayerExplanation, entries: Array) -> list[str]:
    lines = [_row("weight", "w", "∂z/∂w = x", "∂l/∂z", "∂l/∂w", "difference")]
    for i, j in entries:
        numbers = (layer.w[i, j], layer.x[j], layer.dz[i], layer.dw[i, j], layer.numeric_dw[i, j])
        lines.append(_row(f"w[{i},{j}]", *map(four, numbers)))
    return [*lines, _which(len(entries), layer.dw.size, "weight", "|∂l/∂w|")]


def _row(name: str, *cells: str) -> str:
    return f"{name:>12}" + "".join(f"{cell:>11}" for cell in cells)


def _which(shown: int, total: int, thing: str, by: str) -> str:
    if shown == total:
        return f"  ({'all ' if total > 1 else ''}{count(total, thing)})"
    return f"  (the {shown} of {count(total, thing)} with the largest {by})"


def _product(layer: LayerExplanation, i: int, j: int) -> list[str]:
    numeric = layer.numeric_dw[i, j]
    return [
        f"∂l/∂w[{i},{j}] = ∂z/∂w · ∂l/∂z = {four(layer.x[j])} · {four(layer.dz[i])} "
        f"= {four(layer.dw[i, j])}   central difference {four(numeric)}"
    ]


def _sum(layer: LayerExplanation, after: LayerExplanation, i: int) -> list[str]:
    """Spell out case 2 for one unit."""
    outgoing = after.w[:, i]
    order = largest(outgoing * after.dz, TERMS)[:, 0]
    terms = list(starmap("{} · {}".format, ((four(outgoing[k]), four(after.dz[k])) for k in order)))
    rest = len(outgoing) - len(terms)
    terms += [f"{rest:,} more"] if rest else []
    return [
        f"∂l/∂z[{i}] = σ'(z[{i}]) · Σ w[k,{i}] ∂l/∂z[k] over the "
        f"{count(len(outgoing), 'unit')} k of layer {after.number}",
        f"  = {four(layer.sigma_prime[i])} · ({' + '.join(terms)})",
        f"  = {four(layer.sigma_prime[i])} · {four(layer.da[i])} = {four(layer.dz[i])}",
    ]
