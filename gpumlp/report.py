"""What `train` says in words: what is about to be trained, and what came out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .data.prepare import Part
from .experiment import Experiment
from .wording import count, duration, layer_sizes, number


def introduction(experiment: Experiment) -> list[str]:
    """Return what is about to be trained, on what and how: lines of about 80 columns at most."""
    config, data, network = experiment.config, experiment.data, experiment.network

    def rows(what: str, part: Part | None) -> str:
        return f", {len(part.x):,} {what}" if part is not None else ""

    sizes = [network.n_in, *(layer.n_out for layer in network.layers if hasattr(layer, "n_out"))]
    hidden = {layer.activation for layer in config.model.hidden_layers}
    activations = f" ({', '.join(sorted(hidden))})" if hidden else " (linear)"
    classes = f", {count(len(data.targets.classes), 'class')}" if data.targets.classes else ""
    schedule, batch = config.schedule.name, config.train.batch_size
    return [
        f"{config.name}: {count(len(data.train.x), 'row')} to train on"
        f"{rows('to validate', data.val)}{rows('to test', data.test)}",
        f"{count(sizes[0] or 0, 'feature')}{classes}; network {layer_sizes(sizes)}"
        f"{activations}, {count(network.flat.count, 'parameter')}",
        f"{config.optimizer.name}, lr {config.optimizer.lr:g}"
        f"{'' if schedule == 'constant' else f' ({schedule})'}, "
        f"{'the full batch' if batch == 'full' else f'batches of {batch}'}, "
        f"{count(config.train.epochs, 'epoch')}",
        _device(experiment),
    ]


def _device(experiment: Experiment) -> str:
    """Return the device, and with "auto" why it was chosen."""
    name, precision = experiment.backend.name, experiment.config.precision
    why = experiment.why_cpu
    reason = f" (no CUDA: {why.split(';')[0]})" if why else ""
    emulated = name == "cpu" and experiment.backend.operand_format is not None
    return f"{name}{reason}, {precision}{' (emulated)' if emulated else ''}"


def details(environment: Mapping[str, Any], path: Path) -> str:
    """Return what --verbose adds: versions, threads, data and the run folder."""
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    blas = ", ".join(
        f"{pool.get('internal_api', 'BLAS')} {pool.get('version') or ''} "
        f"({count(pool['num_threads'], 'thread')})"
        for pool in environment["blas"]
    )
    return "\n".join(
        [
            f"python {environment['python']}; {packages}",
            f"linear algebra: {blas or 'unknown'}; {count(environment['cpu_count'], 'CPU core')}",
            f"data sha256 {environment['data_sha256']}",
            f"run folder: {path}",
        ]
    )


def profile_table(profile: Mapping[str, Any]) -> str:
    """Return where the time of a step goes, a summary's "profile", for reading.

    >>> rows = [{"part": "products", "calls": 5, "us": 60.0, "share": 0.75, "floor_us": 40.0}]
    >>> rows.append({"part": "host", "calls": 0, "us": 20.0, "share": 0.25, "floor_us": 0.0})
    >>> about = {"peak_gflops": 90.0, "bandwidth_gb_per_s": 20.0, "steps_per_epoch": 41}
    >>> about |= {"us_per_step": 80.0, "floor_us": 40.0, "share_of_floor": 0.5}
    >>> print(profile_table(about | {"rows": rows}))
    a step         calls           µs    share   floor, µs
    products           5         60.0    75.0%        40.0
    host                         20.0    25.0%
    total              5         80.0   100.0%        40.0
    floor: 50% of the time, at 90 GFLOP/s (a large product) and 20 GB/s (memory of the largest
    call); 41 steps an epoch
    """

    def line(part: str, calls: int, us: float, share: float, floor: float) -> str:
        found = f"{floor:12,.1f}" if calls else ""
        return f"{part:14}{calls or '':>6}{us:13,.1f}{share:9.1%}{found}"

    rows, whole = profile["rows"], profile["us_per_step"]
    calls = sum(row["calls"] for row in rows)
    return "\n".join(
        [
            f"{'a step':14}{'calls':>6}{'µs':>13}{'share':>9}{'floor, µs':>12}",
            *(
                line(*(row[k] for k in ("part", "calls", "us", "share", "floor_us")))
                for row in rows
            ),
            line("total", calls, whole, 1.0, profile["floor_us"]),
            f"floor: {profile['share_of_floor']:.0%} of the time, at {profile['peak_gflops']:,.0f} "
            f"GFLOP/s (a large product) and {profile['bandwidth_gb_per_s']:,.0f} GB/s (memory of "
            f"the largest\ncall); {count(profile['steps_per_epoch'], 'step')} an epoch",
        ]
    )


def result(summary: dict[str, Any]) -> str:
    """Return the summary for reading.

    >>> print(result({"test": {"loss": 0.25, "accuracy": 0.9}, "status": "done", "epochs": 3,
    ...     "steps": 30, "seconds": 0.5, "samples_per_s": 6000.0, "stop_reason": None,
    ...     "best_epoch": None, "run_dir": "runs/digits"}))
    test   loss 0.2500  accuracy 0.9000
    done: 3 epochs, 30 steps in 0.500 s (6,000 samples/s)
    run folder: runs/digits
    """
    lines = [
        f"{part:5}  " + "  ".join(f"{name} {number(value)}" for name, value in of_part.items())
        for part in ("train", "val", "test")
        if (of_part := summary.get(part))
    ]
    reason = f" ({summary['stop_reason']})" if summary["stop_reason"] else ""
    skipped = summary.get("skipped_steps", 0)
    steps = count(summary["steps"], "step") + (f" ({skipped:,} skipped)" if skipped else "")
    samples = summary["samples_per_s"]
    speed = f" ({samples:,.0f} samples/s)" if samples else ""  # unknown in an unfinished epoch
    best = f", best epoch {summary['best_epoch']}" if summary["best_epoch"] else ""
    return "\n".join(
        [
            *lines,
            f"{summary['status']}{reason}: {count(summary['epochs'], 'epoch')}, "
            f"{steps} in {duration(summary['seconds'])}{speed}{best}",
            f"run folder: {summary['run_dir']}",
        ]
    )
