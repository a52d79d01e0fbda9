"""What was measured fastest is kept on disk, and no state of that file stops anything."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumlp.backend.cuda.tuning import Choices

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def test_a_choice_is_there_in_the_next_process(tmp_path):
    path = tmp_path / "new" / "folder" / "choices.json"
    choices = Choices(path)
    assert choices.get("a") is None
    choices.keep("a", [1, "x"])
    assert choices.get("a") == Choices(path).get("a") == [1, "x"]


def test_what_two_processes_choose_is_all_kept(tmp_path):
    path = tmp_path / "choices.json"
    one, other = Choices(path), Choices(path)
    assert one.get("a") is other.get("b") is None  # both have read the file
    one.keep("a", [1])
    other.keep("b", [2])
    assert json.loads(path.read_text()) == {"a": [1], "b": [2]}


def test_without_a_file_choices_last_as_long_as_the_object():
    choices = Choices(None)
    choices.keep("a", [1])
    assert choices.get("a") == [1]


def test_choices_that_are_given_come_before_those_of_the_file_and_are_not_written(tmp_path):
    path = tmp_path / "choices.json"
    Choices(path).keep("a", [1])
    choices = Choices(path)
    choices.given = {"a": [7], "b": [8]}
    assert (choices.get("a"), choices.get("b"), choices.get("c")) == ([7], [8], None)
    choices.keep("c", [9])
    assert json.loads(path.read_text()) == {"a": [1], "c": [9]}


def test_the_choices_in_use_are_known(tmp_path):
    path = tmp_path / "choices.json"
    Choices(path).keep("of another run", [1])
    choices = Choices(path)
    choices.given = {"a": [7], "never asked for": [8]}
    choices.get("a")
    choices.keep("b", [2])
    assert choices.used == {"a": [7], "b": [2]}


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    choices = Choices(tmp_path / "file" / "choices.json")
    choices.keep("a", [1])
    assert choices.get("a") == [1]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[1]", b'{"a": 1}', b"null", b"[" * 10**5]
)
def test_a_file_that_is_not_ours_counts_as_empty_and_is_replaced(tmp_path, content):
    path = tmp_path / "choices.json"
    path.write_bytes(content)
    choices = Choices(path)
    assert choices.get("a") is None
    choices.keep("b", [2])
    assert json.loads(path.read_text()) == {"b": [2]}


@given(json_values)
def test_any_json_is_survived(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("choices") / "choices.json"
    path.write_text(json.dumps(value))
    choices = Choices(path)
    found = choices.get("a")
    assert found is None or isinstance(found, list)
