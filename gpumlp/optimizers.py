"""Optimizers: how a gradient changes the parameters; gradient descent and its descendants.

An optimizer works on the flat buffer. What changes from step to step (learning rate, bias
corrections, decay factors) is a line of a table: computed on the host in float64, copied to fixed
addresses (`row`), and read there by the operations, so that a recorded step stays valid.

It also chooses where the backward pass writes weight gradients (`sink`): plain gradient descent
lets the matrix product itself write W ← (1 - lr·decay) W - lr·dW, and no gradient is ever stored.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, fields
from typing import ClassVar

import numpy as np

from .backend import Array, Backend, Scalar
from .loss_scale import LossScale
from .model import Sequential
from .parameters import FlatParameters, Parameter, Sink, gradient_sink
from .ranges import check_number

RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "lr": ("> 0", lambda value: value > 0),
    "clip_norm": ("> 0", lambda value: value > 0),
    "eps": ("> 0", lambda value: value > 0),
    "weight_decay": (">= 0", lambda value: value >= 0),
    "l1": (">= 0", lambda value: value >= 0),
    "momentum": ("in [0, 1)", lambda value: 0 <= value < 1),
    "rho": ("in [0, 1)", lambda value: 0 <= value < 1),
    "betas": ("in [0, 1)", lambda value: 0 <= value < 1),
}


EVERYTHING = slice(None)  # of the flat buffers


@dataclass(repr=False, eq=False)
class Optimizer:
    """What all optimizers share.

    Args:
        lr: learning rate η > 0, which a schedule multiplies.
        weight_decay: L2: adds weight_decay · W to the gradient (`AdamW` decays W itself instead).
        l1: adds l1 · sign(W).
        clip_norm: largest norm of the whole gradient, penalties excluded.

    Biases have neither decay nor L1. Raises ValueError for values out of range.
    """

    lr: float
    _: KW_ONLY
    weight_decay: float = 0.0
    l1: float = 0.0
    clip_norm: float | None = None

    name: ClassVar[str] = ""
    slots: ClassVar[tuple[str, ...]] = ()  # names of the flat arrays of state
    decoupled: ClassVar[bool] = False  # whether weight_decay shrinks W itself, outside the cost

    def __post_init__(self) -> None:
        for field in fields(self):
            given = getattr(self, field.name)
            if given is None and field.default is None:
                continue
            for value in given if field.name == "betas" else (given,):
                check_number(field.name, value, *RANGES[field.name])
        self.steps = 0
        self.state: dict[str, Array] = {}
        self.loss_scale: LossScale | None = None
        self._ranges: list[tuple[slice, float]] = []  # weights of equal decay
        self._decays: list[float] = []
        self._flat: FlatParameters | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(lr={self.lr})"

    def bind(self, flat: FlatParameters, backend: Backend) -> None:
        """Take charge of these parameters, with fresh state; the same ones again keep it."""
        taken = [p.name for p in flat.parameters if p.flat is not flat]
        if taken:
            raise ValueError(f"{', '.join(taken)}: the layer was taken over by another Sequential")
        if self._flat is not flat:
            state = {slot: backend.zeros(flat.values.shape) for slot in self.slots}
            self.loss_scale = LossScale(backend) if backend.precision.scales_loss else None
            self._flat, self.steps, self.state = flat, 0, state  # all, or nothing without memory
        self._ranges = list(flat.decay_ranges(self.weight_decay))
        self._decays = sorted({decay for _, decay in self._ranges})
        self.row = backend.zeros((len(self._columns(np.ones(1), np.ones(1))),))

    @property
    def arrays(self) -> dict[str, Array]:
        """All that steps change besides the parameters: slots of state, and the loss scale's."""
        scale = {} if self.loss_scale is None else {"loss_scale": self.loss_scale.state}
        return {**self.state, **scale}

    @property
    def flat(self) -> FlatParameters:
        """The parameters this optimizer was bound to."""
        if self._flat is None:
            raise ValueError(f"{self!r} has no parameters yet: call bind, step or Trainer.fit")
        return self._flat

    def step(self, model: Sequential, factor: float = 1.0) -> None:
        """Update the model's parameters from the gradients of its last `backward`.

        `factor` multiplies the learning rate (a schedule's value for this step).
        """
        self.bind(model.flat, model.backend)
        table = self.table(np.array([factor]), self.steps)
        self.row[...] = model.backend.asarray(table[0])
        self.update(model.backend)
        self.steps += 1

    # ------------------------------------------------------ a step, recorded

    def table(self, factors: np.ndarray, first_step: int) -> np.ndarray:
        """Return the lines of steps first_step, first_step + 1, ...: float64 (steps, columns)."""
        t = first_step + 1.0 + np.arange(len(factors))
        return np.stack(list(self._columns(self.lr * factors, t).values()), axis=1)

    def _columns(self, lr: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
        """Name → the value at each step; `t` counts from 1."""
        return {"lr": lr}

    def scalar(self, column: str) -> Scalar:
        """Return this step's value of a column: a 0-d view of `row`."""
        i = list(self._columns(np.ones(1), np.ones(1))).index(column)
        return self.row[i : i + 1].reshape(())

    @property
    def writes_through(self) -> bool:
        """Whether the backward product may write into something other than the gradient."""
        return False

    def sink(self, parameter: Parameter) -> Sink:
        """Return where the backward pass writes a gradient; only if `writes_through`."""
        return gradient_sink(parameter)

    def update(
        self, backend: Backend, written_through: bool = False, part: slice = EVERYTHING
    ) -> None:
        """Run the operations of one update; `row` holds the step's scalars.

        `part` is what of the flat buffers `update_early` has not updated already.
        """
        g = self.flat.gradients
        if not written_through and self.clip_norm is not None:
            backend.clip_norm(g, self.clip_norm, backend.scratch(g))
        self.update_early(backend, written_through, part)
        self._limit_norms(backend)

    def may_update_early(self, written_through: bool) -> bool:
        """Whether layers can be updated one by one, as soon as their gradients are there."""
        something_to_do = not written_through or self.slots or self.flat.operand is not None
        return bool(something_to_do) and self.clip_norm is None and self.loss_scale is None

    def update_early(self, backend: Backend, written_through: bool, part: slice) -> None:
        """Update a part of the flat buffers whose gradient is complete."""
        if written_through:
            self._update_written(backend, part)
        else:
            self._add_penalties(self.flat.gradients, backend, part)
            self._update(backend, part)
        if self._copy(part) is None and not self._limited:
            self._round(backend, part)

    def descend(self, backend: Backend) -> None:
        """Take the step by the gradient as it is; `update` has clipped it and added penalties."""
        self._update(backend, EVERYTHING)
        self._limit_norms(backend)

    @property
    def _limited(self) -> bool:
        return any(p.max_norm is not None for p in self.flat.parameters)

    def _limit_norms(self, backend: Backend) -> None:
        for parameter in self.flat.parameters:
            if parameter.max_norm is not None:
                w = parameter.value
                backend.clip_rows(w, parameter.max_norm, backend.scratch(w))
        if self._limited:
            self._round(backend, EVERYTHING)

    def _round(self, backend: Backend, part: slice) -> None:
        """Bring what matrix products read in place of the values up to date."""
        operand = self.flat.operand
        if operand is not None:
            copies = [array[part] for array in operand.parts]
            backend.split(copies, self.flat.values[part], str(backend.operand_format))

    def _arrays(self, part: slice) -> list[Array]:
        """Return that part of the values, of the gradient, and of each slot of state."""
        state = (self.state[slot] for slot in self.slots)
        return [array[part] for array in (self.flat.values, self.flat.gradients, *state)]

    def _copy(self, part: slice) -> Array | None:
        """Return what `_update` itself writes for matrix products to read, besides the values."""
        operand = self.flat.operand
        if operand is None or len(operand.parts) > 1 or self._limited:
            return None
        return operand.parts[0][part]

    @property
    def _skip(self) -> Array | None:
        """Where it is 1 an update changes nothing."""
        return None if self.loss_scale is None else self.loss_scale.overflow

    def _l2(self, part: slice = EVERYTHING) -> list[tuple[slice, float]]:
        """Return the ranges of weights whose squares are part of the cost, each with its decay."""
        return [] if self.decoupled else self._decayed(part)

    def _decayed(self, part: slice) -> list[tuple[slice, float]]:
        """Return the ranges of weights with equal decay, as far as they lie in a part."""
        first, end, _ = part.indices(len(self.flat.values))
        ranges = [
            (slice(max(whole.start, first), min(whole.stop, end)), decay)
            for whole, decay in self._ranges
        ]
        return [(one, decay) for one, decay in ranges if one.start < one.stop]

    def _add_penalties(self, g: Array, backend: Backend, part: slice = EVERYTHING) -> None:
        w = self.flat.values
        for one, decay in self._l2(part):
            backend.add_penalty(g[one], w[one], decay, 0.0, backend.scratch(w[one]))
        first, end, _ = part.indices(self.flat.weights_end)
        if self.l1 and first < end:
            some = slice(first, end)
            backend.add_penalty(g[some], w[some], 0.0, self.l1, backend.scratch(w[some]))

    def _update(self, backend: Backend, part: slice) -> None:
        raise NotImplementedError

    def _update_written(self, backend: Backend, part: slice) -> None:
        """Finish what the backward pass has written through."""
        raise NotImplementedError

    @property
    def has_penalty(self) -> bool:
        """Whether any weight has L1 or L2 as part of the cost."""
        return bool(self.l1 or self._l2())

    def penalty(self) -> float:
        """Return Σ decay ‖W‖²/2 + l1 ‖W‖₁, what the regulariser adds to the cost."""
        values = self.flat.values
        total = sum(
            decay / 2 * float((values[part] ** 2).sum(dtype="float64"))
            for part, decay in self._l2()
        )
        if self.l1:
            weights = values[: self.flat.weights_end]
            total += self.l1 * float(abs(weights).sum(dtype="float64"))
        return total


@dataclass(repr=False, eq=False)
class SGD(Optimizer):
    """Gradient descent, the notes' step 3: W ← W - η ∂L/∂W.

    >>> SGD(lr=0.1).table(np.array([1.0, 0.5]), first_step=0).tolist()
    [[0.1, -0.1], [0.05, -0.05]]
    """

    name: ClassVar[str] = "sgd"

    lr: float = 0.1

    def _columns(self, lr: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
        keep = {f"keep {decay}": 1 - lr * decay for decay in self._decays}
        return {"lr": lr, "-lr": -lr, **keep}

    @property
    def writes_through(self) -> bool:
        """Unless the whole gradient must be seen first."""
        return self.clip_norm is None and not self.l1

    def sink(self, parameter: Parameter) -> Sink:
        """W ← (1 - lr·decay) W - lr·dW, written by the product that dW would be.

        A BLAS adds a long product in parts (OpenBLAS: of some 320 rows) and rounds W after each, so
        in larger batches updates of about W's last bit are lost sooner than by adding dW at once.
        """
        decay = self.weight_decay if parameter.weight_decay is None else parameter.weight_decay
        keep = self.scalar(f"keep {decay}") if decay and parameter.is_weight else 1.0
        return Sink(parameter.value, self.scalar("-lr"), keep)

    def _update(self, backend: Backend, part: slice) -> None:
        w, g = self._arrays(part)
        scratch = backend.scratch(w)
        backend.sgd_step(w, g, self.scalar("lr"), scratch, self._copy(part), self._skip)

    def _update_written(self, backend: Backend, part: slice) -> None:
        if self._copy(part) is not None:
            self._round(backend, part)


@dataclass(repr=False, eq=False)
class Momentum(Optimizer):
    """Gradient descent with momentum: v ← μ v + g, W ← W - η v (Polyak 1964)."""

    name: ClassVar[str] = "momentum"
    slots: ClassVar[tuple[str, ...]] = ("velocity",)

    lr: float = 0.05
    _: KW_ONLY
    momentum: float = 0.9

    @property
    def writes_through(self) -> bool:
        """Unless the whole gradient must be seen first."""
        return self.clip_norm is None

    def sink(self, parameter: Parameter) -> Sink:
        """V ← μ v + dW."""
        return Sink(parameter.view(self.state["velocity"]), 1.0, self.momentum)

    def _update_written(self, backend: Backend, part: slice) -> None:
        """The velocity lacks the penalties, and the step is still to be taken."""
        velocity, w = self.state["velocity"], self.flat.values[part]
        self._add_penalties(velocity, backend, part)
        lr, scratch = self.scalar("lr"), backend.scratch(w)
        backend.sgd_step(w, velocity[part], lr, scratch, self._copy(part))

    def _update(self, backend: Backend, part: slice) -> None:
        w, g, v = self._arrays(part)
        backend.momentum_step(
            w,
            v,
            g,
            self.scalar("lr"),
            self.momentum,
            backend.scratch(w),
            self._copy(part),
            self._skip,
        )


class Nesterov(Momentum):
    """Nesterov's momentum: v ← μ v + g, W ← W - η (g + μ v) (Sutskever et al. 2013)."""

    name: ClassVar[str] = "nesterov"

    @property
    def writes_through(self) -> bool:
        """Never: the step needs g besides v."""
        return False

    def _update(self, backend: Backend, part: slice) -> None:
        w, g, v = self._arrays(part)
        backend.nesterov_step(
            w,
            v,
            g,
            self.scalar("lr"),
            self.momentum,
            backend.scratch(w),
            self._copy(part),
            self._skip,
        )


@dataclass(repr=False, eq=False)
class Adagrad(Optimizer):
    """Adagrad: s ← s + g², W ← W - η g / (√s + ε) (Duchi et al. 2011)."""

    name: ClassVar[str] = "adagrad"
    slots: ClassVar[tuple[str, ...]] = ("square",)

    lr: float = 0.01
    _: KW_ONLY
    eps: float = 1e-8

    def _update(self, backend: Backend, part: slice) -> None:
        w, g, s = self._arrays(part)
        backend.adagrad_step(
            w,
            s,
            g,
            self.scalar("lr"),
            self.eps,
            backend.scratch(w),
            self._copy(part),
            self._skip,
        )


@dataclass(repr=False, eq=False)
class RMSProp(Optimizer):
    """RMSProp: s ← ρ s + (1 - ρ) g², W ← W - η g / (√s + ε) (Tieleman and Hinton 2012)."""

    name: ClassVar[str] = "rmsprop"
    slots: ClassVar[tuple[str, ...]] = ("square",)

    lr: float = 0.001
    _: KW_ONLY
    rho: float = 0.99
    eps: float = 1e-8

    def _update(self, backend: Backend, part: slice) -> None:
        w, g, s = self._arrays(part)
        backend.rmsprop_step(
            w,
            s,
            g,
            self.scalar("lr"),
            self.rho,
            self.eps,
            backend.scratch(w),
            self._copy(part),
            self._skip,
        )


@dataclass(repr=False, eq=False)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), with the bias corrections of step t = 1, 2, ...

    m ← β₁ m + (1 - β₁) g,  v ← β₂ v + (1 - β₂) g²,
    W ← W - η (m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + ε)
    """

    name: ClassVar[str] = "adam"
    slots: ClassVar[tuple[str, ...]] = ("mean", "square")

    lr: float = 0.001
    _: KW_ONLY
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if np.shape(self.betas) != (2,):
            raise ValueError(f"betas must be two numbers, got {self.betas!r}")
        super().__post_init__()

    def _columns(self, lr: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
        beta1, beta2 = self.betas
        return {"lr": lr / (1 - beta1**t), "correction": 1 / np.sqrt(1 - beta2**t)}

    def _update(self, backend: Backend, part: slice) -> None:
        w, g, m, v = self._arrays(part)
        backend.adam_step(
            w,
            m,
            v,
            g,
            self.scalar("lr"),
            self.scalar("correction"),
            self.betas,
            self.eps,
            backend.scratch(w),
            self._copy(part),
            self._skip,
        )


@dataclass(repr=False, eq=False)
class AdamW(Adam):
    """Adam with decoupled decay: first W ← (1 - η·weight_decay) W (Loshchilov and Hutter 2019)."""

    name: ClassVar[str] = "adamw"
    decoupled: ClassVar[bool] = True

    _: KW_ONLY
    weight_decay: float = 0.01

    def _columns(self, lr: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
        keep = {f"keep {decay}": 1 - lr * decay for decay in self._decays}
        return {**super()._columns(lr, t), **keep}

    def _update(self, backend: Backend, part: slice) -> None:
        for one, decay in self._decayed(part):
            keep = self.scalar(f"keep {decay}")
            backend.scale(self.flat.values[one], keep, self._skip)
        super()._update(backend, part)


OPTIMIZERS: dict[str, type[Optimizer]] = {
    optimizer.name: optimizer
    for optimizer in (SGD, Momentum, Nesterov, Adagrad, RMSProp, Adam, AdamW)
}
