"""Parity: every way to run a configuration here, step by step against the formulas in float64.

Each step begins with the same bits everywhere: parameters and optimizer state of the reference,
rounded to the configuration's precision. The step is a real one, on the configuration's own data,
in its order, with its dropout, weights, accumulation and clipping. What is compared:

loss      the summed loss of the step's rows
gradient  as the optimizer got it, clipped and with penalties, where the step stores it at all
update    parameters and optimizer state after the step

An update is compared with the float64 formula applied to the candidate's own gradient: Adam divides
a gradient by its size, so that a rounding error of one that is nearly 0 would become as large as
the step itself. Where the matrix product itself writes the update, gradient and update are one.

In a low precision the formulas read numbers that are rounded as products read them; where float32
differs from float64 in its last digits, a number may be rounded to the other neighbour.

An error is the largest difference within a tensor, divided by the largest reference value there,
for an update by the largest change; or, where rows cancel, by the sizes of what was added up (see
`gradients.sizes`). Rounding an updated value to the precision counts as no error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, isnan

import numpy as np

from .backend import PRECISIONS, Array, Backend, CpuBackend, Precision, get_backend
from .backend.native import load_native
from .build import build_network, build_trainer
from .config import Config
from .data.prepare import Prepared, prepare
from .data.weights import class_weights
from .engine import ENGINES, TrainingStep, get_engine
from .errors import DataError, DeviceError, DivergedError
from .gradients.kinks import near_kinks
from .gradients.sizes import SizingBackend

MOST_ROWS = 2048
STEPS = 5
TOLERANCE = 100  # times the type's ε
OTHER_NEIGHBOUR = 0.5  # times the ε of what products read: few entries of a sum are rounded so
ROUNDING = 2  # times the type's ε: what writing a value may lose


class Run:
    """One way to run the training: a backend and an engine, with a network of its own."""

    def __init__(self, name: str, engine: str, training: TrainingStep) -> None:
        self.name, self.training, self.optimizer = name, training, training.optimizer
        self.flat, self.backend = training.model.flat, training.backend
        self._engine = get_engine(engine, training)

    def host(self, array: Array) -> np.ndarray:
        """Return an array on the host in float64."""
        return np.asarray(self.backend.to_numpy(array), np.float64)

    def buffers(self) -> list[Array]:
        """Return parameters and optimizer state, flat."""
        return [self.flat.values, *self.optimizer.state.values()]

    def put(self, buffers: Sequence[np.ndarray], step: int) -> None:
        """Take over parameters, state and the number of steps."""
        for array, given in zip(self.buffers(), buffers, strict=True):
            array[...] = self.backend.asarray(given)
        self.optimizer.steps = step

    def step(self) -> float:
        """Run the next step and return the sum of its losses."""
        before, _ = self.training.sums()
        self._engine.run(1)
        return self.training.sums()[0] - before


class Reference(Run):
    """The formulas in float64, which know the sizes that rounding errors are compared with."""

    def __init__(self, config: Config, data: Prepared) -> None:
        self.sizing = SizingBackend(PRECISIONS[config.precision])
        super().__init__("reference", "eager", _training(config, data, self.sizing))
        self.sizing.watch(self.flat, [self.flat.gradients, *self.buffers()])
        self.writes_through = self.training.writes_through

    def run(self, step: int) -> None:
        """Run a step from here, and keep what it made: `loss`, `gradient`, `after`."""
        self.start = [array.copy() for array in self.buffers()]
        self.sizing.clear()
        self.loss = self.step()
        if not isfinite(self.loss):
            raise DivergedError(
                f"the loss of a step is {self.loss:g}; scale the inputs (data.scale)"
            )
        # counts of right rows are accumulated besides, only for losses that are never negative
        counts = self.training.loss.counts_correct
        self.loss_size = self.loss if counts else self.sizing.accumulated
        self.gradient, self.after = self.flat.gradients.copy(), [a.copy() for a in self.buffers()]
        self.optimizer.steps = step + 1

    def updated_by(self, gradient: np.ndarray) -> list[np.ndarray]:
        """Return parameters and state as this gradient makes them of the start of the step."""
        self.put(self.start, self.optimizer.steps)
        self.flat.gradients[...] = gradient
        self.optimizer.descend(self.backend)
        made = [array.copy() for array in self.buffers()]
        self.put(self.after, self.optimizer.steps)
        return made

    def relative(
        self, away: np.ndarray, scale: np.ndarray, factor: float = 0.0
    ) -> dict[str, float]:
        """Return, for each parameter, the largest of `away` divided by the largest of `scale`.

        Both are flat; `factor` · what the gradient's sums are made of is the least divisor.
        """
        errors = {}
        for parameter in self.flat.parameters:
            largest = float(abs(parameter.view(scale)).max())
            size = max(largest, factor * self.sizing.sizes.get(parameter.name, 0.0))
            errors[parameter.name] = float(parameter.view(away).max()) / (size or 1.0)
        return errors


@dataclass(frozen=True)
class Errors:
    """Relative errors of one tensor: for each candidate, of each step."""

    tensor: str
    of: tuple[tuple[float, ...], ...]

    @property
    def largest(self) -> list[float]:
        """The largest of all steps for each candidate; NaN, which is no agreement, is infinite."""
        return [max(inf if isnan(error) else error for error in errors) for errors in self.of]


@dataclass(frozen=True)
class Parity:
    """What was found: the tensors with the worst last; `missing` says what cannot run, and why.

    `replaced` counts rows that lay near a kink.
    """

    candidates: tuple[str, ...]
    missing: tuple[str, ...]
    tensors: tuple[Errors, ...]
    steps: int
    rows: int
    precision: Precision
    replaced: int

    @property
    def tolerance(self) -> float:
        """What an error may be: `TOLERANCE` ε of the type, or `OTHER_NEIGHBOUR` ε of products."""
        of_type = TOLERANCE * float(np.finfo(self.precision.dtype).eps)
        return max(of_type, OTHER_NEIGHBOUR * self.precision.epsilon)

    @property
    def error(self) -> float:
        """The largest error of all."""
        return max(self.tensors[-1].largest)


def compare(config: Config, steps: int = STEPS, engine: str = "auto") -> Parity:
    """Run the first steps of a configuration in every way there is, and measure the differences.

    With `engine` "auto" every backend runs with every engine. The training part is thinned out to
    `MOST_ROWS` rows. A row that lies near a kink (see `gradients.kinks`) is replaced by another one
    of its batch, everywhere.

    Raises DeviceError when the configuration names a device that cannot be used, DataError for
    targets that the loss does not take, DivergedError when the loss is not finite, and what loading
    raises.

    >>> from gpumlp.config_file import load_config
    >>> found = compare(load_config("xor"), steps=2)
    >>> found.error < found.tolerance, len(found.tensors)
    (True, 9)
    """
    backends, missing = find_backends(config.device, config.precision)
    precision = backends[0][1].precision
    data = prepare(config.data, config.model.task, config.seed, np.dtype(precision.dtype))
    try:
        reference = Reference(config, data)
        candidates = [
            Run(f"{name} {one}", one, _training(config, data, backend))
            for name, backend in backends
            for one in (ENGINES if engine == "auto" else [engine])
        ]
    except ValueError as error:
        raise DataError(f"{config.data.source}: {error}") from None
    batches, model = reference.training.batches, reference.training.model
    schedule = build_trainer(config, model, batches.count).schedule
    found: dict[str, list[list[float]]] = {}
    replaced = 0
    largest = model.operations_of_largest_product(batches.size)
    with reference.backend.threads_for(largest), np.errstate(all="ignore"):
        for step in range(steps):
            start = [array.astype(precision.dtype) for array in reference.buffers()]
            for one in (reference, *candidates):
                one.put(start, step)
                if step % batches.steps == 0:
                    factors = schedule.table(step, batches.steps)
                    one.training.begin_epoch(step // batches.steps, step, factors)
            replaced += _replace_rows_near_kinks(reference, candidates, step)
            reference.run(step)
            for i, one in enumerate(candidates):
                for name, size in _errors(reference, one).items():
                    found.setdefault(name, [[] for _ in candidates])[i].append(size)
    tensors = [Errors(name, tuple(map(tuple, errors))) for name, errors in found.items()]
    return Parity(
        tuple(one.name for one in candidates),
        tuple(missing),
        tuple(sorted(tensors, key=lambda one: max(one.largest))),
        steps,
        batches.count,
        precision,
        replaced,
    )


def find_backends(device: str, precision: str) -> tuple[list[tuple[str, Backend]], list[str]]:
    """Return (name, backend) of what can run here, and a line for each that cannot, with why.

    A device other than "cpu" and "auto" must work, or DeviceError is raised.
    """
    found: list[tuple[str, Backend]] = []
    missing = []
    cpu = get_backend("cpu", precision)
    if isinstance(cpu, CpuBackend):
        if cpu.native:
            found.append(("cpu", cpu))
        else:
            missing.append(f"native kernels: {load_native()[1]}")
        cpu = CpuBackend(kernels=False, precision=cpu.precision)
    found.append(("numpy", cpu))
    if device == "cpu":
        return found, missing
    try:
        backend = get_backend("cuda" if device == "auto" else device, precision)
        found.append((backend.name, backend))
    except DeviceError as error:
        if device != "auto":
            raise
        missing.append(f"cuda: {error}")
    return found, missing


def _training(config: Config, data: Prepared, backend: Backend) -> TrainingStep:
    """Return the configuration's step on a backend, with copies of the data."""
    train = data.train
    rows = np.linspace(0, len(train.x) - 1, min(len(train.x), MOST_ROWS)).astype(np.int64)
    network = build_network(config, train.x.shape[1], data.targets.outputs, backend)
    weight = class_weights(train.y, data.targets, config.loss.class_weight, train.x.dtype)
    trainer = build_trainer(config, network, len(rows), class_weight=weight)
    weights = None if train.sample_weight is None else train.sample_weight[rows]
    return trainer.training_step(train.x[rows], train.y[rows], weights)


