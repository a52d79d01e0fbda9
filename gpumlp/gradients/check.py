"""Check the gradient of a configuration: the formulas in float64, then the engine that trains.

The network, loss, penalty and data are the configuration's own, at the parameters drawn from its
seed. Backpropagation in float64 is compared with central differences (see `differences`): every
entry of a small network; of a large one `SAMPLED` entries of each tensor and a random direction
of all parameters at once. Then one training step of the configured engine, in the configured
precision, is compared with the float64 gradient.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np

from ..backend import Array, Precision, RecordingBackend, Workspace, get_backend
from ..build import build_loss, build_network, build_optimizer
from ..config import Config
from ..data.prepare import Prepared, prepare
from ..data.weights import class_weights
from ..errors import DataError, DivergedError
from ..model import Sequential
from ..optimizers import Optimizer
from ..parameters import Parameter
from .differences import (
    TOLERANCE,
    Comparison,
    Cost,
    outputs_of_layers,
    relative_error,
    sides_of_kinks,
)
from .engine import Batch, engine_gradient

MOST_ROWS = 64
SMALL = 5_000  # parameters: up to here every entry is checked
SAMPLED = 50
ENGINE_TOLERANCE = 100  # times the type's ε; 0.2 to 7 were measured
ROUNDING_TOLERANCE = 8  # times the ε of what products read, if that is larger; 0.03 to 0.5 were


@dataclass(frozen=True)
class TensorCheck:
    """What was found for one tensor: the comparisons with differences, and the engine's error."""

    name: str
    shape: tuple[int, ...]
    comparisons: tuple[Comparison, ...]
    engine_error: float
    engine_worst: tuple[int, ...]  # where the engine is furthest off

    @property
    def checked(self) -> int:
        """Number of entries that were compared."""
        return len(self.comparisons) - self.skipped

    @property
    def skipped(self) -> int:
        """Number of entries that lie at a kink."""
        return sum(one.skipped for one in self.comparisons)

    @property
    def worst(self) -> Comparison | None:
        """The comparison with the largest error; None if all were skipped."""
        compared = [one for one in self.comparisons if not one.skipped]
        return max(compared, key=lambda one: one.error, default=None)


@dataclass(frozen=True)
class GradientCheck:
    """The result of `check`.

    `direction` is the relative error along the random direction: None where every entry was
    checked, NaN where it met kinks. `left_out` counts the rows that were given weight 0 because
    rounding to the engine's precision puts them on the other side of a kink.
    """

    tensors: tuple[TensorCheck, ...]
    direction: float | None
    rows: int
    left_out: int
    engine: str
    device: str
    precision: Precision

    @property
    def arithmetic(self) -> str:
        """What the engine computes in: "float32", "float64", or a precision of products."""
        return self.precision.name if self.precision.format else self.precision.dtype

    @property
    def error(self) -> float:
        """Largest relative error of backpropagation in float64; NaN if nothing was compared."""
        errors = [one.worst.error for one in self.tensors if one.worst is not None]
        errors += [] if self.direction is None or np.isnan(self.direction) else [self.direction]
        return max(errors, default=float("nan"))

    @property
    def engine_error(self) -> float:
        """Largest relative error of the engine's gradient."""
        return max(one.engine_error for one in self.tensors)

    @property
    def engine_tolerance(self) -> float:
        """What the engine's error may be: 100 ε of its type, or 8 ε of what products read."""
        of_type = ENGINE_TOLERANCE * float(np.finfo(self.precision.dtype).eps)
        return max(of_type, ROUNDING_TOLERANCE * self.precision.epsilon)


