"""Time until a network reads MNIST well: `GPUMLP_DATA=... python benchmarks/time_to_accuracy.py`.

Every contender trains the same network from the same weights with the same optimizer, batch size
and learning rate, until it gets the wanted share of the test images right; it is looked at after
each epoch, and looking is not timed. Each contender is a process of its own, only one trains at a
time, and each round has its own seed. CPU time is that of all threads, also of those that wait
busily; what a contender compiles is part of its first epoch.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import sleep
from typing import Any

import numpy as np
from figure import check_folders, check_plot, plot_learning
from problem import ACTIVATIONS, Net, load_images
from report import OURS, Row, accuracy_table, paired_ratio, summary
from rounds import CHECK_STEPS, PAUSE, CheckError, check, environment_of, exit_code_of, say
from training import choose, choose_peers, systems_of
from worker import Worker

from gpumlp import get_backend

TASKS = {  # data: net, optimizer, learning rate, accuracy
    "mnist": ("784-300-10@64", "adam", 2e-3, 0.98),
    "digits": ("64-100-10@32", "adam", 5e-3, 0.95),
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; exits 2 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="within a minute: the small digits")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the results here")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw accuracy over time")
    parser.add_argument("--net", help=f"default: {TASKS['mnist'][0]}")
    parser.add_argument("--activation", choices=[*ACTIVATIONS], default="sigmoid")
    parser.add_argument("--optimizer", help=f"sgd or adam; default: {TASKS['mnist'][1]}")
    parser.add_argument("--lr", type=float, help=f"learning rate; default: {TASKS['mnist'][2]:g}")
    parser.add_argument("--accuracy", type=float, help=f"default: {TASKS['mnist'][3]}")
    parser.add_argument("--epochs", type=int, default=20, help="give up after so many; default: 20")
    parser.add_argument("--peers", help="as in training.py; default: torch, sklearn and jax")
    parser.add_argument("--rounds", type=int, help="default: 5, or 2 with --quick")
    options = parser.parse_args(arguments)
    options.data = "digits" if options.quick else "mnist"
    net, optimizer, lr, accuracy = TASKS[options.data]
    try:
        check_plot(options.plot)
        check_folders(options.out, options.plot)
        options.net = Net.parse(options.net or net)
        (options.optimizer,) = choose("optimizer", options.optimizer or optimizer, ["sgd", "adam"])
        options.lr = lr if options.lr is None else options.lr
        options.accuracy = accuracy if options.accuracy is None else options.accuracy
        options.rounds = (2 if options.quick else 5) if options.rounds is None else options.rounds
        if min(options.rounds, options.epochs) < 1 or not 0 < options.accuracy <= 1:
            raise ValueError("rounds and epochs must be at least 1, the accuracy in (0, 1]")
        if not options.lr > 0:
            raise ValueError(f"the learning rate must be > 0, got {options.lr:g}")
        peers = choose_peers(options.peers, options.device, options.quick)
        unusual = ("torch-compile", "jax-step")
        options.peers = peers if options.peers else [p for p in peers if p not in unusual]
    except ValueError as error:
        parser.error(str(error))
    return options


def train(worker: Worker, problem: dict[str, Any], goal: float, epochs: int) -> Row:
    """Train until the goal; return seconds, CPU seconds and accuracy after each epoch.

    `evaluation_seconds`, of all looks at the test images, are in none of these.
    """
    worker.ask("build", **problem)
    curve: Row = {"seconds": [0.0], "cpu_seconds": [0.0], "accuracy": [0.0]}
    curve["evaluation_seconds"] = 0.0
    while curve["accuracy"][-1] < goal and len(curve["accuracy"]) <= epochs:
        sleep(PAUSE)
        epoch = worker.ask("epoch")
        for what in ("seconds", "cpu_seconds"):
            curve[what].append(curve[what][-1] + epoch[what])
        look = worker.ask("accuracy")
        curve["accuracy"].append(look["accuracy"])
        curve["evaluation_seconds"] += look["seconds"]
    return curve


def make_row(common: Row, system: str, curves: dict[str, list[Row]], goal: float) -> Row:
    """Return what one contender needed; no seconds where it did not get there in every round."""
    own, ours = curves[system], curves[OURS]
    there = all(curve["accuracy"][-1] >= goal for curve in own)
    row = common | {"system": system, "reached": there, "curves": own}
    row["epochs"] = [len(curve["accuracy"]) - 1 for curve in own]
    row["accuracy"] = [curve["accuracy"][-1] for curve in own]
    for what in ("seconds", "cpu_seconds"):
        row[what] = summary([curve[what][-1] for curve in own]) if there else None
    # the first epoch apart: a contender may compile in it
    later = [s for curve in own for s in np.diff(curve["cpu_seconds"][1:]).tolist()]
    row["later_epoch_cpu_seconds"] = median(later) if later else None
    both = there and all(curve["accuracy"][-1] >= goal for curve in ours)
    last = [[curve["cpu_seconds"][-1] for curve in one] for one in (own, ours)]
    row["ratio"] = paired_ratio(*last) if both else None
    return row


def run(options: argparse.Namespace) -> None:
    """Measure, write JSON and figure, print the table."""
    get_backend(options.device)
    x, _, x_test, _ = load_images(options.data)
    if options.net.sizes[0] != x.shape[1] or options.net.sizes[-1] != 10:
        raise CheckError(
            f"{options.data} has {x.shape[1]} pixels and 10 classes, not {options.net}"
        )
    problem = {"net": str(options.net), "rows": len(x), "data": options.data, "lr": options.lr}
    problem |= {"optimizer": options.optimizer, "device": options.device}
    problem |= {"activation": options.activation}
    with ExitStack() as stack:
        workers = {}
        for system in systems_of(options.peers, options.device):
            say(f"start {system}")
            workers[system] = Worker(system)
            stack.callback(workers[system].close)
        replies = {}
        for system, worker in workers.items():
            worker.ask("build", **problem)
            replies[system] = worker.ask("check", steps=CHECK_STEPS)
        check(options.net, replies)
        curves: dict[str, list[Row]] = {system: [] for system in workers}
        for seed in range(options.rounds):
            for system, worker in workers.items():
                given = problem | {"seed": seed}
                curve = train(worker, given, options.accuracy, options.epochs)
                say(
                    f"seed {seed} {system}: {curve['accuracy'][-1]:.4f} after "
                    f"{len(curve['accuracy']) - 1} epochs, {curve['cpu_seconds'][-1]:.1f} s of CPU"
                )
                curves[system].append(curve)
        environment = environment_of(options.device, workers) | {"rounds": options.rounds}
    common = {"what": "time_to_accuracy", "net": options.net.name, "batch": options.net.batch}
    common |= {"optimizer": options.optimizer, "lr": options.lr, "device": options.device}
    common |= {"precision": "fp32", "data": options.data, "goal": options.accuracy}
    common |= {"activation": options.activation}
    rows = [make_row(common, system, curves, options.accuracy) for system in curves]
    if options.out:
        results = {"environment": environment, "rows": rows}
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    if options.plot:
        plot_learning(rows, options.plot)
    print(
        f"{options.data}: {len(x):,} rows to train on, {len(x_test):,} to test; {options.net}, "
        f"{options.activation}, {options.optimizer}, lr {options.lr:g}; "
        f"goal {options.accuracy:.2%}\n"
    )
    print(accuracy_table(rows))


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code, see `exit_code_of`."""
    options = parse(arguments)
    return exit_code_of(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
