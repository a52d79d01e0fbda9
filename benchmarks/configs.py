"""What each shipped configuration reaches, over several seeds: `python benchmarks/configs.py`.

Each run is a `python -m gpumlp.train` of its own, as a user starts it, one at a time. The metric is
that of the test part (of the training part where there is none), in this order: accuracy, r2, rmse.
Configurations on MNIST are left out where its files are not found.

Needs gpumlp installed (`pip install -e .`).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median
from typing import Any

from report import cpu_model
from rounds import say

from gpumlp import GpumlpError, get_backend
from gpumlp.config_file import load_config, shipped_configs
from gpumlp.data.mnist import find_mnist
from gpumlp.environment import describe

METRICS = ("accuracy", "r2", "rmse")
SEEDS = 5
MNIST_SEEDS = 3


def measure(name: str, seeds: Sequence[int], overrides: Sequence[str]) -> dict[str, Any]:
    """Run one configuration with each seed, and return its row."""
    values, seconds, part, metric, parameters = [], [], "", "", 0
    for seed in seeds:
        say(f"{name}, seed {seed}")
        summary = run(name, seed, overrides)
        part = "test" if "test" in summary else "train"
        metric = next(m for m in METRICS if m in summary[part])
        values.append(summary[part][metric])
        seconds.append(summary["seconds"])
        parameters = summary["parameters"]
    return {
        "config": name,
        "part": part,
        "metric": metric,
        "seeds": list(seeds),
        "values": values,
        "mean": mean(values),
        "seconds": {"median": median(seconds), "min": min(seconds), "max": max(seconds)},
        "parameters": parameters,
    }


def run(name: str, seed: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Train once and return the summary; raises CalledProcessError where that fails."""
    options = [part for override in overrides for part in ("--set", override)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gpumlp.train", "--config", name, "--seed", str(seed)]
        command += ["-q", "--json", "--run-dir", f"{folder}/run", "--set", "log.plots=false"]
        done = subprocess.run([*command, *options], check=True, stdout=subprocess.PIPE)
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def on_mnist(name: str) -> bool:
    return load_config(name).data.source == "mnist"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows for reading."""
    lines = [f"{'config':14} {'part':5} {'metric':8} {'mean':>8} {'min':>8} {'max':>8} {'s':>7}"]
    for row in rows:
        low, high = min(row["values"]), max(row["values"])
        lines.append(
            f"{row['config']:14} {row['part']:5} {row['metric']:8} {row['mean']:8.4f} {low:8.4f} "
            f"{high:8.4f} {row['seconds']['median']:7.1f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 1 a run failed, 2 an unknown configuration."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--configs", help="names, as in xor,digits; default: all that can run")
    parser.add_argument("--seeds", type=int, help=f"default: {SEEDS}; {MNIST_SEEDS} on MNIST")
    parser.add_argument("--quick", action="store_true", help="one seed, two epochs")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the results here")
    options = parser.parse_args(arguments)
    names = list(shipped_configs())
    if options.configs is not None:
        chosen = options.configs.split(",")
        if unknown := [name for name in chosen if name not in names]:
            parser.error(f"unknown configuration {unknown[0]!r}; choose from {', '.join(names)}")
        names = chosen
    if options.seeds is not None and options.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {options.seeds}")
    try:
        find_mnist(None)
    except GpumlpError as error:
        say(f"left out: what needs MNIST ({str(error).splitlines()[0]})")
        names = [name for name in names if not on_mnist(name)]
    rows = []
    try:
        for name in names:
            seeds = options.seeds or (MNIST_SEEDS if on_mnist(name) else SEEDS)
            overrides = ["train.epochs=2"] if options.quick else []
            rows.append(measure(name, range(1 if options.quick else seeds), overrides))
    except subprocess.CalledProcessError as error:
        say(f"a run failed with exit code {error.returncode}")
        return 1
    if options.out:
        about = {"cpu": cpu_model(), "date": datetime.now(UTC).strftime("%Y-%m-%d")}
        results = {"environment": describe(get_backend("cpu")) | about, "rows": rows}
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
