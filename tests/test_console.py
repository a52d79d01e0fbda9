"""What is printed can be printed wherever it goes, and what is written as JSON is UTF-8."""

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gpumlp
from gpumlp import console
from gpumlp.json_text import to_json

ROOT = Path(gpumlp.__file__).parent
OF_OTHERS = {"verify_resume.py"}  # prints to stderr, which takes any text


@pytest.mark.parametrize("text", ["oé.csv", "θ⁰ 数", "not UTF-8: \udce9"])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_a_result_is_shown_in_any_encoding(text, encoding, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    console.show(text)
    assert len(stream.buffer.getvalue()) > 5


def calls(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and not any(k.arg == "file" for k in node.keywords):
            yield ast.unparse(node.func)


@pytest.mark.parametrize("path", sorted((ROOT / "commands").glob("*.py")), ids=lambda p: p.stem)
def test_a_command_prints_through_the_console_only(path):
    assert not {"print", "sys.stdout.write"} & set(calls(path))


def test_these_tests_find_what_prints(tmp_path):
    (tmp_path / "a.py").write_text("import sys\nprint(1)\nsys.stdout.write('')\n")
    assert {"print", "sys.stdout.write"} <= set(calls(tmp_path / "a.py"))


def test_a_configuration_is_shown_in_ascii(tmp_path):
    path = tmp_path / "é.toml"
    path.write_text('[data]\nsource = "é.csv"\n', encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "gpumlp.cli", "config", "show", str(path)],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert '?.csv"' in done.stdout


def test_json_is_utf_8_whatever_is_in_it():
    value = {"run_dir": "r\udce9", "é": ["\ud800", 1.5, float("inf")]}
    text = to_json(value, indent=2)
    assert json.loads(text.encode()) == value | {"é": ["\ud800", 1.5, None]}
    assert "é" in text
