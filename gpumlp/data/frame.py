"""A frame holds named columns, of numbers or of text, as a csv file or an array of records has."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from .place import Source, place
from .types import Array, Rows

INDEX = re.compile(r"__index_level_\d+__")  # what pandas calls an index that it stores as a column
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.A | re.I)
EXACT = 2**53  # the integers up to here are float64 numbers, each its own
MAX_COLUMNS = 2**20  # each with a name; more are no table
MAX_COMPARED = 1000  # names among which a similar one is looked for


class Text(NamedTuple):
    """A column of text: its distinct values, and for each row which one it is, -1 for none."""

    values: tuple[str, ...]
    codes: Rows


@dataclass(frozen=True, eq=False)
class Frame:
    """Columns by name, each numbers (N,) or `Text`.

    Where there may be `gaps`, as in csv and parquet files, NaN stands for a missing number;
    otherwise it is a value like others.
    """

    columns: dict[str, Array | Text]
    source: Source
    gaps: bool = False

    @classmethod
    def from_array(cls, array: Array, source: str) -> "Frame":
        """Return the columns of records (N,) by their fields, of a matrix (N, D) by number.

        >>> list(Frame.from_array(np.zeros((5, 3)), "my.npy").columns)
        ['0', '1', '2']

        Raises DataError for other shapes.
        """
        names = array.dtype.names
        if names and array.ndim == 1:
            return cls({name: array[name] for name in names}, Source(source))
        if names or array.ndim != 2:
            raise DataError(
                f"{source}: has shape {array.shape}, which has no columns to choose a target from; "
                "data.target can be a file of its own"
            )
        check_width(array.shape[1], source)
        columns = {str(i): column for i, column in enumerate(array.T)}
        return cls(columns, Source(source))

    def __len__(self) -> int:
        first = next(iter(self.columns.values()))
        return len(first.codes if isinstance(first, Text) else first)

    def pick(self, names: Sequence[str]) -> list[Array | Text]:
        """Return columns by name; raises DataError for a name that there is not."""
        return [self.columns[name] for name in choose(names, tuple(self.columns), self.source)]

    def numbers(self, name: str, what: str) -> Array:
        """Return a column of numbers, all given; DataError, about `what`, names the first cell."""
        (column,) = self.pick([name])
        if isinstance(column, Text):
            row = int(np.argmax(column.codes >= 0))
            cell = column.values[column.codes[row]] if column.values else ""
            raise DataError(
                f'{place(self.source, row, name)}: {what} must be a number, got "{cell}"'
            )
        self.refuse_missing(column, name, what)
        return column

    def labels(self, name: str) -> Array:
        """Return a target column, all given: numbers if all its cells are, otherwise text.

        Text, too, where numbers would not tell the cells apart, as 007 and 7 or those beyond 2^53.
        """
        (column,) = self.pick([name])
        self.refuse_missing(column, name, "the target")
        if not isinstance(column, Text):
            return column
        values: Array = np.array(column.values, np.str_)
        if all(map(NUMBER.fullmatch, column.values)):
            numbers = values.astype(np.float64)
            vague = (abs(numbers) >= EXACT) & (numbers == np.floor(numbers)) & np.isfinite(numbers)
            if len(np.unique(numbers)) == len(numbers) and not vague.any():
                values = numbers
        return values[column.codes]

    def refuse_missing(
        self, column: Array | Text, name: str, what: str = "the cell", way_out: str = ""
    ) -> None:
        """Raise DataError about the first cell of a column that is missing, if one is.

        NaN in an array is a value, which whoever takes only finite ones refuses.
        """
        if not self.gaps:
            return
        missing = column.codes < 0 if isinstance(column, Text) else np.isnan(column)
        if missing.any():
            count = int(np.count_nonzero(missing))
            raise DataError(
                f"{place(self.source, int(np.argmax(missing)), name)}: {what} has no value; "
                f"{count} such cell{'s' if count > 1 else ''}{way_out}"
            )


def check_width(count: int, source: str) -> None:
    """Raise DataError for more columns than a table has."""
    if count > MAX_COLUMNS:
        raise DataError(
            f"{source}: {count} columns to choose from, at most {MAX_COLUMNS}; give x and the "
            "target as arrays of an npz, or the target as a file of its own beside an npy or IDX"
        )


def choose(names: Sequence[str], there: Sequence[str], source: str) -> list[str]:
    """Return the names as a list; raises DataError about all that are not there, and suggests.

    >>> choose(["hight"], ["age", "height"], "my.csv")
    Traceback (most recent call last):
    gpumlp.errors.DataError: my.csv: no column "hight"; it has age, height; did you mean "height"?
    >>> choose(["hight", "zip"], ["age", "height"], "my.csv")  # doctest: +NORMALIZE_WHITESPACE
    Traceback (most recent call last):
    gpumlp.errors.DataError: my.csv: no columns "hight" (did you mean "height"?), "zip";
    it has age, height
    """
    known = set(there)
    missing = list(dict.fromkeys(name for name in names if name not in known))
    if not missing:
        return list(names)
    shown = ", ".join(there[:20]) + (", ..." if len(there) > 20 else "")
    close = {name: get_close_matches(name, there[:MAX_COMPARED], n=1) for name in missing[:50]}
    if len(missing) == 1:
        near = f'; did you mean "{close[missing[0]][0]}"?' if close[missing[0]] else ""
        raise DataError(f'{source}: no column "{missing[0]}"; it has {shown}{near}')
    parts = (
        f'"{name}"' + (f' (did you mean "{like[0]}"?)' if (like := close.get(name)) else "")
        for name in missing
    )
    raise DataError(f"{source}: no columns {', '.join(parts)}; it has {shown}")


def are_names(saved: Any) -> bool:
    """Return whether a value of JSON or TOML is a list of texts, all different.

    >>> are_names(["a", "b"]), are_names(["a", "a"]), are_names("ab")
    (True, False, False)
    """
    texts = isinstance(saved, list) and all(isinstance(name, str) for name in saved)
    return texts and len(set(saved)) == len(saved)
