import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import mutations

from gpumlp.config_file import parse_config
from gpumlp.data import npy, npz
from gpumlp.data.sources import load as load_source
from gpumlp.errors import DataError, FileError

X = np.arange(24, dtype=np.float32).reshape(6, 4)
LABEL = np.array([0, 1, 2, 0, 1, 2], np.uint8)


def npz_bytes(save=np.savez_compressed, **arrays):
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def npy_bytes(header, data=b"", version=1):
    """An npy file with any header text at all."""
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode("latin-1") + data


def zip_bytes(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name + ".npy", data)
    return buffer.getvalue()


def load(source, **names):
    """The table of a file, whose arrays are named as in a configuration."""
    return load_source(parse_config({"data": {"source": source, **names}}).data)[0]


def load_error(path, content=None, **names):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(str(path), **names)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "my data ü.npz"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """One file for all examples of a property: Hypothesis forbids a fixture per test function."""
    return tmp_path_factory.mktemp("npz") / "scratch.npz"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_file_is_loaded_as_it_was_saved(path, save):
    path.write_bytes(npz_bytes(save, a=X, b=LABEL, w=np.ones(6), other=np.array("unused")))
    table = load(str(path), features="a", target="b", sample_weight="w")
    assert (table.x == X).all()
    assert table.x.dtype == X.dtype
    assert (table.y == LABEL).all()
    assert table.sample_weight.tolist() == [1] * 6
    assert table.source == str(path)


@pytest.mark.parametrize(
    "x", [np.asfortranarray(X), X.astype(">f8"), X.astype(np.float16), X > 3, X.astype(np.int8)]
)
def test_memory_order_and_dtype_of_the_file_do_not_matter(path, x):
    path.write_bytes(npz_bytes(x=x, label=LABEL))
    assert (load(str(path)).x == x).all()


def test_a_missing_file_is_named(path):
    assert "no such file" in load_error(path)


def test_a_folder_is_no_file(path):
    path.mkdir()
    assert "not a file" in load_error(path)


def test_a_null_byte_in_a_path_is_a_missing_file():
    with pytest.raises(DataError, match="no such file"):
        load("a\0b.npz")


def test_permission_denied_is_a_file_error(path, monkeypatch):
    path.write_bytes(npz_bytes(x=X, label=LABEL))

    def denied(self, mode):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)  # and not chmod, which does not stop root
    with pytest.raises(FileError, match=r"my data ü\.npz: Permission denied"):
        load(str(path))


def test_a_missing_array_lists_the_names_and_suggests_one(path):
    message = load_error(path, npz_bytes(x=X, label=LABEL), target="labels")
    assert 'no array "labels"; it has x, label; did you mean "label"?' in message
    assert "it has none" in load_error(path, zip_bytes())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"x,label\n1,2\n", npy_bytes("{}")])
def test_what_is_no_zip_is_refused(path, content):
    assert "cannot be read" in load_error(path, content)


class Exploit:
    def __reduce__(self):
        return print, ("this must never run",)


def test_a_pickled_object_array_is_refused_and_never_run(path, capsys):
    objects = np.array([Exploit()] * 6, object)
    message = load_error(path, npz_bytes(x=X, label=objects))
    assert 'array "label" holds pickled objects' in message
    assert capsys.readouterr().out == ""


def test_pickle_is_refused_even_behind_the_check_of_the_header(path, capsys, monkeypatch):
    monkeypatch.setattr(npz, "check_header", lambda *_: None)
    load_error(path, npz_bytes(x=X, label=np.array([Exploit()] * 6, object)))
    assert capsys.readouterr().out == ""


def test_a_bare_pickle_is_refused_and_never_run(path, capsys):
    load_error(path, pickle.dumps(Exploit()))
    load_error(path, zip_bytes(x=pickle.dumps(Exploit()), label=npz_bytes(x=LABEL)))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("field", ["O", "f4"])
def test_records_are_refused(path, field):
    load_error(path, npz_bytes(x=X, label=np.zeros(6, [("a", field)])))


def test_an_unknown_npy_version_is_refused(path):
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (6, 4)}"
    message = load_error(path, zip_bytes(x=npy_bytes(header, X.tobytes(), version=4)))
    assert "unknown npy version (4, 0)" in message


def test_two_arrays_of_one_name_are_refused(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", npy_bytes("{}"))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.npy", npy_bytes("{}"))
    assert '2 arrays are called "x"' in load_error(path)


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_python_unpacks_without_limit_is_refused(path, kind):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((1000, 4)))
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("x.npy", buffer.getvalue())
    assert "compressed in another way" in load_error(path)


