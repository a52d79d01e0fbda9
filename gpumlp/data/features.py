"""Features say how the columns of a source become the matrix x: numbers as they are, text one-hot.

They are fitted to the main source, kept in the model, and applied to every other file.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from ..errors import DataError
from .frame import Frame, Text, are_names
from .place import Source, place, with_columns
from .reading import check_memory
from .types import Array

MAX_CATEGORIES = 1000
FEW_ROWS = 20  # in which every name may well be different


@dataclass(frozen=True)
class Features:
    """The columns that are inputs, in order, and the categories of those that are text.

    `names` is empty for sources without columns, such as images.
    """

    names: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def fit(cls, frame: Frame, names: Sequence[str]) -> "Features":
        """Take the categories of the text columns among `names`, in alphabetical order.

        Raises DataError for a column of text that looks like a name or number of the row: more than
        1000 categories, or more than half as many as rows; and for one without any value.
        """
        categories = {}
        for name, column in zip(names, frame.pick(names), strict=True):
            if isinstance(column, Text):
                categories[name] = tuple(sorted(column.values))
                n, rows = len(column.values), len(frame)
                where = place(frame.source, column=name)
                if not n:
                    raise DataError(f"{where} has no value in any row")
                if n > MAX_CATEGORIES or (rows >= FEW_ROWS and n > rows / 2):
                    raise DataError(
                        f"{where} has {n} different texts in {rows} rows, as if it named the row; "
                        "leave it out by listing the others in data.features"
                    )
        return cls(tuple(names), categories)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns of x; empty for sources without columns.

        >>> Features(("age", "colour"), {"colour": ("blue", "red")}).columns
        ('age', 'colour=blue', 'colour=red')
        """
        return tuple(
            f"{name}={category}" if category is not None else name
            for name in self.names
            for category in self.categories.get(name, (None,))
        )

    def encode(self, frame: Frame, missing: bool = False) -> tuple[Array, Source]:
        """Return x (N, D), and the source as it names rows and columns.

        A missing cell is NaN, in all columns of its category; with `missing=False` it is an error.
        Raises DataError, which names row and column, also for an unknown category, for text among
        numbers, and for features of a source without columns.
        """
        if not self.names:
            raise DataError(
                f"{frame.source}: has named columns, but the training data had none; "
                "give the rows as npz, npy or IDX"
            )
        columns = frame.pick(self.names)
        kinds = [np.float64 if isinstance(one, Text) else one.dtype for one in columns]
        shape, dtype = (len(frame), len(self.columns)), np.result_type(*kinds)
        check_memory(prod(shape) * dtype.itemsize, f"{frame.source}: x of shape {shape}")
        x, end = np.empty(shape, dtype), 0
        for name, column in zip(self.names, columns, strict=True):
            if not missing:
                frame.refuse_missing(column, name, way_out='; data.missing = "mean" fills them')
            start, end = end, end + len(self.categories.get(name, (None,)))
            if isinstance(column, Text):
                self._one_hot(name, column, frame.source, x[:, start:end])
            else:
                x[:, start] = column
        return x, with_columns(frame.source, self.columns)

    def _one_hot(self, name: str, column: Text, source: Source, into: Array) -> None:
        if name not in self.categories:
            row = int(np.argmax(column.codes >= 0))
            cell = column.values[column.codes[row]]
            raise DataError(f'{place(source, row, name)}: "{cell}" is not a number')
        known = {category: i for i, category in enumerate(self.categories[name])}
        # the last entry of the table answers the code -1
        table = np.array([known.get(value, -2) for value in column.values] + [-1])
        places = table[column.codes]
        if (places == -2).any():
            row = int(np.argmax(places == -2))
            raise DataError(
                f"{place(source, row, name)}: unknown category "
                f'"{column.values[column.codes[row]]}"; known: {_shorten(self.categories[name])}'
            )
        into[:] = places[:, None] == np.arange(len(known))
        into[places == -1] = np.nan

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes, as types that JSON has."""
        categories = {name: list(values) for name, values in self.categories.items()}
        return {"names": list(self.names), "categories": categories}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Features":
        """Rebuild the features that `to_dict` saved.

        Raises KeyError if a key is missing, ValueError for what are no columns and categories.
        """
        names, categories = saved["names"], saved["categories"]
        if not all(map(are_names, (names, *categories.values()))):
            raise ValueError("names of columns and categories must be distinct texts")
        if not categories.keys() <= set(names):
            raise ValueError("categories of columns that there are not")
        return cls(tuple(names), {name: tuple(values) for name, values in categories.items()})


def inputs(
    frame: Frame, features: Sequence[str] | None, others: Collection[str | None]
) -> list[str]:
    """Return the columns that are inputs: those asked for, or all but the `others`.

    Raises DataError if none is left.
    """
    names = [n for n in frame.columns if n not in others] if features is None else list(features)
    if not names:
        raise DataError(f"{frame.source}: there is no column besides the target")
    return names


def _shorten(names: Sequence[str], limit: int = 20) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
