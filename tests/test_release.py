"""The release's script runs tests that exist, and reads their figures rightly."""

import json
import os
import re
from pathlib import Path

import pytest
import release
from release import ROWS, Row, counts, line, run

TESTS = Path(__file__).parent
FILES = sorted({row.arguments[0] for row in ROWS})
VARIABLES = sorted({(row.arguments[0], name) for row in ROWS for name in row.environment})


@pytest.mark.parametrize("file", FILES)
def test_every_row_names_a_file_that_there_is(file):
    assert (TESTS / file).is_file()


@pytest.mark.parametrize(("file", "name"), VARIABLES)
def test_every_variable_is_read_by_its_tests(file, name):
    assert re.search(rf'"{name}"', (TESTS / file).read_text(encoding="utf-8"))


def test_what_chooses_tests_chooses_some():
    names = (TESTS / "test_train.py").read_text(encoding="utf-8")
    assert all(f"def {start}" in names for start in release.CUDA.split(" or "))


def test_every_number_of_the_list_is_there_once_or_more():
    wanted = (1, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 16, 17, 18, 19, 21, 22, 23)
    assert {f"F{n}" for n in wanted} == {row.number for row in ROWS} - {"code", "soak"}


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("1812 passed in 73.74s (0:01:13)", (1812, 0, 0, 0)),
        ("=== 1 failed, 891 passed, 3 skipped in 10.29s ===", (891, 1, 0, 3)),
        ("2 passed, 1 xfailed, 1 error in 0.1s", (3, 0, 1, 0)),
        ("2 errors in 0.1s", (0, 0, 2, 0)),
        ("9 passed of another kind\n1 failed in 1s\nbye", (0, 1, 0, 0)),
        ("no tests ran in 0.01s", (0, 0, 0, 0)),
        ("", (0, 0, 0, 0)),
    ],
)
def test_the_figures_of_pytest_are_read(output, expected):
    assert tuple(counts(output).values()) == expected


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project of its own, with tests of each kind."""
    (tmp_path / "tests").mkdir()
    contents = {
        "good": "def test_it(): assert os.environ.get('GPUMLP_F1') is None",
        "many": "def test_it(): assert os.environ['GPUMLP_F1'] == '7'",
        "bad": "def test_it(): assert False, 'the reason'",
        "skip": "def test_it(): pytest.skip('not here')",
    }
    for name, content in contents.items():
        text = f"import os, pytest\n{content}\n"
        (tmp_path / "tests" / f"test_{name}.py").write_text(text)
    monkeypatch.setattr(release, "ROOT", tmp_path)
    monkeypatch.setenv("GPUMLP_F1", "3")  # of whoever calls it; a row has its own or none
    return tmp_path


@pytest.mark.parametrize(
    ("name", "quick", "status", "said"),
    [
        ("many", False, "passed", "1 passed GPUMLP_F1=7"),
        ("skip", True, "skipped", "1 skipped"),
        ("gone", True, "missing", "there is no tests/test_gone.py"),
    ],
)
def test_a_row_ends_as_its_tests_do(root, name, quick, status, said):
    row = Row("F1", "it", (f"test_{name}.py",), {"GPUMLP_F1": "7"})
    found = run(row, quick)
    assert found["status"] == status, found["end"]
    assert said in line(found)


def test_the_script_says_what_failed_and_exits_1(root, monkeypatch, capsys):
    rows = (Row("F1", "it", ("test_good.py",), {}), Row("F2", "that", ("test_bad.py",), {}))
    monkeypatch.setattr(release, "ROWS", rows)
    out = root / "out.json"
    monkeypatch.setattr("sys.argv", ["release.py", "--quick", "--out", str(out)])
    assert release.main() == 1
    said = capsys.readouterr().out
    assert "the reason" in said
    assert said.endswith("2 rows, 1 failed or missing, 0 skipped\n")
    assert [row["status"] for row in json.loads(out.read_text())["rows"]] == ["passed", "failed"]
    monkeypatch.setattr("sys.argv", ["release.py", "--only", "F1"])
    monkeypatch.delitem(os.environ, "GPUMLP_F1")
    assert release.main() == 0


@pytest.mark.parametrize(("quick", "code"), [([], 1), (["--quick"], 0)])
def test_a_row_that_is_skipped_is_no_success_of_a_release(root, monkeypatch, capsys, quick, code):
    monkeypatch.setattr(release, "ROWS", (Row("F1", "it", ("test_skip.py",), {}),))
    monkeypatch.setattr("sys.argv", ["release.py", *quick])
    assert release.main() == code
    assert capsys.readouterr().out.endswith("1 rows, 0 failed or missing, 1 skipped\n")
