"""An experiment is what a configuration stands for, built: device, data, network, trainer."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Any

from .backend import Array, Backend, choose_backend
from .build import build_network, build_trainer
from .config import Config
from .data.prepare import Prepared, prepare
from .data.weights import class_weights
from .errors import DataError, DivergedError
from .events import Callback
from .metrics import select
from .model import Sequential
from .plots import Predictions
from .samples import loss_weights
from .saved_model import SavedModel
from .step_profile import StepProfile, profile_training
from .trainer import Trainer


@dataclass(eq=False)
class Experiment:
    """A configuration with its data loaded and its network drawn, ready to be trained.

    `class_weight` is (C,) or None; `trainer` makes the trainer, whose history is empty.

    >>> from gpumlp.config_file import load_config
    >>> experiment = Experiment.build(load_config("digits", ["train.epochs=2"]))
    >>> experiment.network
    Sequential(Dense(64, 256, 'sigmoid'), Dense(256, 10, 'identity'))
    >>> trainer = experiment.trainer()
    >>> len(experiment.fit(trainer).history)
    2
    >>> sorted(experiment.evaluate(trainer))
    ['test', 'train', 'val']
    """

    config: Config
    backend: Backend
    data: Prepared
    network: Sequential
    class_weight: Array | None
    why_cpu: str | None  # why the device "auto" is no GPU

    @classmethod
    def build(cls, config: Config, device: str | None = None) -> "Experiment":
        """Find the device, or take that one, load the data, draw the network.

        Raises DeviceError, DataError, FileError, and ConfigError for a metric that cannot be.
        """
        backend, why_cpu = choose_backend(device or config.device, config.precision)
        data = prepare(config.data, config.model.task, config.seed, backend.dtype)
        weight = class_weights(
            data.train.y, data.targets, config.loss.class_weight, data.train.x.dtype
        )
        select(config.model.task, config.metrics, data.targets.outputs)  # or ConfigError
        network = build_network(config, data.train.x.shape[1], data.targets.outputs, backend)
        experiment = cls(config, backend, data, network, weight, why_cpu)
        for name, part in data.parts.items():
            weights = loss_weights(part.y, part.sample_weight, weight)
            if weights is not None and not weights.any():
                raise DataError(f"every row of the {name} part has weight 0 by loss.class_weight")
        return experiment

    def trainer(self, callbacks: Iterable[Callback] = ()) -> Trainer:
        """Return the trainer of the network."""
        scaler = self.data.target_scaler
        return build_trainer(
            self.config,
            self.network,
            len(self.data.train.x),
            callbacks,
            class_weight=self.class_weight,
            unscale=None if scaler is None else scaler.inverse,
        )

    def fit(self, trainer: Trainer, max_steps: int | None = None) -> Trainer:
        """Train as the configuration says, and return the trainer. Raises DivergedError.

        `max_steps` replaces the configuration's.
        """
        train, val = self.data.train, self.data.val
        trainer.fit(
            train.x,
            train.y,
            epochs=self.config.train.epochs,
            max_steps=max_steps or self.config.train.max_steps,
            sample_weight=train.sample_weight,
            validation=None if val is None else (val.x, val.y, val.sample_weight),
        )
        return trainer

    def evaluate(self, trainer: Trainer) -> dict[str, dict[str, float]]:
        """Return loss and metrics of each part. Raises DivergedError for a loss that is not finite.

        Training may end with parameters that are finite and overflow all the same.
        """
        results = {}
        for name, part in self.data.parts.items():
            results[name] = trainer.evaluate(part.x, part.y, part.sample_weight)
            if not isfinite(results[name]["loss"]):
                raise DivergedError(
                    f"the loss of the {name} part is {results[name]['loss']:g} "
                    f"after step {trainer.step}; try a smaller optimizer.lr (learning rate)"
                )
        return results

    def profile(self, trainer: Trainer) -> StepProfile:
        """Return where the time of a training step goes; changes nothing."""
        train = self.data.train
        return profile_training(trainer, train.x, train.y, train.sample_weight)

    def predictions(self, trainer: Trainer) -> Predictions:
        """Return what plots compare: targets and predictions of the test part, or what there is."""
        name, part = self.data.last_part
        y = trainer.predict(part.x)
        classes, weight = self.data.targets.classes, part.sample_weight
        return Predictions(name, part.y, y, classes, trainer.unscale, weight, part.x)

    def saved_model(self, trainer: Trainer) -> SavedModel:
        """Return the network with everything needed to use it on raw rows."""
        data = self.data
        return SavedModel(
            self.config,
            self.network,
            trainer.loss,
            data.scaler,
            data.targets,
            data.features,
            data.target_scaler,
            self.class_weight,
        )

    def summary(self, status: str, trainer: Trainer, results: dict[str, Any]) -> dict[str, Any]:
        """Return what summary.json holds."""
        training = sum(record["seconds"] for record in trainer.history)
        samples = sum(record["seconds"] * record["samples_per_s"] for record in trainer.history)
        scale = trainer.optimizer.loss_scale
        return {
            "status": status,
            "name": self.config.name,
            "epochs": trainer.epoch,
            "steps": trainer.step,
            **({} if scale is None else {"skipped_steps": scale.skipped}),
            "best_epoch": trainer.best_epoch,
            "stop_reason": trainer.stop_reason,
            **results,
            "parameters": self.network.flat.count,
            "seconds": trainer.seconds,
            "samples_per_s": samples / training if training else 0.0,
            "device": self.backend.name,
            "precision": self.config.precision,
            "engine": trainer.engine,
            "seed": self.config.seed,
        }
