"""Why deep, if one wide hidden layer is enough? `python benchmarks/wide_vs_deep.py`.

A network with one hidden layer comes as close as one likes to any continuous function, if only the
layer is wide enough. Here networks of 1 to 8 hidden layers with as many parameters learn from the
same rows by the same recipe; only the learning rate is chosen for each, on validation rows.

Needs gpumlp installed (`pip install -e .`), for --plot matplotlib, for --data mnist its files.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, pstdev
from typing import Any, NamedTuple

from report import cpu_model
from training import choose
from wide_vs_deep_report import Row, draw, line, table

from gpumlp import Backend, GpumlpError, get_backend
from gpumlp.build import build_network, build_trainer
from gpumlp.config_file import parse_config
from gpumlp.data.prepare import Prepared, prepare
from gpumlp.environment import describe

DEPTHS = (1, 2, 3, 5, 8)
# tanh(z) = 2σ(2z) − 1: what sigmoid networks can represent, from a start that suits deep ones too
MODEL = {"activation": "tanh", "init": "lecun_uniform"}


class Recipe(NamedTuple):
    """What is learned, with how many parameters, and how."""

    data: dict[str, Any]
    task: str
    budgets: tuple[int, ...]
    train: dict[str, int]
    learning_rates: tuple[float, ...]


RECIPES = {
    "curve": Recipe(
        {"source": "builtin:curve", "test": {"fraction": 0.25}, "val": {"fraction": 0.2}},
        "regression",
        (50, 100, 200, 500, 1000),
        {"epochs": 150, "batch_size": 32},
        (0.01, 0.03),
    ),
    "digits": Recipe(
        {"source": "builtin:digits", "test": {"fraction": 0.25}, "val": {"fraction": 0.2}},
        "multiclass",
        (1000, 2000, 5000, 10_000, 20_000),
        {"epochs": 30, "batch_size": 32},
        (0.003, 0.01),
    ),
    "mnist": Recipe(
        {"source": "mnist", "scale": "minmax", "val": {"fraction": 0.1}},
        "multiclass",
        (10_000, 30_000, 100_000),
        {"epochs": 5, "batch_size": 128},
        (0.001, 0.003),
    ),
}


def count(n_in: int, hidden: Sequence[int], n_out: int) -> int:
    """Return the number of weights and biases of a network."""
    return sum(a * b + b for a, b in pairwise([n_in, *hidden, n_out]))


def widths(n_in: int, n_out: int, depth: int, budget: int) -> list[int]:
    """Return hidden layers, all as wide or one unit wider, that come closest to a budget."""
    base = 1
    while count(n_in, [base + 1] * depth, n_out) <= budget:
        base += 1
    candidates = [[base + (i < wider) for i in range(depth)] for wider in range(depth + 1)]
    return min(candidates, key=lambda hidden: abs(count(n_in, hidden, n_out) - budget))


def configure(recipe: Recipe, seed: int, hidden: Sequence[int] = (), lr: float = 0.01) -> Any:
    """Return the configuration of one training."""
    return parse_config(
        {
            "seed": seed,
            "data": recipe.data,
            "model": MODEL | {"task": recipe.task, "hidden": list(hidden)},
            "optimizer": {"name": "adam", "lr": lr},
            "schedule": {"name": "cosine"},
            "train": recipe.train,
        }
    )


def train(recipe: Recipe, config: Any, data: Prepared, backend: Backend) -> tuple[float, float]:
    """Return the validation loss and the test error of one training."""
    assert data.val is not None
    assert data.test is not None
    network = build_network(config, data.train.x.shape[1], data.targets.outputs, backend)
    trainer = build_trainer(config, network, len(data.train.x))
    trainer.fit(data.train.x, data.train.y, epochs=config.train.epochs)
    test = trainer.evaluate(data.test.x, data.test.y)
    error = test["rmse"] if recipe.task == "regression" else 1 - test["accuracy"]
    return trainer.evaluate(data.val.x, data.val.y)["loss"], error


def measure(name: str, recipe: Recipe, seeds: int, backend: Backend) -> list[Row]:
    """Return a row for each budget and depth: the errors of all seeds at the best learning rate.

    The error is the RMSE of a regression, else the share of the test rows that is misclassified.
    """
    data = configure(recipe, 0).data
    parts = [prepare(data, recipe.task, seed, backend.dtype) for seed in range(seeds)]
    n_in, n_out = parts[0].train.x.shape[1], parts[0].targets.outputs
    shapes = [(b, d, widths(n_in, n_out, d, b)) for b in recipe.budgets for d in DEPTHS]
    rows = []
    for budget, depth, hidden in shapes:
        if min(hidden) < 2:
            continue  # a layer of one unit lets one number through
        results = {
            lr: [
                train(recipe, configure(recipe, seed, hidden, lr), part, backend)
                for seed, part in enumerate(parts)
            ]
            for lr in recipe.learning_rates
        }
        lr = min(results, key=lambda rate: mean(val for val, _ in results[rate]))
        errors = [error for _, error in results[lr]]
        row = {"data": name, "budget": budget, "depth": depth, "hidden": hidden, "lr": lr}
        row |= {"parameters": count(n_in, hidden, n_out), "errors": errors}
        rows.append(row | {"mean": mean(errors), "sd": pstdev(errors)})
        print(line(rows[-1]), file=sys.stderr)
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, checked; exits 2 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--data", default="curve,digits", help=f"of {','.join(RECIPES)}")
    parser.add_argument("--seeds", type=int, help="trainings of each network; default: 5, quick 1")
    parser.add_argument("--quick", action="store_true", help="two budgets, few epochs, one rate")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the results here")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the figure here")
    options = parser.parse_args(arguments)
    if options.seeds is None:
        options.seeds = 1 if options.quick else 5
    if options.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {options.seeds}")
    try:
        options.data = choose("data", options.data, list(RECIPES))
    except ValueError as error:
        parser.error(str(error))
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: that of gpumlp's error, if there is one."""
    options, backend, rows = parse(arguments), get_backend("cpu"), list[Row]()
    try:
        for name in options.data:
            recipe = RECIPES[name]
            if options.quick:
                recipe = recipe._replace(
                    train=recipe.train | {"epochs": 3},
                    budgets=recipe.budgets[1:3],
                    learning_rates=recipe.learning_rates[-1:],
                )
            rows += measure(name, recipe, options.seeds, backend)
    except GpumlpError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if options.out:
        environment = describe(backend) | {"cpu": cpu_model()}
        results = {"environment": environment, "rows": rows}
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    if options.plot:
        draw(rows, options.plot)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
