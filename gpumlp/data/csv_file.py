"""Read a csv file with a header into columns: numbers where every cell is one, otherwise text."""

import csv
import gzip
import io
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from ..errors import DataError
from .frame import Frame, Text, choose
from .place import Source
from .reading import blame, open_data
from .types import Array

MISSING = frozenset({"", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"})
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.A | re.I)
DELIMITERS = ",;\t"
MAX_LINE = 2**24  # characters; a decompressed bomb of zeros is one endless line
MAX_SIZE = 2**34  # characters of the whole text
BLOCK_CELLS = 2**18


def read_csv(
    path: Path, source: str, names: Sequence[str] | None = None, text: Collection[str] = ()
) -> Frame:
    """Return the named columns of a file, or all of them; those in `text` are kept as text.

    The first line has the column names; cells are separated by commas, or by the semicolons or tabs
    of a first line without commas; UTF-8, gzip or not. A cell of MISSING has no value: NaN in a
    column of numbers. Raises DataError, which names line and column, for rows of another length, a
    column that mixes numbers and text, infinite numbers, and whatever else is no such file, and
    FileError if the system refuses to open it.
    """
    with open_data(path, source) as stream, blame(source, "csv"):
        lines = _lines(stream, source)
        first = next(lines, "")
        delimiter = next((d for d in DELIMITERS if d in first), ",")
        reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            _check_header(header, source)
            wanted = header if names is None else choose(names, header, source)
            columns = [_Column(name, name in text) for name in wanted]
            places = [header.index(name) for name in wanted]
            numbers: list[int] = []
            for block, starts in _blocks(reader, len(header), source):
                cells = list(zip(*block, strict=True))
                numbers += starts
                for column, index in zip(columns, places, strict=True):
                    column.add(cells[index], starts, source)
        except csv.Error as error:
            raise DataError(f"{source}: line {reader.line_num}: {error}") from error
    if not numbers:
        raise DataError(f"{source}: has a header and no rows")
    rows = np.array(numbers, np.int64)
    return Frame({column.name: column.finished() for column in columns}, Source(source, rows))


def _lines(stream: BinaryIO, source: str) -> Iterator[str]:
    """Yield the lines of a text, with limits on what is read at once and on the whole."""
    packed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    binary = cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if packed else stream
    text, number, size = io.TextIOWrapper(binary, "utf-8-sig", newline=""), 0, 0
    while True:
        try:
            line = text.readline(MAX_LINE)
        except UnicodeDecodeError as error:
            raise DataError(f"{source}: line {number + 1} or below is not UTF-8 text") from error
        number, size = number + 1, size + len(line)
        if len(line) == MAX_LINE or size > MAX_SIZE:
            raise DataError(f"{source}: line {number} is too long, or the file too large")
        if "\0" in line:
            raise DataError(f"{source}: line {number} has a NUL character: no csv file")
        if not line:
            return
        yield line


def _check_header(header: list[str], source: str) -> None:
    if not header:
        raise DataError(f"{source}: is empty; the first line must have the column names")
    for i, name in enumerate(header):
        if not name:
            raise DataError(f"{source}: line 1: column {i + 1} has no name")
        if name in header[:i]:
            first = header.index(name) + 1
            raise DataError(f'{source}: line 1: columns {first} and {i + 1} are both "{name}"')


def _blocks(
    reader: "csv._reader", width: int, source: str
) -> Iterator[tuple[list[list[str]], list[int]]]:
    """Yield rows, a block at a time, with the number of the line on which each begins."""
    rows: list[list[str]] = []
    starts: list[int] = []
    most, start = max(1, BLOCK_CELLS // width), reader.line_num + 1
    for row in reader:
        if len(row) != width and row:
            raise DataError(
                f"{source}: line {start}: {len(row)} cells, the header has {width} columns"
            )
        if row:  # a blank line is no row
            rows.append(row)
            starts.append(start)
        start = reader.line_num + 1
        if len(rows) == most:
            yield rows, starts
            rows, starts = [], []
    if rows:
        yield rows, starts


@dataclass
class _Column:
    """A column as it grows: blocks of numbers until a cell is none, from then on text."""

    name: str
    forced: bool  # text, whatever it looks like
    count: int = 0
    numbers: list[Array] = field(default_factory=list)
    codes: list[Array] = field(default_factory=list)
    index: dict[str, int] = field(default_factory=dict)

    @property
    def is_text(self) -> bool:
        return self.forced or bool(self.codes)

    def add(self, cells: Sequence[str], lines: Sequence[int], source: str) -> None:
        values = None if self.is_text else _fast_numbers(cells)
        if values is None:
            cells = [cell.strip() for cell in cells]
            if not self.forced:
                self._check_mixture(cells, lines, source)
            if self.is_text or any(map(_is_text, cells)):
                self._add_text(cells)
            else:
                values = np.array([np.nan if cell in MISSING else float(cell) for cell in cells])
        if values is not None:
            if np.isinf(values).any():
                row = int(np.argmax(np.isinf(values)))
                where = f'line {lines[row]}, column "{self.name}"'
                raise DataError(f"{source}: {where}: {cells[row].strip()} is not a finite number")
            self.numbers.append(values)
        self.count += len(cells)

    def _check_mixture(self, cells: Sequence[str], lines: Sequence[int], source: str) -> None:
        """Raise DataError if there are numbers and text, here or in earlier blocks."""
        text = [_is_text(cell) for cell in cells]
        number = [cell not in MISSING and not t for cell, t in zip(cells, text, strict=True)]
        had_number = any(not np.isnan(values).all() for values in self.numbers)
        had_text = bool(self.codes)
        if not ((any(text) or had_text) and (any(number) or had_number)):
            return
        text_is_odd = had_number or (not had_text and sum(number) >= sum(text))
        row = (text if text_is_odd else number).index(True)
        raise DataError(
            f'{source}: line {lines[row]}, column "{self.name}": "{_shown(cells[row])}" among '
            f"{'numbers' if text_is_odd else 'text'}; correct it, or, if the column holds "
            f'categories, set data.categorical = ["{self.name}"]'
        )

    def _add_text(self, cells: Sequence[str]) -> None:
        if self.numbers:  # blocks without any value came before
            self.codes, self.numbers = [np.full(self.count, -1)], []
        index = self.index
        codes = [-1 if c in MISSING else index.setdefault(c, len(index)) for c in cells]
        self.codes.append(np.array(codes, np.int64))

    def finished(self) -> Array | Text:
        if not self.is_text:
            return np.concatenate(self.numbers)
        return Text(tuple(self.index), np.concatenate(self.codes))


def _fast_numbers(cells: Sequence[str]) -> Array | None:
    """Return cells as numbers if all of them are, None if one must be looked at."""
    try:
        values = np.array(cells, np.float64)
    except ValueError:
        return None
    # Python reads 1_000 as a number, and nan, which here is a missing value in many spellings
    return None if np.isnan(values).any() or any("_" in cell for cell in cells) else values


def _is_text(cell: str) -> bool:
    return cell not in MISSING and not NUMBER.fullmatch(cell)


def _shown(cell: str) -> str:
    return cell if len(cell) <= 40 else f"{cell[:37]}..."
