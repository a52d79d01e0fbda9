"""No file runs code: what could is nowhere in the package, and payloads that try to do nothing."""

import ast
import json
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from in_process import call
from safetensors.numpy import load_file, save_file

import gpumlp
from gpumlp.config_file import load_config
from gpumlp.data.sources import load
from gpumlp.errors import ConfigError, DataError, FileError, GpumlpError
from gpumlp.report_page.run_reading import read_run
from gpumlp.saved_model import load_model
from gpumlp.torch_state import load_state_dict

PACKAGE = Path(gpumlp.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# ------------------------------------------------------------------------- what is not called

NAMES = {"eval", "exec", "compile", "__import__", "breakpoint", "__builtins__", "builtins"}
MODULES_NOT_USED = {
    *("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"),
    *("subprocess", "pty", "runpy", "imp", "code", "codeop", "builtins", "multiprocessing"),
    *("importlib.machinery", "xmlrpc", "dbm"),
}
MEMBERS = {
    *("os.system", "os.popen", "os.startfile", "os.posix_spawn", "pkgutil.resolve_name"),
    *(f"os.{start}{end}" for start in ("exec", "spawn") for end in ("l", "le", "lp", "v", "ve")),
    *("os.execvp", "os.execvpe", "os.spawnvp", "torch.load", "pandas.read_pickle", "np.fromfile"),
    *("importlib.util.spec_from_file_location", "importlib.util.module_from_spec"),
    *("importlib.machinery", "ctypes.PyDLL", "tempfile.mktemp"),
}
# Calls whose argument must be a constant, or that must have this keyword.
CONSTANT = {"import_module", "importlib.import_module"}
KEYWORDS = {
    "np.load": {"allow_pickle": False},
    "numpy.load": {"allow_pickle": False},
    "npy.read_array": {"allow_pickle": False},
    "np.save": {"allow_pickle": False},
    "np.savez": {"allow_pickle": False},
}
ALLOWED = {
    ("backend/base.py", "import_module"): "the module of a Backend that is being unpickled: NumPy "
    "or CuPy, as __reduce__ wrote it; only Python's own copy and pickle get there, no file",
    ("kills.py", "subprocess"): "it starts this program again, by a list of arguments",
}


def dotted(node):
    """The dotted name of an expression, or nothing."""
    if isinstance(node, ast.Name):
        return node.id
    inner = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{inner}.{node.attr}" if inner else ""


def offences(source):
    """What a module does that could run code of a file: (line, name)."""
    for node in ast.walk(ast.parse(source)):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names if within(alias.name, MODULES_NOT_USED)]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            found = [name for name in names if within(name, MODULES_NOT_USED | MEMBERS)]
        elif isinstance(node, ast.Name | ast.Attribute):
            found = [name for name in [dotted(node)] if within(name, NAMES | MEMBERS)]
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
            constant = bool(node.args) and isinstance(node.args[0], ast.Constant)
            if any(given.get(key, key) != value for key, value in KEYWORDS.get(name, {}).items()):
                found.append(name)
            if name in CONSTANT and not constant:
                found.append(name)
            if "shell" in given:
                found.append(f"{name}(shell=...)")
        yield from ((node.lineno, name) for name in found)


def within(name, names):
    """Whether a dotted name, or what it begins with, is one of those."""
    parts = name.split(".")
    return any(".".join(parts[:n]) in names for n in range(1, len(parts) + 1))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_does_nothing_that_runs_code_of_a_file(path):
    name = path.relative_to(PACKAGE).as_posix()
    found = [(line, what) for line, what in offences(path.read_text(encoding="utf-8"))]
    assert [f"{line}: {what}" for line, what in found if (name, what) not in ALLOWED] == []


def test_what_is_allowed_is_there():
    for name, what in ALLOWED:
        if not (PACKAGE / name).exists():
            continue
        found = {what for _, what in offences((PACKAGE / name).read_text(encoding="utf-8"))}
        assert what in found


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "exec(text)",
        "f = compile",
        "import pickle",
        "import os, marshal as m",
        "from pickle import loads",
        "from os import system",
        "import os\nos.system(command)",
        "from importlib.util import module_from_spec",
        "importlib.util.spec_from_file_location(name, path)",
        "import importlib.machinery",
        "__import__(name)",
        "importlib.import_module(name)",
        "import_module(f'gpumlp.{name}')",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "npy.read_array(stream)",
        "import yaml",
        "import subprocess",
        "run(command, shell=True)",
        "torch.load(path)",
    ],
)
def test_these_tests_find_what_runs_code(source):
    assert list(offences(source))


def test_what_runs_no_code_is_no_offence():
    fine = "from importlib.util import find_spec\n"
    fine += "np.load(p, allow_pickle=False)\nimport_module('resource')\nre.compile(x)\nxp.eval_ = 1"
    assert list(offences(fine)) == []


# ------------------------------------------------------------------------- what payloads do


