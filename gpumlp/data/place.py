"""Say where in a source a value stands, in the words of whoever made the file."""

from typing import Any, Self

import numpy.typing as npt


class Source(str):
    """The name of a table's source, which also knows the lines of a csv file and column names.

    Functions that check data take a `source: str` for their messages; given a `Source`, `place`
    can name the line and the column as they stand in the file.
    """

    lines: npt.NDArray[Any] | None
    columns: tuple[str, ...]

    def __new__(
        cls, name: str, lines: npt.NDArray[Any] | None = None, columns: tuple[str, ...] = ()
    ) -> Self:
        """Make the name, with what is known of rows and columns."""
        source = super().__new__(cls, name)
        source.lines, source.columns = lines, columns
        return source


def place(source: str, row: int | None = None, column: int | None = None) -> str:
    """Return where a value stands: its row, its column of x, or both.

    >>> place("my.npz", 3, 0)
    'row 3, column 0 (counted from 0)'
    >>> place(Source("my.csv", [2, 3, 5], ("age", "height")), 2, 1)
    'line 5, column "height"'
    """
    lines = getattr(source, "lines", None)
    columns = getattr(source, "columns", ())
    parts, counted = [], False
    if row is not None:
        counted = lines is None
        parts.append(f"row {row}" if lines is None else f"line {lines[row]}")
    if column is not None:
        counted = counted or not columns
        parts.append(f'column "{columns[column]}"' if columns else f"column {column}")
    return ", ".join(parts) + (" (counted from 0)" if counted else "")
