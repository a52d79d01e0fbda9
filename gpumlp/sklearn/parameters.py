"""What the parameters of an estimator may be, and the message for one that is something else."""

from collections.abc import Callable, Iterable, Sequence
from math import inf
from numbers import Integral, Real
from typing import Any

from ..backend import ACTIVATIONS

NAMES = {"logistic": "sigmoid"}  # scikit-learn's name → ours
SOLVERS = ("adam", "sgd", "lbfgs")
LEARNING_RATES = ("constant", "invscaling", "adaptive")


def _number(least: float, most: float = inf, ends: str = "[]") -> tuple[str, Callable[..., bool]]:
    """A number from `least` to `most`; a round bracket excludes that end."""

    def fits(value: Any) -> bool:
        if not _is_a(Real, value):
            return False
        above = value > least if ends[0] == "(" else value >= least
        return bool(above and (value < most if ends[1] == ")" else value <= most))

    low = f"{'>' if ends[0] == '(' else '>='} {least:g}"
    return (low if most == inf else f"in {ends[0]}{least:g}, {most:g}{ends[1]}"), fits


def _whole(least: int) -> tuple[str, Callable[..., bool]]:
    return f"an integer >= {least}", lambda value: _is_a(Integral, value) and value >= least


def _is_a(kind: Any, value: Any) -> bool:
    """Whether a value is a number of a kind; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _one_of(names: Iterable[str]) -> tuple[str, Callable[..., bool]]:
    names = tuple(names)
    return f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names


POSITIVE = _number(0, ends="(]")
RULES: dict[str, tuple[str, Callable[..., bool]]] = {
    "solver": _one_of(SOLVERS),
    "alpha": _number(0),
    "learning_rate": _one_of(LEARNING_RATES),
    "learning_rate_init": POSITIVE,
    "power_t": _number(0),
    "max_iter": _whole(1),
    "tol": _number(0),
    "momentum": _number(0, 1, "[)"),
    "validation_fraction": _number(0, 1, "[)"),
    "beta_1": _number(0, 1, "[)"),
    "beta_2": _number(0, 1, "[)"),
    "epsilon": POSITIVE,
    "max_fun": _whole(1),
    "loss": _one_of(("squared_error", "absolute_error", "poisson")),
}


def check_parameters(estimator: Any) -> None:
    """Raise ValueError, which names the parameter, what it may be and what it is."""
    given = estimator.get_params(deep=False)
    for name, (expected, fits) in RULES.items():
        if name in given and not fits(given[name]):
            raise ValueError(f"{name} must be {expected}, got {given[name]!r}")
    for name, other in (("batch_size", "auto"), ("n_iter_no_change", inf)):
        expected, fits = _whole(1)
        if not fits(given[name]) and given[name] != other:
            raise ValueError(f"{name} must be {expected} or {other!r}, got {given[name]!r}")
    for name in ("shuffle", "warm_start", "nesterovs_momentum", "early_stopping"):
        if given[name] not in (True, False):
            raise ValueError(f"{name} must be True or False, got {given[name]!r}")
    hidden = hidden_sizes(given["hidden_layer_sizes"])
    activations(given["activation"], len(hidden))
    dropouts = dropout_rates(given["dropout"], len(hidden))
    if any(dropouts) and given["solver"] == "lbfgs":
        raise ValueError('dropout needs solver="adam" or "sgd": lbfgs takes no random gradients')


def hidden_sizes(sizes: Any) -> list[int]:
    """Return the units of each hidden layer of a number, or of several.

    >>> hidden_sizes(5), hidden_sizes((20, 10)), hidden_sizes(())
    ([5], [20, 10], [])
    """
    found = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
    expected, fits = _whole(1)
    if not all(map(fits, found)):
        raise ValueError(f"hidden_layer_sizes must be > 0, each {expected}, got {sizes!r}")
    return [int(size) for size in found]


def activations(given: Any, layers: int) -> list[str]:
    """Return gpumlp's name of each hidden layer's activation, of one name or one for each.

    >>> activations("logistic", 2), activations(["relu", "gelu"], 2)
    (['sigmoid', 'sigmoid'], ['relu', 'gelu'])
    """
    names = [NAMES.get(name, name) for name in _for_each("activation", given, layers)]
    known = (*NAMES, *ACTIVATIONS)
    for name in names:
        if name not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(known)}, got {name!r}")
    return names


def dropout_rates(given: Any, layers: int) -> list[float]:
    """Return the dropout rate of each hidden layer, of one rate or one for each.

    >>> dropout_rates(0.5, 2), dropout_rates([0.1, 0], 2)
    ([0.5, 0.5], [0.1, 0.0])
    """
    expected, fits = _number(0, 1, "[)")
    rates = _for_each("dropout", given, layers)
    if not all(map(fits, rates)):
        raise ValueError(f"dropout must be {expected}, or one such rate a layer, got {given!r}")
    return [float(rate) for rate in rates]


def _for_each(name: str, given: Any, layers: int) -> Sequence[Any]:
    if isinstance(given, str) or not hasattr(given, "__iter__"):
        return [given] * layers
    values = list(given)
    if len(values) != layers:
        raise ValueError(
            f"{name} must be one value, or one for each of the {layers} hidden layers, "
            f"got {len(values)}"
        )
    return values
