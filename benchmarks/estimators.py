"""gpumlp.sklearn beside scikit-learn's own estimators: `python benchmarks/estimators.py`.

Both get the same rows and the same parameters: scikit-learn's defaults (one hidden layer of 100
ReLUs, Adam, batches of 200, its stopping by `tol`), but 300 epochs at most, which let its networks
come to rest, and for the regression a learning rate of 0.01, without which 300 epochs are too few
for targets as they are. Each seed draws the split into 3/4 to train on and 1/4 to test on, and the
start of both. With --mnist also MNIST: 784-500-500-10, 3 epochs of its 60,000 images, in float64,
as users of scikit-learn have it.

Each system is a process of its own. Only one runs at a time, in turn, and the ratio of the times is
the median of their ratios in the same round. Score: accuracy, or R² of the regression.

Needs gpumlp installed with its extra (`pip install -e ".[sklearn]"`).
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from time import sleep
from typing import Any, NamedTuple

import estimator_worker
from figure import check_folders
from report import OURS, Row, estimator_table, paired_ratio, summary
from rounds import PAUSE, environment_of, exit_code_of, say
from training import choose
from worker import Worker

from gpumlp import GpumlpError
from gpumlp.data.mnist import find_mnist
from gpumlp.wording import count

SEEDS, QUICK_SEEDS, MNIST_SEEDS, QUICK_EPOCHS = 10, 1, 2, 10


class Case(NamedTuple):
    """What is fitted."""

    estimator: str
    parameters: dict[str, Any]


CLASSIFIER = Case("MLPClassifier", {"max_iter": 300})
DEEP = {"hidden_layer_sizes": [500, 500], "activation": "logistic", "max_iter": 3}
CASES = {
    "breast_cancer": CLASSIFIER,
    "wine": CLASSIFIER,
    "iris": CLASSIFIER,
    "digits": CLASSIFIER,
    "diabetes": Case("MLPRegressor", {"max_iter": 300, "learning_rate_init": 0.01}),
    "mnist": Case("MLPClassifier", DEEP),
}
SMALL = [name for name in CASES if name != "mnist"]


def measure(
    data: str, case: Case, seeds: Sequence[int], workers: Mapping[str, Worker]
) -> list[Row]:
    """Return a row for each system: fits of every seed, in turn, the order alternating."""
    replies: dict[str, list[dict[str, Any]]] = {system: [] for system in workers}
    what = {"data": data, "estimator": case.estimator, "parameters": case.parameters}
    for system, worker in workers.items():
        say(f"{data}: first fit of {system}")
        worker.ask("fit", **what, seed=seeds[0])
    say(f"{data}: {count(len(seeds), 'round')}")
    for turn, seed in enumerate(seeds):
        systems = list(workers) if turn % 2 == 0 else list(workers)[::-1]
        for system in systems:
            sleep(PAUSE)
            replies[system].append(workers[system].ask("fit", **what, seed=seed))
    return rows_of(what | {"seeds": list(seeds)}, replies)


def rows_of(common: Row, replies: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Row]:
    """Return a row for each system from its replies, round by round."""
    ours = replies[OURS]
    rows = []
    for system, own in replies.items():
        seconds, scores = ([reply[key] for reply in own] for key in ("seconds", "score"))
        ratios = [
            reply["seconds"] / other["seconds"] for reply, other in zip(own, ours, strict=True)
        ]
        rows.append(
            {
                "what": "estimator",
                **common,
                "system": system,
                "rows": own[0]["rows"],
                "scores": scores,
                "score": mean(scores),
                "iterations": [reply["iterations"] for reply in own],
                "seconds": summary(seconds),
                "ratio": paired_ratio(seconds, [reply["seconds"] for reply in ours]),
                "ratios": [min(ratios), max(ratios)],
            }
        )
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; exits 2 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="within seconds: 1 seed, 10 epochs")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the results here")
    parser.add_argument("--only", metavar="NAME,...", help=f"of {','.join(CASES)}")
    parser.add_argument("--mnist", action="store_true", help="MNIST as well, if it is found")
    parser.add_argument(
        "--seeds",
        type=int,
        help=f"default: {SEEDS}, quick {QUICK_SEEDS}; MNIST at most {MNIST_SEEDS}",
    )
    options = parser.parse_args(arguments)
    if options.seeds is None:
        options.seeds = QUICK_SEEDS if options.quick else SEEDS
    try:
        check_folders(options.out)
        names = SMALL if options.only is None else choose("data", options.only, list(CASES))
        options.data = list(dict.fromkeys([*names, *(["mnist"] if options.mnist else [])]))
        if options.seeds < 1:
            raise ValueError(f"--seeds must be at least 1, got {options.seeds}")
        for module in estimator_worker.MODULES.values():
            if not there(module):
                raise ValueError(f"{module} is not installed")
    except ValueError as error:
        parser.error(str(error))
    return options


def there(module: str) -> bool:
    """Whether a module can be found, without importing what it needs."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its package
        return False


def run(options: argparse.Namespace) -> None:
    """Measure, write JSON, print the table."""
    if "mnist" in options.data:
        try:
            find_mnist(None)
        except GpumlpError as error:
            say(f"MNIST is left out: {error}")
            options.data.remove("mnist")
    rows: list[Row] = []
    with ExitStack() as stack:
        workers = {}
        for system in estimator_worker.MODULES:
            workers[system] = Worker(system, estimator_worker.__file__)
            stack.callback(workers[system].close)
        environment = environment_of("cpu", workers) | {"quick": options.quick}
        for data in options.data:
            case, seeds = CASES[data], options.seeds
            if data == "mnist":
                seeds = min(seeds, MNIST_SEEDS)
            if options.quick:
                epochs = 1 if data == "mnist" else QUICK_EPOCHS
                case = case._replace(parameters=case.parameters | {"max_iter": epochs})
            rows += measure(data, case, range(seeds), workers)
    if options.out:
        text = json.dumps({"environment": environment, "rows": rows}, indent=1)
        options.out.write_text(text + "\n")
    print(estimator_table(rows))


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code, see `exit_code_of`."""
    options = parse(arguments)
    return exit_code_of(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
