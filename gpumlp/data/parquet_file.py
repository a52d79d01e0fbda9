"""Read columns of a parquet file that anyone may have written: no claim believed, no code run."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import ConfigError, DataError
from .csv_column import MAX_TEXT
from .frame import EXACT, INDEX, Frame, Text, check_width, choose
from .parquet_pages import unpacked_size
from .place import Source, place
from .reading import blame, check_memory, check_unpacked, open_data
from .types import Array

MAX_BYTES = 16 * 2**30  # of the columns as float64
MAX_VALUES_PER_BYTE = 2**16  # a run of equal values takes a few bytes; beyond this it is a bomb
FREE_VALUES = 2**22  # 32 MB, whatever the size of the file
BLOCK_ROWS = 2**16
LIMITS = {"thrift_string_size_limit": 2**26, "thrift_container_size_limit": 2**20}


def load_pyarrow(what: str) -> tuple[Any, Any]:
    """Return pyarrow and its parquet module; ConfigError about `what`, where it is missing."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(
            f'{what}: parquet needs pyarrow, which is missing; pip install "gpumlp[parquet]"'
        ) from None
    return pyarrow, parquet


def read_parquet(
    path: Path, source: str, names: Sequence[str] | None = None, text: Collection[str] = ()
) -> Frame:
    """Return the named columns of a file, or all of them; those in `text` become text.

    Numbers, decimals and bools are float64 with NaN for what is missing (bools of which none is
    missing stay bools), strings and dictionaries of strings are `Text`; no others are read. All but
    the named columns are left alone, and without names an index that pandas stored. Raises
    DataError, which names row and column, for types that are neither numbers nor text, integers
    that float64 would round, infinite numbers, and whatever else is no such file; ConfigError
    without pyarrow, and FileError if the system refuses to open it.
    """
    load_pyarrow(source)
    with open_data(path, source) as stream, blame(source, "parquet"):
        reader = _Reader(stream, path.stat().st_size, source)
        if names is None:
            names = [name for name in reader.names if not INDEX.fullmatch(name)]
        wanted = choose(names, reader.names, source)
        reader.check_types(wanted)
        columns = [_Column(name, name in text, Source(source)) for name in wanted]
        for batch in reader.batches(wanted):
            for column in columns:
                column.add(batch.column(column.name))
        return Frame({c.name: c.finished() for c in columns}, Source(source), gaps=True)


