"""The model file: what is read is what was saved, and a damaged file is a FileError, always."""

import json
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from gpumlp.backend import get_backend
from gpumlp.build import build_network, build_trainer
from gpumlp.config_file import parse_config
from gpumlp.data.scaling import Scaler
from gpumlp.data.sources import load_rows
from gpumlp.data.targets import Targets
from gpumlp.errors import DeviceError, FileError
from gpumlp.experiment import Experiment
from gpumlp.saved_model import SavedModel, load_model
from gpumlp.tensor_file import write_tensors

RNG = np.random.default_rng(8)
ROWS, FEATURES = 90, 5
X = RNG.normal(3, 20, size=(ROWS, FEATURES))
SIDE = (X - 3) @ RNG.normal(size=(FEATURES, 3))
TARGETS = {
    "multiclass": np.array(["café", "tea", "water"])[SIDE.argmax(axis=1)],
    "binary": np.where(SIDE[:, 0] > 0, "yes", "no"),
    "multilabel": (SIDE > 0).astype(int),
    "regression": SIDE[:, :2],
}
tasks = pytest.mark.parametrize("task", TARGETS)


def trained(task, precision="fp32", scale="standard", **model):
    """A model after a few epochs, with its trainer and the scaled rows."""
    config = parse_config(
        {
            "precision": precision,
            "data": {"source": "builtin:digits", "scale": scale},
            "model": {"task": task, "hidden": [6, 4], **model},
            "optimizer": {"lr": 0.05},
            "train": {"batch_size": 16},
        }
    )
    backend = get_backend("cpu", precision)
    targets = Targets.fit(task, TARGETS[task])
    scaler = Scaler.fit(scale, X)
    network = build_network(config, FEATURES, targets.outputs, backend)
    trainer = build_trainer(config, network, ROWS)
    scaled = scaler.transform(X, backend.dtype)
    trainer.fit(scaled, targets.encode(TARGETS[task]), epochs=20)
    return SavedModel(config, network, trainer.loss, scaler, targets), trainer, scaled


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The bytes of one model file, and what the model predicts."""
    path = tmp_path_factory.mktemp("saved") / "model.safetensors"
    model, _, _ = trained("multiclass")
    model.save(path)
    return path.read_bytes(), model.predict(X)


def header_of(content):
    """The parsed header of a safetensors file, and where its tensors begin."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), 8 + length


def header_of_or_none(content):
    try:
        return header_of(bytes(content))
    except (ValueError, struct.error):
        return None


def made_up(path, change_tensors=None, change_text=None):
    """Save a file whose checksum is right though its content was made up."""
    model, _, _ = trained("multiclass")
    tensors, facts = model.content()
    (change_tensors or (lambda tensors: None))(tensors)
    (change_text or (lambda text: None))(facts)
    write_tensors(path, tensors, facts)
    return model


def refused(path, *arguments):
    with pytest.raises(FileError) as caught:
        load_model(path, *arguments)
    assert caught.value.exit_code == 6
    assert str(path) in str(caught.value)
    return str(caught.value)


# --------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("scale", ["none", "standard", "minmax"])
@pytest.mark.parametrize("precision", ["fp32", "fp64"])
@tasks
def test_what_is_read_is_what_was_saved_to_the_bit(task, precision, scale, tmp_path):
    model, _, _ = trained(task, precision, scale)
    model.save(tmp_path / "model.safetensors")
    read = load_model(tmp_path / "model.safetensors")
    assert read.config == model.config
    assert read.targets == model.targets
    assert read.scaler.name == model.scaler.name
    for name, array in model.scaler.to_arrays().items():
        np.testing.assert_array_equal(read.scaler.to_arrays()[name], array)
    assert repr(read.network) == repr(model.network)
    assert type(read.loss) is type(model.loss)
    for mine, theirs in zip(read.network.parameters, model.network.parameters, strict=True):
        assert mine.name == theirs.name
        assert mine.value.dtype == theirs.value.dtype
        np.testing.assert_array_equal(mine.value, theirs.value)
    assert read.predict(X).tobytes() == model.predict(X).tobytes()


