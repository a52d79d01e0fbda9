"""Search a configuration's hyperparameters with Optuna: `python benchmarks/optuna_search.py`.

A worked example, to be copied and changed: `suggest` says what is searched. Each trial trains the
configuration with the values it was given and tells Optuna the validation accuracy after each
epoch; where it falls behind the median of the trials before it, it is stopped. The test part plays
no part. The same seed finds the same trial, and the last line repeats it.

Needs gpumlp installed (`pip install -e .`) and Optuna (`pip install optuna`).
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from gpumlp import Callback, GpumlpError, Trainer
from gpumlp.config_file import load_config
from gpumlp.errors import ConfigError, DivergedError
from gpumlp.events import Record
from gpumlp.experiment import Experiment

TRIALS, QUICK_TRIALS, QUICK = 30, 4, ["train.epochs=3"]
GOAL = "val_accuracy"


def short(value: float) -> float:
    """Return a number of three digits, as one likes to paste it."""
    return float(f"{value:.3g}")


def suggest(trial: Any) -> dict[str, Any]:
    """Return the keys that are searched, with their values in this trial."""
    layers = trial.suggest_int("layers", 1, 2)
    return {
        "model.hidden": [trial.suggest_int(f"units{i}", 32, 256, log=True) for i in range(layers)],
        "model.dropout": short(trial.suggest_float("dropout", 0.0, 0.5, step=0.1)),
        "optimizer.lr": short(trial.suggest_float("lr", 1e-3, 1e-1, log=True)),
        "optimizer.weight_decay": short(trial.suggest_float("decay", 1e-7, 1e-2, log=True)),
        "train.batch_size": trial.suggest_categorical("batch_size", [16, 32, 64, 128]),
    }


class Pruning(Callback):
    """Tell a trial how each epoch ended, and stop where Optuna would not go on."""

    def __init__(self, trial: Any) -> None:
        self.trial = trial

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        """As in `Callback`."""
        self.trial.report(record[GOAL], record["epoch"])
        if self.trial.should_prune():
            trainer.stop("pruned")


def search(config: str, trials: int, fixed: Sequence[str], seed: int) -> Any:
    """Return the study of so many trials; `fixed` overrides are the same in all of them."""
    import optuna

    def objective(trial: Any) -> float:
        sets = [*fixed, *(f"{key}={json.dumps(value)}" for key, value in suggest(trial).items())]
        trial.set_user_attr("sets", sets)
        experiment = Experiment.build(load_config(config, sets))
        trainer = experiment.trainer([Pruning(trial)])
        if experiment.data.val is None or "accuracy" not in trainer.metrics:
            raise ConfigError(f"{config}: a search needs data.val, and a task with an accuracy")
        try:
            history = experiment.fit(trainer).history
        except DivergedError as error:
            raise optuna.TrialPruned(str(error)) from None
        if trainer.stop_reason == "pruned":
            raise optuna.TrialPruned
        return float(history[-1][GOAL])  # of the model that a training ends with

    def tell(study: Any, trial: Any) -> None:
        place = f"trial {trial.number + 1} of {trials}"
        epochs = len(trial.intermediate_values)
        ended = f"{GOAL} {trial.value:.4f}" if finished(trial) else f"pruned in epoch {epochs}"
        print(f"{place}: {ended}  {' '.join(trial.user_attrs['sets'])}", file=sys.stderr)

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=5),
    )
    study.optimize(objective, n_trials=trials, callbacks=[tell])
    return study


def finished(trial: Any) -> bool:
    """Whether a trial was trained to its end; Optuna gives one that was not a value, too."""
    return bool(trial.state.name == "COMPLETE")


def report(config: str, study: Any) -> str:
    """Return the best trial, and the command that repeats it."""
    whole = [trial for trial in study.trials if finished(trial)]
    if not whole:
        raise DivergedError("no trial came to its end with a finite loss")
    best = max(whole, key=lambda trial: (trial.value, -trial.number))
    sets = [part for one in best.user_attrs["sets"] for part in ("--set", one)]
    return "\n".join(
        [
            f"{len(whole)} trials finished, {len(study.trials) - len(whole)} pruned",
            f"best: trial {best.number + 1}, {GOAL} {best.value:.4f}",
            shlex.join(["gpumlp", "train", "--config", config, *sets]),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: that of gpumlp's error, if there is one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--config", default="digits", metavar="NAME|PATH", help="default: digits")
    parser.add_argument("--trials", type=int, help=f"default: {TRIALS}, quick {QUICK_TRIALS}")
    parser.add_argument("--seed", type=int, default=0, help="of the search; default: 0")
    parser.add_argument("--quick", action="store_true", help="a few trials of 3 epochs")
    options = parser.parse_args(arguments)
    trials = options.trials
    if trials is None:
        trials = QUICK_TRIALS if options.quick else TRIALS
    if trials < 1:
        parser.error(f"--trials must be at least 1, got {trials}")
    if find_spec("optuna") is None:
        parser.error("Optuna is not installed: pip install optuna")
    try:
        study = search(options.config, trials, QUICK if options.quick else [], options.seed)
        print(report(options.config, study))
    except GpumlpError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
