"""Named columns, and how a target, weights and what is missing are taken from them."""

import numpy as np
import pytest

from gpumlp.data.frame import Frame, Text, choose
from gpumlp.data.place import Source, place, with_columns
from gpumlp.errors import DataError

LINES = Source("my.csv", np.array([2, 3, 5, 6]))
FRAME = Frame(
    {
        "n": np.array([1.0, 2.0, np.nan, np.nan]),
        "whole": np.array([1.0, 2.0, 3.0, 4.0]),
        "word": Text(("red", "blue"), np.array([1, 0, -1, 1])),
        "digits": Text(("3", "1.0"), np.array([0, 1, 1, 0])),
    },
    LINES,
    gaps=True,
)


def test_records_and_matrices_have_columns_by_field_and_by_number():
    records = np.array([(1, 2.5), (3, 4.5)], [("age", "u1"), ("height", "f4")])
    frame = Frame.from_array(records, "r.npy")
    assert list(frame.columns) == ["age", "height"]
    assert frame.columns["height"].tolist() == [2.5, 4.5]
    assert len(frame) == 2
    matrix = Frame.from_array(np.arange(6).reshape(2, 3), "m.npy")
    assert matrix.columns["2"].tolist() == [2, 5]
    assert matrix.source.lines is None


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (("7", "8"), "f"),
        (("007", "8"), "f"),
        (("007", "7", "8"), "U"),
        (("1", "1.0"), "U"),
        ((str(2**53 - 1), "1"), "f"),
        ((str(2**53), "1"), "U"),
        ((str(2**53 + 1), "1"), "U"),
        ((str(2**53 + 2), "1"), "U"),
        (("-9007199254740994", "1"), "U"),
        (("1e400", "1"), "f"),
        (("0.1", "0.10000000000000001"), "U"),
    ],
)
def test_labels_that_numbers_would_not_tell_apart_stay_text(cells, kind):
    labels = Frame({"y": Text(cells, np.arange(len(cells)))}, LINES).labels("y")
    assert labels.dtype.kind == kind
    assert len(np.unique(labels)) == len(cells)


@pytest.mark.parametrize("shape", [(), (5,), (5, 2, 2)])
def test_arrays_without_columns_are_refused_with_the_way_out(shape):
    with pytest.raises(DataError, match=r"m\.npy: has shape .*data\.target can be a file"):
        Frame.from_array(np.zeros(shape), "m.npy")


def test_labels_are_numbers_if_all_are_and_otherwise_text():
    assert FRAME.labels("digits").tolist() == [3, 1, 1, 3]
    frame = Frame({"y": Text(("1", "x", "1_0"), np.array([0, 1, 2, 0]))}, LINES)
    assert frame.labels("y").tolist() == ["1", "x", "1_0", "1"]
    assert Frame({"y": Text(("1_0",), np.zeros(4, int))}, LINES).labels("y").dtype.kind == "U"
    whole = Frame.from_array(np.eye(3, dtype=np.uint8), "m.npy")
    assert whole.labels("1").dtype == np.uint8


@pytest.mark.parametrize(
    ("take", "message"),
    [
        (
            lambda: FRAME.labels("word"),
            'line 5, column "word": the target has no value; 1 such cell',
        ),
        (
            lambda: FRAME.numbers("n", "the weight"),
            'line 5, column "n": the weight has no value; 2 such cells',
        ),
        (
            lambda: FRAME.numbers("word", "the weight"),
            'line 2, column "word": the weight must be a number, got "blue"',
        ),
        (
            lambda: FRAME.labels("wrd"),
            'no column "wrd"; it has n, whole, word, digits; did you mean',
        ),
    ],
)
def test_what_a_column_cannot_be_is_named_with_line_and_column(take, message):
    with pytest.raises(DataError) as caught:
        take()
    assert str(caught.value).startswith(f"my.csv: {message}")


def test_nan_in_an_array_is_left_to_the_check_of_finite_numbers():
    frame = Frame.from_array(np.array([[np.nan, 1.0]]), "m.npy")
    assert np.isnan(frame.numbers("0", "the weight")).all()


def test_many_columns_are_listed_in_part():
    with pytest.raises(DataError) as caught:
        choose(["x"], [f"col{i}" for i in range(500)], "m.csv")
    assert str(caught.value).endswith("col19, ...")


def test_a_place_is_named_as_in_the_file():
    two = with_columns(LINES, ("a", "b"))
    assert place(two, 2, 1) == 'my.csv: line 5, column "b"'
    assert place(two, 2) == "my.csv: line 5"
    assert place(two, column=0) == 'my.csv: column "a"'
    assert place(LINES, 0, "z") == 'my.csv: line 2, column "z"'
    assert place(with_columns("m.npy", ("4",)), 7) == 'm.npy: row 7, column "4" (counted from 0)'
    assert place("m.npz", 7, 4) == "m.npz: row 7, column 4 (counted from 0)"


def test_all_names_that_are_missing_are_said_at_once():
    with pytest.raises(DataError) as caught:
        choose(["hight", "age", "hight", "zzz"], ["age", "height"], "m.csv")
    assert str(caught.value) == (
        'm.csv: no columns "hight" (did you mean "height"?), "zzz"; it has age, height'
    )


def test_gaps_are_said_by_the_frame_and_counted_from_0_without_lines():
    frame = Frame({"a": np.array([1.0, np.nan])}, Source("t.parquet"), gaps=True)
    with pytest.raises(DataError, match=r't\.parquet: row 1, column "a" \(counted from 0\): the w'):
        frame.numbers("a", "the weight")
