"""Load a named source, built in or a file, as a checked table."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import DataError
from .builtin import load_builtin
from .csv_file import read_csv
from .features import Features, inputs
from .frame import Frame
from .idx import read_idx
from .mnist import load_mnist
from .npy import read_npy
from .npz import read_npz
from .parquet_file import read_arrow, read_parquet
from .place import Source, with_columns
from .table import Table, check, checked_x
from .types import Array

KINDS = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".parquet": "parquet",
    ".npz": "npz",
    ".npy": "npy",
    ".idx": "idx",
    ".idx.gz": "idx",
    "-ubyte": "idx",
    "-ubyte.gz": "idx",
}
TABLES = ("csv", "parquet")  # kinds whose columns have names and may lack values
ARRAYS = "arrays"  # the source of a model that was trained from Python: nothing to load again


class Settings(Protocol):
    """What the data section of a configuration says of its sources.

    `features` and `target` name arrays of an npz, columns of a table, a matrix or records; `target`
    may be a file of its own beside an npy or IDX file. `path` is MNIST's folder.
    """

    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def path(self) -> str | None: ...  # noqa: D102
    @property
    def features(self) -> str | Sequence[str] | None: ...  # noqa: D102
    @property
    def target(self) -> str | Sequence[str]: ...  # noqa: D102
    @property
    def sample_weight(self) -> str | None: ...  # noqa: D102
    @property
    def categorical(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def missing(self) -> str: ...  # noqa: D102


def kind_of(source: str) -> str:
    """Return "builtin", "mnist", "arrays", "csv", "parquet", "npz", "npy" or "idx".

    Raises DataError for what is none of them.

    >>> kind_of("builtin:xor"), kind_of("train-images-idx3-ubyte.gz"), kind_of("my.CSV")
    ('builtin', 'idx', 'csv')
    """
    if source in ("mnist", ARRAYS) or source.startswith("builtin:"):
        return source.partition(":")[0]
    for suffix, kind in KINDS.items():
        if source.lower().endswith(suffix):
            return kind
    raise DataError(
        f"{source}: unknown source; allowed: builtin:NAME, mnist, or a file {', '.join(KINDS)}"
    )


def load(data: Settings) -> tuple[Table, Table | None]:
    """Return the table of the main source, and the test part that MNIST has of its own.

    Raises DataError for a source that is unknown, missing, damaged or unusable, and FileError for
    one that the system refuses to open.
    """
    kind = kind_of(data.source)
    _refuse_arrays(kind)
    if kind == "mnist":
        train, test = load_mnist(data.path)
        return check(Table(*train, source="mnist")), check(Table(*test, source="mnist test part"))
    if kind == "builtin":
        return _load_builtin(data.source), None
    return _load_file(data, data.source, data.target, None), None


def load_other(data: Settings, path: str, target: str | None, features: Features) -> Table:
    """Return the table of a validation or test file, read as the main source was.

    `target` is a file of its own targets, where the main source has one. Raises as `load`.
    """
    return _load_file(data, path, data.target if target is None else target, features)


def load_labelled(source: str, data: Settings, features: Features) -> Table:
    """Return the table of any source with its targets, whose columns are those of a model.

    MNIST stands for its test part. Raises as `load`, and DataError where a file has no place for
    the targets or weights that `data` names.
    """
    kind = kind_of(source)
    _refuse_arrays(kind)
    if kind in ("mnist", "builtin"):
        _refuse_nameless(source, features)
        if kind == "mnist":
            return check(Table(*load_mnist(data.path)[1], source=source))
        return _load_builtin(source)
    if isinstance(data.target, str) and is_file(data.target):
        if kind not in ("npy", "idx"):
            raise DataError(f"{source}: has its targets in itself, not in {data.target}")
        if data.sample_weight is not None:
            raise DataError(
                f'{source}: has no weights "{data.sample_weight}" beside a file of targets; '
                "give rows, targets and weights in one file"
            )
    return _load_file(data, source, data.target, features)


def load_cells(source: str, data: Settings, names: Sequence[str]) -> dict[str, Any]:
    """Return named columns of a file to be written again, see `output.Column`; raises as `load`.

    Cells of a csv are text as it stands there, columns of a parquet file keep their types.
    """
    kind = kind_of(source)
    if kind == "parquet":
        return read_arrow(Path(source), source, names)
    if kind == "csv":
        frame = read_csv(Path(source), source, names, names, verbatim=True)
    elif kind in ("npy", "idx"):
        frame = Frame.from_array(load_array(kind, source), source)
    else:
        raise DataError(f"{source}: has no columns to keep; tables have, csv or parquet")
    return dict(zip(names, frame.pick(names), strict=True))


def load_rows(source: str, data: Settings, features: Features) -> tuple[Array, str]:
    """Return x (N, D), unscaled, of any source, whose targets are not looked at; and its name.

    MNIST stands for its test part. Raises as `load`.
    """
    kind = kind_of(source)
    _refuse_arrays(kind)
    if kind in ("mnist", "builtin", "npz"):
        _refuse_nameless(source, features)
    if kind == "mnist":
        return checked_x(load_mnist(data.path)[1][0], "x", source), source
    if kind == "builtin":
        return _load_builtin(source).x, source
    if kind == "npz":
        name = data.features if isinstance(data.features, str) else "x"
        return checked_x(read_npz(Path(source), [name], source)[0], name, source), source
    if kind in TABLES:
        frame = _read_table(kind, data, source, features.names, features=features)
        x, named = features.encode(frame, data.missing == "mean")
        return checked_x(x, "x", named, missing=True), named
    array = load_array(kind, source)
    if features.names:
        array, named = features.encode(Frame.from_array(array, source))
        return checked_x(array, "x", named), named
    return checked_x(array, "x", source), source


def _load_file(
    data: Settings, path: str, target: str | Sequence[str], features: Features | None
) -> Table:
    kind = kind_of(path)
    if kind == "npz":
        _refuse_nameless(path, features)
        return _load_npz(data, path, target)
    if isinstance(target, str) and is_file(target):
        if kind in TABLES:
            what = f"a {kind} file is one of its columns"
            raise DataError(f"{path}: the target of {what}, not {target}")
        y = load_array(kind_of(target), target)
        x, source = load_array(kind, path), Source(path)
        if features is not None and features.names:
            x, source = features.encode(Frame.from_array(x, path))
        table = Table(x, y, source=source, y_source=Source(target))
        return check(table, ("x", target, "sample_weight"))
    if kind in TABLES:
        names = None
        if data.features is not None:
            names = _columns(data.features, target, data.sample_weight)
        elif features is not None:
            names = _columns(features.names, target, data.sample_weight)
        frame = _read_table(kind, data, path, names, target, features)
    else:
        frame = Frame.from_array(load_array(kind, path), path)
    return _from_frame(data, frame, target, features)


def is_file(target: str | Sequence[str]) -> bool:
    """Return whether a target is the name of a data file and not of an array or column.

    >>> is_file("y.npy"), is_file("label")
    (True, False)
    """
    return isinstance(target, str) and target.lower().endswith(tuple(KINDS))


def _read_table(
    kind: str,
    data: Settings,
    path: str,
    names: Sequence[str] | None,
    target: str | Sequence[str] = (),
    features: Features | None = None,
) -> Frame:
    text = {*data.categorical, *(() if features is None else features.categories)}
    if kind == "parquet":
        return read_parquet(Path(path), path, names, text)
    return read_csv(
        Path(path), path, names, text | ({target} if isinstance(target, str) else set())
    )


def _load_builtin(source: str) -> Table:
    return check(Table(*load_builtin(source.partition(":")[2]), source=source))


def load_array(kind: str, path: str) -> Array:
    """Return the array of an npy or IDX file; raises DataError for another kind."""
    if kind not in ("npy", "idx"):
        raise DataError(f"{path}: is no npy or IDX file")
    return (read_npy if kind == "npy" else read_idx)(Path(path), path)


def _refuse_arrays(kind: str) -> None:
    if kind == ARRAYS:
        raise DataError(
            f'"{ARRAYS}" stands for rows that were given from Python and are not here; name a file'
        )


def _refuse_nameless(source: str, features: Features | None) -> None:
    if features is not None and features.names:
        raise DataError(
            f"{source}: has no named columns, but the training data had "
            f"{', '.join(features.names[:20])}; give a file that has them"
        )


def _load_npz(data: Settings, path: str, target: str | Sequence[str]) -> Table:
    features = "x" if data.features is None else data.features
    if not isinstance(features, str) or not isinstance(target, str):
        raise DataError(f"{path}: data.features and data.target name one array each of an npz file")
    names = [features, target] + ([] if data.sample_weight is None else [data.sample_weight])
    x, y, *weights = read_npz(Path(path), names, path)
    table = Table(x, y, weights[0] if weights else None, path)
    return check(table, (features, target, data.sample_weight or "sample_weight"))


def _columns(
    features: str | Sequence[str], target: str | Sequence[str], weight: str | None
) -> list[str]:
    """Return all the names, each once, in this order."""
    parts = ([part] if isinstance(part, str) else part for part in (features, target, weight or ()))
    return list(dict.fromkeys(chain.from_iterable(parts)))


def _from_frame(
    data: Settings, frame: Frame, target: str | Sequence[str], features: Features | None
) -> Table:
    """Return the table of named columns; without `features` they are fitted."""
    targets = _columns(target, (), None)
    named = data.features if features is None else features.names
    frame.pick(_columns(named or (), target, data.sample_weight))  # all that are missing at once
    y = frame.labels(target) if isinstance(target, str) else _matrix(frame, targets)
    weight = data.sample_weight
    weights = None if weight is None else frame.numbers(weight, "the weight")
    if features is None:
        wanted = None if data.features is None else _columns(data.features, (), None)
        both = [name for name in wanted or () if name in (*targets, weight)]
        if both:
            raise DataError(
                f'{frame.source}: column "{both[0]}" is a feature and the target or weight; '
                "take it out of data.features"
            )
        names = inputs(frame, wanted, {*targets, weight})
        unknown = [name for name in data.categorical if name not in names]
        if unknown:
            raise DataError(
                f'{frame.source}: data.categorical names "{unknown[0]}", which is no feature; '
                f"features are {', '.join(names[:20])}"
            )
        features = Features.fit(frame, names)
    missing = data.missing == "mean" and frame.gaps
    x, source = features.encode(frame, missing)
    table = Table(x, y, weights, source, features, with_columns(source, tuple(targets)))
    return check(table, ("x", "the target", weight or ""), missing)


def _matrix(frame: Frame, names: Sequence[str]) -> Array:
    return np.stack([frame.numbers(name, "the target") for name in names], axis=1)
