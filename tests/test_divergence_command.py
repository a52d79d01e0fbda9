"""Eight ways to diverge, through the command: exit 4, and step, layer and tensor are named."""

import json
import re

import numpy as np
import pytest
from in_process import call

SAID = re.compile(
    r"training diverged in epoch (?P<epoch>\d+), step (?P<step>\d+): first not finite: "
    r"((?P<tensor>.*?) of layer (?P<layer>\d+) \(Dense\((?P<dense>.*?)\)\)"
    r"|the sample losses, largest \|z\| \d)"
)
DEEP = ["model.hidden=[8, 6]", "model.activation='relu'", "optimizer.name='sgd'"]
LOSS = "features of 1e38, whose loss alone overflows"
UNSCALED = ["data.scale='none'"]
LOW = "precision='fp16'"
CASES = {
    "lr 1e6": ["optimizer.lr=1e6", *DEEP],
    "lr 1e6, momentum, one batch": [
        *("optimizer.lr=1e6", "train.batch_size='full'"),
        *DEEP[:2],
        "optimizer.name='momentum'",
    ],
    "lr 1e6, eager": ["optimizer.lr=1e6", "train.engine='eager'", *DEEP],
    "lr 1e200 in float64, Adam": [
        *("optimizer.lr=1e200", "precision='fp64'", "optimizer.name='adam'"),
        *DEEP[:2],
    ],
    "features of 1e38": ["data.source='large.npz'", *UNSCALED, "model.init_gain=10", *DEEP],
    LOSS: ["data.source='large.npz'", *UNSCALED, "train.engine='eager'", *DEEP],
    "features that float16 has not": ["data.source='half.npz'", *UNSCALED, LOW, *DEEP],
    "weights that float16 has not": ["optimizer.lr=1e4", LOW, *DEEP],
}
CONFIG = """
[data]
source = "small.npz"
[model]
task = "regression"
[train]
epochs = 40
batch_size = 20
[log]
plots = false
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with a configuration and data: small, near 1e38, and near 1e5."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(100, 3))
    label = x @ [1.0, 2.0, 3.0]
    for name, factor in (("small", 1.0), ("large", 1e38), ("half", 1e5)):
        np.savez(tmp_path / f"{name}.npz", x=np.clip(x, -3, 3) * factor, label=label)
    (tmp_path / "run.toml").write_text(CONFIG)
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_step_layer_and_tensor_are_named(here, capsys, case):
    def train(*more):
        options = [part for setting in (*CASES[case], *more) for part in ("--set", setting)]
        options += ["--run-dir", "run", "--overwrite"]
        code, _, err = call(capsys, "train", "--config", "run.toml", *options)
        return code, err, SAID.search(err)

    code, err, found = train()
    assert code == 4, err
    assert found, err
    step = int(found["step"])
    of_epoch = 1 if "train.batch_size='full'" in CASES[case] else 5
    assert int(found["epoch"]) == 1 + (step - 1) // of_epoch
    if step > 1:  # the steps before do not diverge, whatever evaluation makes of what they left
        assert "training diverged" not in train(f"train.max_steps={step - 1}")[1]
    code, _, again = train(f"train.max_steps={step}")
    assert (code, again[0]) == (4, found[0])
    assert (found["layer"] is None) == (case == LOSS)
    if case != LOSS:
        sizes = [(3, 8), (8, 6), (6, 1)][int(found["layer"]) - 1]
        assert found["dense"].startswith(f"{sizes[0]}, {sizes[1]}, ")
        tensors = r"[zaWb]|∂l/∂[xzaWb]|[xzW] as products read it|the optimizer's \w+ of [Wb]"
        assert re.fullmatch(tensors, found["tensor"])
    summary = json.loads((here / "run" / "summary.json").read_text())
    assert summary["status"] == "diverged"


def test_there_are_eight():
    assert len(CASES) == 8