def test_a_header_is_not_read_further_than_its_limit(path, monkeypatch):
    """A header of version 2 may claim 4 GiB, and a zip member of zeros has them."""
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (6, 4)}" + " " * 10**6
    member = npy_bytes(header, X.tobytes(), version=2)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", member)
    taken = []
    read = zipfile.ZipExtFile.read

    def counting(stream, n=-1):
        taken.append(len(data := read(stream, n)))
        return data

    monkeypatch.setattr(zipfile.ZipExtFile, "read", counting)
    load_error(path, buffer.getvalue())
    assert sum(taken) <= npy.MAX_HEADER


# They make the parsers raise SyntaxError, TypeError, OverflowError, MemoryError, ...
@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2147483648, 4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (5, 4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-6, -4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 99999999999999999999999)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (24)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6L, 4L)}",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (6, 2)}",
        "{'descr': 'nonsense', 'fortran_order': False, 'shape': (6, 4)}",
        "{'descr': ('<f4', (9,) * 9), 'fortran_order': False, 'shape': (6, 4)}",
        "__import__('os').system('touch /tmp/pwned')",
        "{[]: 1}",
        "(" * 5000,
        "-" * 5000 + "1",
        "'",
        "\0",
        "",
        "1" * 9000,
        "{}" + " " * 20000,
    ],
)
def test_a_hostile_header_is_refused(path, header):
    for version in (1, 2, 3):
        member = npy_bytes(header, X.tobytes(), version)
        load_error(path, zip_bytes(x=member, label=npz_bytes(x=LABEL)))


def test_a_header_that_declares_other_than_what_follows_is_refused_before_reading(
    path, monkeypatch
):
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000)}"
    monkeypatch.setattr(npy.npy, "read_array", lambda *_, **__: pytest.fail("was read"))
    message = load_error(path, zip_bytes(x=npy_bytes(header, X.tobytes())))
    assert "declares shape (1000000000, 1000) of float32" in message
    assert "4000000000000 bytes, but 96 follow" in message


@pytest.mark.parametrize("descr", ["<U0", "|S0", "|V0"])
def test_any_number_of_values_of_no_bytes_is_refused(path, descr):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (1099511627776, 4)}}"
    assert "declares shape (1099511627776, 4)" in load_error(path, zip_bytes(x=npy_bytes(header)))


def test_more_bytes_than_the_limit_are_refused_before_reading(path, monkeypatch):
    content = npz_bytes(x=np.zeros((1000, 1000), np.uint8), label=np.zeros(1000))
    assert len(content) < 10_000
    monkeypatch.setattr(npz, "MAX_BYTES", 1_000_000)
    monkeypatch.setattr(npz, "_read_member", lambda *_: pytest.fail("was read"))
    assert "the limit is 1000000" in load_error(path, content)


def test_a_claim_of_a_petabyte_in_the_zip_directory_is_refused(path):
    content = bytearray(npz_bytes(np.savez, x=X, label=LABEL))
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = b"\xfe\xff\xff\xff"  # the uncompressed size, 4 GiB - 2
    assert "96 bytes, but 42949" in load_error(path, bytes(content))


def test_every_truncation_is_refused(path):
    content = npz_bytes(x=X, label=LABEL)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"^my data: "):
            npz.read_npz(path, ["x", "label"], "my data")


WEIGHT = np.linspace(1, 2, 6)
STORED = npz_bytes(np.savez, x=X, label=LABEL, w=WEIGHT)
COMPRESSED = npz_bytes(x=X, label=LABEL, w=WEIGHT)


@settings(max_examples=500)
@given(st.one_of(mutations(STORED), mutations(COMPRESSED)))
def test_damaged_bytes_never_change_a_value(scratch, content):
    scratch.write_bytes(content)
    try:
        arrays = npz.read_npz(scratch, ["x", "label", "w"], "my data")
    except DataError:
        return
    for array, expected in zip(arrays, (X, LABEL, WEIGHT), strict=True):
        assert array.tobytes() == expected.tobytes()


@settings(max_examples=200)
@given(st.text(st.characters(max_codepoint=255), max_size=200) | st.binary(max_size=200))
def test_any_header_text_is_refused_or_read(scratch, header):
    text = header if isinstance(header, str) else header.decode("latin-1")
    member = npy_bytes(text, X.tobytes())
    scratch.write_bytes(zip_bytes(x=member, label=npz_bytes(x=LABEL)))
    with pytest.raises(DataError):
        npz.read_npz(scratch, ["x"], "my data")
