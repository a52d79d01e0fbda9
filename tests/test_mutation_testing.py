"""The script that mutates the mathematics finds mutants, applies them, and tells what survives."""

import ast
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mutation_testing
import pytest
from equivalent_mutants import EQUIVALENT, RULES
from mutants import mutants_of, names_of

ROOT = Path(mutation_testing.__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "gpumlp").is_dir() or not hasattr(os, "fork"),
    reason="mutants are made of a checkout, in forks",
)


def changed(file, text):
    return [(mutant.right, mutant.wrong) for mutant in mutants_of(file, text)]


def test_python_mutants_are_those_of_the_mathematics():
    assert changed("a.py", "def f(x, n):\n    return x * 3 / n\n") == [
        ("x * 3 / n", "(n / (x * 3))"),
        ("x * 3 / n", "(x * 3 * n)"),
        ("x * 3 / n", "(x * 3)"),
        ("x * 3", "(x / 3)"),
        ("x * 3", "3"),
        ("x * 3 / n", "n"),
        ("x * 3", "x"),
        ("3", "2"),
        ("3", "4"),
    ]


def test_bare_conditions_are_negated_and_products_of_matrices_lose_parts():
    text = "def f(x, a, b):\n    return a @ b if x.any() else [y for y in b if y]\n"
    assert {wrong for _, wrong in changed("a.py", text)} == {
        *("(a @ b)", "([y for y in b if y])", "(a.T @ b)", "(b @ a)", "a", "b"),
        *("(x.all())", "(not x.any())", "(not y)"),
    }


@pytest.mark.parametrize(
    "text",
    [
        "x = f(axis=None)\n",
        '"""1 + 1."""\n',
        "def f(x: int = None) -> int | None: ...\n",
        "raise ValueError(f'{1 + 1} ' + str(2))\n",
        "assert 1 + 1\n",
        "class A:\n    def __repr__(self):\n        return 'a' * 2\n",
        "Number = int | float\n",
        "Weights = ArrayLike | None\n",
        "y = f(x, x)\n",
        "y = zip(x, z, strict=True)\n",
        "import a\n",
    ],
)
def test_what_changes_no_result_has_no_mutants(text):
    assert changed("a.py", text) == []


def test_c_mutants_are_in_no_comment():
    text = "// 1 + 2\n#define A 1 + 2\nSCALAR float f(float a) { return a + b; }  /* 3 * 4 */\n"
    line = text.splitlines()[2]
    assert changed("a.h", text) == [
        (line, line.replace("a + b", wrong)) for wrong in ("a - b", "a", "b")
    ]


def test_a_number_with_an_exponent_is_one_operand():
    text = "SCALAR float f(float z) {\n  return z - 2.5e-4f;\n}\n"
    wrong = {wrong for _, wrong in changed("a.h", text)}
    assert {"return 2.5e-4f - z;", "return z;", "return 2.5e-4f;"} <= wrong
    assert not any(line.endswith(("e;", "z-4f;")) for line in wrong)


def test_c_mutants_exchange_operands_and_functions():
    text = "SCALAR float value(float z) {\n  return exp_(z[0]) - z[1] * value(z);\n}\n"
    wrong = {wrong for _, wrong in changed("a.h", text)}
    for part in (
        *("z[1] - exp_(z[0]) * value(z)", "exp_(z[0]) * value(z)", "z[1] * value(z)"),
        *("exp_(z[0]) - z[1]", "exp_(z[0]) - value(z)", "expm1_(z[0]) - z[1] * value(z)"),
        "exp_(z[0]) - z[1] * slope(z)",
    ):
        assert f"return {part};" in wrong
    assert not any("slope(float" in line for line in wrong)


