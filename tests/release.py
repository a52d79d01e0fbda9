"""Run the reliability tests in the numbers of a release, and print what came out (a script).

    python tests/release.py --out release.json
    python tests/release.py --only F6,F13 --quick

Each row is a test file, or a command, in a process of its own; --quick takes CI's numbers. The exit
code is 1 if a row failed, if its test is not there, or, unless --quick, if it was skipped. Readers
of files are fuzzed by coverage, an hour each; Hypothesis tries some thousand examples beside it.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COUNTS = ("passed", "failed", "errors", "skipped")
COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)")
NUMBERS = re.compile(r"GPUMLP_(F\d+|FUZZ)")  # variables that say how many


class Row(NamedTuple):
    """What shows that a promise is kept: tests or a script, and the variables of a release."""

    number: str
    what: str
    arguments: tuple[str, ...]
    environment: dict[str, str]


def tests(number: str, what: str, *arguments: str, **environment: str) -> Row:
    """Return a row of tests; the arguments are pytest's, below tests/."""
    return Row(number, what, arguments, environment)


def fuzz(reader: str) -> Row:
    """Return a row of an hour of fuzzing."""
    return Row("F7", f"fuzz by coverage (atheris): {reader}", ("fuzz_coverage.py", reader), {})


READERS = ("csv", "idx", "npy", "npz", "parquet", "toml", "set", "model", "checkpoint")
CUDA = "test_an_explicit_device_that_is_missing or test_a_cupy_that or test_auto_takes_the_cpu"
ROWS = (
    tests("F1", "kill -9, resume", "test_resume_kills.py", GPUMLP_F1="500"),
    tests("F3", "death at each system call of a save", "test_checkpoint_faults.py"),
    tests("F4", "signals, resume", "test_resume_kills.py", GPUMLP_F4="200"),
    tests("F5", "the same bits in a fresh process", "test_determinism.py", GPUMLP_F5="40"),
    tests("F6", "damaged checkpoints", "test_checkpoint_damage.py", GPUMLP_F6="100000"),
    tests(
        "F7", "fuzz by examples (Hypothesis): data files", "test_fuzz_files.py", GPUMLP_FUZZ="5000"
    ),
    tests(
        "F7",
        "fuzz by examples (Hypothesis): TOML and --set",
        "test_config_fuzz.py",
        GPUMLP_FUZZ="5000",
    ),
    *map(fuzz, READERS),
    tests("F8", "hostile files", "test_hostile_files.py"),
    tests("F8", "hostile csv files", "test_hostile_csv.py"),
    tests("F9", "wrong and misspelt keys", "test_config_robustness.py"),
    tests("F10", "full disk", "test_full_disk.py"),
    tests("F12", "divergence", "test_divergence_command.py"),
    tests("F12", "divergence, what is named", "test_divergence.py"),
    tests("F13", "gradients", "test_gradient_products.py", GPUMLP_F13="20000"),
    tests("F13", "gradients of configurations", "test_gradcheck.py"),
    tests("F16", "laws of weights", "test_weight_laws.py", GPUMLP_F16="300"),
    tests("F17", "scikit-learn's checks", "test_sklearn_checks.py"),
    tests("F18", "ONNX round trips", "test_onnx_model.py"),
    tests("F19", "two processes, one run folder", "test_run_lock.py"),
    tests("F21", "NVRTC", "test_kernels_nvrtc.py"),
    tests("F22", "wheel and sdist", "test_packaging.py"),
    tests("F22", "the README's commands", "test_readme.py"),
    tests("F23", "no CuPy, no driver", "test_train.py", "-k", CUDA),
    tests("soak", "a million steps, 1,000 runs: nothing grows", "soak.py"),
    tests("code", "no file runs code", "test_no_code_execution.py"),
)


