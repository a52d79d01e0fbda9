"""A column of a csv file as it grows: numbers where every cell is one, otherwise text."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from ..errors import DataError
from .frame import NUMBER, Text
from .place import Source, place
from .types import Array

MISSING = frozenset({"", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"})
MAX_TEXT = 200  # characters; every row of a target takes as many as its longest
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)

Cells: TypeAlias = Array | Sequence[str]  # numbers, all given, or what is written


@dataclass
class Column:
    """A column as it grows: blocks of numbers until a cell is none, from then on text."""

    name: str
    index: int  # of its cells in a row
    forced: bool  # text, whatever it looks like
    verbatim: bool = False  # of any length, and only an empty cell is missing
    count: int = 0
    has_number: bool = False
    numbers: list[Array] = field(default_factory=list)
    codes: list[Array] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)  # the code of each text

    @property
    def is_text(self) -> bool:
        """Whether a cell was text, or was to be taken as text."""
        return self.forced or bool(self.codes)

    def add(self, cells: Cells, source: Source) -> None:
        """Take the next cells, whose lines the source knows."""
        self.count += len(cells)
        if isinstance(cells, np.ndarray):
            self.numbers.append(cells)
            self.has_number = True
            return
        cells = [cell.strip() for cell in cells]
        kinds = {cell: _kind(cell) for cell in set(cells)}
        if not self.forced:
            self._check_mixture(cells, kinds, source)
        if self.is_text or "text" in kinds.values():
            self._check_lengths(cells, source)
            self._add_text(cells)
            return
        values = np.array([float(c) if kinds[c] == "number" else np.nan for c in cells])
        if np.isinf(values).any():
            row = int(np.argmax(np.isinf(values)))
            where = place(source, row, self.name)
            raise DataError(f'{where}: "{_shown(cells[row])}" is not a finite number')
        self.numbers.append(values)

    def _check_mixture(self, cells: list[str], kinds: Mapping[str, str], source: Source) -> None:
        """Raise DataError if there are numbers and text, here or in earlier blocks."""
        for cell in cells if "text" in kinds.values() else ():
            if DECIMAL_COMMA.fullmatch(cell):
                where, meant = place(source, cells.index(cell), self.name), cell.replace(",", ".")
                raise DataError(f'{where}: "{_shown(cell)}" has a decimal comma; write {meant}')
        had_number, had_text = self.has_number, bool(self.codes)
        has_number, has_text = "number" in kinds.values(), "text" in kinds.values()
        self.has_number = had_number or has_number
        if not ((has_text or had_text) and self.has_number):
            return
        found = [kinds[cell] for cell in cells]
        text_is_odd = had_number or (not had_text and found.count("number") >= found.count("text"))
        row = found.index("text" if text_is_odd else "number")
        raise DataError(
            f'{place(source, row, self.name)}: "{_shown(cells[row])}" among '
            f"{'numbers' if text_is_odd else 'text'}; correct it, leave the cell empty if there is "
            "no value, or, if the column holds categories, train with data.categorical = "
            f'["{self.name}"]'
        )

    def _check_lengths(self, cells: Sequence[str], source: Source) -> None:
        for row, cell in enumerate(cells):
            if len(cell) > MAX_TEXT and not self.verbatim:
                raise DataError(
                    f"{place(source, row, self.name)}: a text of {len(cell)} characters, the limit "
                    f"is {MAX_TEXT}; leave the column out by listing the others in data.features"
                )

    def _add_text(self, cells: Sequence[str]) -> None:
        if self.numbers:  # blocks without any value came before
            self.codes, self.numbers = [np.full(self.count - len(cells), -1)], []
        known, missing = self.known, ("",) if self.verbatim else MISSING
        codes = [-1 if c in missing else known.setdefault(c, len(known)) for c in cells]
        self.codes.append(np.array(codes, np.int64))

    def finished(self) -> Array | Text:
        """Return the whole column, and forget its blocks."""
        blocks, self.numbers = self.numbers, []  # one column at a time, not the whole file twice
        if not self.is_text:
            return np.concatenate(blocks)
        return Text(tuple(self.known), np.concatenate(self.codes))


def _kind(cell: str) -> str:
    if cell in MISSING:
        return "missing"
    return "number" if NUMBER.fullmatch(cell) else "text"


def _shown(cell: str) -> str:
    return cell if len(cell) <= 40 else f"{cell[:37]}..."