@pytest.mark.parametrize("file", mutation_testing.TESTS)
def test_every_file_of_the_table_has_mutants_that_can_be_applied(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    mutants = mutants_of(file, text)
    assert len(mutants) >= 10
    results = {mutant.apply(text) for mutant in mutants}
    assert len(results) > 0.95 * len(mutants)  # some are the same in two ways
    assert text not in results
    if file.endswith(".py"):
        for mutant in mutants[:: max(1, len(mutants) // 10)]:
            ast.parse(mutant.apply(text))
    for test in mutation_testing.TESTS[file].split():
        assert (ROOT / "tests" / f"test_{test}.py").is_file()


def test_each_listed_mutant_is_one_of_todays_text_and_has_a_reason():
    assert all((EQUIVALENT | RULES).values())
    names = [
        mutation_testing.names(file)[m]
        for file in mutation_testing.TESTS
        for m in mutation_testing.names(file)
    ]
    assert len(set(names)) == len(names)
    assert set(EQUIVALENT) <= set(names)
    assert set(RULES) <= {name[:2] for name in names}


def test_equal_changes_of_equal_lines_are_told_apart():
    text = "def f(x):\n    x = x[1] + x[1]\n    x = x[1] + x[1]\n"
    mutants = mutants_of("a.py", text)
    names = names_of(mutants, text)
    assert {names[m][3]: m.start for m in mutants if (m.right, m.wrong) == ("1", "2")} == {
        f"1 -> 2{number}": start
        for number, start in zip(["", " (2)", " (3)", " (4)"], [20, 27, 40, 47], strict=True)
    }


@pytest.mark.parametrize("limit", [None, 5.0])
def test_tests_that_fail_as_they_are_count_nothing_as_caught(tmp_path, monkeypatch, limit):
    """Whatever the mutants, and whether or not the time of the tests matters."""
    monkeypatch.setattr(mutation_testing, "import_unchanged", lambda tests: None)
    (tmp_path / "log").write_text("E  assert 1 == 2")
    broken = SimpleNamespace(run=lambda *_: "caught", log=tmp_path / "log", mutate=None)
    mutant = next(iter(mutation_testing.names("gpumlp/data/weights.py")))
    with pytest.raises(SystemExit, match=r"test_data_weights.py fails as it is:\nE  assert 1 == 2"):
        mutation_testing.run_all(broken, [mutant], SimpleNamespace(limit=limit, minutes=math.inf))


QUICK = [f"gpumlp/{name}.py" for name in ("data/weights", "gradients/kinks", "gradients/sizes")]
CAUGHT = [  # of several files, each by tests that take no time
    r"weights.py.* len\(labels\) / .* -> \(len\(counts\) \* np.maximum\(counts, 1\)\)$",
    r"weights.py.*np.maximum\(counts, 1\) -> \(np.minimum\(counts, 1\)\)$",
    r"sizes.py.*clip_norm: size \* factor -> factor$",
    r"sizes.py.*accumulate: super.* -> pass$",
    r"kinks.py.*_near: abs\(d\) -> d$",
    r"kinks.py.*z \+= layer\.bias\.value -> pass$",
]


def run(tmp_path, *arguments):
    """Return the exit code, what is printed, and the JSON file of a run of the script."""
    out = tmp_path / "out.json"
    script = [sys.executable, mutation_testing.__file__, "--out", out, "--limit", "120"]
    script += ["--files", *QUICK]
    done = subprocess.run([*script, *arguments], capture_output=True, text=True)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout, json.loads(out.read_text(encoding="utf-8"))


def test_mistakes_are_found_and_the_checkout_stays_as_it_is(tmp_path):
    before = {file: (ROOT / file).read_bytes() for file in mutation_testing.TESTS}
    only = [word for pattern in CAUGHT for word in ("--only", pattern)]
    code, printed, found = run(tmp_path, *only)
    assert (code, len(found["mutants"])) == (0, len(CAUGHT)), printed
    assert {row["outcome"] for row in found["mutants"]} == {"caught"}
    assert f"all {len(CAUGHT)} of {len(CAUGHT)} caught: 100.00%" in " ".join(printed.split())
    assert before == {file: (ROOT / file).read_bytes() for file in mutation_testing.TESTS}


def test_what_nothing_can_find_is_reported_when_it_is_run(tmp_path):
    text = (ROOT / "gpumlp/data/weights.py").read_text(encoding="utf-8")
    line = 1 + text[: text.index(".reshape(-1)")].count("\n")
    only = ["--only", rf"weights\.py:{line} .* 1 -> 2$"]
    code, printed, found = run(tmp_path, *only)
    assert (code, found["mutants"]) == (0, [])
    code, printed, found = run(tmp_path, *only, "--equivalent")
    (row,) = found["mutants"]
    assert (code, row["outcome"]) == (1, "survived")
    assert printed.splitlines()[-2:] == ["1 survived", row["mutant"]]
