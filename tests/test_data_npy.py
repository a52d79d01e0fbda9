"""Reading npy files: what np.save wrote comes back, and no claim of a header is believed."""

import io
import os
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpumlp.data import npy
from gpumlp.data.npy import read_npy
from gpumlp.errors import DataError, FileError

X = np.arange(24, dtype=np.float32).reshape(6, 4)
HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (6, 4)}"
NUMBERS = hnp.arrays(
    st.sampled_from(["?", "u1", "<i2", ">i4", "<u8", "<f2", ">f4", "<f8"]),
    hnp.array_shapes(min_dims=0, min_side=0),
)


def npy_bytes(header, version=1):
    """An npy file with any header text at all."""
    text = header.encode("utf-8" if version == 3 else "latin-1")
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + X.tobytes()


def saved(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def read_error(path, content=None):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_npy(path, "my data")
    assert str(caught.value).startswith("my data: ")
    return str(caught.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "my data ü.npy"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """One file for all examples of a property: Hypothesis forbids a fixture per test function."""
    return tmp_path_factory.mktemp("npy") / "scratch.npy"


@given(NUMBERS, st.booleans())
def test_what_numpy_saved_comes_back(scratch, array, fortran):
    array = np.asfortranarray(array) if fortran else array
    np.save(scratch, array)
    again = read_npy(scratch, "my data")
    assert again.dtype == array.dtype
    assert again.shape == array.shape
    assert again.tobytes() == array.tobytes()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_version_of_the_format_is_read(path, version):
    with path.open("wb") as file:
        np.lib.format.write_array(file, X, version=(version, 0))
    assert (read_npy(path, "my data") == X).all()


def test_records_of_numbers_are_read_with_their_names(path):
    records = np.array([(1, 2.5), (3, 4.5)], [("größe", "i2"), ("y", ">f8")])
    np.save(path, records)
    again = read_npy(path, "my data")
    assert again.dtype.names == ("größe", "y")
    assert again.tolist() == records.tolist()


def test_records_whose_names_need_version_3_are_read(path):
    records = np.array([(1, 2.5)], [("身長", "i2"), ("ы", "f8")])
    with path.open("wb") as file:
        np.lib.format.write_array(file, records, version=(3, 0))
    assert read_npy(path, "my data").dtype.names == ("身長", "ы")


@pytest.mark.parametrize("kind", ["O", "M8[s]", "c8", "S4", "V3", [("inner", "i2")], "(2,)i4"])
def test_a_field_that_is_no_number_is_refused_by_name(path, kind):
    message = read_error(path, saved(np.zeros(3, [("size", "f4"), ("other", kind)])))
    assert "pickled" in message if kind == "O" else 'field "other"' in message


class Exploit:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_objects_are_refused_and_never_run(path, tmp_path):
    ran = tmp_path / "ran"
    content = saved(np.array([Exploit(ran)] * 6, object))
    assert "pickled objects, which may run code" in read_error(path, content)
    assert not ran.exists()
    np.load(path, allow_pickle=True)
    assert ran.exists()  # so it would have run


def test_pickle_is_refused_even_behind_the_check_of_the_header(path, tmp_path, monkeypatch):
    monkeypatch.setattr(npy, "check_header", lambda *_: None)
    read_error(path, saved(np.array([Exploit(tmp_path / "ran")] * 6, object)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("length", range(0, 224, 7))
def test_a_truncation_is_refused(path, length):
    content = saved(X)
    assert len(content) == 224
    read_error(path, content[:length])


def test_a_truncation_is_named_with_the_counts(path):
    message = read_error(path, saved(X)[:-1])
    assert "declares shape (6, 4) of float32, 96 bytes, but 95 follow" in message


def test_what_follows_the_array_is_an_error(path):
    assert "96 bytes, but 97 follow" in read_error(path, saved(X) + b"\n")


def test_memory_is_not_taken_for_what_is_only_declared(path, monkeypatch):
    monkeypatch.setattr(npy.npy, "read_array", lambda *_, **__: pytest.fail("was read"))
    header = HEADER.replace("(6, 4)", "(1000000000, 1000)")
    assert "4000000000000 bytes, but 96 follow" in read_error(path, npy_bytes(header))


# They make the parsers raise SyntaxError, TypeError, OverflowError, MemoryError, ...
@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize(
    "header",
    [
        HEADER.replace("(6, 4)", "(-6, -4)"),
        HEADER.replace("(6, 4)", "(0, 99999999999999999999999)"),
        HEADER.replace("(6, 4)", "(24)"),
        HEADER.replace("<f4", "nonsense"),
        HEADER.replace("<f4", "|O"),
        HEADER.replace("<f4", "|V0"),
        HEADER.replace("<f4", "<U0"),
        HEADER.replace("'<f4'", "('<f4', (9,) * 9)"),
        HEADER.replace("'<f4'", "('<f4', (999999,))"),
        "__import__('os').system('touch pwned')",
        "{[]: 1}",
        "(" * 5000,
        "-" * 5000 + "1",
        "'",
        "\0",
        "",
        "1" * 9000,
        HEADER + " " * 20000,
    ],
)
def test_a_hostile_header_is_refused(path, header, version):
    read_error(path, npy_bytes(header, version=version))


def test_an_unknown_version_is_refused(path):
    assert "unknown npy version (4, 0)" in read_error(path, npy_bytes(HEADER, version=4))


def test_a_header_as_python_2_wrote_it_is_read_without_a_warning(path, recwarn):
    path.write_bytes(npy_bytes(HEADER.replace("(6, 4)", "(6L, 4L)")))
    assert (read_npy(path, "my data") == X).all()
    assert not recwarn.list


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04", b"x,label\n1,2\n"])
def test_what_is_no_npy_file_is_refused(path, content):
    assert "cannot be read: damaged or no npy file" in read_error(path, content)


def test_a_missing_file_a_folder_and_a_null_byte_are_named(path):
    assert read_error(path) == "my data: no such file"
    assert read_error(path / "below") == "my data: no such file"
    assert read_error(path.with_name("a\0b")) == "my data: no such file"
    path.mkdir()
    assert read_error(path) == "my data: not a file"


def test_what_is_no_file_is_refused_and_not_waited_for(path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(path)
    assert read_error(path) == "my data: not a file"


def test_what_the_system_refuses_is_a_file_error(path):
    path.symlink_to(path)
    with pytest.raises(FileError, match=r"^my data: "):
        read_npy(path, "my data")
    with pytest.raises(FileError, match=r"^my data: .*too long"):
        read_npy(path.with_name("x" * 5000), "my data")


def test_memory_that_runs_out_is_an_error_of_the_data(path, monkeypatch):
    def full(*_, **__):
        raise MemoryError("Unable to allocate 96 bytes")

    monkeypatch.setattr(npy.npy, "read_array", full)
    assert "does not fit into memory (Unable to allocate 96" in read_error(path, saved(X))


BOOLS = np.array([True, False, True])


@pytest.mark.parametrize(
    "array", [BOOLS, np.eye(3, dtype=bool, order="F"), BOOLS.view([("a", "?")])], ids=str
)
def test_a_bool_that_is_neither_true_nor_false_is_refused(tmp_path, array):
    path = tmp_path / "b.npy"
    np.save(path, array)
    assert (read_npy(path, "b") == array).all()
    path.write_bytes(path.read_bytes()[:-1] + b"\2")
    with pytest.raises(DataError, match=r"^b: .*a bool is neither 0 nor 1"):
        read_npy(path, "b")
