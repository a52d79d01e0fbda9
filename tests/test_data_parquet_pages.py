"""What pages of a parquet file unpack to is counted as pyarrow counts it, whatever the file."""

import io
from contextlib import suppress

import numpy as np
import pytest

from gpumlp.data.parquet_pages import unpacked_size

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is missing")
from pyarrow import parquet  # noqa: E402

RNG = np.random.default_rng(0)
N = 3000
TABLE = pyarrow.table(
    {
        "x": RNG.normal(size=N),
        "word": [["red", "blue", None][i] for i in RNG.integers(0, 3, N)],
        "nested": [{"a": i, "b": {"c": [str(i)], "d": None}} for i in range(N)],
        "flag": RNG.random(N) > 0.5,
        "list": [[i] * (i % 4) for i in range(N)],
        "last": np.arange(N),
    }
)


def written(**options):
    stream = io.BytesIO()
    parquet.write_table(TABLE, stream, **options)
    return stream


@pytest.mark.parametrize("name", TABLE.column_names)
@pytest.mark.parametrize(
    "options",
    [
        {"compression": "none"},
        {"compression": "zstd", "row_group_size": 1000},
        {"compression": "gzip", "data_page_version": "2.0"},
        {"use_dictionary": False, "write_statistics": False},
        {"write_page_index": True, "write_page_checksum": True, "data_page_size": 500},
        {"version": "1.0", "store_schema": False},
    ],
    ids=str,
)
def test_bytes_and_values_are_those_that_pyarrow_wrote(name, options):
    stream = written(**options)
    unpacked, values = unpacked_size(stream, len(stream.getvalue()), [name])
    footer = parquet.read_metadata(stream)
    chunks = [
        footer.row_group(group).column(column)
        for group in range(footer.num_row_groups)
        for column in range(footer.num_columns)
        if footer.row_group(group).column(column).path_in_schema.split(".")[0] == name
    ]
    assert values == sum(chunk.num_values for chunk in chunks)
    with_headers = sum(chunk.total_uncompressed_size for chunk in chunks)
    assert 0.7 * with_headers < unpacked < with_headers


def test_columns_add_up():
    stream = written()
    size = len(stream.getvalue())
    parts = [unpacked_size(stream, size, [name]) for name in TABLE.column_names]
    assert unpacked_size(stream, size, TABLE.column_names) == tuple(
        map(sum, zip(*parts, strict=True))
    )
    assert unpacked_size(stream, size, ["another"]) == (0, 0)


def test_any_bytes_are_counted_or_refused():
    content = written(compression="zstd").getvalue()
    for _ in range(500):
        changed = bytearray(content)
        for place in RNG.integers(len(content) - 3000, len(content), 3):
            changed[place] = RNG.integers(256)
        with suppress(ValueError, LookupError, TypeError, RuntimeError, AttributeError, OSError):
            unpacked_size(io.BytesIO(changed), len(changed), TABLE.column_names)
