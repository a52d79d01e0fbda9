"""The sections of a run's page, each from what the run folder holds."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from ..config_differences import differences
from ..events import Record
from ..layers import Dense
from ..wording import count, duration, layer_sizes, number
from .captions import CAPTIONS, SHAPES
from .markup import facts, folded, listing, paragraph, picture, section, table, tag
from .run_reading import RunFiles

PARTS = {"test": "test", "val": "validation", "train": "training"}
LAST_EPOCHS = 10
NAMED_CLASSES = 60
NOT_METRICS = ("epoch", "step", "total_loss", "samples_per_s", "seconds")
LABELS = {
    "cpu_count": "CPU cores",
    "data_sha256": "SHA-256 of the data",
    "gpu": "GPU",
    "gpu_memory": "GPU memory, bytes",
    "set": "Given by --set",
}
STATUS = {
    "unfinished": "There is no summary: the run is under way, was killed, or failed. What follows "
    "is what it had written so far.",
    "diverged": "The loss stopped being a finite number, so no model was saved.",
    "interrupted": "The run was stopped before its last epoch; what it had learned was saved, and "
    "gpumlp train --resume goes on with it.",
}


def head(run: RunFiles) -> str:
    """Return name, status and one line that says what the network is."""
    status = run.status if run.status in ("done", *STATUS) else "unfinished"
    summary = run.summary or {}
    reason = summary.get("stop_reason")
    return "\n".join(
        [
            f'<header><div class="head">{tag("h1", run.name)}'
            f"{tag('span', run.status, f'status {status}')}</div>",
            paragraph(_lead(run), "quiet"),
            paragraph(STATUS.get(run.status, "")),
            paragraph(f"Why it ended: {reason}" if reason else ""),
            "</header>",
        ]
    )


def _lead(run: RunFiles) -> str:
    model, config = run.model, run.config
    said = []
    if model is not None:
        network = model.network
        sizes = [network.n_in, *(e.n_out for e in network.layers if isinstance(e, Dense))]
        said.append(f"network {layer_sizes(sizes)}, {count(network.flat.count, 'parameter')}")
    elif config is not None:
        hidden = [layer.units for layer in config.model.hidden_layers]
        said.append(f"hidden layers {layer_sizes(hidden)}" if hidden else "no hidden layer")
    if config is not None:
        said += [config.model.task, f"data {config.data.source}"]
    return " · ".join(said)


def problems(run: RunFiles, lacking: str) -> str:
    """Return what of the run could not be read or drawn."""
    found = [*run.problems, *([lacking] if lacking else [])]
    items = "".join(tag("li", problem) for problem in found)
    return f'<div class="problems"><p>Not everything is here:</p><ul>{items}</ul></div>' * bool(
        found
    )


def results(run: RunFiles) -> str:
    """Return the metrics of each part, and how the run went."""
    parts = {label: found for part, label in PARTS.items() if (found := run.metrics(part))}
    names = list(dict.fromkeys(name for found in parts.values() for name in found))
    rows = [
        [label, *(_number(found[n]) if n in found else "" for n in names)]
        for label, found in parts.items()
    ]
    caption = "Loss and metrics of each part of the data"
    shown = table(caption, ["part", *map(_spaced, names)], rows) if rows else ""
    return section("Results", shown, facts(_course(run)))


def _course(run: RunFiles) -> list[tuple[str, object]]:
    """Return how the run went, from its summary, or else from the epochs that it has recorded."""
    summary: Mapping[str, Any] = run.summary or {}
    last: Record = run.records[-1] if run.records else {}
    seconds = _finite(summary.get("seconds"))
    wanted = run.config.train.epochs if run.config is not None else None
    epochs = summary.get("epochs", last.get("epoch"))
    return [
        ("Epochs", epochs if wanted is None or epochs is None else f"{epochs} of {wanted}"),
        ("Best epoch", _best(run)),
        ("Steps", _whole(summary.get("steps", last.get("step")))),
        ("Skipped steps", _whole(summary.get("skipped_steps"))),
        ("Parameters", _whole(summary.get("parameters"))),
        ("Time of training", None if seconds is None else duration(seconds)),
        ("Samples per second", _whole(summary.get("samples_per_s"))),
        ("Device", summary.get("device", run.environment.get("device"))),
        ("Precision", summary.get("precision")),
        ("Engine", summary.get("engine")),
        ("Seed", summary.get("seed")),
    ]


def _best(run: RunFiles) -> str:
    """Return the best epoch in words: that of early stopping, or of the lowest validation loss."""
    if run.best_epoch is not None:
        stopping = run.config.early_stopping if run.config is not None else None
        return f"{run.best_epoch}" + (f" (by {stopping.monitor})" if stopping else "")
    best = lowest_validation_loss(run.records)
    return "" if best is None else f"{best['epoch']} (lowest validation loss)"


def lowest_validation_loss(records: list[Record]) -> Record | None:
    """Return the record of the lowest validation loss; None where no epoch has one.

    >>> lowest_validation_loss([{"epoch": 1, "val_loss": 2.0}, {"epoch": 2, "val_loss": 1.0}])
    {'epoch': 2, 'val_loss': 1.0}
    """
    known = [record for record in records if _finite(record.get("val_loss")) is not None]
    return min(known, key=lambda record: record["val_loss"], default=None)


def pictures(run: RunFiles, plots: Mapping[str, bytes]) -> str:
    """Return the plots with their captions, in a fixed order."""
    figures = [
        picture(
            plots[stem],
            f"{caption.kind}, {run.name}",
            caption.sentence,
            SHAPES.get(stem, "broad"),
        )
        for stem, caption in CAPTIONS.items()
        if stem in plots
    ]
    if not figures:
        return ""
    return section("Pictures", f'<div class="pictures">\n{chr(10).join(figures)}\n</div>')


def epochs(run: RunFiles) -> str:
    """Return the last epochs, and the best one, in numbers."""
    last = run.records[-LAST_EPOCHS:]
    if not last:
        return section("Epochs", paragraph("No epoch was recorded."))
    best = next((r for r in run.records if r["epoch"] == run.best_epoch), None)
    best = best or lowest_validation_loss(run.records)
    shown = [*([best] if best is not None and best not in last else []), *last]
    names = [
        name
        for name in dict.fromkeys(name for record in shown for name in record)
        if name not in NOT_METRICS and not name.startswith("grad_norm_")
    ]
    rows = []
    for record in shown:
        mark = " (best)" if record is best else ""
        rows.append(
            [f"{record['epoch']}{mark}", *(_number(record.get(n), n in record) for n in names)]
        )
    what = f"The last {len(last)} of {count(len(run.records), 'epoch')}"
    if len(shown) > len(last):
        what += ", and the best one"
    return section("Epochs", table(what, ["epoch", *map(_spaced, names)], rows))


def network(run: RunFiles) -> str:
    """Return the layers and the classes of the model."""
    if run.model is None:
        return ""
    layers = []
    dense = [layer for layer in run.model.network.layers if isinstance(layer, Dense)]
    for i, layer in enumerate(dense, start=1):
        size = sum(parameter.size for parameter in layer.parameters)
        dropout = layer.dropout.rate
        kind = "output" if i == len(dense) else "hidden"
        sizes = [f"{layer.n_in:,}", f"{layer.n_out:,}", layer.activation.name]
        layers.append([f"{i} ({kind})", *sizes, f"{dropout:g}" if dropout else "none", f"{size:,}"])
    head = ["layer", "inputs", "units", "activation", "dropout", "parameters"]
    classes = run.model.targets.classes
    named = ", ".join(classes[:NAMED_CLASSES])
    more = f" and {len(classes) - NAMED_CLASSES:,} more" if len(classes) > NAMED_CLASSES else ""
    said = f"{count(len(classes), 'class')}: {named}{more}" if classes else ""
    return section("Network", table("Layers, from the input on", head, layers), paragraph(said))


def usage(run: RunFiles) -> str:
    """Return how the model is used, from Python and from a shell, and how the run is repeated."""
    folder = shlex.quote(str(run.path))
    repeat = f"gpumlp train --config {shlex.quote(str(run.path / 'config.resolved.toml'))}"
    repeated = [
        paragraph("The same training again, on the same machine to the same bits:"),
        listing(repeat),
    ]
    if run.model is None:
        return section("Train it again", *repeated)
    columns = len(run.model.scaler.offset)
    use = "classify" if run.model.targets.task in ("multiclass", "binary") else "predict"
    python = (
        "from gpumlp.saved_model import load_model\n"
        f"model = load_model({str(run.path)!r})\n"
        f"answers = model.{use}(rows)  # rows (N, {columns}), unscaled, as they were trained on\n"
    )
    shell = (
        f"gpumlp predict {folder} --data new.csv --out predictions.csv\n"
        f"gpumlp features {folder} --data new.csv --out hidden.csv\n"
    )
    return "\n".join(
        [
            section("Use the model", listing(python), listing(shell)),
            section("Train it again", *repeated),
        ]
    )


def configuration(run: RunFiles) -> str:
    """Return what the configuration has that is not the default, and all of it, folded."""
    parts = []
    if run.config is not None:
        rows = [
            [d.key, _shown(d.value), "none" if d.default is None else _shown(d.default), d.meaning]
            for d in differences(run.config)
        ]
        head = ["key", "value", "default", "meaning"]
        parts.append(table("What differs from the defaults", head, rows, numbers=False))
    parts.append(folded("The whole configuration", listing(run.config_text)))
    return section("Configuration", *parts)


def environment(run: RunFiles) -> str:
    """Return what the run ran on."""
    known = dict(run.environment)
    packages, pools, command = (known.pop(key, None) for key in ("packages", "blas", "command"))
    pairs = [(LABELS.get(k, _spaced(k).capitalize()), _shown(v)) for k, v in known.items() if v]
    if isinstance(packages, dict):
        pairs.append(("Packages", ", ".join(f"{name} {v}" for name, v in packages.items())))
    for pool in pools if isinstance(pools, list) else []:
        pairs.append(("Linear algebra", _pool(pool)))
    if isinstance(command, list):
        pairs.append(("Command", shlex.join(map(str, command))))
    return section("Environment", facts(pairs, "long")) if pairs else ""


def log(run: RunFiles) -> str:
    """Return the end of the log, folded."""
    return folded("The end of the log", listing("\n".join(run.log))) if run.log else ""


def _pool(pool: object) -> str:
    """Return a linear-algebra library in words, as `environment.describe` found it."""
    if not isinstance(pool, dict):
        return _shown(pool)
    name, version = pool.get("internal_api", "BLAS"), pool.get("version") or ""
    threads, architecture = pool.get("num_threads"), pool.get("architecture")
    said = [f"{name} {version}", f"threads: {threads}" if threads else "", str(architecture or "")]
    return ", ".join(filter(None, said))


def _spaced(name: str) -> str:
    return name.replace("_", " ").strip()


def _shown(value: object) -> str:
    """Return a value of a configuration or environment: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _finite(value: object) -> float | None:
    """Return a number, if that is what it is, and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) >= 1e300:
        return None
    return None if value != value else float(value)


def _whole(value: object) -> str:
    known = _finite(value)
    return "" if known is None else f"{known:,.0f}"


def _number(value: float | None, present: bool = True) -> str:
    """Return a number for a cell; a value that JSON could not hold was not finite."""
    if value is None:
        return "not finite" if present else ""
    return number(float(value))