def _errors(reference: Reference, one: Run) -> dict[str, float]:
    """Run a candidate's step; return its relative errors by tensor."""
    loss = one.step()
    errors = {"loss": abs(loss - reference.loss) / (reference.loss_size or 1.0)}
    after, factor = reference.after, 0.0
    if not reference.writes_through:
        own, exact = one.host(one.flat.gradients), reference.gradient
        for name, error in reference.relative(abs(own - exact), exact, 1.0).items():
            errors[f"{name} gradient"] = error
        after = reference.updated_by(own)
    elif one.optimizer.state:  # W is updated by the velocity, which holds the sums
        factor = float(reference.optimizer.scalar("lr"))
    else:
        factor = 1.0
    eps = ROUNDING * float(np.finfo(one.backend.dtype).eps)
    for array, exact, old in zip(one.buffers(), after, reference.start, strict=True):
        away = abs(one.host(array) - exact) - eps * abs(exact)
        for name, error in reference.relative(away, exact - old, factor).items():
            key = f"{name} update"
            errors[key] = float(np.maximum(errors.get(key, 0.0), error))
        factor = float(reference.writes_through)
    return errors


def _replace_rows_near_kinks(reference: Reference, candidates: Sequence[Run], step: int) -> int:
    """Replace rows of the step where rounding may choose the derivative; return how many."""
    training, batches = reference.training, reference.training.batches
    position = step % batches.steps
    start = position * batches.effective
    taken = min(batches.effective, batches.count - start)
    rows = batches.order(step // batches.steps)[position][:taken]
    keys = training.model.dropout_keys(step) if training.model.has_dropout else None
    replaced: set[int] = set()
    for _ in range(10):  # under its mask a row that replaces another may be near a kink, too
        x, target = batches.x[rows], batches.target[rows]
        near = near_kinks(training.model, training.loss, x, target, keys)
        if not near.any() or near.all():
            break
        others = np.resize(rows[~near], int(near.sum()))
        for one in (reference, *candidates):
            into, source = (one.backend.asarray(n, np.int64) for n in (rows[near], others))
            for array in (one.training.batches.x, one.training.batches.target):
                array[into] = array[source]
        replaced |= set(rows[near].tolist())
    return len(replaced)