def check(config: Config, rows: int = MOST_ROWS) -> GradientCheck:
    """Compare the gradient of a configuration, at θ⁰, with differences and with the engine's.

    `rows` rows of the training part, evenly spaced, make the batch; 64 at most. Dropout is on, with
    the masks of step 0. Raises ValueError for `rows` out of range, DivergedError when the cost is
    not finite, and what loading raises.

    >>> from gpumlp.config_file import load_config
    >>> found = check(load_config("digits", ["model.hidden=[8]"]), rows=16)
    >>> found.tensors[0].name, found.tensors[0].checked, found.error < 1e-6
    ('0.weight', 512, True)
    """
    if not 1 <= rows <= MOST_ROWS:
        raise ValueError(f"rows must lie in 1..{MOST_ROWS}, got {rows}")
    backend, double = get_backend(config.device, config.precision), get_backend("cpu", "fp64")
    data = prepare(config.data, config.model.task, config.seed, np.float64)
    network, reference = (
        build_network(config, data.train.x.shape[1], data.targets.outputs, one)
        for one in (backend, double)
    )
    for parameter, own in zip(reference.parameters, network.parameters, strict=True):
        parameter.value[...] = backend.to_numpy(own.value)  # rounded as the engine has them
    batch = choose_batch(config, data, rows)
    try:
        loss = build_loss(config, double)
        loss.check_target(loss.as_target(batch.y, double), len(batch.x), data.targets.outputs)
    except ValueError as error:
        raise DataError(f"{config.data.source}: {error}") from None
    operations = reference.operations_of_largest_product(len(batch.x))
    with double.threads_for(operations), np.errstate(all="ignore"):
        batch, left_out = without_rows_at_kinks(config, batch, network, reference)
        return _check(config, batch, network, reference, left_out)


def _check(
    config: Config, batch: Batch, network: Sequential, reference: Sequential, left_out: int
) -> GradientCheck:
    cost, optimizer = cost_of(config, reference, batch)
    if not isfinite(cost.value()):
        raise DivergedError(
            f"the cost is {cost.value():g} before the first step; scale the inputs (data.scale)"
        )
    gradient = backpropagated(cost, optimizer)
    sizes = added_sizes(cost, gradient)
    engine, found = engine_gradient(config, network, batch)
    rng = np.random.default_rng(config.seed)
    whole = reference.flat.count <= SMALL
    tensors = []
    for parameter in reference.parameters:
        own = parameter.view(gradient)
        entries = _entries(parameter, None if whole else rng)
        comparisons = tuple(cost.compare(parameter, index, own) for index in entries)
        away = abs(parameter.view(found) - own)
        error = float(np.linalg.norm(away)) / (sizes[parameter.name] or 1.0)
        worst = tuple(map(int, np.unravel_index(away.argmax(), away.shape)))
        tensors.append(TensorCheck(parameter.name, parameter.shape, comparisons, error, worst))
    direction = None if whole else _along_a_direction(cost, gradient, rng)
    backend = network.backend
    return GradientCheck(
        tuple(tensors),
        direction,
        len(batch.x),
        left_out,
        engine,
        backend.name,
        backend.precision,
    )


def _entries(parameter: Parameter, rng: np.random.Generator | None) -> Iterator[tuple[int, ...]]:
    """Yield the indices of all entries, or of `SAMPLED` drawn ones."""
    numbers = np.arange(parameter.size)
    if rng is not None and parameter.size > SAMPLED:
        numbers = np.sort(rng.choice(parameter.size, SAMPLED, replace=False))
    for number in numbers:
        yield tuple(map(int, np.unravel_index(number, parameter.shape)))


def _along_a_direction(cost: Cost, gradient: Array, rng: np.random.Generator) -> float:
    """Return the relative error along a random direction (as HIPS/autograd does): two scalars.

    An error in any entry shows. Tries a few directions, as large networks are full of kinks.
    """
    for _ in range(5):
        direction = np.zeros_like(gradient)
        for parameter in cost.model.parameters:
            # shorter where inputs are large, as steps by one entry are
            drawn = rng.normal(size=parameter.shape) * cost.step(parameter)
            parameter.view(direction)[...] = drawn
        direction /= np.linalg.norm(direction)
        numeric = cost.along(direction)
        if numeric is not None:
            # an unlucky direction is all but orthogonal to the gradient, and then cancels
            scale = max(1e-2 * float(np.linalg.norm(gradient)), cost.floor())
            return relative_error(float(gradient @ direction), numeric, scale)
    return float("nan")


def choose_batch(config: Config, data: Prepared, rows: int) -> Batch:
    """Return rows of the training part, evenly spaced among those whose weight is not 0."""
    train = data.train
    weight = train.sample_weight
    of_class = class_weights(train.y, data.targets, config.loss.class_weight, train.x.dtype)
    if of_class is not None:
        of_row = of_class[train.y.reshape(-1).astype(np.int64)]
        weight = of_row if weight is None else of_row * weight
    numbers = np.arange(len(train.x)) if weight is None else np.flatnonzero(weight)
    spaced = np.linspace(0, len(numbers) - 1, min(rows, len(numbers)))
    numbers = numbers[spaced.astype(np.int64)]
    return Batch(train.x[numbers], train.y[numbers], None if weight is None else weight[numbers])


