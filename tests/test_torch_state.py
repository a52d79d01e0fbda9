"""PyTorch's state_dict, both ways: bit-equal, and the same outputs as a module of torch.nn."""

import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gpumlp import cli
from gpumlp.backend import ACTIVATIONS, get_backend
from gpumlp.errors import DataError, FileError
from gpumlp.layers import Dense
from gpumlp.model import Sequential
from gpumlp.torch_state import load_state_dict, save_state_dict, state_dict, torch_modules

X = np.random.default_rng(0).normal(size=(50, 6))


def network(activation="tanh", precision="fp32", seed=0, bias=True, dropout=0.0):
    backend = get_backend("cpu", precision)
    return Sequential(
        Dense(6, 5, activation, backend, bias=bias, dropout=dropout),
        Dense(5, 4, activation, backend),
        Dense(4, 3, backend=backend),
        seed=seed,
    )


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torch_module_loads_the_file_and_computes_the_same(activation, precision, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from safetensors.torch import load_file as load_torch

    ours = network(activation, precision, bias=activation != "relu", dropout=0.25)
    save_state_dict(ours, tmp_path / "m.safetensors")
    modules = [eval(code, {"nn": torch.nn}) for code in torch_modules(ours)]
    theirs = torch.nn.Module()
    theirs.net = torch.nn.Sequential(*modules)
    theirs.to(torch.float64 if precision == "fp64" else torch.float32).eval()
    state = load_torch(tmp_path / "m.safetensors")
    assert list(theirs.state_dict()) == sorted(state, key=lambda n: (n[:5], n[6:] != "weight"))
    theirs.load_state_dict(state, strict=True)
    x = torch.from_numpy(X.astype(ours.backend.dtype))
    with torch.no_grad():
        expected = theirs.net(x).numpy()
    np.testing.assert_allclose(ours.predict(X), expected, rtol=1e-6, atol=1e-6)
    # and back
    other = network(activation, precision, seed=1, bias=activation != "relu")
    from safetensors.torch import save_file as save_torch

    save_torch(theirs.state_dict(), tmp_path / "back.safetensors")
    load_state_dict(other, tmp_path / "back.safetensors")
    np.testing.assert_array_equal(other.flat.values, ours.flat.values)


@pytest.mark.parametrize(
    "rename",
    [
        lambda n: n,
        lambda n: n.removeprefix("net."),
        lambda n: n.replace("net.", "model.body."),
        lambda n: {"0": "1", "2": "7", "4": "10"}[n.split(".")[1]] + "." + n.split(".")[2],
    ],
)
def test_names_with_other_numbers_and_prefixes_are_taken(rename, tmp_path):
    ours, other = network(), network(seed=1)
    save_file({rename(n): a for n, a in state_dict(ours).items()}, tmp_path / "m.safetensors")
    load_state_dict(other, tmp_path / "m.safetensors")
    np.testing.assert_array_equal(other.flat.values, ours.flat.values)


def test_half_precision_is_taken_as_it_is(tmp_path):
    state = {n: a.astype(np.float16) for n, a in state_dict(network()).items()}
    save_file(state, tmp_path / "m.safetensors")
    ours = network(seed=1)
    load_state_dict(ours, tmp_path / "m.safetensors")
    for name, array in state_dict(ours).items():
        np.testing.assert_array_equal(array, state[name].astype(np.float32))


def changed(**changes):
    state = state_dict(network())
    for name, array in changes.items():
        name = name.replace("__", ".")
        if array is None:
            del state[name]
        else:
            state[name] = array
    return state


W = np.ones((5, 6), np.float32)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (changed(net__0__weight=None), "net.0.weight is missing"),
        (changed(net__0__bias=None, net__2__bias=None), "net.0.bias is missing; net.2.bias is"),
        (changed(net__6__weight=W), "net.6.weight belongs to no layer"),
        (changed(net__0__weight=W.T.copy()), r"net.0.weight is \(6, 5\), not \(5, 6\)"),
        (changed(net__0__weight=W.astype(np.float64)), "is float64, the model float32"),
        (changed(net__0__weight=W.astype(np.int32)), "is int32, the model float32"),
        (changed(net__0__weight=W * np.nan), "net.0.weight is not finite"),
        (changed(optimizer=W), "no parameter of a Linear: optimizer"),
        (changed(other__9__weight=W), 'their names begin with "net.", "other."'),
        ({}, "holds no parameter"),
        # no two names are one number, and none has too many digits
        (changed(net__00__weight=W), r"no parameter of a Linear: net\.00\.weight"),
        ({"9" * 5000 + ".weight": W}, r"no parameter of a Linear: 9{197}\.\.\.$"),
        ({f"x{i}": W for i in range(99)}, r"x0, x1, .*, and 79 more$"),
        ({f"{i}.weight": W for i in range(99)}, r"belongs to no layer; .*; and \d+ more$"),
    ],
)
def test_what_does_not_fit_is_refused_whole(state, words, tmp_path):
    save_file(state, tmp_path / "m.safetensors")
    ours = network(seed=1)
    before = ours.flat.values.copy()
    with pytest.raises(DataError, match=words):
        load_state_dict(ours, tmp_path / "m.safetensors")
    np.testing.assert_array_equal(ours.flat.values, before)


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX file system")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "m.safetensors")
    with pytest.raises(FileError, match="not a file"):
        load_state_dict(network(), tmp_path / "m.safetensors")


