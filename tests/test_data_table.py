import numpy as np
import pytest

from gpumlp.data.table import Table, check
from gpumlp.errors import DataError


def table_error(x, y=None, weights=None):
    x = np.asarray(x)
    y = np.arange(len(x)) if y is None else np.asarray(y)
    with pytest.raises(DataError) as caught:
        check(Table(x, y, weights, "my.npz"), ("features", "target", "w"))
    assert str(caught.value).startswith("my.npz: ")
    return str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_with_row_column_and_count(value):
    x = np.zeros((9000, 400), np.float32)
    x[4321, 17] = value  # in the second block of rows
    assert (
        f"row 4321, column 17 (counted from 0): features is {value}; 1 such value" in table_error(x)
    )
    x[4321:, 300] = value
    assert "row 4321, column 17 (counted from 0): features is" in table_error(x)


@pytest.mark.parametrize("dtype", [object, complex, "U3", "datetime64[s]", [("a", "f4")]])
def test_features_that_are_no_real_numbers_are_refused(dtype):
    assert "features must be real numbers" in table_error(np.zeros((3, 2), dtype))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 28, 28)])
def test_empty_features_are_refused(shape):
    assert "features is empty" in table_error(np.zeros(shape))


def test_features_without_columns_are_refused():
    assert "must have rows and columns" in table_error(np.zeros(5))


def test_ragged_lengths_are_named_with_both_lengths():
    assert "features has 3 rows, target has 4" in table_error(np.zeros((3, 2)), np.zeros(4))
    weights = np.ones(2)
    assert "features has 3 rows, w has 2" in table_error(np.zeros((3, 2)), None, weights)


@pytest.mark.parametrize(
    "y",
    [
        np.array([None, 1, "a"]),
        np.zeros(3, complex),
        np.zeros((3, 2, 2)),
        np.array(3),
        np.zeros((3, 0)),
        np.array([["a", "b"]] * 3),
        np.array([b"\xff", b"a", b"b"]),
    ],
)
def test_targets_that_are_neither_numbers_nor_text_are_refused(y):
    assert "target" in table_error(np.zeros((3, 2)), y)


def test_bytes_in_the_target_are_read_as_utf8():
    y = np.array(["é".encode(), b"a"])
    assert check(Table(np.zeros((2, 1)), y)).y.tolist() == ["é", "a"]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, -2, 1], "row 1 (counted from 0): w is -2, expected >= 0"),
        ([1, 1, np.nan], "row 2 (counted from 0): w is nan"),
        ([0, 0, 0], "w is 0 in every row"),
        ([[1], [1], [1]], "w must be one number a row"),
        (["1", "1", "1"], "w must be one number a row"),
    ],
)
def test_unusable_weights_are_refused(weights, message):
    assert message in table_error(np.zeros((3, 2)), None, np.array(weights))


@pytest.mark.parametrize(
    ("code", "order"), [(0xFFFFFFFF, "<"), (0xD800, "<"), (0xDFFF, ">"), (0x110000, ">")]
)
def test_a_label_of_no_character_is_refused_with_its_row(code, order):
    labels = np.array([97, 0x10FFFF, code, 0xD7FF, 0xE000], f"{order}u4").view(f"{order}U1")
    with pytest.raises(DataError, match=rf"^my\.npz: row 2 .*: y holds U\+{code:X}, no character"):
        check(Table(np.eye(5), labels, source="my.npz"))
    check(Table(np.eye(4), np.delete(labels.view(f"{order}u4"), 2).view(f"{order}U1")))