def without_rows_at_kinks(
    config: Config, batch: Batch, network: Sequential, reference: Sequential
) -> tuple[Batch, int]:
    """Give weight 0 to rows that rounding puts on the other side of a kink; return their number.

    There the two precisions have different derivatives, and both are right.
    """
    same = np.ones(len(batch.x), bool)
    sides = []
    for model in (network, reference):
        # memory of the same order as in the engine's step, so that the bits are the same too
        backend = RecordingBackend(model.backend, Workspace(model.backend))
        keys = model.dropout_keys(0) if model.has_dropout else None
        outputs = outputs_of_layers(model, model.backend.asarray(batch.x), keys, backend)
        found = sides_of_kinks(model, build_loss(config, model.backend), outputs, batch.y)
        sides.append([model.backend.to_numpy(side) for side in found])
    for own, exact in zip(*sides, strict=True):
        same &= (own == exact).all(axis=1)
    if same.all():
        return batch, 0
    weight = np.ones(len(same)) if batch.weight is None else batch.weight
    return replace(batch, weight=weight * same), int((~same).sum())


def cost_of(config: Config, model: Sequential, batch: Batch) -> tuple[Cost, Optimizer]:
    """Return cost plus penalty of a batch, and the optimizer whose penalty it is."""
    optimizer = replace(build_optimizer(config), clip_norm=None)
    optimizer.bind(model.flat, model.backend)
    cost = Cost(
        model,
        build_loss(config, model.backend),
        batch.x,
        batch.y,
        batch.weight,
        keys=model.dropout_keys(0) if model.has_dropout else None,
        penalty=optimizer.penalty,
        l1=optimizer.l1 > 0,
    )
    return cost, optimizer


def backpropagated(cost: Cost, optimizer: Optimizer) -> Array:
    """Return the gradient of cost plus penalty by backpropagation, a flat buffer."""
    flat = cost.model.flat
    start = flat.values.copy()
    cost.value()
    cost.model.backward(cost.loss.backward(), input_gradient=False)
    optimizer.step(cost.model)  # adds the penalty's gradient
    flat.values[...] = start
    return flat.gradients.copy()


def added_sizes(cost: Cost, gradient: Array) -> dict[str, float]:
    """Return for each tensor the norms of all rows' gradients and of the penalty's, added up.

    This is what a rounding error is compared with: rows may cancel, their rounding errors do not.
    """
    model, flat = cost.model, cost.model.flat
    cost.value()
    dz, total = cost.loss.backward(), np.zeros_like(gradient)
    sizes = dict.fromkeys((parameter.name for parameter in model.parameters), 0.0)
    for row in range(len(cost.x)):
        model.forward(cost.x[row : row + 1], keys=cost.keys, first_row=row)
        model.backward(dz[row : row + 1], input_gradient=False)
        total += flat.gradients
        for parameter in model.parameters:
            sizes[parameter.name] += float(np.linalg.norm(parameter.gradient))
    for parameter in model.parameters:
        sizes[parameter.name] += float(np.linalg.norm(parameter.view(gradient - total)))
    return sizes


def failures(found: GradientCheck) -> list[str]:
    """Return what is wrong, one line each, naming tensor and entry; nothing where all is well."""
    lines = []
    for tensor in found.tensors:
        worst = tensor.worst
        if worst is not None and not worst.error <= TOLERANCE:
            lines.append(
                f"{tensor.name}{list(worst.index)}: backpropagation gives {worst.analytic:.6g}, "
                f"the central difference {worst.numeric:.6g} (relative error {worst.error:.1e}, "
                f"allowed {TOLERANCE:g})"
            )
        if not tensor.engine_error <= found.engine_tolerance:
            lines.append(
                f"{tensor.name}{list(tensor.engine_worst)}: the gradient of engine {found.engine} "
                f"in {found.arithmetic} differs from that in float64 (relative error "
                f"{tensor.engine_error:.1e}, allowed {found.engine_tolerance:.1e})"
            )
    if found.direction is not None and found.direction > TOLERANCE:
        lines.append(
            f"all parameters along a random direction: relative error {found.direction:.1e}, "
            f"allowed {TOLERANCE:g}"
        )
    if np.isnan(found.error):
        lines.append("nothing could be compared: a kink lies within reach of every entry")
    return lines