def test_a_type_that_numpy_lacks_is_refused(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from safetensors.torch import save_file as save_torch

    save_torch({"net.0.weight": torch.ones(5, 6, dtype=torch.bfloat16)}, tmp_path / "m.safetensors")
    with pytest.raises(DataError, match="bfloat16"):
        load_state_dict(network(), tmp_path / "m.safetensors")


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04", b"\xff" * 100])
def test_what_is_no_safetensors_file_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(FileError, match=r"m.safetensors: cannot be read as safetensors"):
        load_state_dict(network(), tmp_path / "m.safetensors")


def test_the_commands_export_and_import_bit_for_bit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = "--set train.epochs=2 --set model.hidden=[6] --set log.plots=false -q"
    assert cli.main(f"train --config digits --run-dir run {settings}".split()) == 0
    capsys.readouterr()
    assert cli.main(["export", "run", "--torch", "t.safetensors"]) == 0
    said = capsys.readouterr().out
    assert "self.net = nn.Sequential(\n    nn.Linear(64, 6),\n    nn.Sigmoid(),\n" in said
    assert cli.main(["import", "run", "--torch", "t.safetensors", "--out", "back.safetensors"]) == 0
    assert "460 parameters of t.safetensors, the rest of run" in capsys.readouterr().out
    run, back = (load_file(name) for name in ("run/model.safetensors", "back.safetensors"))
    assert run.keys() == back.keys()
    for name, array in run.items():
        np.testing.assert_array_equal(array, back[name])
    assert cli.main(["export", "run"]) == 2
    assert "give --onnx FILE, --torch FILE, or both" in capsys.readouterr().err
    assert cli.main(["export", "run", "--torch", "t.safetensors"]) == 2
    assert "is there already; --overwrite replaces it" in capsys.readouterr().err
    assert cli.main(["export", "run", "--torch", "t.safetensors", "--overwrite"]) == 0
    assert cli.main(["export", "run", "--torch", "t.pt"]) == 2
    assert "--torch t.pt: must end in .safetensors" in capsys.readouterr().err
    assert cli.main(["export", "nowhere", "--torch", "u.safetensors"]) == 6
    assert cli.main(["import", "run", "--torch", "none.safetensors", "--out", "n.safetensors"]) == 6
    assert not (tmp_path / "n.safetensors").exists()


@pytest.mark.parametrize("name", ["export", "import"])
def test_help_names_the_options(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    assert {"--torch", "--overwrite"} <= set(capsys.readouterr().out.replace(",", " ").split())
