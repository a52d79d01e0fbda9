"""The package as a whole: imports point one way and are cheap, and everything is documented."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import gpumlp
from gpumlp.backend import OPERATIONS, Backend, RecordingBackend

ROOT = Path(gpumlp.__file__).parent
OPTIONAL = ("cupy", "scipy", "sklearn")  # what a module may need that a plain installation lacks
SCRIPTS = {"gpumlp.data.make_builtin", "gpumlp.__main__"}

# Each module may import those above it. What is not listed here comes later than all of them.
LAYERS = [
    "gpumlp.errors",
    "gpumlp.files",
    "gpumlp.backend.activations",
    "gpumlp.backend.pointwise",
    "gpumlp.backend.system_memory",
    "gpumlp.backend.precision",
    "gpumlp.backend.operations",
    "gpumlp.backend.updates",
    "gpumlp.backend.base",
    "gpumlp.backend.recording",
    "gpumlp.backend.kernel_sources",
    "gpumlp.backend.geometry",
    "gpumlp.backend.kernel_backend",
    "gpumlp.backend.fused_updates",
    "gpumlp.backend.fused",
    "gpumlp.backend.blas",
    "gpumlp.backend.native",
    "gpumlp.backend.cpu",
    "gpumlp.backend.cuda.launch",
    "gpumlp.backend.cuda.schedule",
    "gpumlp.backend.cuda.capture",
    "gpumlp.backend.cuda.cublaslt",
    "gpumlp.backend.cuda.tuning",
    "gpumlp.backend.cuda.products",
    "gpumlp.backend.cuda.epilogues",
    "gpumlp.backend.cuda.copies",
    "gpumlp.backend.cuda.backend",
    "gpumlp.backend.cuda",
    "gpumlp.backend",
    "gpumlp.randomness",
    "gpumlp.initializers",
    "gpumlp.parameters",
    "gpumlp.layers",
    "gpumlp.sparse",
    "gpumlp.model",
    "gpumlp.losses",
    "gpumlp.ranges",
    "gpumlp.loss_scale",
    "gpumlp.optimizers",
    "gpumlp.schedules",
    "gpumlp.samples",
    "gpumlp.metrics",
    "gpumlp.engine.early",
    "gpumlp.engine.step",
    "gpumlp.engine.eager",
    "gpumlp.engine.graph",
    "gpumlp.engine.watch",
    "gpumlp.engine",
    "gpumlp.engine.divergence",
    "gpumlp.engine.footprint",
    "gpumlp.wording",
    "gpumlp.out_of_memory",
    "gpumlp.events",
    "gpumlp.training_state",
    "gpumlp.trainer",
    "gpumlp.callbacks",
    "gpumlp",
]


def find_modules():
    """Name → file of every module of the package."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = find_modules()
every_module = pytest.mark.parametrize("module", MODULES)


def top_level(body):
    """The statements that run when a module is imported, without those for type checkers."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from top_level(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            for field in ("body", "orelse", "finalbody"):
                yield from top_level(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from top_level(handler.body)


def imported(source, module, is_package):
    """The names of the modules that a module imports when it is imported itself."""
    for node in top_level(ast.parse(source).body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package else -1]
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield submodule if submodule in MODULES else base


@cache
def imports(module):
    path = MODULES[module]
    return set(imported(path.read_text(encoding="utf-8"), module, path.stem == "__init__"))


def own(names):
    return {name for name in names if name.partition(".")[0] == "gpumlp"}


# ------------------------------------------------------------------------ imports


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from ..errors import DeviceError", {"gpumlp.errors"}),
        ("from . import base, Backend", {"gpumlp.backend.base", "gpumlp.backend"}),
        ("from gpumlp import randomness", {"gpumlp.randomness"}),
        ("import gpumlp.data.table as t", {"gpumlp.data.table"}),
        ("try:\n  import cupy\nexcept ImportError:\n  import numpy", {"cupy", "numpy"}),
        ("class A:\n  from .base import B", {"gpumlp.backend.base"}),
        ("def f():\n  import cupy", set()),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import cupy", {"typing"}),
    ],
)
def test_these_tests_find_what_a_module_imports(source, expected):
    assert set(imported(source, "gpumlp.backend.recording", is_package=False)) == expected


def test_the_modules_and_their_imports_are_found():
    assert set(LAYERS) <= set(MODULES)
    assert own(imports("gpumlp.layers")) == {
        "gpumlp.backend",
        "gpumlp.initializers",
        "gpumlp.parameters",
    }


@pytest.mark.parametrize("module", LAYERS)
def test_imports_point_one_way(module):
    earlier = set(LAYERS[: LAYERS.index(module)])
    assert own(imports(module)) <= earlier, f"{module} imports what comes after it"


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: own(imports(module)) - {module} for module in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(MODULES)


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("gpumlp.backend")])
def test_the_backend_knows_nothing_of_the_package_but_its_errors_and_files(module):
    others = {name for name in own(imports(module)) if not name.startswith("gpumlp.backend")}
    assert others <= {"gpumlp.errors", "gpumlp.files"}


@every_module
def test_cupy_is_imported_by_the_cuda_backend_only(module):
    """Anywhere in a file, functions included."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    names += [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    found = any(name.partition(".")[0] == "cupy" for name in names)
    assert found == (module == "gpumlp.backend.cuda.backend")


