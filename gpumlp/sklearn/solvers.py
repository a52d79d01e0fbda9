"""How an estimator is trained: batches by gpumlp's trainer, with scikit-learn's rules of stopping.

The gradient of a row is that of a sum over the outputs there and of a mean here; `Terms`
translates, so that learning rate, alpha and losses mean what they mean there.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from ..backend import Array
from ..engine.divergence import not_finite
from ..errors import DivergedError
from ..events import Callback, Record
from ..model import Sequential
from ..optimizers import SGD, Adam, Momentum, Nesterov, Optimizer
from ..schedules import Factors, Schedule
from ..trainer import Trainer

LEAST_RATE = 1e-6  # where "adaptive" gives up
Scorer = Callable[[Record], float]


@dataclass(frozen=True)
class Terms:
    """What our gradient and our loss are in scikit-learn's terms.

    Args:
        gradient: our gradient divided by scikit-learn's.
        loss: scikit-learn's loss divided by ours.
        constant: what its loss has besides.
    """

    gradient: float = 1.0
    loss: float = 1.0
    constant: float = 0.0


class EpochFactor(Schedule):
    """A factor that whoever ends an epoch may change for the next one."""

    value = 1.0

    def factors(self, step: Factors) -> Factors:
        """Return the present factor for every step."""
        return np.full_like(step, self.value)


def optimizer_of(estimator: Any, terms: Terms) -> Optimizer:
    """Return the optimizer that the estimator's parameters name; its decay is set by `decay`."""
    lr = estimator.learning_rate_init
    if estimator.solver == "adam":
        betas = (float(estimator.beta_1), float(estimator.beta_2))
        return Adam(lr, betas=betas, eps=estimator.epsilon * terms.gradient)
    lr = lr / terms.gradient
    if not estimator.momentum:
        return SGD(lr)
    rule = Nesterov if estimator.nesterovs_momentum else Momentum
    return rule(lr, momentum=float(estimator.momentum))


def decay(alpha: float, terms: Terms, rows: int, batch: int, weights: Any = None) -> float:
    """Return the weight decay that alpha stands for: it is divided by the weight of a batch."""
    weight = batch if weights is None else float(np.sum(weights, dtype=np.float64)) * batch / rows
    return alpha * terms.gradient / weight if weight else 0.0


class Progress(Callback):
    """After each epoch, the estimator's attributes; and the end by scikit-learn's rules.

    Args:
        estimator: whose parameters are obeyed and whose attributes are set.
        terms: of its loss.
        held_terms: of that of the validation part.
        score: of the validation part, greater is better; None without one.
        incremental: whether this is `partial_fit`, which never stops for want of progress.
    """

    def __init__(
        self,
        estimator: Any,
        terms: Terms,
        held_terms: Terms,
        score: Scorer | None,
        incremental: bool,
    ) -> None:
        self.estimator, self.terms, self.held_terms = estimator, terms, held_terms
        self.score = score
        self.incremental = incremental
        self.best: Array = None

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        """Take note of loss and score, and stop or change the learning rate."""
        estimator, terms = self.estimator, self.terms
        estimator.n_iter_ += 1
        estimator.t_ += estimator._rows
        loss = record["loss"] * terms.loss + terms.constant
        estimator.loss_ = loss + record.get("penalty", 0.0) / terms.gradient
        estimator.loss_curve_.append(estimator.loss_)
        if estimator.verbose:
            print(f"Iteration {estimator.n_iter_}, loss = {estimator.loss_:.8f}")
        if self.score is not None:
            self._take_score(trainer, record)
        elif estimator.loss_ > estimator.best_loss_ - estimator.tol:
            estimator._no_improvement_count += 1
        else:
            estimator._no_improvement_count = 0
        if not estimator.early_stopping:
            estimator.best_loss_ = min(estimator.best_loss_, estimator.loss_)
        self._adjust(trainer)

    def _take_score(self, trainer: Trainer, record: Record) -> None:
        estimator = self.estimator
        assert self.score is not None
        loss = record["val_loss"] * self.held_terms.loss + self.held_terms.constant
        estimator.validation_loss_curve_.append(loss)
        score = -loss if estimator.scoring == "loss" else self.score(record)
        estimator.validation_scores_.append(score)
        if estimator.verbose:
            print(f"Validation score: {score:.6f}")
        if estimator.early_stopping:
            falls = score < estimator.best_validation_score_ + estimator.tol
            if score > estimator.best_validation_score_:
                self.best = trainer.model.flat.values.copy()
        else:
            falls = estimator.loss_ > estimator.best_loss_ - estimator.tol
        estimator._no_improvement_count = estimator._no_improvement_count + 1 if falls else 0
        estimator.best_validation_score_ = max(estimator.best_validation_score_, score)

    def _adjust(self, trainer: Trainer) -> None:
        """Set the next epoch's learning rate, or stop."""
        estimator, schedule = self.estimator, trainer.schedule
        assert isinstance(schedule, EpochFactor)
        if estimator.solver == "sgd" and estimator.learning_rate == "invscaling":
            _change(trainer, (estimator.t_ + 1.0) ** -estimator.power_t)
        if estimator._no_improvement_count <= estimator.n_iter_no_change or self.incremental:
            return
        what = "Validation score" if estimator.early_stopping else "Training loss"
        reason = (
            f"{what} did not improve more than tol={estimator.tol:f} for "
            f"{estimator.n_iter_no_change} consecutive epochs."
        )
        rate = estimator.learning_rate_init * schedule.value
        adaptive = estimator.solver == "sgd" and estimator.learning_rate == "adaptive"
        if adaptive and rate > LEAST_RATE:
            _change(trainer, schedule.value / 5)
            estimator._no_improvement_count = 0
            next_step = f"Setting learning rate to {rate / 5:f}"
        else:
            trainer.stop(reason)
            next_step = "Learning rate too small. Stopping." if adaptive else "Stopping."
        if estimator.verbose:
            print(reason, next_step)


