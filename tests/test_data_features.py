"""Columns become the matrix x: numbers as they are, text as zeros and ones."""

import json

import numpy as np
import pytest

from gpumlp.data.csv_file import read_csv
from gpumlp.data.features import MAX_CATEGORIES, Features, inputs
from gpumlp.errors import DataError

HEAD = "age,colour,size,label"
ROWS = ["10,red,S,x", "20,blue,L,y", "30,red,S,x", "40,green,M,y"]
NAMES = ["colour", "age", "size"]


@pytest.fixture
def frame(tmp_path):
    def make(*rows, head=HEAD, text=("label",)):
        path = tmp_path / "my.csv"
        path.write_text("\n".join([head, *(rows or ROWS)]), encoding="utf-8")
        return read_csv(path, "my.csv", None, text)

    return make


def message(take):
    with pytest.raises(DataError) as caught:
        take()
    return str(caught.value)


def test_text_is_one_column_for_each_category_in_alphabetical_order(frame):
    features = Features.fit(frame(), NAMES)
    assert features.columns == (
        *("colour=blue", "colour=green", "colour=red", "age"),
        *("size=L", "size=M", "size=S"),
    )
    x, source = features.encode(frame())
    assert x.tolist() == [
        [0, 0, 1, 10, 0, 0, 1],
        [1, 0, 0, 20, 1, 0, 0],
        [0, 0, 1, 30, 0, 0, 1],
        [0, 1, 0, 40, 0, 1, 0],
    ]
    assert source.columns == features.columns
    assert list(source.lines) == [2, 3, 4, 5]


def test_columns_of_another_file_are_found_by_name_and_more_are_no_matter(frame):
    features = Features.fit(frame(), NAMES)
    swapped = frame("y,7,S,9,red,nothing", head="label,more,size,age,colour,most")
    assert features.encode(swapped)[0].tolist() == [[0, 0, 1, 9, 0, 0, 1]]


def test_a_missing_cell_is_nan_in_all_columns_of_its_category(frame):
    features = Features.fit(frame(), NAMES)
    gaps = frame(",red,S,x", "5,NA,S,x")
    x, _ = features.encode(gaps, missing=True)
    nan = np.nan
    np.testing.assert_array_equal(x, [[0, 0, 1, nan, 0, 0, 1], [nan, nan, nan, 5, 0, 0, 1]])
    assert message(lambda: features.encode(gaps)) == (
        'my.csv: line 3, column "colour": the cell has no value; 1 such cell; '
        'data.missing = "mean" fills them'
    )


def test_an_unknown_category_is_named_with_those_that_are_known(frame):
    features = Features.fit(frame(), NAMES)
    assert message(lambda: features.encode(frame("1,red,S,x", "1,pink,S,x"))) == (
        'my.csv: line 3, column "colour": unknown category "pink"; known: blue, green, red'
    )


def test_text_in_a_column_that_was_numbers_is_named(frame):
    features = Features.fit(frame(), NAMES)
    assert message(lambda: features.encode(frame(",red,S,x", "old,red,S,x"), True)) == (
        'my.csv: line 3, column "age": "old" is not a number'
    )


def test_a_column_that_is_missing_is_named(frame):
    features = Features.fit(frame(), NAMES)
    other = frame("1,red", head="age,colour")
    assert message(lambda: features.encode(other)) == 'my.csv: no column "size"; it has age, colour'


def test_features_of_a_source_without_columns_do_not_fit_a_file_of_columns(frame):
    assert "my.csv: has named columns" in message(lambda: Features().encode(frame()))


def test_a_column_that_names_the_row_is_refused(frame):
    rows = [f"1,n{i},S,x" for i in range(20)]
    assert message(lambda: Features.fit(frame(*rows), NAMES)) == (
        'my.csv: column "colour" has 20 different texts in 20 rows, as if it named the row; '
        "leave it out by listing the others in data.features"
    )
    few = Features.fit(frame(*rows[:19]), NAMES)
    assert len(few.categories["colour"]) == 19
    many = [f"1,n{i % (MAX_CATEGORIES + 1)},S,x" for i in range(3 * MAX_CATEGORIES)]
    assert "1001 different texts" in message(lambda: Features.fit(frame(*many), NAMES))


def test_a_column_of_text_without_any_value_is_refused(frame):
    empty = frame("1,,S,x", text=("colour",))
    found = message(lambda: Features.fit(empty, NAMES))
    assert found == 'my.csv: column "colour" has no value in any row'


def test_features_survive_json(frame):
    features = Features.fit(frame(), NAMES)
    again = Features.from_dict(json.loads(json.dumps(features.to_dict())))
    assert again == features
    assert Features.from_dict(Features().to_dict()) == Features()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"names": "ab"}, "distinct texts"),
        ({"names": ["a", "a"]}, "distinct texts"),
        ({"names": ["a", {}]}, "distinct texts"),
        ({"names": None}, "distinct texts"),
        ({"categories": {"a": "xy"}}, "distinct texts"),
        ({"categories": {"a": ["x", "x"]}}, "distinct texts"),
        ({"categories": {"a": ["x", 1]}}, "distinct texts"),
        ({"categories": {"c": ["x"]}}, "columns that there are not"),
    ],
    ids=str,
)
def test_saved_features_that_make_no_sense_are_refused(changed, words):
    saved = Features(("a", "b"), {"a": ("x", "y")}).to_dict()
    with pytest.raises(ValueError, match=words):
        Features.from_dict(saved | changed)


def test_inputs_are_all_columns_that_are_nothing_else(frame):
    assert inputs(frame(), None, {"label", None}) == ["age", "colour", "size"]
    assert inputs(frame(), ["size"], {"label"}) == ["size"]
    assert "no column besides the target" in message(
        lambda: inputs(frame("1", head="label"), None, {"label"})
    )
