"""Say where in a source a value stands, in the words of whoever made the file."""

from collections.abc import Sequence
from typing import Any, Self

import numpy.typing as npt


class Source(str):
    """The name of a table's source, which also knows the lines of a csv file and column names.

    Functions that check data take a `source: str` for their messages; given a `Source`, `place`
    can name the line and the column as they stand in the file.
    """

    lines: npt.NDArray[Any] | Sequence[int] | None
    columns: tuple[str, ...]

    def __new__(
        cls,
        name: str,
        lines: npt.NDArray[Any] | Sequence[int] | None = None,
        columns: tuple[str, ...] = (),
    ) -> Self:
        """Make the name, with what is known of rows and columns."""
        source = super().__new__(cls, name)
        source.lines, source.columns = lines, columns
        return source


def with_columns(source: str, columns: tuple[str, ...]) -> Source:
    """Return the same source, about whose columns of those names something is to be said."""
    return Source(source, getattr(source, "lines", None), columns)


def place(source: str, row: int | None = None, column: int | str | None = None) -> str:
    """Return the beginning of a message: the source, and in it the row, the column, or both.

    A source of one named column names it always.

    >>> place("my.npz", 3, 0)
    'my.npz: row 3, column 0 (counted from 0)'
    >>> place(Source("my.csv", [2, 3, 5], ("age", "height")), 2, 1)
    'my.csv: line 5, column "height"'
    >>> place(Source("my.csv", [2, 3, 5], ("age",)), 2)
    'my.csv: line 5, column "age"'
    """
    lines = getattr(source, "lines", None)
    columns = getattr(source, "columns", ())
    if column is None and len(columns) == 1:
        column = 0
    parts, counted = [], False
    if row is not None:
        counted = lines is None
        parts.append(f"row {row}" if lines is None else f"line {lines[row]}")
    if isinstance(column, int):
        counted = counted or not columns
        column = columns[column] if columns else column
    if column is not None:
        parts.append(f'column "{column}"' if isinstance(column, str) else f"column {column}")
    return f"{source}: " + ", ".join(parts) + (" (counted from 0)" if counted else "")
