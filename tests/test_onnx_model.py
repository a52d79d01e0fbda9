"""ONNX: every activation and task, scaling included, against onnxruntime."""

import json

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed (extra onnx)")
pytest.importorskip("onnxruntime", reason="onnxruntime is missing (extra onnx)")

import onnx
import onnxruntime

from gpumlp import cli, onnx_model
from gpumlp.backend import ACTIVATIONS, get_backend
from gpumlp.build import build_loss, build_network
from gpumlp.commands.export import exact_model
from gpumlp.config_file import parse_config
from gpumlp.data.features import Features
from gpumlp.data.scaling import Scaler
from gpumlp.data.targets import Targets
from gpumlp.errors import CheckFailed, ConfigError
from gpumlp.onnx_model import checked_onnx_model, largest_difference
from gpumlp.saved_model import SavedModel

rng = np.random.default_rng(0)
D = 5
# columns of very different size and place: a year, a price of a million, a tiny one
ROWS = np.stack(
    [
        rng.normal(size=300),
        2000 + rng.uniform(-1, 1, 300),
        1e6 + rng.normal(size=300),
        1e-6 * rng.normal(size=300),
        rng.integers(0, 2, 300),
    ],
    axis=1,
)
TASKS = {
    "multiclass": ("multiclass", "auto", ("a", "b", "ü")),
    "binary": ("binary", "auto", ("no", "yes")),
    "multilabel": ("multilabel", "auto", ("0", "1", "2")),
    "mse": ("regression", "mse", ()),
    "poisson": ("regression", "poisson", ()),
}


def saved(task, scale="standard", missing=False, target_scale=False, precision="fp32", **model):
    name, loss, classes = TASKS[task]
    outputs = {"multiclass": 3, "binary": 1, "multilabel": 3}.get(name, 2)
    data = {"source": "arrays", "scale": scale}
    settings = {"task": name, "hidden": [7, 6], **model}
    if "layers" in settings:
        del settings["hidden"]
    config = parse_config(
        {"data": data, "model": settings, "loss": {"name": loss}, "precision": precision}
    )
    backend = get_backend("cpu", precision)
    network = build_network(config, D, outputs, backend)
    for parameter in network.parameters:
        values = rng.normal(size=parameter.shape) * (0.7 if parameter.is_weight else 0.3)
        parameter.value[...] = values
    rows = ROWS.copy()
    if missing:
        rows[rng.random(rows.shape) < 0.1] = np.nan
    elif scale == "none":
        rows = rows / abs(rows).max(axis=0)
    scaler = Scaler.fit(scale, rows, missing=missing)
    target_scaler = Scaler("standard", np.array([1e3, -5]), np.array([1e-2, 4]))
    return SavedModel(
        config,
        network,
        build_loss(config, backend),
        scaler,
        Targets(name, classes, outputs),
        Features(tuple("vwxyz")),
        target_scaler if target_scale else None,
    ), rows


def run(model, rows):
    content = onnx_model.onnx_model(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"x": rows}), strict=True)), session


def assert_close(found, expected):
    assert found.dtype == expected.dtype
    assert (abs(found - expected) <= 1e-5 * np.maximum(1, abs(expected))).all()


NETS = [
    *((task, {"activation": name}) for name in ACTIVATIONS for task in TASKS),
    *(
        (task, {"precision": "fp64", "activation": name})
        for name, task in zip(ACTIVATIONS, 2 * [*TASKS], strict=False)
    ),
    *((task, {"scale": "minmax"}) for task in TASKS),
    *((task, {"scale": "none"}) for task in TASKS),
    *((task, {"missing": True}) for task in TASKS),
    ("multiclass", {"missing": True, "precision": "fp64"}),
    ("mse", {"target_scale": True}),
    ("mse", {"target_scale": True, "precision": "fp64"}),
    ("binary", {"hidden": []}),
    ("mse", {"hidden": [], "target_scale": True}),
    ("multiclass", {"dropout": 0.5}),
    (
        "multiclass",
        {"layers": [{"units": 4, "activation": "gelu"}, {"units": 3, "bias": False}]},
    ),
]


