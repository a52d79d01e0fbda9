"""Hostile and damaged data files, through the command line: one clear message, nothing left.

Each case writes files into an empty folder and names the exit code and the words that must be on
stderr. Training must end without a traceback, without a run folder and without much memory.
"""

import gzip
import io
import os
import struct
import zipfile

import numpy as np
import pytest
from hostile import LABEL, N, X, case, nothing_trains, refused, trains
from idx_files import idx_bytes, mnist_arrays, write_mnist


def npz(save=np.savez, **arrays):
    buffer = io.BytesIO()
    save(buffer, **({"x": X, "label": LABEL} | arrays))
    return buffer.getvalue()


def npy(array=X):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def claiming(shape, data=None):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + (data or X.tobytes())


def archive(kind=zipfile.ZIP_DEFLATED, **members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def changed(array, row, value, dtype=None):
    array = array.astype(dtype or array.dtype)
    array[row] = value
    return array


def inflated(content):
    """A zip file whose directory claims almost 4 GiB for each of its members."""
    content, at = bytearray(content), 0
    while (at := content.find(b"PK\x01\x02", at)) >= 0:
        content[at + 24 : at + 28] = b"\xfe\xff\xff\xff"
        at += 4
    return bytes(content)


class Exploit:
    """Makes the folder "ran" when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPUMLP_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    return tmp_path


NPZ = [
    case("x.npz|no such file", {}),
    case("x.npz|damaged or no npz file", {"x.npz": b""}, name="empty"),
    case("x.npz|damaged or no npz file", {"x.npz": npz()[:-30]}, name="truncated"),
    case("x.npz|damaged or no npz file", {"x.npz": b"a,label\n1,2\n"}, name="really csv"),
    case("x.npz|damaged or no npz file", {"x.npz": npy()}, name="really npy"),
    case('x.npz|array "x"|cannot be read', {"x.npz": npz().replace(X.tobytes()[:9], bytes(9))},
         name="flipped"),
    case('array "label"|pickled objects, which may run code',
         {"x.npz": npz(label=np.array([Exploit()] * N, object))}, name="exploit"),
    case('array "x"|pickled objects', {"x.npz": npz(x=X.astype(object))}, name="objects"),
    case('array "x"|pickled objects', {"x.npz": npz(x=np.zeros(N, [("a", object)]))},
         name="records of objects"),
    case('array "x"|declares shape (1000000000, 3)|480 follow',
         {"x.npz": archive(x=claiming((10**9, 3)), label=npy(LABEL))}),
    case('array "x"|declares shape (40, 3)|follow',
         {"x.npz": archive(x=claiming((40, 3), data=bytes(2**26)), label=npy(LABEL))},
         name="a member that unpacks to 64 MiB more"),
    case("bytes decompressed, the limit is", {"x.npz": inflated(archive(
        **{f"a{i}": b"" for i in range(50)}))}, name="zip bomb"),
    case('array "x"|4294967', {"x.npz": inflated(npz())}),
    case("compressed in another way", {"x.npz": archive(zipfile.ZIP_BZIP2, x=npy(), label=npy())}),
    case("compressed in another way", {"x.npz": archive(zipfile.ZIP_LZMA, x=npy(), label=npy())},
         name="lzma"),
    case('no array "label"|it has x, labels|did you mean "labels"',
         {"x.npz": archive(x=npy(), labels=npy(LABEL))}),
    case('no array "x"|it has a0, a1|and 4980 more',
         {"x.npz": archive(**{f"a{i}": b"" for i in range(5000)})}),
    case('no array "x"|xxx...', {"x.npz": archive(**{"x" * 60_000: b""})}),
    case("row 7, column 0|x is nan", {"x.npz": npz(x=changed(X, (7, 0), np.nan))}),
    case("row 0, column 2|x is inf", {"x.npz": npz(x=changed(X, (0, 2), np.inf))}),
    case("row 5|the target is nan", {"x.npz": npz(label=changed(LABEL, 5, np.nan, float))}),
    case("row 5|0.5 is no class label", {"x.npz": npz(label=changed(LABEL, 5, 0.5, float))}),
    case("same label", {"x.npz": npz(label=np.ones(N))}, name="one class"),
    case("x has 40 rows, label has 39", {"x.npz": npz(label=LABEL[1:])}),
    case("x is empty", {"x.npz": npz(x=X[:0], label=LABEL[:0])}),
    case("x is empty|(40, 0)", {"x.npz": npz(x=X[:, :0])}),
    case("x must have rows and columns", {"x.npz": npz(x=X[:, 0])}),
    case("x must be real numbers|complex64", {"x.npz": npz(x=X.astype(np.complex64))}),
    case("x must be real numbers|datetime64", {"x.npz": npz(x=X.astype("M8[s]"))}),
    case("x must be real numbers|<U", {"x.npz": npz(x=X.astype(str))}, name="text in x"),
    case("label must be numbers or text|datetime64", {"x.npz": npz(label=LABEL.astype("M8[s]"))}),
    case("label is not UTF-8", {"x.npz": npz(label=np.array([b"\xff", b"a"] * 20))}),
    case("row 3|w is -1.0", {"x.npz": npz(w=changed(np.ones(N), 3, -1))},
         'sample_weight = "w"'),
    case("row 3|w is nan", {"x.npz": npz(w=changed(np.ones(N), 3, np.nan))},
         'sample_weight = "w"'),
    case("w is 0 in every row", {"x.npz": npz(w=np.zeros(N))}, 'sample_weight = "w"'),
    case("x has 40 rows, w has 39", {"x.npz": npz(w=np.ones(39))}, 'sample_weight = "w"'),
    case('test.npz|row 2|unknown label "7"|known: 0, 1',
         {"x.npz": npz(), "test.npz": npz(label=changed(LABEL, 2, 7))}, 'test.path = "test.npz"'),
    case("test.npz|2 columns|training data has 3", {"x.npz": npz(), "test.npz": npz(x=X[:, 1:])},
         'test.path = "test.npz"'),
    case("val.npz|no such file", {"x.npz": npz()}, 'val.path = "val.npz"'),
    case("column 1|too wide to scale",
         {"x.npz": npz(x=changed(changed(X, (0, 1), -1e308, float), (1, 1), 1e308))}),
]  # fmt: skip


@pytest.mark.parametrize(("words", "files", "settings"), NPZ)
def test_a_hostile_npz_file_is_refused(here, capsys, words, files, settings):
    refused(capsys, "x.npz", words, files, settings)


TARGET = 'target = "y.npy"'
Y = {"y.npy": npy(LABEL)}
NPY = [
    case("x.npy|no such file", Y),
    case("y.npy|no such file", {"x.npy": npy()}),
    case("x.npy|damaged or no npy file", {"x.npy": b"", **Y}, name="empty"),
    case("x.npy|480 bytes, but 479 follow", {"x.npy": npy()[:-1], **Y}),
    case("x.npy|480 bytes, but 483 follow", {"x.npy": npy() + b"end", **Y}),
    case("y.npy|40 bytes, but 39 follow", {"x.npy": npy(), "y.npy": npy(LABEL)[:-1]}),
    case("x.npy|declares shape (2147483648, 3)", {"x.npy": claiming((2**31, 3)), **Y}),
    case("x.npy|declares shape (-40, -3)", {"x.npy": claiming((-40, -3)), **Y}),
    case("x.npy|pickled objects", {"x.npy": npy(np.array([Exploit()] * N, object)), **Y}),
    case("y.npy|pickled objects", {"x.npy": npy(), "y.npy": npy(LABEL.astype(object))}),
    case("x.npy|pickled objects", {"x.npy": npy(np.zeros(N, [("a", "f4"), ("b", object)])), **Y},
         name="records of objects"),
    case('x.npy|field "b" of datetime64',
         {"x.npy": npy(np.zeros(N, [("a", "f4"), ("b", "M8[s]")])), **Y}),
    case("x.npy|complex64", {"x.npy": npy(X.astype(np.complex64)), **Y}),
    case("x.npy|datetime64", {"x.npy": npy(X.astype("M8[s]")), **Y}),
    case("x.npy|row 7, column 0|nan", {"x.npy": npy(changed(X, (7, 0), np.nan)), **Y}),
    case("x.npy|row 7, column 0|-inf", {"x.npy": npy(changed(X, (7, 0), -np.inf)), **Y}),
    case("x.npy|is empty", {"x.npy": npy(X[:0]), **Y}),
    case("40 rows|39", {"x.npy": npy(), "y.npy": npy(LABEL[1:])}),
    case("x.npy|damaged or no npy file", {"x.npy": npz(), **Y}, name="really npz"),
]  # fmt: skip

IDX = [
    case("x.idx|no such file", Y),
    case("x.idx|not an IDX file|nothing", {"x.idx": b"", **Y}),
    case("x.idx|not an IDX file|41 2c 62 0a", {"x.idx": b"A,b\n1,2\n", **Y}),
    case("x.idx|not an IDX file|00 00 0a 02", {"x.idx": b"\0\0\x0a\2" + bytes(8), **Y}),
    case("x.idx|0 dimensions", {"x.idx": b"\0\0\x08\0", **Y}),
    case("x.idx|truncated: 6 bytes", {"x.idx": b"\0\0\x08\2\0\0", **Y}),
    case("x.idx|declares shape (2147483648, 28)|at most 8 follow",
         {"x.idx": b"\0\0\x08\2\x80\0\0\0\0\0\0\x1c" + bytes(8), **Y}),
    case("x.idx|declares shape (2147483648, 28)|at most",
         {"x.idx": gzip.compress(b"\0\0\x08\2\x80\0\0\0\0\0\0\x1c" + bytes(8)), **Y},
         name="gzipped claim"),
    case("x.idx|480 bytes, but 479 follow: truncated", {"x.idx": gzip.compress(idx_bytes(X)[:-1]),
                                                        **Y}),
    case("x.idx|480 bytes, but more follow", {"x.idx": idx_bytes(X) + b"\n", **Y}),
    case("x.idx|480 bytes, but more follow", {"x.idx": gzip.compress(idx_bytes(X) + bytes(2**26)),
                                              **Y}, name="gzip bomb"),
    case("x.idx|480 bytes, but the gzip stream breaks off",
         {"x.idx": gzip.compress(idx_bytes(X))[:-100], **Y}, name="gzip cut off"),
    case("x.idx|cannot be read", {"x.idx": gzip.compress(idx_bytes(X))[:-8] + bytes(8), **Y},
         name="gzip checksum"),
    case("x.idx|row 7, column 0|nan", {"x.idx": idx_bytes(changed(X, (7, 0), np.nan)), **Y}),
    case("x.idx|is empty", {"x.idx": idx_bytes(X[:0]), **Y}),
]  # fmt: skip


@pytest.mark.parametrize(("words", "files", "settings"), NPY)
def test_a_hostile_npy_file_is_refused(here, capsys, words, files, settings):
    refused(capsys, "x.npy", words, files, [TARGET, *settings])


@pytest.mark.parametrize(("words", "files", "settings"), IDX)
def test_a_hostile_idx_file_is_refused(here, capsys, words, files, settings):
    refused(capsys, "x.idx", words, files, [TARGET, *settings])


# ----------------------------------------------------------------------------------- MNIST


def damaged(stem, content):
    def write_folder(folder):
        write_mnist(folder, mnist_arrays())
        (folder / stem).write_bytes(content)

    return write_folder


@pytest.mark.parametrize(
    ("words", "make"),
    [
        ("no train-images-idx3-ubyte|data.path|GPUMLP_DATA|gpumlp fetch mnist", str),
        ("no train-images-idx3-ubyte", os.mkdir),
        ("train-images-idx3-ubyte has 7 images|train-labels-idx1-ubyte has 6 labels",
         damaged("train-labels-idx1-ubyte", idx_bytes(np.zeros(6, np.uint8)))),
        ("t10k-images-idx3-ubyte: uint8 of shape (3, 28)|(N, 28, 28)",
         damaged("t10k-images-idx3-ubyte", idx_bytes(np.zeros((3, 28), np.uint8)))),
        ("train-labels-idx1-ubyte: int32 of shape (7,)",
         damaged("train-labels-idx1-ubyte", idx_bytes(np.zeros(7, np.int32)))),
        ("t10k-labels-idx1-ubyte: not an IDX file", damaged("t10k-labels-idx1-ubyte", b"")),
        ("train-images-idx3-ubyte: its header declares",
         damaged("train-images-idx3-ubyte", bytes.fromhex("00000803 80000000 0000001c 0000001c"))),
        ('row 1 (counted from 0): unknown label "77"', damaged("t10k-labels-idx1-ubyte", idx_bytes(
            np.array([mnist_arrays()["train-labels-idx1-ubyte"][0], 77, 77], np.uint8)))),
    ],
)  # fmt: skip
def test_a_hostile_mnist_folder_is_refused(here, capsys, words, make):
    make(here / "folder")
    code, err = nothing_trains(capsys, "mnist", ['path = "folder"'])
    assert code == 3, err
    assert not [word for word in ["mnist", *words.split("|")] if word not in err], err


# ------------------------------------------------------------------------- what is no such file

ENDINGS = ["npz", "npy", "idx", "csv", "csv.gz"]
COLUMNS = ("csv", "csv.gz", "npz")  # the others need a file of targets
every_ending = pytest.mark.parametrize("ending", ENDINGS)


def settings_for(ending):
    return [] if ending in COLUMNS else [TARGET]


needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX file system")


@every_ending
def test_a_folder_of_that_name_is_refused(here, capsys, ending):
    (here / f"x.{ending}").mkdir()
    refused(capsys, f"x.{ending}", [f"x.{ending}", "not a file"], Y, settings_for(ending), 3)


@needs_posix
@every_ending
def test_a_pipe_is_refused_and_not_waited_for(here, capsys, ending):
    os.mkfifo(here / f"x.{ending}")
    refused(capsys, f"x.{ending}", [f"x.{ending}", "not a file"], Y, settings_for(ending), 3)


@needs_posix
@every_ending
def test_a_device_is_refused_and_not_read_for_ever(here, capsys, ending):
    (here / f"x.{ending}").symlink_to("/dev/zero")
    refused(capsys, f"x.{ending}", [f"x.{ending}", "not a file"], Y, settings_for(ending), 3)


@needs_posix
@every_ending
def test_links_in_a_circle_are_refused(here, capsys, ending):
    (here / f"x.{ending}").symlink_to(here / "other")
    (here / "other").symlink_to(here / f"x.{ending}")
    refused(capsys, f"x.{ending}", [f"x.{ending}", "symbolic links"], Y, settings_for(ending), 6)


@needs_posix
@every_ending
def test_a_path_that_is_too_long_is_refused(here, capsys, ending):
    name = f"{'x' * 1000}.{ending}"
    refused(capsys, name, [name, "too long"], Y, settings_for(ending), 6)


@needs_posix
@every_ending
def test_a_file_that_may_not_be_read_is_refused(here, capsys, ending):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (here / f"x.{ending}").touch(0)
    refused(capsys, f"x.{ending}", [f"x.{ending}", "Permission denied"], Y, settings_for(ending), 6)


@every_ending
def test_a_null_byte_in_the_path_is_refused(here, capsys, ending):
    refused(
        capsys, rf"x\u0000.{ending}", [rf"x\x00.{ending}: no such file"], Y, settings_for(ending)
    )


@pytest.mark.parametrize("source", ["x.pkl", "x", "", "builtin:nothing", "http://a/x.feather"])
def test_a_source_of_no_known_kind_is_a_problem_of_the_configuration(here, capsys, source):
    got, err = nothing_trains(capsys, source)
    assert got == 2
    assert "run.toml" in err
    assert "data.source" in err


# ------------------------------------------------------------------------------- what is accepted


@pytest.mark.parametrize("folder", ["größe", "数据", "with space", "😀"])
def test_any_unicode_path_is_accepted(here, capsys, folder):
    (here / folder).mkdir()
    (here / folder / "y z.npz").write_bytes(npz())
    trains(capsys, f"{folder}/y z.npz")


def test_negative_numbers_are_class_names_like_others(here, capsys):
    (here / "x.npz").write_bytes(npz(label=np.where(LABEL, 1, -1)))
    trains(capsys, "x.npz", more='[loss]\nclass_weight = {"-1" = 2.0}\n')


def test_a_link_to_a_file_is_that_file(here, capsys):
    (here / "real").write_bytes(npz())
    (here / "x.npz").symlink_to(here / "real")
    trains(capsys, "x.npz")


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_good_idx_file_is_accepted(here, capsys, pack):
    (here / "x.idx").write_bytes(pack(idx_bytes(X)))
    (here / "y.idx").write_bytes(pack(idx_bytes(LABEL)))
    trains(capsys, "x.idx", 'target = "y.idx"')


def test_a_good_npy_file_is_accepted(here, capsys):
    np.save(here / "x.npy", X)
    np.save(here / "y.npy", LABEL)
    trains(capsys, "x.npy", TARGET)


def test_a_good_mnist_folder_is_accepted(here, capsys):
    write_mnist(here / "folder", mnist_arrays(50, 20), ".gz")
    trains(capsys, "mnist", 'path = "folder"')
