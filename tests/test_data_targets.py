import json
import tomllib

import numpy as np
import pytest
import tomli_w

from gpumlp.data.targets import Targets, class_indices
from gpumlp.errors import DataError


def fit_error(task, y):
    with pytest.raises(DataError) as caught:
        Targets.fit(task, np.asarray(y), "my.npz")
    assert str(caught.value).startswith("my.npz: ")
    return str(caught.value)


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (np.array([10, 9, 100, 9]), ("9", "10", "100")),
        (np.array([3, -1, 200], np.int16), ("-1", "3", "200")),
        (np.array([2.0, 10.0, -0.0, 0.0]), ("0", "2", "10")),
        (np.array(["10", "9", "été"]), ("10", "9", "été")),
        (np.array([True, False]), ("False", "True")),
        (np.array([2**64 - 1, 0], np.uint64), ("0", "18446744073709551615")),
        (np.array([[5], [7]]), ("5", "7")),
    ],
)
def test_classes_are_sorted_as_numbers_or_else_as_text(y, classes):
    targets = Targets.fit("multiclass", y)
    assert (targets.classes, targets.outputs) == (classes, len(classes))


def test_the_class_of_a_row_is_its_largest_or_whether_it_is_more_than_a_half():
    rows = np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4], [0.0, 0.0, 1.0]])
    for y, classes in (
        (rows, [1, 0, 2]),
        (np.array([[0.5], [0.51], [0.0]]), [0, 1, 0]),
        (np.array([0.5, 0.51, 1.0]), [0, 1, 1]),
        (np.array([3, 0, 2], np.uint8), [3, 0, 2]),
    ):
        assert class_indices(y).tolist() == classes


def test_class_indices_decode_to_the_labels():
    y = np.array(["b", "a", "c", "a"])
    targets = Targets.fit("multiclass", y)
    indices = targets.encode(y)
    assert indices.dtype == np.int64
    assert indices.tolist() == [1, 0, 2, 0]
    assert targets.decode(indices) == y.tolist()


def test_a_label_stored_as_another_type_is_the_same_label():
    targets = Targets.fit("multiclass", np.array([3, 7, 12], np.uint8))
    for y in (np.array([12.0, 3.0]), np.array(["12", "3"]), np.array([12, 3])):
        assert targets.encode(y).tolist() == [2, 0]


def test_an_unseen_label_is_named_with_its_row_and_the_known_ones():
    targets = Targets.fit("multiclass", np.array(["cat", "dog"]))
    with pytest.raises(DataError) as caught:
        targets.encode(np.array(["dog", "cow", "cat", "ape"]), "test.npz")
    assert str(caught.value) == (
        'test.npz: row 1 (counted from 0): unknown label "cow"; known: cat, dog'
    )


def test_many_known_labels_are_not_all_listed():
    targets = Targets.fit("multiclass", np.arange(1000))
    with pytest.raises(DataError, match=r"known: 0, 1, .*19, \.\.\.$"):
        targets.encode(np.array([1000]))


def test_float_labels_must_be_whole_numbers():
    message = fit_error("multiclass", [1.0, 2.0, 2.5])
    assert "row 2 (counted from 0): 2.5 is no class label" in message
    assert 'task = "regression"' in message


@pytest.mark.parametrize("task", ["multiclass", "binary", "regression"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_target_that_is_not_finite_is_named_with_its_row(task, value):
    assert f"row 1 (counted from 0): the target is {value};" in fit_error(task, [1.0, value, 2.0])


@pytest.mark.parametrize("task", ["multiclass", "binary"])
@pytest.mark.parametrize("y", [[4, 4, 4], ["a", "a"], [[1], [1]]])
def test_one_class_is_refused(task, y):
    assert "every row has the same label" in fit_error(task, y)


def test_one_hot_rows_of_one_class_are_refused():
    assert "every row has the same label" in fit_error("multiclass", [[0, 1], [0, 1]])


def test_one_hot_and_soft_rows_are_kept_as_floats():
    y = np.array([[1, 0, 0], [0.2, 0.3, 0.5]], np.float32)
    targets = Targets.fit("multiclass", y)
    assert targets == Targets("multiclass", ("0", "1", "2"), 3)
    encoded = targets.encode(y)
    assert encoded.dtype == np.float64
    assert (encoded == y).all()


def test_a_soft_row_that_does_not_sum_to_one_is_named():
    assert "row 1 (counted from 0): the target sums to 0.9," in fit_error(
        "multiclass", [[0, 1], [0.4, 0.5]]
    )
    near = np.array([[0, 1], [0.4, 0.6009]])
    assert Targets.fit("multiclass", near).encode(near).shape == (2, 2)


def test_probabilities_may_miss_1_by_a_thousandth():
    for sums in (0.9991, 1.0009):
        assert Targets.fit("multiclass", np.array([[sums, 0.0], [0.0, 1.0]])).outputs == 2
    for sums in (0.9989, 1.0011):
        assert "the target sums to" in fit_error("multiclass", [[sums, 0.0], [0.0, 1.0]])


def test_a_negative_probability_is_named():
    assert "row 1, column 0 (counted from 0): the target is -0.5," in fit_error(
        "multiclass", [[0, 1], [-0.5, 1.5]]
    )


def test_binary_is_a_column_of_zeros_and_ones():
    y = np.array(["yes", "no", "yes"])
    targets = Targets.fit("binary", y)
    assert targets == Targets("binary", ("no", "yes"), 1)
    encoded = targets.encode(y)
    assert encoded.dtype == np.float64
    assert encoded.tolist() == [[1], [0], [1]]


def test_binary_rows_of_one_known_class_can_be_encoded():
    targets = Targets.fit("binary", np.array([0, 1]))
    assert targets.encode(np.array([1, 1])).tolist() == [[1], [1]]


def test_binary_with_three_classes_suggests_multiclass():
    message = fit_error("binary", [0, 1, 2])
    assert "3 classes" in message
    assert 'task = "multiclass"' in message


def test_binary_refuses_several_columns():
    assert "2 columns" in fit_error("binary", [[0, 1], [1, 0]])


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float32])
def test_multilabel_is_zeros_and_ones_of_any_dtype(dtype):
    y = np.array([[0, 1, 1], [0, 0, 0]], dtype)
    targets = Targets.fit("multilabel", y)
    assert targets == Targets("multilabel", ("0", "1", "2"), 3)
    assert targets.encode(y).dtype == np.float64
    assert (targets.encode(y) == y).all()


