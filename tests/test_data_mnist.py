"""Finding and reading MNIST: where it is looked for, in which spellings, and what must fit."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from idx_files import mnist_arrays, write_mnist

from gpumlp.data.mnist import STEMS, find_mnist, load_mnist, mnist_folder
from gpumlp.errors import DataError, FileError

CLUES = ("data.path", "GPUMLP_DATA", 'pip install "gpumlp[fetch]"', "gpumlp fetch mnist")


def load_error(folder, do=load_mnist):
    with pytest.raises(DataError) as caught:
        do(None if folder is None else str(folder))
    assert str(caught.value).startswith("mnist: ")
    return str(caught.value)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home: nothing of the real user's is found."""
    for name in ("GPUMLP_DATA", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("dot", ["-", "."])
def test_the_four_files_are_read_in_each_spelling(tmp_path, ending, dot):
    made = mnist_arrays()
    folder = write_mnist(tmp_path / "größe", made, ending, dot)
    assert find_mnist(str(folder)) == folder
    loaded = load_mnist(str(folder))
    parts = [array for part in loaded for array in part]
    for array, expected in zip(parts, made.values(), strict=True):
        assert array.dtype == np.uint8
        assert (array == expected).all()


def test_a_folder_may_mix_spellings(tmp_path):
    made = mnist_arrays()
    write_mnist(tmp_path, {stem: made[stem] for stem in STEMS[:2]}, ".gz")
    write_mnist(tmp_path, {stem: made[stem] for stem in STEMS[2:]}, dot=".")
    assert len(load_mnist(str(tmp_path))[1][0]) == 3


def test_gpumlp_data_is_looked_in_before_the_cache(home, monkeypatch):
    write_mnist(home / ".cache" / "gpumlp" / "mnist", mnist_arrays(train=1))
    write_mnist(home / "data" / "mnist", mnist_arrays(train=2))
    write_mnist(home / "given", mnist_arrays(train=3))
    monkeypatch.setenv("GPUMLP_DATA", str(home / "data"))
    assert len(load_mnist(str(home / "given"))[0][0]) == 3
    assert len(load_mnist(None)[0][0]) == 2
    monkeypatch.delenv("GPUMLP_DATA")
    assert len(load_mnist(None)[0][0]) == 1


def test_the_cache_is_where_the_system_has_its_caches(home, monkeypatch):
    assert mnist_folder() == home / ".cache" / "gpumlp" / "mnist"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "caches"))
    assert mnist_folder() == home / "caches" / "gpumlp" / "mnist"
    monkeypatch.setenv("LOCALAPPDATA", str(home / "local"))
    assert mnist_folder() == home / "caches" / "gpumlp" / "mnist"
    monkeypatch.setattr(sys, "platform", "win32")
    assert mnist_folder() == home / "local" / "gpumlp" / "mnist"


def test_an_empty_variable_counts_as_not_set(home, monkeypatch):
    monkeypatch.setenv("GPUMLP_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert mnist_folder() == home / ".cache" / "gpumlp" / "mnist"


@pytest.mark.parametrize("do", [find_mnist, load_mnist])
def test_where_nothing_is_found_the_message_says_where_and_the_ways_out(home, do):
    message = load_error(None, do)
    assert str(home / ".cache" / "gpumlp" / "mnist") in message
    assert all(clue in message for clue in CLUES)
    (home / "file").write_text("")
    for place in (home / "nowhere", home / "file", home / "a\0b"):
        message = load_error(place, do)
        assert str(place) in message
        assert all(clue in message for clue in CLUES)


@pytest.mark.parametrize("stem", STEMS)
def test_a_missing_file_is_named_and_only_that_one(tmp_path, stem):
    (write_mnist(tmp_path, mnist_arrays()) / stem).unlink()
    message = load_error(tmp_path, find_mnist)
    assert [name for name in STEMS if name in message] == [stem]


def test_a_folder_that_the_system_refuses_is_a_file_error(tmp_path):
    with pytest.raises(FileError, match=r"^mnist: .*too long"):
        find_mnist(str(tmp_path / ("x" * 5000)))


def test_as_many_labels_as_images_are_needed(tmp_path):
    made = mnist_arrays()
    made[STEMS[3]] = made[STEMS[3]][:-1]
    message = load_error(write_mnist(tmp_path, made))
    assert "t10k-images-idx3-ubyte has 3 images" in message
    assert "t10k-labels-idx1-ubyte has 2 labels" in message


@pytest.mark.parametrize(
    ("stem", "wrong"),
    [
        (STEMS[0], np.zeros((7, 28, 27), np.uint8)),
        (STEMS[0], np.zeros((7, 784), np.uint8)),
        (STEMS[2], np.zeros((3, 28, 28), np.float32)),
        (STEMS[1], np.zeros((7, 1), np.uint8)),
        (STEMS[3], np.zeros(3, np.int32)),
    ],
)
def test_another_shape_or_type_is_refused_by_file(tmp_path, stem, wrong):
    message = load_error(write_mnist(tmp_path, mnist_arrays() | {stem: wrong}))
    assert f"{stem}: {wrong.dtype} of shape {wrong.shape}, expected uint8 (N" in message


@pytest.mark.parametrize("stem", STEMS)
def test_a_damaged_file_is_named(tmp_path, stem):
    folder = write_mnist(tmp_path, mnist_arrays())
    (folder / stem).write_bytes((folder / stem).read_bytes()[:-1])
    assert str(folder / stem) in load_error(folder)


def test_the_real_files_are_mnist():
    if not os.environ.get("GPUMLP_DATA"):
        pytest.skip("set GPUMLP_DATA to a folder with MNIST in its subfolder mnist")
    if not Path(os.environ["GPUMLP_DATA"], "mnist").is_dir():
        pytest.skip("GPUMLP_DATA has no subfolder mnist")
    (x, y), (test_x, test_y) = load_mnist(None)
    assert x.shape == (60_000, 28, 28)
    assert test_x.shape == (10_000, 28, 28)
    assert y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(test_y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