@pytest.mark.parametrize(("task", "how"), NETS)
def test_onnxruntime_predicts_what_the_model_does(task, how):
    model, rows = saved(task, **how)
    found, _ = run(model, rows)
    expected = model.predict(rows)
    if task == "multiclass":
        assert_close(found["probabilities"], expected)
        assert found["label"].tolist() == expected.argmax(axis=1).tolist()
    elif task == "binary":
        assert_close(found["probabilities"], np.concatenate([1 - expected, expected], axis=1))
        classes = [model.targets.classes[k] for k in found["label"]]
        assert classes == model.classify(rows)
    elif task == "multilabel":
        assert_close(found["probabilities"], expected)
        assert found["labels"].tolist() == (expected > 0.5).astype(int).tolist()
    else:
        assert_close(found["prediction"], expected)
    assert largest_difference(model, onnx_model.onnx_model(model)) <= 1e-5


def test_names_and_shapes_are_in_the_file():
    model, _ = saved("multiclass")
    _, session = run(model, ROWS)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["columns"]) == list("vwxyz")
    assert json.loads(about["classes"]) == ["a", "b", "ü"]
    assert json.loads(about["task"]) == "multiclass"
    (x,) = session.get_inputs()
    assert (x.name, x.shape, x.type) == ("x", ["N", 5], "tensor(double)")
    assert [o.shape for o in session.get_outputs()] == [["N", 3], ["N"]]
    assert session.get_modelmeta().producer_name == "gpumlp"


def test_far_values_stay_finite():
    for task in ("multiclass", "binary", "multilabel"):
        for name in ("softplus", "elu", "silu", "gelu", "sigmoid"):
            model, _ = saved(task, activation=name)
            found, _ = run(model, 50 * (ROWS - ROWS.mean(axis=0)) + ROWS.mean(axis=0))
            assert np.isfinite(found["probabilities"]).all()


def test_the_same_model_gives_the_same_bytes():
    model, _ = saved("binary")
    assert checked_onnx_model(model) == checked_onnx_model(model)


def test_a_graph_that_differs_is_not_written(monkeypatch, tmp_path, capsys):
    model, _ = saved("multiclass", activation="tanh")
    model.save(tmp_path / "m.safetensors")
    monkeypatch.setitem(onnx_model.ACTIVATIONS, "tanh", lambda graph, z: graph.node("Sigmoid", z))
    with pytest.raises(CheckFailed, match="onnxruntime differs from the model by"):
        checked_onnx_model(model)
    out = tmp_path / "m.onnx"
    assert cli.main(["export", str(tmp_path / "m.safetensors"), "--onnx", str(out)]) == 7
    assert "differs from the model" in capsys.readouterr().err
    assert not out.exists()


def test_without_onnxruntime_it_says_that_nothing_was_checked(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    content, said = checked_onnx_model(saved("binary")[0])
    assert onnx.load_from_string(content).producer_name == "gpumlp"
    assert said.startswith("not checked: onnxruntime is missing")


def test_without_onnx_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ConfigError, match=r'pip install "gpumlp\[onnx\]"'):
        onnx_model.onnx_model(saved("binary")[0])


def test_a_model_too_large_for_the_format_is_refused(monkeypatch):
    monkeypatch.setattr(onnx_model, "LARGEST", 100)
    with pytest.raises(ConfigError, match="more than the 2 GB"):
        onnx_model.onnx_model(saved("binary")[0])


def test_a_low_precision_is_exported_in_the_type_of_its_parameters(tmp_path):
    model, rows = saved("multiclass", precision="bf16", activation="tanh")
    model.save(tmp_path / "m.safetensors")
    exact = exact_model(tmp_path / "m.safetensors")
    found, _ = run(exact, rows)
    assert_close(found["probabilities"], exact.predict(rows))
    assert abs(exact.predict(rows) - model.predict(rows)).max() > 1e-5