def test_multilabel_names_what_is_not_zero_or_one():
    assert "row 1, column 0 (counted from 0): the target is 2," in fit_error(
        "multilabel", [[0, 1], [2, 1]]
    )
    assert "a column for each label" in fit_error("multilabel", [0, 1])


@pytest.mark.parametrize(
    ("y", "outputs"), [([1, 2, 3], 1), ([[1.5], [2.5]], 1), ([[1, 2], [3, 4]], 2)]
)
def test_regression_is_a_float_matrix(y, outputs):
    targets = Targets.fit("regression", np.array(y))
    assert targets == Targets("regression", (), outputs)
    encoded = targets.encode(np.array(y))
    assert encoded.dtype == np.float64
    assert encoded.tolist() == np.reshape(y, (len(y), -1)).tolist()


def test_regression_refuses_text_and_names_the_first_row_that_is_no_number():
    assert 'row 1 (counted from 0): the target is text, "abc"' in fit_error(
        "regression", ["1.5", "abc", "x"]
    )
    assert 'row 2 (counted from 0): the target is text, "1_0"' in fit_error(
        "regression", ["1", "-2e3", "1_0"]
    )


def test_regression_takes_text_that_is_numbers():
    targets = Targets.fit("regression", np.array(["1", "1.0", "-2e3"]))
    assert targets.encode(np.array(["1", "1.0", "-2e3"])).tolist() == [[1], [1], [-2000]]


@pytest.mark.parametrize("other", ["007", "7.0", "+7", "70e-1"])
def test_labels_that_are_one_number_are_refused_with_the_row(other):
    problem = fit_error("multiclass", ["8", "7", other, other])
    assert "row 2 (counted from 0): the labels" in problem or "row 1 (counted" in problem
    assert f'"{other}"' in problem
    assert '"7"' in problem
    assert 'write them alike, or as text such as "x' in problem


def test_labels_beyond_what_float64_tells_apart_stay_text():
    labels = [str(2**53 + i) for i in range(3)]
    targets = Targets.fit("multiclass", np.array(labels))
    assert targets.classes == tuple(labels)
    assert targets.encode(np.array(labels[1:])).tolist() == [1, 2]


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_another_number_of_columns_than_fitted_is_refused(task):
    targets = Targets.fit(task, np.eye(3))
    with pytest.raises(DataError, match=r"test\.npz: .* 2 columns, .* have 3"):
        targets.encode(np.eye(2), "test.npz")


@pytest.mark.parametrize(
    ("task", "y"),
    [
        ("multiclass", np.array(["ü", 'quote"', "a b"])),
        ("binary", np.array([0, 1])),
        ("multilabel", np.eye(2)),
        ("regression", np.array([1.5, 2.5])),
    ],
)
def test_targets_survive_json_and_toml(task, y):
    targets = Targets.fit(task, y)
    assert Targets.from_dict(json.loads(json.dumps(targets.to_dict()))) == targets
    assert Targets.from_dict(tomllib.loads(tomli_w.dumps(targets.to_dict()))) == targets


@pytest.mark.parametrize(
    "changed",
    [
        {"task": "multi"},
        {"task": ["binary"]},
        {"task": "regression"},
        {"task": "binary"},
        {"classes": "abc"},
        {"classes": ["a", "b"]},
        {"classes": ["a", "b", "b"]},
        {"classes": ["a", "b", 3]},
        {"classes": None},
        {"outputs": 4},
        {"outputs": 0, "classes": []},
        {"outputs": 3.0},
        {"outputs": True, "classes": ["a"]},
        {"task": "binary", "classes": ["a", "b"], "outputs": 2},
        {"task": "regression", "outputs": 0, "classes": []},
    ],
    ids=str,
)
def test_saved_targets_that_contradict_themselves_are_refused(changed):
    saved = Targets("multiclass", ("a", "b", "c"), 3).to_dict()
    with pytest.raises(ValueError, match="no targets"):
        Targets.from_dict(saved | changed)


def test_an_unknown_task_is_an_error_of_the_caller():
    with pytest.raises(ValueError, match="multiclass, binary, multilabel, regression"):
        Targets.fit("multi", np.array([0, 1]))