@tasks
def test_saving_what_was_read_gives_the_same_bytes(task, tmp_path):
    trained(task)[0].save(tmp_path / "first")
    load_model(tmp_path / "first").save(tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_saving_again_and_again_gives_the_same_bytes(tmp_path):
    model, _, _ = trained("multiclass")
    for i in range(6):
        model.save(tmp_path / str(i))
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize(
    "model",
    [
        {"layers": [{"units": 4, "bias": False, "activation": "relu"}, {"units": 3}]},
        {"hidden": []},
        {"dropout": 0.5, "max_norm": 1.0, "activation": "gelu"},
    ],
    ids=["layers", "linear", "dropout"],
)
def test_networks_of_every_kind_come_back(model, tmp_path):
    if "layers" in model or model.get("hidden") == []:
        config = {"data": {"source": "builtin:digits"}, "model": model}
        config = parse_config(config)
        targets, scaler = Targets.fit("multiclass", TARGETS["multiclass"]), Scaler.fit("none", X)
        network = build_network(config, FEATURES, 3, get_backend("cpu"))
        before = SavedModel(
            config, network, build_trainer(config, network, ROWS).loss, scaler, targets
        )
    else:
        before, _, _ = trained("multiclass", **model)
    before.save(tmp_path / "model")
    after = load_model(tmp_path / "model")
    assert repr(after.network) == repr(before.network)
    np.testing.assert_array_equal(after.predict(X), before.predict(X))


@tasks
def test_predicting_raw_rows_is_the_trainers_prediction_of_scaled_rows(task):
    model, trainer, scaled = trained(task)
    np.testing.assert_array_equal(model.predict(X), trainer.predict(scaled))


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int16, list])
def test_rows_of_every_type_are_taken(kind, saved, tmp_path):
    (tmp_path / "model").write_bytes(saved[0])
    model = load_model(tmp_path / "model")
    whole = np.rint(X)
    rows = whole.tolist() if kind is list else whole.astype(kind)
    np.testing.assert_array_equal(model.predict(rows), model.predict(whole))


def test_probabilities_add_up_to_one(saved):
    np.testing.assert_allclose(saved[1].sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_classify_gives_the_names_of_the_most_probable_classes(task, tmp_path):
    trained(task)[0].save(tmp_path / "model")
    model = load_model(tmp_path / "model")
    names = sorted(set(TARGETS[task]))
    y = model.predict(X)
    indices = y.argmax(axis=1) if task == "multiclass" else (y[:, 0] > 0.5).astype(int)
    assert len(set(indices)) > 1
    assert model.classify(X) == [names[index] for index in indices]


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_classify_refuses_tasks_without_one_class_a_row(task):
    with pytest.raises(ValueError, match=task):
        trained(task)[0].classify(X)


def test_features_are_the_activations_of_a_layer(saved, tmp_path):
    (tmp_path / "model").write_bytes(saved[0])
    model = load_model(tmp_path / "model")
    scaled = model.scaler.transform(X, np.float32)
    np.testing.assert_array_equal(model.features(X, 0), scaled)
    first, second, output = model.network.layers
    a = first.forward(scaled)
    np.testing.assert_allclose(model.features(X, 1), a, rtol=1e-6)
    np.testing.assert_allclose(model.features(X), second.forward(a), rtol=1e-6)
    z = output.forward(second.forward(a))
    np.testing.assert_allclose(model.features(X, -1), z, rtol=1e-5, atol=1e-6)
    with pytest.raises(IndexError):
        model.features(X, 4)


def test_a_run_folder_stands_for_the_model_in_it(saved, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(saved[0])
    np.testing.assert_array_equal(load_model(tmp_path).predict(X), saved[1])
    np.testing.assert_array_equal(load_model(str(tmp_path)).predict(X), saved[1])


def test_the_file_is_plain_safetensors_that_others_can_read(saved, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(saved[0])
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        names = set(file.keys())
    parameters = {f"net.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")}
    assert names == parameters | {"scaler.offset", "scaler.factor"}


# ------------------------------------------------------------------------------ no code, no lies


def test_no_pickle_is_involved(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("pickle was used")

    model, _, _ = trained("binary")
    for name in ("dump", "dumps", "load", "loads", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, refuse)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(load_model(tmp_path / "model").predict(X), model.predict(X))


def test_a_pickle_is_refused_and_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    (tmp_path / "model").write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path / "model")
    assert not (tmp_path / "exploded").exists()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_file_with_a_changed_byte_is_refused_or_says_the_same(data, saved, tmp_path_factory):
    content, prediction = saved
    _, start = header_of(content)
    # half of the changes in the header, which is the smaller part
    position = data.draw(st.integers(0, start - 1) | st.integers(start, len(content) - 1))
    mask = data.draw(st.integers(1, 255))
    changed = bytearray(content)
    changed[position] ^= mask
    path = tmp_path_factory.mktemp("changed") / "model"
    path.write_bytes(changed)
    carries_nothing = position < start and header_of_or_none(changed) == header_of(content)
    if not carries_nothing:
        refused(path)
    else:  # a blank of the header, for example, that became a line break
        np.testing.assert_array_equal(load_model(path).predict(X), prediction)


def test_every_changed_byte_of_the_tensors_is_noticed(saved, tmp_path):
    content, _ = saved
    _, start = header_of(content)
    for position in range(start, len(content), 7):
        changed = bytearray(content)
        changed[position] ^= 1
        (tmp_path / "model").write_bytes(changed)
        assert "not what was saved" in refused(tmp_path / "model")


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(share, saved, tmp_path_factory):
    path = tmp_path_factory.mktemp("truncated") / "model"
    path.write_bytes(saved[0][: int(share * len(saved[0]))])
    refused(path)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9])