def _change(trainer: Trainer, factor: float) -> None:
    """Change the learning rate's factor for the next epoch.

    scikit-learn's velocity is ours times the learning rate with which it was made.
    """
    schedule, velocity = trainer.schedule, trainer.optimizer.state.get("velocity")
    assert isinstance(schedule, EpochFactor)
    if velocity is not None:
        velocity *= schedule.value / factor
    schedule.value = factor


def fit_batches(trainer: Trainer, progress: Progress, part: Any, held: Any) -> None:
    """Train on a part for so many epochs at most, and keep those parameters that scored best."""
    estimator = progress.estimator
    trainer.callbacks = [progress]
    try:
        trainer.fit(
            part.x,
            part.target,
            epochs=1 if progress.incremental else int(estimator.max_iter),
            sample_weight=part.weight,
            validation=None if held is None else (held.x, held.target, held.weight),
        )
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=4)
    except DivergedError as error:
        raise ValueError(f"Solver produced non-finite parameter weights: {error}") from None
    finally:
        trainer.callbacks = []
        for layer in trainer.model.layers:
            layer.forget()  # a batch and its activations, which would stay in memory
    if progress.best is not None:
        trainer.model.flat.values[...] = progress.best
    converged = trainer.stop_reason is not None or progress.incremental
    if not converged and estimator.n_iter_ == estimator.max_iter:
        warnings.warn(
            f"Stochastic Optimizer: Maximum iterations ({estimator.max_iter}) reached and the "
            "optimization hasn't converged yet.",
            ConvergenceWarning,
            stacklevel=4,
        )


def start_counting(estimator: Any) -> None:
    """Give an estimator the attributes of training, as before the first epoch."""
    estimator.n_iter_ = estimator.t_ = 0
    estimator.loss_ = inf
    if estimator.solver != "lbfgs":
        early = estimator.early_stopping
        estimator.loss_curve_, estimator._no_improvement_count = [], 0
        estimator.best_loss_ = None if early else inf
        estimator.validation_scores_ = estimator.validation_loss_curve_ = None
        estimator.best_validation_score_ = None


def start_scoring(estimator: Any) -> None:
    """Give an estimator the attributes of a validation part, unless it has them."""
    if estimator.validation_scores_ is None:
        estimator.validation_scores_, estimator.validation_loss_curve_ = [], []
        estimator.best_validation_score_ = -inf


def check_finite(model: Sequential) -> None:
    """Raise ValueError when a parameter is not finite."""
    bad = not_finite(model)
    if bad:
        raise ValueError(
            f"Solver produced non-finite parameter weights ({', '.join(bad)}). The input data may "
            "contain large values and need to be preprocessed."
        )
