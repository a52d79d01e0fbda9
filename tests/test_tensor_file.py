"""Arrays and facts in a file: what is written is what is read, and what cannot be is refused."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from gpumlp.tensor_file import DTYPES, file_size, read_tensors, write_tensors


def tensors_of(dtype):
    numbers = np.arange(6).reshape(2, 3).astype(dtype)
    return {"a": numbers, "b": np.asfortranarray(numbers), "c": numbers[0, 0], "d": numbers[:0]}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", DTYPES)
def test_every_kind_of_numbers_is_read_as_it_was_written(name, order, tmp_path):
    path, dtype = tmp_path / "file", np.dtype(name).newbyteorder(order)
    tensors = tensors_of(dtype)
    write_tensors(path, tensors, {"x": [1, None]})
    read, facts = read_tensors(path)
    assert facts["x"] == [1, None]
    assert read.keys() == tensors.keys()
    for key, array in tensors.items():
        assert read[key].dtype == np.dtype(name)
        np.testing.assert_array_equal(read[key], array)
        np.testing.assert_array_equal(load_file(path)[key], array)  # by safetensors alone
    assert path.stat().st_size == file_size(tensors, {"x": [1, None]})


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([None]), np.array([1j])], ids=str)
def test_what_is_no_array_of_numbers_is_refused_by_name(array, tmp_path):
    with pytest.raises(TypeError, match=f"strange: arrays of {array.dtype} cannot be saved"):
        write_tensors(tmp_path / "file", {"strange": array}, {})
    assert not any(tmp_path.iterdir())


def test_equal_content_has_equal_bytes_whatever_the_order_it_came_in(tmp_path):
    digests = []
    for names in ("ab", "ba"):
        tensors = {name: np.full(3, ord(name)) for name in names}
        digests.append(write_tensors(tmp_path / names, tensors, {"facts": 1}))
    assert digests[0] == digests[1]
    assert (tmp_path / "ab").read_bytes() == (tmp_path / "ba").read_bytes()
