"""Which keys of a configuration do not fit together, though each is valid by itself."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .config import TASK_LOSSES, TASK_METRICS, Config, Section
from .data.sources import ARRAYS, TABLES, is_file, kind_of


class Clash(NamedTuple):
    """Keys that are valid one by one but not together; the problem is reported at the first."""

    keys: tuple[str, ...]
    problem: str


def clashes(config: Config) -> Iterator[Clash]:
    """All keys of a configuration that do not fit together."""
    yield from _idle_keys(config)
    yield from _against_task(config)
    yield from _in_data(config)
    if config.early_stopping:
        monitor = config.early_stopping.monitor
        keys = ("early_stopping.monitor", "train.metrics", "model.task", "data.val")
        in_training = ("loss",) if config.model.task == "regression" else ("loss", "accuracy")
        possible = [f"val_{name}" for name in ("loss", *config.metrics)] + [*in_training]
        if monitor not in possible:
            yield Clash(keys, f'must be one of {quoted(possible)}, got "{monitor}"')
        elif monitor.startswith("val_") and config.data.val is None:
            yield Clash(keys, f'needs [data] val = {{fraction = 0.1}} or similar, got "{monitor}"')


def _idle_keys(config: Config) -> Iterator[Clash]:
    sections: dict[str, Section | None] = {
        "data.test": config.data.test,
        "data.val": config.data.val,
        "model": config.model,
        "loss": config.loss,
        "optimizer": config.optimizer,
        "schedule": config.schedule,
    }
    for path, section in sections.items():
        for key, why in section.idle().items() if section else ():
            if section and key in section.model_fields_set:
                yield Clash((f"{path}.{key}", f"{path}.{section.decided_by}"), why)


def _in_data(config: Config) -> Iterator[Clash]:
    data = config.data
    kind = kind_of(data.source)
    own_target = kind in ("npy", "idx") and isinstance(data.target, str) and is_file(data.target)
    for path, split in (("data.test", data.test), ("data.val", data.val)):
        if split and split.fraction is None and split.path is None:
            yield Clash((path,), "needs fraction or path")
        if split and split.path and (kind_of(split.path) in TABLES) != (kind in TABLES):
            tables = "must be a csv or parquet file if data.source is one, and only then"
            problem = f"{tables}, got {split.path}"
            yield Clash((f"{path}.path", "data.source"), problem)
        if split and split.target is not None and not (split.path and own_target):
            yield Clash((f"{path}.target",), "belongs to path, where data.target is a file too")
    for key in ("features", "sample_weight"):
        if own_target and getattr(data, key) is not None:
            problem = "cannot be given where data.target is a file: there are no columns to name"
            yield Clash((f"data.{key}", "data.target"), problem)
    belong: dict[str, tuple[str, ...]] = {
        "path": ("mnist",),
        "features": (*TABLES, "npz", "npy", "idx"),
        "target": (*TABLES, "npz", "npy", "idx"),
        "sample_weight": (*TABLES, "npz", "npy", "idx"),
        "categorical": TABLES,
        "missing": TABLES,
    }
    for key, kinds in belong.items():
        given = getattr(data, key) != type(data).model_fields[key].default
        if given and kind not in (*kinds, ARRAYS):
            problem = f"belongs to {', '.join(kinds)} sources, not to {data.source}"
            yield Clash((f"data.{key}", "data.source"), problem)
    if data.target_scale != "none":
        keys = ("data.target_scale", "model.task", "loss.name")
        if config.model.task != "regression":
            yield Clash(keys, f'cannot be used with model.task = "{config.model.task}"')
        elif config.loss_name == "poisson":
            yield Clash(keys, 'cannot be used with loss.name = "poisson"')


def _against_task(config: Config) -> Iterator[Clash]:
    task, loss = config.model.task, config.loss
    setting = f'with model.task = "{task}"'
    if config.loss_name not in TASK_LOSSES[task]:
        allowed = quoted(("auto", *TASK_LOSSES[task]))
        problem = f'must be one of {allowed} {setting}, got "{loss.name}"'
        yield Clash(("loss.name", "model.task"), problem)
    if loss.class_weight is not None and task not in ("multiclass", "binary"):
        yield Clash(("loss.class_weight", "model.task"), f"cannot be used {setting}")
    if loss.label_smoothing and task == "regression":
        yield Clash(("loss.label_smoothing", "model.task"), f"cannot be used {setting}")
    for i, name in enumerate(config.metrics):
        if name not in TASK_METRICS[task]:
            problem = f'must be one of {quoted(TASK_METRICS[task])} {setting}, got "{name}"'
            yield Clash((f"train.metrics[{i}]", "train.metrics", "model.task"), problem)


def quoted(names: Iterable[str]) -> str:
    """Names as TOML strings in a row: `"sgd", "adam"`."""
    return ", ".join(f'"{name}"' for name in names)