class Payload:
    """Makes a folder in the current one when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


PICKLED = pickle.dumps(Payload())
PYTHON = "__import__('os').mkdir('ran')"
OBJECTS = np.array([Payload()] * 4, object)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder in which nothing has run when the test is over."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "ran").exists()


def test_the_payload_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(PICKLED)
    assert (tmp_path / "ran").exists()


def npy_header(text):
    header = text.encode() + b" " * (117 - len(text) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)


def write_data(path):
    """Write a file of data with a payload where its kind has a place for one."""
    if path.name == "objects.npz":
        np.savez(path, x=np.ones((4, 2)), label=OBJECTS)
    elif path.name == "header.npz":
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("x.npy", "label.npy", f"{PYTHON}.npy", "../../ran/x.npy"):
                archive.writestr(name, npy_header(PYTHON))
    elif path.name == "objects.npy":
        np.save(path, OBJECTS, allow_pickle=True)
    elif path.name == "records.npy":
        np.save(path, np.array([(1, Payload())], [("a", "f4"), ("label", object)]))
    elif path.name == "header.npy":
        path.write_bytes(npy_header(f"{{'descr': '<f4', 'shape': {PYTHON}}}"))
    elif path.name.startswith("pickled."):
        path.write_bytes(PICKLED)
    else:
        path.write_text(f"a,label\n{PYTHON},=cmd|calc\n{{{{7*7}}}},@{PYTHON}\n")


DATA = ["objects.npz", "header.npz", "objects.npy", "records.npy", "header.npy", "text.csv"]
DATA += [f"pickled.{ending}" for ending in ("npz", "npy", "idx", "csv", "csv.gz", "parquet")]


@pytest.mark.parametrize("name", DATA)
def test_no_data_file_runs_code(here, name):
    write_data(here / name)
    target = ["data.target='y.npy'"] if name.endswith(("idx", "objects.npy", "header.npy")) else []
    np.save(here / "y.npy", np.arange(4) % 2)
    config = load_config("digits", [f"data.source='{name}'", *target])
    if name == "text.csv":
        assert load(config.data)[0].features.categories["a"]  # text, and nothing but text
    else:
        with pytest.raises((DataError, ConfigError)):  # ConfigError: without pyarrow
            load(config.data)


@pytest.fixture
def model(tmp_path, capsys):
    """A folder of a run, and its model's file."""
    settings = ("--set", "train.epochs=1", "--set", "log.plots=false", "--set", "model.hidden=[2]")
    code, _, err = call(
        capsys, "train", "--config", "xor", *settings, "--run-dir", str(tmp_path / "run"), "-q"
    )
    assert code == 0, err
    return tmp_path / "run" / "model.safetensors"


def test_a_pickle_that_is_called_a_model_is_not_read(here, model):
    for content in (PICKLED, struct.pack("<Q", len(PICKLED)) + PICKLED, b"PK\x03\x04" + PICKLED):
        model.write_bytes(content)
        with pytest.raises(FileError):
            load_model(model)
        assert read_run(model.parent).model is None


def test_a_pickle_that_is_called_a_state_dict_is_not_read(here, model):
    network = load_model(model).network
    (here / "state.safetensors").write_bytes(PICKLED)
    with pytest.raises(FileError):
        load_state_dict(network, here / "state.safetensors")


ODD = [PYTHON, "os.system", "gpumlp.cli:main", "../../x", {"py/object": "os.system"}, "!!python/x"]


@pytest.mark.parametrize("odd", ODD, ids=str)
@pytest.mark.parametrize(
    "key", ["scaler", "target_scaler", "targets", "features", "config", "class_weight", "format"]
)
def test_names_in_a_model_file_are_never_looked_up_as_code(here, model, key, odd):
    import safetensors

    with safetensors.safe_open(model, framework="numpy") as file:
        about = json.loads(file.metadata()["gpumlp"])
    save_file(load_file(model), model, {"gpumlp": json.dumps(about | {key: odd})})
    before = set(sys.modules)
    with pytest.raises(FileError):
        load_model(model)
    assert not {name for name in set(sys.modules) - before if "cli" in name}


@pytest.mark.parametrize(
    "setting",
    [
        "model.activation='os.system'",
        f'model.activation="{PYTHON}"',
        "model.activation='numpy.tanh'",
        "optimizer.name='gpumlp.optimizers.SGD'",
        "loss.name='!!python/object/apply:os.mkdir [ran]'",
        "device='${oc.env:HOME}'",
        f'data.source="{PYTHON}"',
        f"seed={PYTHON}",
        "train.metrics=['os.mkdir']",
    ],
)
def test_no_name_in_a_configuration_is_looked_up_as_code(here, setting):
    with pytest.raises(ConfigError):
        load_config("digits", [setting])


def test_no_file_of_a_run_runs_code(here, model, capsys):
    run = model.parent
    for name in ("summary.json", "env.json", "metrics.jsonl", "metrics.csv", "run.log"):
        (run / name).write_bytes(PICKLED)
        read_run(run)
        (run / name).write_text(json.dumps({"py/object": "os.mkdir", "status": PYTHON}))
        try:
            read_run(run)
        except GpumlpError:
            pytest.fail(f"{name} is said to make the run unreadable")
    code, _, err = call(capsys, "report", str(run))
    assert code in (0, 6), err
