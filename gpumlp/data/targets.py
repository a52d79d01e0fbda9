"""Encode the targets of each task as the numbers that a loss takes, and class names back."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .columns import columns, probabilities, zeros_and_ones
from .frame import EXACT, NUMBER, are_names
from .place import place
from .table import check_finite
from .types import Array

NO_TEXT = re.compile("[\0\\ud800-\\udfff]")  # what some kind of file that names classes cannot hold
TASKS = ("multiclass", "binary", "multilabel", "regression")


@dataclass(frozen=True)
class Targets:
    """What a model must know of its targets: the task, the class names, the number of outputs.

    ``classes`` are sorted as numbers if the labels were numbers, else as text; columns without
    names are called "0", "1", ...; regression has none. ``outputs`` is the number of classes
    (multiclass), 1 (binary), or the number of columns (multilabel, regression).
    """

    task: str
    classes: tuple[str, ...]
    outputs: int

    @classmethod
    def fit(cls, task: str, y: Array, source: str = "data") -> "Targets":
        """Take classes and outputs from y, (N,) or (N, K), all the rows there are.

        Raises DataError, beginning with ``source``, if y does not suit the task, and ValueError
        for an unknown task.

        >>> Targets.fit("multiclass", np.array(["cat", "dog", "bird"]))
        Targets(task='multiclass', classes=('bird', 'cat', 'dog'), outputs=3)
        """
        if task not in TASKS:
            raise ValueError(f"unknown task {task!r}; allowed: {', '.join(TASKS)}")
        if task == "regression":
            return cls(task, (), columns(y, source).shape[1])
        if task == "multilabel":
            return cls(task, _numbered(zeros_and_ones(y, source)), y.shape[1])
        if task == "multiclass" and _has_columns(y):
            rows = probabilities(y, source)
            _check_classes(int(rows.any(axis=0).sum()), task, source)
            return cls(task, _numbered(rows), rows.shape[1])
        classes = tuple(_labels(y, source)[0])
        _check_classes(len(classes), task, source)
        return cls(task, classes, 1 if task == "binary" else len(classes))

    def encode(self, y: Array, source: str = "data") -> Array:
        """Return y as numbers; raises DataError, with the row, for what ``fit`` has not seen.

        multiclass: int64 (N,) class indices, or float64 (N, C) if y has a probability for each
        class (one-hot or soft); binary: float64 (N, 1) of 0 and 1; multilabel: float64 (N, K) of 0
        and 1; regression: float64 (N, K).

        >>> Targets("binary", ("no", "yes"), 1).encode(np.array(["yes", "no"]))
        array([[1.],
               [0.]])
        """
        if self.task == "binary":
            return self._indices(y, source).astype(np.float64)[:, None]
        if self.task == "multiclass" and not _has_columns(y):
            return self._indices(y, source)
        read = {"multiclass": probabilities, "multilabel": zeros_and_ones, "regression": columns}
        encoded = read[self.task](y, source)
        if encoded.shape[1] != self.outputs:
            raise DataError(
                f"{source}: the target has {encoded.shape[1]} columns, "
                f"the model's targets have {self.outputs}"
            )
        return encoded

    def decode(self, indices: Iterable[int]) -> list[str]:
        """Return the names of class indices (for multilabel: of columns).

        >>> Targets("binary", ("no", "yes"), 1).decode([1, 0])
        ['yes', 'no']
        """
        return [self.classes[index] for index in indices]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``from_dict`` takes, as types that JSON and TOML have."""
        return {**asdict(self), "classes": list(self.classes)}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Targets":
        """Rebuild the targets that ``to_dict`` saved.

        Raises KeyError if a key is missing, ValueError if the parts are not those of one task.
        """
        task, classes, outputs = saved["task"], saved["classes"], saved["outputs"]
        wanted = {"binary": 2, "regression": 0}.get(str(task), outputs)
        if not (
            task in TASKS
            and type(outputs) is int
            and outputs >= 1
            and (task != "binary" or outputs == 1)
            and are_names(classes)
            and not any(map(NO_TEXT.search, classes))
            and len(classes) == wanted
        ):
            raise ValueError(f"no targets: {task!r}, {outputs!r} outputs, classes {classes!r:.60}")
        return cls(task, tuple(classes), outputs)

    def _indices(self, y: Array, source: str) -> npt.NDArray[np.int64]:
        names, inverse = _labels(y, source)
        index = {name: i for i, name in enumerate(self.classes)}
        indices = np.array([index.get(name, -1) for name in names], np.int64)[inverse]
        if (indices < 0).any():
            row = int(np.argmax(indices < 0))
            raise DataError(
                f'{place(source, row)}: unknown label "{names[inverse[row]]}"; '
                f"known: {_shorten(self.classes)}"
            )
        return indices


