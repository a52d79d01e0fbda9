"""The fingerprint of raw data, by which a resumed run knows that its data is still the same."""

import hashlib
from collections.abc import Iterable

from .table import Table, blocks


def fingerprint(tables: Iterable[Table]) -> str:
    """Return the sha256, in hex, of the tables' columns, x, y and weights, with dtypes."""
    digest = hashlib.sha256()
    for table in tables:
        digest.update(repr(table.features).encode())
        for array in (table.x, table.y, table.sample_weight):
            if array is None:
                digest.update(b"none;")
                continue
            digest.update(f"{array.dtype.str}{array.shape};".encode())
            for block in blocks(len(array), array[:1].size):
                digest.update(array[block].tobytes())
    return digest.hexdigest()
