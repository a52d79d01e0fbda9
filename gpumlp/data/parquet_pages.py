"""What the pages of a parquet file unpack to, before pyarrow takes the memory for them.

pyarrow believes what a page says of itself, and has no limit of its own; what it says of the
metadata of damaged files ends the process. Both are read here as Thrift's compact protocol has
them: https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

LARGEST_FOOTER = 2**24  # bytes
LARGEST_HEADER = 2**16  # of a page
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)

# The numbers of the fields that are looked at.
SCHEMA, ROW_GROUPS = 2, 4  # of the file
NAME, CHILDREN = 4, 5  # of an element of the schema
CHUNKS = 1  # of a row group
CHUNK = 3  # of a chunk, of a column: its metadata, and of those:
COMPRESSED_CHUNK, DATA_OFFSET, DICTIONARY_OFFSET = 7, 9, 11
UNPACKED, COMPRESSED, DATA_PAGES = 2, 3, (5, 8)  # of a page, and what it is if it has values
VALUES = 1  # of such a page


def unpacked_size(stream: BinaryIO, size: int, names: Collection[str]) -> tuple[int, int]:
    """Return how many bytes, unpacked, and values some columns have in a file of `size` bytes.

    Raises ValueError, IndexError, KeyError, TypeError or RuntimeError for what is no such file.
    """
    stream.seek(size - 8)
    length = int.from_bytes(stream.read(4), "little")
    if length > min(size - 8, LARGEST_FOOTER):
        raise ValueError(f"a footer of {length} bytes")
    stream.seek(size - 8 - length)
    footer = _Thrift(stream.read(length)).struct()
    root, *elements = footer[SCHEMA]
    columns = list(_columns(iter(elements), root[CHILDREN]))
    wanted = {name.encode() for name in names}
    unpacked = values = 0
    for group in footer[ROW_GROUPS]:
        for column, chunk in zip(columns, group[CHUNKS], strict=True):
            if column in wanted:
                for page in _pages(stream, chunk[CHUNK]):
                    unpacked += page[UNPACKED]
                    values += sum(page[kind][VALUES] for kind in DATA_PAGES if kind in page)
    return unpacked, values


def _columns(elements: Iterator[Any], count: int, outer: bytes | None = None) -> Iterator[bytes]:
    """Yield for each leaf of the schema the name of the column in which it lies."""
    for _ in range(count):
        element = next(elements)
        name = element[NAME] if outer is None else outer
        children = element.get(CHILDREN, 0)
        yield from _columns(elements, children, name) if children else (name,)


def _pages(stream: BinaryIO, chunk: dict[int, Any]) -> Iterator[dict[int, Any]]:
    """Yield the header of each page of a chunk."""
    start, dictionary = chunk[DATA_OFFSET], chunk.get(DICTIONARY_OFFSET, 0)
    at = dictionary if 0 < dictionary < start else start
    end = at + chunk[COMPRESSED_CHUNK]
    while at < end:
        stream.seek(at)
        header = _Thrift(stream.read(LARGEST_HEADER))
        page = header.struct()
        if page[UNPACKED] < 0 or page[COMPRESSED] < 0:
            raise ValueError("a page of less than no bytes")
        yield page
        at += header.at + page[COMPRESSED]


class _Thrift:
    """Bytes, and how far they were read."""

    def __init__(self, content: bytes) -> None:
        self._content, self.at = content, 0

    def struct(self) -> dict[int, Any]:
        """Return the values of a struct by the numbers of its fields."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            number = number + step if step else self._integer()
            fields[number] = kind == TRUE if kind in (TRUE, FALSE) else self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (I16, I32, I64):
            return self._integer()
        if kind == BINARY:
            return self._bytes(self._varint())
        if kind in (TRUE, FALSE, BYTE):
            return self._byte()
        if kind == DOUBLE:
            return self._bytes(8)
        if kind in (LIST, SET):
            head = self._byte()
            size = head >> 4 if head < 0xF0 else self._varint()
            return [self._value(head & 15) for _ in range(size)]
        if kind == STRUCT:
            return self.struct()
        if kind == MAP and (size := self._varint()):
            kinds = self._byte()
            return [(self._value(kinds >> 4), self._value(kinds & 15)) for _ in range(size)]
        if kind == MAP:
            return []
        raise ValueError(f"a field of type {kind}")

    def _byte(self) -> int:
        self.at += 1
        return self._content[self.at - 1]

    def _bytes(self, size: int) -> bytes:
        if self.at + size > len(self._content):
            raise ValueError("breaks off")
        self.at += size
        return self._content[self.at - size : self.at]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def _integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