def read_arrow(path: Path, source: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the named columns as they are, arrow arrays, to be written again; raises the same."""
    pyarrow, _ = load_pyarrow(source)
    with open_data(path, source) as stream, blame(source, "parquet"):
        reader = _Reader(stream, path.stat().st_size, source)
        reader.check_types(choose(names, reader.names, source), kept=True)
        batches = list(reader.batches(names))
        texts = [b.column(n) for b in batches for n in names if _is_text(reader.type_of(n))]
        check_unpacked(sum(map(_text_size, texts)), reader.size, source, "keep numbers only")
        columns = {n: pyarrow.chunked_array([b.column(n) for b in batches]) for n in names}
        # strings were read as dictionaries
        return {
            name: column
            if column.type == reader.type_of(name)
            else column.cast(reader.type_of(name))
            for name, column in columns.items()
        }


class _Reader:
    """An open file whose claims were checked; its rows come in batches."""

    def __init__(self, stream: BinaryIO, size: int, source: str) -> None:
        self._stream, self.size, self._source = stream, size, source
        file = self._open()
        # nothing else of the metadata: what pyarrow throws there for damaged ones ends the process
        self._schema, self.rows = file.schema_arrow, file.metadata.num_rows
        self.names = list(self._schema.names)
        check_width(len(self.names), source)
        name, count = Counter(self.names).most_common(1)[0] if self.names else ("", 0)
        if count > 1:
            raise DataError(f'{source}: {count} columns are called "{name}"')
        if self.rows <= 0:
            raise DataError(f"{source}: has no rows")

    def type_of(self, name: str) -> Any:
        """Return the arrow type of a column."""
        return self._schema.field(name).type

    def check_types(self, names: Sequence[str], kept: bool = False) -> None:
        """Raise DataError for a column that is neither numbers nor text.

        What is `kept` as it is may also be times, and lists of all but text, whose sizes are known.
        """
        from pyarrow import types

        numeric = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
        single = (*numeric, types.is_null, *((types.is_temporal,) if kept else ()))
        wrapped = (types.is_dictionary, *((types.is_list, types.is_large_list) if kept else ()))
        way_out = "" if kept else "; leave it out by listing the others in data.features"
        for name in names:
            kind = self.type_of(name)
            inner = kind.value_type if any(is_a(kind) for is_a in wrapped) else kind
            if not _is_text(kind) and not any(is_a(inner) for is_a in single):
                raise DataError(
                    f"{place(self._source, column=name)} is of type {str(kind)[:100]}, expected "
                    f"numbers or text{way_out}"
                )

    def batches(self, names: Sequence[str]) -> Iterator[Any]:
        """Yield the columns in batches of rows; every index and every text in them was checked."""
        texts = [name for name in names if _is_text(self.type_of(name))]
        self._check_size(names)
        file, rows = self._open(read_dictionary=texts), 0
        # one thread: those of pyarrow would go on living beside ours
        for batch in file.iter_batches(BLOCK_ROWS, columns=list(names), use_threads=False):
            batch.validate(full=True)
            rows += len(batch)
            yield batch
        if rows != self.rows:
            raise DataError(f"{self._source}: declares {self.rows} rows and has {rows}")

    def _open(self, **options: Any) -> Any:
        from pyarrow.parquet import ParquetFile

        self._stream.seek(0)
        return ParquetFile(
            self._stream, pre_buffer=False, page_checksum_verification=True, **LIMITS, **options
        )

    def _check_size(self, names: Sequence[str]) -> None:
        """Raise DataError, before memory is taken, for more values than there can be or fit."""
        unpacked, values = unpacked_size(self._stream, self.size, names)
        values = max(values, self.rows * len(names))  # none are written of a column of nulls
        if 8 * values > MAX_BYTES:
            raise DataError(
                f"{self._source}: {values} values, {8 * values} bytes; the limit is {MAX_BYTES}"
            )
        if values > max(FREE_VALUES, MAX_VALUES_PER_BYTE * self.size):
            raise DataError(
                f"{self._source}: declares {values} values in {self.size} bytes: damaged"
            )
        check_memory(8 * values, self._source)
        check_unpacked(unpacked, self.size, self._source, "save it without compression")


class _Column:
    """A column as it grows, batch by batch: numbers, or the codes of its texts."""

    def __init__(self, name: str, forced: bool, source: Source) -> None:
        self.name = name
        self._forced, self._source, self._count = forced, source, 0
        self._blocks: list[Array] = []
        self._known: dict[str, int] = {}
        self._is_text = forced

    def add(self, column: Any) -> None:
        """Take the next rows, an arrow array."""
        import pyarrow

        if pyarrow.types.is_dictionary(column.type) and not _is_text(column.type):
            column = column.dictionary_decode()
        if self._forced or _is_text(column.type):
            self._is_text = True
            self._blocks.append(self._codes(column))
        else:
            self._blocks.append(self._numbers(column))
        self._count += len(column)

    def finished(self) -> Array | Text:
        """Return the whole column, and forget its blocks."""
        blocks, self._blocks = self._blocks, []
        whole = np.concatenate(blocks)
        return Text(tuple(self._known), whole) if self._is_text else whole

    def _numbers(self, column: Any) -> Array:
        import pyarrow

        missing = np.asarray(column.is_null().to_numpy(zero_copy_only=False))
        if pyarrow.types.is_null(column.type):
            return np.full(len(column), np.nan)
        if pyarrow.types.is_decimal(column.type):
            column = column.cast(pyarrow.float64())
        raw = column.fill_null(False if pyarrow.types.is_boolean(column.type) else 0)
        values: Array = raw.to_numpy(zero_copy_only=False)
        if values.dtype.kind == "b" and not missing.any():
            return values
        if values.dtype.kind in "iu":
            rounded = (values > EXACT) | (values < -EXACT if values.dtype.kind == "i" else False)
            self._refuse(rounded, values, "is more than float64 can tell apart (2^53)")
        floats = values.astype(np.float64)
        self._refuse(np.isinf(floats), values, "is not a finite number")
        floats[missing] = np.nan
        return floats

    def _codes(self, column: Any) -> Array:
        """Return which text each row has, -1 for none; texts are added to those that are known."""
        import pyarrow

        if not pyarrow.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        indices = column.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        used, inverse = np.unique(indices, return_inverse=True)
        texts = column.dictionary.take(pyarrow.array(used[used >= 0])).to_pylist()
        written = [None] * (len(used) - len(texts)) + [_as_text(text) for text in texts]
        codes = [self._code(text) for text in written]
        self._check_texts(written, inverse)
        return np.array(codes, np.int64)[inverse]

    def _code(self, text: str | None) -> int:
        return -1 if not text else self._known.setdefault(text, len(self._known))

    def _check_texts(self, written: Sequence[str | None], inverse: Array) -> None:
        null = np.array([text is not None and "\0" in text for text in written], np.bool_)
        if null.any():
            row = self._count + int(np.argmax(null[inverse]))
            raise DataError(f"{place(self._source, row, self.name)}: a text with a NUL character")
        long = np.array([text is not None and len(text) > MAX_TEXT for text in written], np.bool_)
        if long.any():
            row = int(np.argmax(long[inverse]))
            length = len(written[inverse[row]] or "")
            raise DataError(
                f"{place(self._source, self._count + row, self.name)}: a text of {length} "
                f"characters, the limit is {MAX_TEXT}; leave the column out by listing the others "
                "in data.features"
            )

    def _refuse(self, wrong: Array, values: Array, why: str) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            where = place(self._source, self._count + row, self.name)
            raise DataError(f"{where}: {values[row]} {why}")


def _is_text(kind: Any) -> bool:
    """Return whether a type of columns is strings, or a dictionary of them."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    strings = (types.is_string, types.is_large_string, types.is_string_view)
    return any(is_string(kind) for is_string in strings)


def _text_size(column: Any) -> int:
    """Return the bytes of a column of text, read as a dictionary, with each text written out."""
    from pyarrow import compute

    lengths = compute.binary_length(column.dictionary.cast("large_string"))
    return compute.sum(lengths.take(column.indices)).as_py() or 0


def _as_text(value: Any) -> str | None:
    """Return a value as a csv file would have it; 3.0 is 3, as in a column without gaps.

    >>> _as_text(3.0), _as_text(True), _as_text(" red ")
    ('3', 'True', 'red')
    """
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
