"""Read a csv file with a header into columns: numbers where every cell is one, otherwise text."""

import csv
import gzip
import io
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from ..errors import DataError
from .csv_column import Cells, Column
from .frame import Frame, check_width, choose
from .place import Source
from .reading import FREE_SIZE, blame, check_unpacked, open_data
from .types import Array

QUOTED = re.compile(r'"[^"]*"')
DELIMITERS = ",;\t"
MAX_LINE = 2**24  # characters; a decompressed bomb of zeros is one endless line
MAX_SIZE = 2**34  # characters of the whole text
BLOCK_CELLS = 2**18


def read_csv(
    path: Path,
    source: str,
    names: Sequence[str] | None = None,
    text: Collection[str] = (),
    verbatim: bool = False,
) -> Frame:
    """Return the named columns of a file, or all of them; those in `text` are kept as text.

    The first line has the column names; cells are separated by commas, semicolons or tabs,
    whichever it has most of; UTF-8, gzip or not. A cell of MISSING has no value: NaN in a column of
    numbers; with `verbatim` only an empty one, and texts may be long. Raises DataError, which names
    line and column, for rows of another length, a column that mixes numbers and text, infinite
    numbers, and whatever else is no such file, and FileError if the system refuses to open it.
    """
    with open_data(path, source) as stream, blame(source, "csv"):
        lines = _lines(stream, source)
        first = next(lines, "")
        text_file = _TextFile(lines, max(DELIMITERS, key=QUOTED.sub("", first).count), source)
        header = text_file.header(first)
        wanted = header if names is None else choose(names, header, source)
        index = {name: i for i, name in enumerate(header)}
        columns = [Column(name, index[name], name in text, verbatim) for name in wanted]
        numbers: list[Array] = []
        for starts, cells in text_file.blocks(columns, len(header)):
            numbers.append(np.array(starts, np.int64))
            for column, part in zip(columns, cells, strict=True):
                column.add(part, Source(source, starts))
        if not numbers:
            raise DataError(f"{source}: has a header and no rows")
        whole = {column.name: column.finished() for column in columns}
    return Frame(whole, Source(source, np.concatenate(numbers)), gaps=True)


def _lines(stream: BinaryIO, source: str) -> Iterator[str]:
    """Yield the lines of a text, with limits on what is read at once and on the whole."""
    packed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    packed_size = os.fstat(stream.fileno()).st_size
    binary = cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if packed else stream
    text, number, size = io.TextIOWrapper(binary, "utf-8-sig", newline=""), 0, 0
    while True:
        try:
            line = text.readline(MAX_LINE)
        except UnicodeDecodeError as error:
            # The wrapper decodes a block of lines at once; those before it were yielded.
            line_number = number + 1 + error.object[: error.start].count(b"\n")
            raise DataError(
                f"{source}: line {line_number} is not UTF-8 text; save the file as UTF-8"
            ) from error
        number, size = number + 1, size + len(line)
        if len(line) == MAX_LINE or size > MAX_SIZE:
            raise DataError(f"{source}: line {number} is too long, or the file too large")
        if packed and size > FREE_SIZE:
            check_unpacked(size, packed_size, source, "unpack it first")
        if "\0" in line:
            raise DataError(f"{source}: line {number} has a NUL character: no csv file")
        if not line:
            return
        yield line


def _check_header(header: list[str], source: str) -> None:
    if not header:
        raise DataError(f"{source}: line 1 is empty; it must have the column names")
    if len(header) == 1 and "|" in header[0]:
        raise DataError(f"{source}: line 1: separate cells by commas, semicolons or tabs, not by |")
    check_width(len(header), source)
    for i, name in enumerate(header):
        if not name:
            raise DataError(f"{source}: line 1: column {i + 1} has no name")
    name, count = Counter(header).most_common(1)[0]
    if count > 1:
        first = header.index(name)
        second = header.index(name, first + 1)
        raise DataError(f'{source}: line 1: columns {first + 1} and {second + 1} are both "{name}"')


@dataclass
class _TextFile:
    """The lines of a file, cut into rows and cells."""

    lines: Iterator[str]
    delimiter: str
    source: str
    number: int = 0  # of lines that were cut

    def header(self, first: str) -> list[str]:
        """Return the column names, which begin in the first line."""
        row = next(self._rows(chain([first], self.lines)), (1, []))[1]
        header = [name.strip() for name in row]
        _check_header(header, self.source)
        return header

    def blocks(
        self, columns: Sequence[Column], width: int
    ) -> Iterator[tuple[list[int], list[Cells]]]:
        """Yield the lines on which rows begin, and the cells of each column, a block at a time."""
        full = max(1, BLOCK_CELLS // width)
        while batch := list(islice(self.lines, full)):
            begin = self.number + 1
            if cells := self._plain_cells(batch, columns, width):
                self.number += len(batch)
                yield list(range(begin, begin + len(batch))), cells
                continue
            # A cell in quotes may go on beyond the batch.
            quoted = any('"' in line for line in batch)
            rows = self._rows(chain(batch, self.lines) if quoted else batch)
            while block := list(islice(_checked(rows, width, self.source), full)):
                starts, cut = zip(*block, strict=True)
                whole = list(zip(*cut, strict=True))
                yield list(starts), [whole[column.index] for column in columns]

    def _plain_cells(
        self, batch: list[str], columns: Sequence[Column], width: int
    ) -> list[Cells] | None:
        """Return the cells of lines without quotes if those of all columns of numbers are numbers.

        Several times faster than cell by cell. None says that the cells must be looked at.
        """
        cut = self.delimiter
        if any('"' in line or line.count(cut) != width - 1 or not line.strip() for line in batch):
            return None
        wanted = [column.index for column in columns if not column.is_text]
        numbers: Iterator[Array] = iter(())
        if wanted:
            try:
                found = np.loadtxt(batch, delimiter=cut, comments=None, ndmin=2, usecols=wanted)
            except ValueError:
                return None
            if not np.isfinite(found).all():
                return None
            numbers = iter(found.T)
        rows = [] if len(wanted) == len(columns) else [line.split(cut) for line in batch]
        return [
            [row[column.index] for row in rows] if column.is_text else next(numbers)
            for column in columns
        ]

    def _rows(self, lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
        """Yield rows, each with the number of the line on which it begins."""
        reader = csv.reader(lines, delimiter=self.delimiter, skipinitialspace=True, strict=True)
        before, start = self.number, self.number + 1
        try:
            for row in reader:
                self.number = before + reader.line_num
                yield start, row
                start = self.number + 1
        except csv.Error as error:
            raise DataError(
                f'{self.source}: line {start}: {error}; a cell in quotes begins and ends with " '
                'and has "" for each inside'
            ) from error


def _checked(
    rows: Iterable[tuple[int, list[str]]], width: int, source: str
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank; raises DataError for one of another length."""
    for start, row in rows:
        if row and len(row) != width:
            raise DataError(
                f"{source}: line {start}: {len(row)} cells, the header has {width} columns"
            )
        if row:
            yield start, row
