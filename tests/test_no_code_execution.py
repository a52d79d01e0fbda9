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

ENDS = ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")
BUILTINS = {"eval", "exec", "compile", "__import__", "breakpoint", "__builtins__"}
NOT_USED = BUILTINS | {  # by full names, and all that they contain
    *("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"),
    *("builtins", "importlib.machinery", "importlib.__import__", "importlib.util.module_from_spec"),
    *("subprocess", "pty", "runpy", "imp", "code", "codeop", "multiprocessing", "xmlrpc", "dbm"),
    *("os.system", "os.popen", "os.startfile", "os.posix_spawn", "os.posix_spawnp"),
    *(f"os.{how}{end}" for how in ("exec", "spawn") for end in ENDS),
    *("asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell", "asyncio.subprocess"),
    *("concurrent.futures.ProcessPoolExecutor", "concurrent.futures.process"),
    *("importlib.util.spec_from_file_location", "pkgutil.resolve_name", "tempfile.mktemp"),
    *("ctypes.CDLL", "ctypes.PyDLL", "ctypes.cdll", "ctypes.pydll", "numpy.ctypeslib"),
    *("numpy.fromfile", "pandas.read_pickle", "pandas.eval"),
    *("torch.load", "torch.jit", "torch.hub", "torch.package", "torch.utils.cpp_extension"),
}
# Called only, with these keywords, or with a constant for an argument.
KEYWORDS = {
    "numpy.load": {"allow_pickle": False},
    "numpy.lib.format.read_array": {"allow_pickle": False},
    "numpy.lib.format.write_array": {"allow_pickle": False},
    "numpy.save": {"allow_pickle": False},
    "numpy.savez": {"allow_pickle": False},
}
CONSTANT = {"importlib.import_module"}
OWN_LIBRARY = "a library of the installation, by its place there or its name; no file says which"
ALLOWED = {
    ("backend/base.py", "importlib.import_module"): "the module of a Backend that is being "
    "unpickled: NumPy or CuPy, as __reduce__ wrote it; only Python's own copy and pickle get "
    "there, no file",
    ("backend/blas.py", "ctypes.CDLL"): OWN_LIBRARY,
    ("backend/cuda/cublaslt.py", "ctypes.CDLL"): OWN_LIBRARY,
    ("backend/native.py", "ctypes.CDLL"): OWN_LIBRARY,
    ("commands/doctor.py", "ctypes.CDLL"): OWN_LIBRARY,
    ("kills.py", "subprocess"): "it starts this program again, by a list of arguments",
}


def imported(tree):
    """What a module's imported names stand for, as {"np": "numpy", "load": "numpy.load"}."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.split(".")[0]
                found[alias.asname or root] = alias.name if alias.asname else root
        elif isinstance(node, ast.ImportFrom):
            of = "." * node.level + (node.module or "")
            found |= {alias.asname or alias.name: f"{of}.{alias.name}" for alias in node.names}
    return found


def full_name(node, names):
    """The full dotted name of an expression, or nothing."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id if node.id in BUILTINS | {"getattr"} else "")
    inner = last = ""
    if isinstance(node, ast.Attribute):
        inner, last = full_name(node.value, names), node.attr
    elif isinstance(node, ast.Call) and full_name(node.func, names) == "getattr":
        inner, last = full_name(node.args[0], names), getattr(node.args[1], "value", "")
    return f"{inner}.{last}" if inner and last else ""


def offences(source):
    """What a module does that could run code of a file: (line, what)."""
    tree = ast.parse(source)
    names = imported(tree)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        found = []
        if isinstance(node, ast.Import):
            found = [within(alias.name, NOT_USED) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found = [within(f"{node.module}.{alias.name}", NOT_USED) for alias in node.names]
        elif isinstance(node, ast.Name | ast.Attribute | ast.Call):
            name = full_name(node, names)
            found = [within(name, NOT_USED)]
            if id(node) not in called:
                found.append(within(name, {*KEYWORDS, *CONSTANT}))
        if isinstance(node, ast.Call):
            found += wrong_call(node, names)
        yield from ((node.lineno, what) for what in found if what)


def wrong_call(node, names):
    """What is wrong with the arguments of a call."""
    name = full_name(node.func, names)
    given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
    if any(given.get(key, key) != value for key, value in KEYWORDS.get(name, {}).items()):
        yield name
    if name in CONSTANT and not isinstance((*node.args, None)[0], ast.Constant):
        yield name
    if name == "getattr" and not isinstance(node.args[1], ast.Constant):
        module = full_name(node.args[0], names)
        yield module.split(".")[0] in names.values() and f"getattr({module})"
    if "shell" in given:
        yield f"{name}(shell=...)"


def within(name, names):
    """Return the one of those that a dotted name is, or begins with, or nothing."""
    parts = name.split(".")
    beginnings = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
    return next((beginning for beginning in beginnings if beginning in names), "")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_does_nothing_that_runs_code_of_a_file(path):
    name = path.relative_to(PACKAGE).as_posix()
    found = [(line, what) for line, what in offences(path.read_text(encoding="utf-8"))]
    assert [f"{line}: {what}" for line, what in found if (name, what) not in ALLOWED] == []


@pytest.mark.parametrize(("name", "what"), ALLOWED)
def test_what_is_allowed_is_there(name, what):
    assert what in {found for _, found in offences((PACKAGE / name).read_text(encoding="utf-8"))}


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
        "import os as o\no.system(command)",
        "import os\nos.posix_spawnp(path, [], {})",
        "import os\ngetattr(os, 'system')(command)",
        "import os\ngetattr(os, name)(command)",
        "from importlib.util import module_from_spec",
        "import importlib.util\nimportlib.util.spec_from_file_location(name, path)",
        "import importlib.machinery",
        "__import__(name)",
        "import importlib\nimportlib.import_module(name)",
        "from importlib import import_module as im\nim(name)",
        "from importlib import import_module\nimport_module(f'gpumlp.{name}')",
        "import importlib\ngetattr(importlib, 'import_module')(name)",
        "import importlib\nf = importlib.import_module",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, allow_pickle=flag)",
        "import numpy as np\nmap(np.load, paths)",
        "from numpy import load\nload(path, allow_pickle=True)",
        "import numpy.lib\nnumpy.lib.format.read_array(stream, allow_pickle=True)",
        "from numpy.lib import format as npy\nnpy.read_array(stream)",
        "import yaml",
        "import subprocess",
        "run(command, shell=True)",
        "import torch\ntorch.load(path)",
        "import torch as t\nt.jit.load(path)",
        "import pandas as pd\npd.read_pickle(path)",
        "import ctypes\nctypes.CDLL(path)",
        "from ctypes import cdll\ncdll.LoadLibrary(path)",
        "import asyncio\nasyncio.create_subprocess_exec(command)",
        "from concurrent.futures import ProcessPoolExecutor",
        "import concurrent.futures as f\nf.ProcessPoolExecutor()",
    ],
)
def test_these_tests_find_what_runs_code(source):
    assert list(offences(source))


def test_what_runs_no_code_is_no_offence():
    fine = """
import re, os, numpy as np
from importlib import import_module
from importlib.util import find_spec
from concurrent.futures import ThreadPoolExecutor
from .npy import load, read_array
np.load(path, allow_pickle=False)
load(path)
import_module('resource')
re.compile(x)
xp.eval_ = getattr(os, "sched_getaffinity", None)
getattr(self, name)
"""
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
