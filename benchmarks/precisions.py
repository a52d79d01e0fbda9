"""What each precision costs in exactness: `python benchmarks/precisions.py`.

Two questions. How far is a gradient from the one in float64, on each standard net, from the same
first weights and the same batch? And does that matter: what accuracy on MNIST does a network reach,
with several seeds (where MNIST is found)? On a CPU the precisions of matrix units are emulated, so
numbers are those of a GPU but for the order of sums, and times mean nothing.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from figure import check_folders, check_plot, plot_precisions
from problem import Net, Problem, load_images
from report import Row, cpu_model, precision_table
from rounds import exit_code_of, say
from training import NETS, choose

from gpumlp import Adam, SoftmaxCrossEntropy, Trainer, get_backend, multilayer_perceptron
from gpumlp.backend import PRECISIONS, Backend
from gpumlp.data.mnist import find_mnist
from gpumlp.environment import describe
from gpumlp.errors import GpumlpError
from gpumlp.loss_scale import LossScale

SEEDS = 5
ACCURACY_NET = Net.parse("784-300-100-10@128")
EPOCHS = 6
LEARNING_RATE = 1e-3


def gradient(problem: Problem, backend: Backend) -> tuple[float, list[np.ndarray]]:
    """Return the loss of the first batch, and ∂loss/∂W, ∂loss/∂b of each layer in float64."""
    model = multilayer_perceptron(problem.net.sizes, problem.activation, backend=backend)
    values = [array for layer in problem.weights() for array in layer]
    for parameter, value in zip(model.parameters, values, strict=True):
        parameter.value[...] = backend.asarray(value)
    rows = slice(0, problem.net.batch)
    loss = SoftmaxCrossEntropy(backend=backend)
    z = model.forward(backend.asarray(problem.x[rows]))
    cost = loss.forward(z, backend.asarray(problem.labels[rows], np.int64))
    dz, scale = loss.backward(), LossScale(backend)
    if backend.precision.scales_loss:
        scale.apply(backend, dz)
    model.backward(dz, input_gradient=False)
    if backend.precision.scales_loss:
        scale.unscale(backend, model.flat.gradients)
    found = [backend.to_numpy(p.gradient).astype(np.float64) for p in model.parameters]
    return cost, found


def errors_of(net: Net, device: str, precisions: Sequence[str]) -> list[Row]:
    """Return a row for each precision: how far loss and gradient of one batch are off.

    The gradient's error is ‖g - g₆₄‖ / ‖g₆₄‖, of the parameter where it is largest.
    """
    problem = Problem(net, net.batch, "sgd", device)
    exact_cost, exact = gradient(problem, get_backend("cpu", "fp64"))
    rows = []
    for name in precisions:
        say(f"{net}: gradient in {name}")
        cost, found = gradient(problem, get_backend(device, name))
        error = max(
            float(np.linalg.norm(g - right) / np.linalg.norm(right))
            for g, right in zip(found, exact, strict=True)
        )
        row: Row = {"net": net.name, "batch": net.batch, "precision": name, "device": device}
        row |= {"what": "gradient_error", "gradient_error": error}
        rows.append(row | {"loss_error": abs(cost / exact_cost - 1)})
    return rows


def train(name: str, device: str, seed: int, data: str, epochs: int) -> dict[str, Any]:
    """Train a network on images; return its test accuracy and what was skipped."""
    x, labels, x_test, test_labels = load_images(data)
    backend = get_backend(device, name)
    sizes = (x.shape[1], *ACCURACY_NET.sizes[1:])
    model = multilayer_perceptron(sizes, "relu", backend=backend, init="he_uniform", seed=seed)
    loss, optimizer = SoftmaxCrossEntropy(backend=backend), Adam(LEARNING_RATE)
    trainer = Trainer(model, loss, optimizer, batch_size=ACCURACY_NET.batch, seed=seed)
    history = trainer.fit(x, labels, epochs=epochs)
    reached = trainer.evaluate(x_test, test_labels)
    last = history[-1]
    return {
        "accuracy": reached["accuracy"],
        "test_loss": reached["loss"],
        "train_loss": last["loss"],
        "skipped_steps": last.get("skipped_steps", 0),
        "seconds": sum(history.column("seconds")),
    }


def accuracies(
    precisions: Sequence[str], device: str, seeds: int, data: str, epochs: int
) -> list[Row]:
    """Return a row for each precision with its runs; all precisions take turns, seed by seed."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in precisions}
    for seed in range(seeds):
        for name in precisions:
            runs[name].append(train(name, device, seed, data, epochs))
            say(f"{data}, seed {seed}, {name}: accuracy {runs[name][-1]['accuracy']:.4f}")
    rows = []
    for name, own in runs.items():
        reached = [run["accuracy"] for run in own]
        row: Row = {"data": data, "precision": name, "device": device, "what": "accuracy"}
        row |= {"net": ACCURACY_NET.name, "batch": ACCURACY_NET.batch, "epochs": epochs}
        row |= {"mean": mean(reached), "deviation": stdev(reached) if len(own) > 1 else 0.0}
        rows.append(row | {"runs": own})
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options with their lists checked; exits 2 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="two nets, one seed of two epochs")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the results here")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw errors and accuracies")
    parser.add_argument("--nets", help="as in 784-30-10@10; default: the standard")
    parser.add_argument("--precisions", help=f"of {','.join(PRECISIONS)}; default: all")
    parser.add_argument("--seeds", type=int, help=f"default: {SEEDS}; 0: no training")
    options = parser.parse_args(arguments)
    try:
        check_plot(options.plot)
        check_folders(options.out, options.plot)
        standard = NETS[options.device][: 2 if options.quick else None]
        nets = standard if options.nets is None else options.nets.split(",")
        options.nets = [Net.parse(net) for net in nets]
        names = ",".join(PRECISIONS) if options.precisions is None else options.precisions
        options.precisions = choose("precision", names, [*PRECISIONS])
        if options.seeds is None:
            options.seeds = 1 if options.quick else SEEDS
        if options.seeds < 0:
            raise ValueError(f"seeds must not be negative, got {options.seeds}")
    except ValueError as error:
        parser.error(str(error))
    return options


def run(options: argparse.Namespace) -> None:
    """Measure, write JSON and figure, print the table."""
    backend = get_backend(options.device)
    rows = []
    for net in options.nets:
        names = [name for name in options.precisions if name != "fp64"]
        rows += errors_of(net, options.device, names)
    data = "mnist"
    try:
        find_mnist(None)
    except GpumlpError as error:
        data = "digits"
        say(f"digits in place of MNIST ({str(error).splitlines()[0]})")
    if options.seeds:
        epochs = 2 if options.quick else EPOCHS
        rows += accuracies(options.precisions, options.device, options.seeds, data, epochs)
    if options.out:
        about = {"cpu": cpu_model(), "date": datetime.now(UTC).strftime("%Y-%m-%d")}
        results = {"environment": describe(backend) | about, "rows": rows}
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    if options.plot:
        plot_precisions(rows, options.plot)
    print(precision_table(rows))


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code, see `exit_code_of`."""
    options = parse(arguments)
    return exit_code_of(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
