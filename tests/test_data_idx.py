"""Reading IDX files: every type comes back, plain and gzipped, and no claim is believed."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from idx_files import CODES, idx_bytes

from gpumlp.data import idx
from gpumlp.data.idx import read_idx
from gpumlp.errors import DataError, FileError

PACKINGS = pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
LABELS = np.arange(200, dtype=np.uint8)


def read_error(path, content=None):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(path, "my data")
    assert str(caught.value).startswith("my data: ")
    return str(caught.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "zahlen ü.idx"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """One file for all examples of a property: Hypothesis forbids a fixture per test function."""
    return tmp_path_factory.mktemp("idx") / "scratch"


@given(
    hnp.arrays(st.sampled_from(list(CODES)), hnp.array_shapes(min_side=0, max_dims=5)),
    st.booleans(),
)
def test_every_type_and_shape_comes_back(scratch, array, zipped):
    content = idx_bytes(array)
    scratch.write_bytes(gzip.compress(content) if zipped else content)
    again = read_idx(scratch, "my data")
    assert again.dtype == array.dtype
    assert again.dtype.isnative
    assert again.shape == array.shape
    assert again.tobytes() == array.tobytes()


@PACKINGS
def test_a_known_file_is_read(path, pack):
    content = bytes.fromhex("00000b02 00000002 00000003 0001 0002 fffd 0100 7fff 8000")
    path.write_bytes(pack(content))
    assert read_idx(path, "my data").tolist() == [[1, 2, -3], [256, 32767, -32768]]


def test_gzip_is_seen_from_the_content_and_not_from_the_name(path):
    zipped, plain = path.with_suffix(".idx"), path.with_suffix(".gz")
    zipped.write_bytes(gzip.compress(idx_bytes(LABELS)))
    plain.write_bytes(idx_bytes(LABELS))
    assert read_idx(zipped, "").tolist() == read_idx(plain, "").tolist() == LABELS.tolist()


def test_several_gzip_members_are_one_file(path):
    content = idx_bytes(LABELS)
    path.write_bytes(gzip.compress(content[:50]) + gzip.compress(content[50:]))
    assert (read_idx(path, "my data") == LABELS).all()


def test_the_arrays_can_be_written_to(path):
    path.write_bytes(idx_bytes(LABELS))
    read_idx(path, "my data")[0] = 9


@PACKINGS
@pytest.mark.parametrize("length", [*range(9), 100, 150, 207])
def test_every_truncation_is_refused(path, pack, length):
    read_error(path, pack(idx_bytes(LABELS)[:length]))


@pytest.mark.parametrize("length", range(1, 60, 3))
def test_every_truncation_of_the_gzip_stream_is_refused(path, length):
    content = gzip.compress(idx_bytes(LABELS))
    read_error(path, content[:-length])


def test_a_truncation_is_named_with_the_counts(path):
    content = idx_bytes(LABELS)[:-3]
    claim = "its header declares shape (200,) of uint8, 200 bytes, but"
    assert f"{claim} at most 197 follow" in read_error(path, content)
    assert f"{claim} 197 follow: truncated" in read_error(path, gzip.compress(content))


@PACKINGS
def test_what_follows_the_values_is_an_error(path, pack):
    assert "200 bytes, but more follow" in read_error(path, pack(idx_bytes(LABELS) + b"\n"))


@PACKINGS
def test_a_claim_of_gigabytes_by_a_few_bytes_takes_no_memory(path, pack):
    content = pack(bytes([0, 0, 0x0E, 3]) + struct.pack(">3I", 2**31, 28, 1) + b"1234")
    path.write_bytes(content)
    tracemalloc.start()
    try:
        message = read_error(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    assert "shape (2147483648, 28, 1) of float64, 481036337152 bytes" in message


def test_a_claim_beyond_the_limit_is_refused(path, monkeypatch):
    monkeypatch.setattr(idx, "MAX_BYTES", 199)
    assert "200 bytes; the limit is 199" in read_error(path, idx_bytes(LABELS))


def test_a_gzip_bomb_is_read_no_further_than_it_declares(path, monkeypatch):
    path.write_bytes(gzip.compress(idx_bytes(LABELS) + bytes(10 * idx.BLOCK)))
    read = gzip.GzipFile.read
    taken = []

    def counting(stream, size=-1):
        taken.append(len(data := read(stream, size)))
        return data

    monkeypatch.setattr(gzip.GzipFile, "read", counting)
    assert "more follow" in read_error(path)
    assert sum(taken) == len(idx_bytes(LABELS)) + 1


def test_a_damaged_gzip_checksum_is_noticed(path):
    content = bytearray(gzip.compress(idx_bytes(LABELS)))
    content[-5] ^= 1
    read_error(path, bytes(content))


@PACKINGS
@pytest.mark.parametrize(
    "magic", [b"", b"\0", b"\0\0\x08", b"\1\0\x08\1", b"\0\0\x0a\1", b"PK\3\4", b"x,label\n"]
)
def test_another_magic_is_refused_and_shown(path, pack, magic):
    message = read_error(path, pack(magic))
    assert "not an IDX file: it begins with" in message
    assert (magic[:4].hex(" ") or "nothing") in message


@pytest.mark.parametrize("dimensions", [0, 65, 255])
def test_a_number_of_dimensions_that_no_array_has_is_refused(path, dimensions):
    sizes = struct.pack(f">{dimensions}I", *[1] * dimensions)
    message = read_error(path, bytes([0, 0, 8, dimensions]) + sizes + b"1")
    assert f"{dimensions} dimensions, expected 1 to 64" in message


def test_what_is_no_file_is_named(path):
    assert read_error(path) == "my data: no such file"
    path.mkdir()
    assert read_error(path) == "my data: not a file"


def test_what_the_system_refuses_is_a_file_error(path):
    with pytest.raises(FileError, match=r"^my data: .*too long"):
        read_idx(path.with_name("x" * 5000), "my data")