def test_a_file_of_a_few_bytes_is_refused(length, saved, tmp_path):
    (tmp_path / "model").write_bytes(saved[0][:length])
    refused(tmp_path / "model")


@pytest.mark.parametrize("more", [b"\0", b"x" * 100])
def test_a_file_with_something_appended_is_refused(more, saved, tmp_path):
    (tmp_path / "model").write_bytes(saved[0] + more)
    refused(tmp_path / "model")


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "model"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize(
    "content",
    [b"PK\x03\x04" + bytes(50), b"\xff" * 64, b"name = 'x'\n" * 20, struct.pack("<Q", 2**62)],
    ids=["zip", "ones", "toml", "a header of 2^62 bytes"],
)
def test_another_kind_of_file_is_refused(content, tmp_path):
    (tmp_path / "model").write_bytes(content)
    refused(tmp_path / "model")


def test_a_missing_file_is_named(tmp_path):
    refused(tmp_path / "model.safetensors")


def test_a_folder_without_a_model_is_named(tmp_path):
    assert "model.safetensors" in refused(tmp_path)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"format": "2"}])
def test_a_safetensors_file_of_another_program_is_refused(metadata, tmp_path):
    save_file({"weight": np.ones((2, 2))}, tmp_path / "model", metadata)
    assert "not a gpumlp model" in refused(tmp_path / "model")


@pytest.mark.parametrize(
    ("old", "new"), [(b"seed = 0", b"seed = 1"), (b"standard", b"stondard"), (b"tea", b"toa")]
)
def test_changed_text_is_noticed(old, new, saved, tmp_path):
    content, _ = saved
    _, start = header_of(content)
    header = content[:start].replace(old, new)
    assert header != content[:start]
    (tmp_path / "model").write_bytes(header + content[start:])
    assert "not what was saved" in refused(tmp_path / "model")


def crop(name):
    def change(tensors):
        tensors[name] = tensors[name][:1].copy()

    return change


def drop(name):
    return lambda mapping: mapping.pop(name)


def put(key, value):
    def change(mapping):
        mapping[key] = value

    return change


@pytest.mark.parametrize(
    ("change_tensors", "change_text"),
    [
        (drop("net.0.weight"), None),
        (drop("scaler.offset"), None),
        (crop("net.0.bias"), None),
        (crop("net.1.weight"), None),
        (crop("scaler.factor"), None),
        (None, drop("config")),
        (None, drop("targets")),
        (None, put("config", "not = toml =")),
        (None, put("config", "name = 'only'")),
        (None, put("targets", None)),
        (None, put("targets", [])),
        (None, put("targets", {"task": "multiclass", "classes": 3, "outputs": 3})),
        (None, put("targets", {"task": "multiclass", "classes": ["a"], "outputs": "3"})),
        (None, put("scaler", "robust")),
    ],
    ids=[
        "no weight",
        "no offset",
        "one bias for all units",
        "one row of weights for all units",
        "one factor for all columns",
        "no config",
        "no targets",
        "config is no TOML",
        "config is not ours",
        "targets are null",
        "targets are a list",
        "classes are a number",
        "outputs are text",
        "an unknown scaler",
    ],
)
def test_a_made_up_file_with_a_right_checksum_is_refused(change_tensors, change_text, tmp_path):
    made_up(tmp_path / "model", change_tensors, change_text)
    refused(tmp_path / "model")


