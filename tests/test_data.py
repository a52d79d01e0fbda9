import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import gpumlp.data

MODULES = [f"gpumlp.data.{module.name}" for module in pkgutil.iter_modules(gpumlp.data.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_right(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_importing_the_package_imports_no_heavy_library():
    program = (
        f"import sys; [__import__(name) for name in {MODULES}];"
        "print({'sklearn', 'pydantic', 'cupy', 'scipy', 'pandas', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
