import doctest
import importlib
import pkgutil
import subprocess
import sys

import numpy as np
import pytest

import gpumlp.data
from gpumlp.data.make_digits import DIGITS, make_digits
from gpumlp.data.sources import load

MODULES = [f"gpumlp.data.{module.name}" for module in pkgutil.iter_modules(gpumlp.data.__path__)]


def test_the_shipped_digits_are_those_of_scikit_learn():
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    table = load("builtin:digits")
    assert table.x.dtype == table.y.dtype == np.uint8
    assert (table.x == digits.data).all()
    assert (table.y == digits.target).all()


def test_the_script_makes_the_shipped_digits_each_time_with_the_same_bytes(tmp_path):
    pytest.importorskip("sklearn")
    for name in ("a.npz", "b.npz"):
        make_digits(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    # Another zlib may compress otherwise, so the shipped file is compared by its arrays.
    with np.load(tmp_path / "a.npz") as made, np.load(DIGITS) as shipped:
        assert made.files == shipped.files
        assert all((made[name] == shipped[name]).all() for name in made.files)
        assert all(made[name].dtype == shipped[name].dtype for name in made.files)


def test_the_shipped_digits_come_with_their_attribution():
    text = DIGITS.with_name("ATTRIBUTION.md").read_text(encoding="utf-8")
    for words in ("Alpaydin", "Kaynak", "1998", "UCI", "CC BY 4.0", "scikit-learn"):
        assert words in text


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
