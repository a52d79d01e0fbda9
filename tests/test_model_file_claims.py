"""Model files with a right checksum that claim what cannot be: refused, and at little cost."""

import json
import os
import struct
import tracemalloc
from dataclasses import replace
from time import process_time

import numpy as np
import pytest

from gpumlp.backend import get_backend
from gpumlp.build import build_loss, build_network
from gpumlp.config_file import parse_config
from gpumlp.data.features import Features
from gpumlp.data.scaling import Scaler
from gpumlp.data.targets import Targets
from gpumlp.errors import FileError
from gpumlp.saved_model import SavedModel, load_model
from gpumlp.tensor_file import write_tensors

LARGE = 5 * 10**6


def config(**model):
    model = {"task": "multiclass", "hidden": [3], **model}
    return parse_config({"data": {"source": "arrays"}, "model": model})


def model(**changed):
    """A model of 2 features and 2 classes, some of whose parts are those of another."""
    backend = get_backend("cpu", "fp32")
    network = build_network(config(), 2, 2, backend)
    whole = SavedModel(
        config(),
        network,
        build_loss(config(), backend),
        Scaler("standard", np.zeros(2), np.ones(2)),
        Targets("multiclass", ("a", "b"), 2),
        Features(("x", "y")),
    )
    return replace(whole, **changed)


def refusal(path):
    """Why a file is refused; that must not take more memory than a small model needs."""
    tracemalloc.start()
    try:
        with pytest.raises(FileError) as error:
            load_model(path)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()
    return str(error.value)


CLAIMS = {
    "a wide layer": {"config": config(hidden=[LARGE])},
    "many layers": {"config": config(hidden=[1] * 1000)},
    "a missing layer": {"config": config(hidden=[])},
    "one layer more": {"config": config(hidden=[3, 3])},
    "many outputs": {"targets": Targets("regression", (), LARGE)},
    "many classes": {"targets": Targets("multiclass", tuple("abc"), 3)},
    "another task": {"targets": Targets("regression", (), 2)},
    "other columns": {"columns": Features(("x", "y", "z"))},
    "columns of categories": {"columns": Features(("x", "y"), {"y": ("p", "q")})},
    "another width": {"scaler": Scaler("none", np.zeros(3), np.ones(3))},
    "other targets' scale": {"target_scaler": Scaler("none", np.zeros(3), np.ones(3))},
    "weights of other classes": {"class_weight": np.ones(3)},
    "weights that are none": {"class_weight": np.array([1.0, np.nan])},
    "negative weights": {"class_weight": np.array([1.0, -1.0])},
    "a scale of nothing": {"scaler": Scaler("standard", np.zeros(2), np.array([1.0, 0.0]))},
    "a scale that is none": {"scaler": Scaler("standard", np.array([0, np.nan]), np.ones(2))},
}


@pytest.mark.parametrize("name", CLAIMS)
def test_parts_of_different_models_are_refused(tmp_path, name):
    model(**CLAIMS[name]).save(tmp_path / "model.safetensors")
    assert "does not hold what a gpumlp model holds" in refusal(tmp_path / "model.safetensors")


def test_a_whole_model_is_read(tmp_path):
    model().save(tmp_path / "model.safetensors")
    assert load_model(tmp_path / "model.safetensors").classify(np.zeros((2, 2)))


def raw(metadata, **tensors):
    """A safetensors file of empty tensors of those types."""
    header = {"__metadata__": {"gpumlp": metadata}}
    for name, dtype in tensors.items():
        header[name] = {"dtype": dtype, "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


RAW = {
    "bfloat16": raw("{}", a="BF16"),
    "float8": raw("{}", a="F8_E4M3"),
    "deep": raw("[" * 100_000),
    "an endless integer": raw("1" * 5000),
    "a list": raw("[]"),
    "a text": raw('"format"'),
    "null": raw("null"),
    "no format": raw('{"sha256": ""}'),
    "a format of its own": raw('{"format": {}, "sha256": []}'),
}


@pytest.mark.parametrize("name", RAW)
def test_what_is_no_model_is_a_file_error(tmp_path, name):
    (tmp_path / "model.safetensors").write_bytes(RAW[name])
    refusal(tmp_path / "model.safetensors")


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX file system")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    assert "not a file" in refusal(tmp_path / "model.safetensors")


def changed(tmp_path, name, place, value):
    """The file of a model with one parameter changed."""
    tensors, facts = model().content()
    tensors[name] = tensors[name].astype(np.float64)
    tensors[name][place] = value
    write_tensors(tmp_path / "model.safetensors", tensors, facts)
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("name", ["net.0.weight", "net.0.bias", "net.1.weight", "net.1.bias"])
def test_a_parameter_that_is_not_finite_is_refused_by_name(tmp_path, name, value):
    excludes = (name, value) == ("net.1.bias", -np.inf)  # a class, but there must be another
    path = changed(tmp_path, name, slice(None) if excludes else 0, value)
    assert f"{name.removeprefix('net.')} is not finite" in refusal(path)


def test_a_class_may_be_excluded_by_its_bias(tmp_path):
    loaded = load_model(changed(tmp_path, "net.1.bias", 0, -np.inf))
    assert loaded.classify(np.zeros((2, 2))) == ["b", "b"]


@pytest.mark.parametrize("name", ["a\0", "a\0b", "\ud800"])
def test_a_class_that_no_file_could_name_is_refused(tmp_path, name):
    tensors, facts = model().content()
    facts["targets"]["classes"] = [name, "b"]
    write_tensors(tmp_path / "model.safetensors", tensors, facts)
    assert "no targets" in refusal(tmp_path / "model.safetensors")


def test_a_configuration_of_endless_keys_is_refused_at_once(tmp_path):
    tensors, facts = model().content()
    facts["config"] = f"a{'.a' * 500_000} = 1\n{facts['config']}"
    write_tensors(tmp_path / "model.safetensors", tensors, facts)
    began = process_time()
    assert "nested more than 20 deep" in refusal(tmp_path / "model.safetensors")
    assert process_time() - began < 5


def test_parameters_that_are_whole_numbers_are_refused(tmp_path):
    tensors, facts = model().content()
    tensors["net.0.weight"] = tensors["net.0.weight"].astype(np.int64)
    write_tensors(tmp_path / "model.safetensors", tensors, facts)
    assert "no floating-point numbers" in refusal(tmp_path / "model.safetensors")