def class_indices(y: Array) -> Array:
    """Return the class of each row (N,): where y (N, C) is largest, or whether y (N, 1) > 1/2.

    y is probabilities, one-hot rows or targets as `Targets.encode` returns them, on any device; of
    equal ones the first class is taken. Indices (N,) are returned as they are.

    >>> class_indices(np.array([[0.1, 0.9], [0.8, 0.2]])), class_indices(np.array([[0.4], [0.6]]))
    (array([1, 0]), array([0, 1]))
    """
    if y.ndim == 1 and y.dtype.kind in "iu":
        return y
    y = y.reshape(len(y), -1)
    return (y.argmax(axis=1) if y.shape[1] > 1 else y[:, 0] > 0.5).astype(np.int64)


def _labels(y: Array, source: str) -> tuple[list[str], npt.NDArray[np.intp]]:
    """Return the distinct labels' names, in order, and for each row the index of its label."""
    if _has_columns(y):
        raise DataError(f"{source}: the target has {y.shape[1]} columns, expected one label a row")
    y = y.reshape(-1)
    if y.dtype.kind == "f":
        check_finite(y, "the target", source)
        fractional = y != np.floor(y)
        if fractional.any():
            row = int(np.argmax(fractional))
            raise DataError(
                f"{place(source, row)}: {y[row]} is no class label; "
                'for numbers use task = "regression"'
            )
    distinct, inverse = np.unique(y, return_inverse=True)
    if y.dtype.kind == "U":
        _refuse_spellings(distinct.tolist(), inverse, source)
    # 3.0 and 3 are the same label: a test file may store it either way.
    as_text = (lambda label: str(int(label))) if y.dtype.kind == "f" else str
    return [as_text(label) for label in distinct.tolist()], inverse


def _refuse_spellings(texts: list[str], inverse: npt.NDArray[np.intp], source: str) -> None:
    """Raise DataError for labels that are one number, of which other files may have one only."""
    if not all(map(NUMBER.fullmatch, texts)):
        return
    known: dict[float, str] = {}
    for i, text in enumerate(texts):
        value = float(text)
        other = known.setdefault(value, text)
        if other != text and abs(value) < EXACT:
            raise DataError(
                f'{place(source, int(np.argmax(inverse == i)))}: the labels "{other}" and "{text}" '
                f'are the same number; write them alike, or as text such as "x{text}"'
            )


def _check_classes(count: int, task: str, source: str) -> None:
    if count < 2:
        raise DataError(f"{source}: every row has the same label; a classifier needs two")
    if task == "binary" and count > 2:
        raise DataError(
            f'{source}: the target has {count} classes, binary has 2; use task = "multiclass"'
        )


def _has_columns(y: Array) -> bool:
    return y.ndim == 2 and y.shape[1] > 1


def _numbered(values: Array) -> tuple[str, ...]:
    return tuple(map(str, range(values.shape[1])))


def _shorten(names: tuple[str, ...], limit: int = 20) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
