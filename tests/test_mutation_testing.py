"""The script that mutates the mathematics finds mutants, applies them, and tells what survives."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import mutation_testing
import pytest
from equivalent_mutants import EQUIVALENT, RULES
from mutants import mutants_of

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


@pytest.mark.parametrize(
    "text",
    [
        '"""1 + 1."""\n',
        "def f(x: int = None) -> int | None: ...\n",
        "raise ValueError(f'{1 + 1} ' + str(2))\n",
        "assert 1 + 1\n",
        "class A:\n    def __repr__(self):\n        return 'a' * 2\n",
        "Number = int | float\n",
        "import a\n",
    ],
)
def test_what_changes_no_result_has_no_mutants(text):
    assert changed("a.py", text) == []


def test_c_mutants_are_in_no_comment():
    text = "// 1 + 2\n#define A 1 + 2\nSCALAR float f(float a) { return a + b; }  /* 3 * 4 */\n"
    assert changed("a.h", text) == [
        (text.splitlines()[2], text.splitlines()[2].replace("a + b", "a - b"))
    ]


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


def test_listed_mutants_have_reasons_and_files():
    assert all((EQUIVALENT | RULES).values())
    assert {file for file, *_ in EQUIVALENT | RULES} <= set(mutation_testing.TESTS)


FILES = [f"gpumlp/{name}.py" for name in ("data/weights", "gradients/kinks", "gradients/sizes")]
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
    script += ["--files", *FILES]
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