def counts(output: str) -> dict[str, int]:
    """Return how many tests passed, failed, were in error and skipped, from pytest's last line.

    >>> counts("F....s\\n2 failed, 31 passed, 1 skipped, 1 error in 0:02:01")
    {'passed': 31, 'failed': 2, 'errors': 1, 'skipped': 1}
    """
    last = next((line for line in reversed(output.splitlines()) if COUNT.search(line)), "")
    found = {name: int(number) for number, name in COUNT.findall(last)}
    return {
        "passed": found.get("passed", 0) + found.get("xfailed", 0),
        "failed": found.get("failed", 0) + found.get("xpassed", 0),
        "errors": found.get("error", 0) + found.get("errors", 0),
        "skipped": found.get("skipped", 0),
    }


def command(row: Row, quick: bool, seconds: int) -> list[str]:
    """Return the command of a row."""
    file, *more = row.arguments
    path = str(ROOT / "tests" / file)
    if file == "soak.py":
        return [sys.executable, path, *(["--runs", "20", "--steps", "20000"] if quick else [])]
    if not file.startswith("test_"):
        return [sys.executable, path, *more, "--seconds", str(20 if quick else seconds)]
    return [sys.executable, "-m", "pytest", "-q", path, *more]


def run(row: Row, quick: bool, seconds: int = 3600) -> dict[str, object]:
    """Run a row; return its counts, its status and the end of what it said."""
    about = {"number": row.number, "what": row.what, "arguments": row.arguments}
    if not (ROOT / "tests" / row.arguments[0]).exists():
        return about | {"status": "missing", "end": f"there is no tests/{row.arguments[0]}"}
    is_test = row.arguments[0].startswith("test_")
    if row.number == "F7" and not is_test and find_spec("atheris") is None:
        return about | {"status": "skipped", "end": "atheris is missing: pip install atheris"}
    environment = {k: v for k, v in os.environ.items() if not NUMBERS.fullmatch(k)}
    chosen = {} if quick else row.environment
    began = time.monotonic()
    done = subprocess.run(
        command(row, quick, seconds),
        cwd=ROOT,
        env=environment | chosen,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    about |= {"environment": chosen, "seconds": round(time.monotonic() - began, 1)}
    found = counts(done.stdout) if is_test else {}
    status = "failed" if done.returncode else "passed"
    if is_test and not done.returncode and not found["passed"]:
        status = "skipped"
    lines = done.stdout.strip().splitlines()
    return (
        about
        | found
        | {"status": status, "end": "\n".join(lines[-20 if done.returncode else -2 :])}
    )


def line(found: dict[str, object]) -> str:
    """Return a row of the table."""
    figures = " ".join(f"{found[name]} {name}" for name in COUNTS if found.get(name))
    if not figures:
        figures = (str(found["end"]).splitlines() or [""])[-1][:100]
    chosen = " ".join(f"{k}={v}" for k, v in dict(found.get("environment") or {}).items())
    took = f"{found.get('seconds', 0):.0f} s"
    return f"{found['number']:<5}{found['status']:<8}{took:>7}  {found['what']}: {figures} {chosen}"


def main() -> int:
    """Run the rows that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help="numbers of rows, as F1,F6")
    parser.add_argument("--quick", action="store_true", help="CI's numbers")
    parser.add_argument("--seconds", type=int, default=3600, help="of each fuzzed reader")
    parser.add_argument("--out", type=Path, help="a JSON file for all figures")
    args = parser.parse_args()
    only = {row.number for row in ROWS} if args.only is None else set(args.only.split(","))
    if unknown := only - {row.number for row in ROWS}:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    results = []
    for row in ROWS:
        if row.number in only:
            results.append(run(row, args.quick, args.seconds))
            print(line(results[-1]), flush=True)
            if results[-1]["status"] == "failed":
                print(results[-1]["end"], flush=True)
            if args.out is not None:  # after each row: hours may have gone into it
                about = {"python": platform.python_version(), "system": platform.platform()}
                about |= {"quick": args.quick, "rows": results}
                args.out.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    bad = sum(found["status"] in ("failed", "missing") for found in results)
    skipped = sum(found["status"] == "skipped" for found in results)
    print(f"{len(results)} rows, {bad} failed or missing, {skipped} skipped")
    return int(bad > 0 or (skipped > 0 and not args.quick))


if __name__ == "__main__":
    sys.exit(main())
