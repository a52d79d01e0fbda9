"""Turn the data section of a config into scaled, encoded training, validation and test parts."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .features import Features
from .fingerprint import fingerprint
from .place import with_columns
from .scaling import Scaler
from .sources import Settings, load, load_other
from .splits import split
from .table import Table, check_finite
from .targets import Targets
from .types import Array, Rows


# Properties and not attributes, so that frozen classes and Literal types fit the protocols too.
class HeldOut(Protocol):
    """Where a test or validation part comes from: a file of its own, or a fraction of the rows."""

    @property
    def path(self) -> str | None: ...  # noqa: D102
    @property
    def target(self) -> str | None: ...  # noqa: D102
    @property
    def fraction(self) -> float | None: ...  # noqa: D102
    @property
    def stratify(self) -> bool: ...  # noqa: D102
    @property
    def shuffle(self) -> bool: ...  # noqa: D102


class DataSettings(Settings, Protocol):
    """The data section of a config."""

    @property
    def scale(self) -> str: ...  # noqa: D102
    @property
    def target_scale(self) -> str: ...  # noqa: D102
    @property
    def split_seed(self) -> int | None: ...  # noqa: D102
    @property
    def test(self) -> HeldOut | None: ...  # noqa: D102
    @property
    def val(self) -> HeldOut | None: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Part:
    """Rows ready for training or evaluation.

    ``x`` (N, D) scaled and C-contiguous; ``y`` as ``Targets.encode`` returns it, scaled on request,
    floats in the dtype of x; ``sample_weight`` None or (N,) in that dtype; ``rows`` int64 (N,), the
    row numbers in the main source, or None for a part from a file of its own.
    """

    x: Array
    y: Array
    sample_weight: Array | None
    rows: Rows | None


@dataclass(frozen=True, eq=False)
class Prepared:
    """The parts, what was fitted to make them, and the sha256 of the raw data they come from."""

    train: Part
    val: Part | None
    test: Part | None
    scaler: Scaler
    targets: Targets
    fingerprint: str
    features: Features
    target_scaler: Scaler | None

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that there are, of "train", "val" and "test"."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def facts(self) -> dict[str, Any]:
        """What tells these data from others: rows of each part, sizes, and the fingerprint."""
        rows = {f"rows of the {name} part": len(part.x) for name, part in self.parts.items()}
        sizes = {"features": int(self.train.x.shape[1]), "outputs": self.targets.outputs}
        return {**rows, **sizes, "sha256": self.fingerprint}

    @property
    def last_part(self) -> tuple[str, Part]:
        """Name and rows of the part that a model is judged by: test, or else val, or train."""
        return list(self.parts.items())[-1]


def prepare(data: DataSettings, task: str, seed: int, dtype: npt.DTypeLike) -> Prepared:
    """Load, split, scale and encode: everything between a config and the first batch.

    Test rows are taken from all rows, validation rows from what remains, drawn from
    ``data.split_seed`` or else ``seed``; multiclass labels and binary ones are stratified on
    request. MNIST's own test part is used unless another is asked for. The scalers see the training
    rows only, the targets and categories all rows of the main source. Raises DataError or
    FileError, which name the source, the row and the column.
    """
    main, own_test = load(data)
    targets = Targets.fit(task, main.y, main.target_source)
    y = targets.encode(main.y, main.target_source)
    labels = y.reshape(-1).astype(np.int64) if task == "binary" or y.ndim == 1 else None
    split_seed = seed if data.split_seed is None else data.split_seed
    rest = np.arange(len(main.x))
    chosen = dict[str, tuple[Table, Array, Rows | None]]()
    # The number tells the draws apart; it is part of what a seed means, so it never changes.
    for number, name, held in ((1, "test", data.test), (2, "val", data.val)):
        table = own_test if name == "test" and held is None else None
        if held is not None and held.path is not None:
            table = load_other(data, held.path, held.target, main.features)
        if table is not None:
            chosen[name] = table, targets.encode(table.y, table.target_source), None
        elif held is not None:
            where = f"{main.source}: {name}"
            rest, taken = _hold_out(held, rest, labels, split_seed, number, where)
            chosen[name] = main, y, taken
    chosen["train"] = main, y, rest
    scaler = Scaler.fit(data.scale, main.x, rest, main.source, data.missing == "mean")
    target_scaler = None
    if data.target_scale != "none":
        target_scaler = Scaler.fit(data.target_scale, y, rest, main.target_source)
    parts = {
        name: _part(name, *rows, scaler, target_scaler, np.dtype(dtype))
        for name, rows in chosen.items()
    }
    tables = [main, *(table for table, _, _ in chosen.values() if table is not main)]
    return Prepared(
        parts["train"],
        parts.get("val"),
        parts.get("test"),
        scaler,
        targets,
        fingerprint(tables),
        main.features,
        target_scaler,
    )


def prepare_other(
    table: Table,
    targets: Targets,
    scaler: Scaler,
    target_scaler: Scaler | None,
    dtype: npt.DTypeLike,
) -> Part:
    """Return all rows of another table, encoded and scaled as those of the main source were.

    Raises DataError for what those had not, such as an unknown label, with its row.
    """
    y = targets.encode(table.y, table.target_source)
    return _part("data", table, y, None, scaler, target_scaler, np.dtype(dtype))


def _hold_out(
    held: HeldOut, rows: Rows, labels: Rows | None, seed: int, number: int, source: str
) -> tuple[Rows, Rows]:
    if held.fraction is None:
        raise DataError(f"{source} needs a fraction or a path")
    kept, taken = split(
        len(rows),
        held.fraction,
        seed=seed,
        part=number,
        labels=labels[rows] if labels is not None and held.stratify else None,
        shuffle=held.shuffle,
        source=source,
    )
    return rows[kept], rows[taken]


def _part(
    name: str,
    table: Table,
    y: Array,
    rows: Rows | None,
    scaler: Scaler,
    target_scaler: Scaler | None,
    dtype: np.dtype[Any],
) -> Part:
    x = scaler.transform(table.x, dtype, rows, table.source)
    weights = table.sample_weight
    if rows is not None:
        y, weights = y[rows], None if weights is None else weights[rows]
    source = table.target_source
    if target_scaler is not None:
        y = target_scaler.transform(y, np.float64, source=source)
    if y.dtype.kind == "f":
        y = _cast(y, dtype, "the target", source, rows)
    if weights is not None:
        weights = _cast(weights, dtype, "the weight", with_columns(source, ()), rows)
        if not weights.any():
            raise DataError(f"{table.source}: every row of the {name} part has weight 0")
    return Part(x, y, weights, rows)


def _cast(values: Array, dtype: np.dtype[Any], name: str, source: str, rows: Rows | None) -> Array:
    with np.errstate(over="ignore"):  # check_finite reports it, with the row
        values = values.astype(dtype)
    check_finite(values, f"{name} as {dtype}", source, rows)
    return values