def test_a_file_made_up_without_a_change_is_read(tmp_path):
    model = made_up(tmp_path / "model")
    np.testing.assert_array_equal(load_model(tmp_path / "model").predict(X), model.predict(X))


def test_a_missing_device_is_not_called_a_damaged_file(saved, tmp_path, monkeypatch):
    def no_cupy():
        raise DeviceError("CuPy is not installed")

    monkeypatch.setattr("gpumlp.backend.cuda.backend.load_cupy", no_cupy)
    (tmp_path / "model").write_bytes(saved[0])
    with pytest.raises(DeviceError):
        load_model(tmp_path / "model", "cuda")


def test_a_model_that_cannot_be_written_is_a_file_error(saved, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="file"):
        trained("binary")[0].save(tmp_path / "file" / "model.safetensors")


# ------------------------------------------------------------------- columns, fills, target scale


def experiment(tmp_path, **sections):
    """A trained experiment on a csv of numbers, words and gaps, whose target is large."""
    rows = [f"{i % 9},{['red', 'blue', ''][i % 3]},{1000 + 50 * (i % 9)}" for i in range(60)]
    rows[7] = f",{rows[7].split(',', 1)[1]}"
    path = tmp_path / "my.csv"
    path.write_text("\n".join(["age,colour,price", *rows]), encoding="utf-8")
    data = {"source": str(path), "target": "price", "missing": "mean", "target_scale": "standard"}
    config = {"data": data | {"val": {"fraction": 0.2}}, "model": {"task": "regression"}}
    made = Experiment.build(parse_config(config | {"precision": "fp64"} | sections))
    trainer = made.trainer()
    trainer.fit(made.data.train.x, made.data.train.y, epochs=30)
    return made, trainer, path


def test_predictions_are_in_the_units_of_the_file(tmp_path):
    made, trainer, path = experiment(tmp_path)
    model = made.saved_model(trainer)
    rows, _ = load_rows(str(path), made.config.data, model.columns)
    y = model.predict(rows)
    price = np.array([1000 + 50 * (i % 9) for i in range(60)])[:, None]
    assert 900 < y.min() < y.max() < 1500
    train = made.data.train.rows
    rmse = np.sqrt(np.mean((y - price)[train] ** 2))
    np.testing.assert_allclose(made.evaluate(trainer)["train"]["rmse"], rmse, rtol=1e-9)
    scaled = trainer.predict(made.data.train.x)
    np.testing.assert_allclose(y[train], made.data.target_scaler.inverse(scaled), rtol=1e-12)


def test_columns_fill_and_target_scale_come_back(tmp_path):
    made, trainer, path = experiment(tmp_path)
    model = made.saved_model(trainer)
    model.save(tmp_path / "model")
    read = load_model(tmp_path / "model")
    assert read.columns == model.columns
    assert read.columns.columns == ("age", "colour=blue", "colour=red")
    assert read.scaler.fill.tobytes() == model.scaler.fill.tobytes()
    for name, array in model.target_scaler.to_arrays().items():
        assert read.target_scaler.to_arrays()[name].tobytes() == array.tobytes()
    rows, _ = load_rows(str(path), read.config.data, read.columns)
    assert np.isnan(rows).any()
    assert read.predict(rows).tobytes() == model.predict(rows).tobytes()
    read.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()


def test_a_target_scale_keeps_the_precision_of_the_model(tmp_path):
    made, trainer, path = experiment(tmp_path, precision="fp32")
    model = made.saved_model(trainer)
    rows, _ = load_rows(str(path), made.config.data, model.columns)
    assert model.predict(rows).dtype == np.float32