def loaded_by(statement):
    code = f"{statement}; import sys; print(*sys.modules)"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_gpumlp_loads_nothing_heavy():
    loaded = loaded_by("import gpumlp")
    assert {"gpumlp.trainer", "numpy"} <= loaded
    heavy = {"cupy", "pydantic", "pydantic_core", "sklearn", "scipy", "torch", "safetensors"}
    assert not loaded & (heavy | {"tqdm", "threadpoolctl", "matplotlib", "numpy.random"})
    assert not loaded & {"gpumlp.train", "gpumlp.cli", "gpumlp.config", "gpumlp.backend.cuda"}


def test_all_lists_what_the_package_defines():
    public = {
        name
        for name, thing in vars(gpumlp).items()
        if not name.startswith("_") and not inspect.ismodule(thing)
    }
    assert public | {"__version__"} == set(gpumlp.__all__)


# ------------------------------------------------------------------------ operations


def test_there_are_at_most_25_operations():
    assert 15 < len(OPERATIONS) <= 25
    assert len(set(OPERATIONS)) == len(OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_recording_backend_records_every_operation(name):
    assert getattr(RecordingBackend, name) is not getattr(Backend, name)
    assert getattr(RecordingBackend, name).__doc__ == getattr(Backend, name).__doc__


def subclasses(kind):
    return {kind}.union(*map(subclasses, kind.__subclasses__()))


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_overridden_operation_takes_the_same_arguments(name):
    from gpumlp.backend import cuda  # its class is defined where CuPy is missing, too

    assert cuda.CudaBackend in subclasses(Backend)
    expected = inspect.signature(getattr(Backend, name))
    for kind in subclasses(Backend) - {RecordingBackend}:
        if not kind.__module__.startswith("gpumlp."):
            continue  # of another test
        assert inspect.signature(getattr(kind, name)) == expected


# ------------------------------------------------------------------------ documentation


def documented(path):
    """(name, docstring) of a file's module and of its public classes, functions and methods."""

    def walk(body, prefix):
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_":
                yield prefix + node.name, ast.get_docstring(node)
                # what a protocol asks for is described by the protocol
                if isinstance(node, ast.ClassDef) and "Protocol" not in map(
                    ast.unparse, node.bases
                ):
                    yield from walk(node.body, f"{prefix}{node.name}.")

    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield "", ast.get_docstring(tree)
    yield from walk(tree.body, "")


@every_module
def test_everything_public_is_documented_by_a_sentence(module):
    for name, text in documented(MODULES[module]):
        where = f"{module}.{name}"
        assert text, f"{where} has no docstring"
        first = text.splitlines()[0]
        assert first.endswith((".", ":", "?", "!")), f"{where}: {first!r} is no sentence"


def find_doctests():
    names = [m.name for m in pkgutil.walk_packages([str(ROOT)], "gpumlp.")]
    return ["gpumlp", *(name for name in names if name not in SCRIPTS)]


def test_every_module_is_searched_for_examples():
    assert set(find_doctests()) == set(MODULES) - SCRIPTS


@pytest.mark.parametrize("module", find_doctests())
def test_the_examples_of_the_docstrings_work(module):
    try:
        imported_module = importlib.import_module(module)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in OPTIONAL:
            raise
        pytest.skip(f"{module} needs {error.name}")
    failed, tried = doctest.testmod(imported_module)
    written = (imported_module.__doc__ or "") + Path(imported_module.__file__).read_text("utf-8")
    assert failed == 0
    assert tried or ">>>" not in written
