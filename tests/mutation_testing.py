"""Makes mistakes in the library's mathematics, one at a time, and reports which no test finds.

    python tests/mutation_testing.py                                  # all of them: hours
    python tests/mutation_testing.py --sample 300 --seed 1            # some of them
    python tests/mutation_testing.py --files gpumlp/losses.py --out losses.json
    python tests/mutation_testing.py --only "losses.py.*1.0 / max"    # a regex of printed lines

The checkout is never changed: each mistake is made in a copy, in a fork of a process that has
imported all that does not change. A mistake that makes the tests hang, or crashes them, counts as
found. `equivalent_mutants.py` lists those that nothing can find. Ends with 1 when others are left.
"""

import argparse
import compileall
import contextlib
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from functools import cache
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from equivalent_mutants import EQUIVALENT, RULES
from mutants import mutants_of, names_of

ROOT = Path(__file__).resolve().parents[1]

# file -> the tests that concern it, those first that find most in the least time
TESTS = {
    "gpumlp/backend/activations.py": "backend activations",
    "gpumlp/backend/base.py": "backend losses precision engine system_memory",
    "gpumlp/backend/fused.py": "fused backend",
    "gpumlp/backend/fused_updates.py": "fused backend",
    "gpumlp/backend/pointwise.py": "backend losses",
    "gpumlp/backend/precision.py": "precision backend",
    "gpumlp/backend/updates.py": "backend optimizers loss_scale precision",
    "gpumlp/callbacks.py": "trainer training_state",
    "gpumlp/data/columns.py": "data_targets data_prepare",
    "gpumlp/data/scaling.py": "data_scaling data_prepare",
    "gpumlp/data/splits.py": "data_splits data_prepare",
    "gpumlp/data/targets.py": "data_targets data_prepare",
    "gpumlp/data/weights.py": "data_weights",
    "gpumlp/engine/divergence.py": "divergence training_state",
    "gpumlp/engine/early.py": "early_updates engine",
    "gpumlp/engine/step.py": "engine trainer early_updates loss_scale divergence sparse "
    "out_of_memory",
    "gpumlp/gradients/check.py": "gradcheck",
    "gpumlp/gradients/differences.py": "differences gradcheck explain",
    "gpumlp/gradients/explain.py": "explain",
    "gpumlp/gradients/kinks.py": "gradient_kinks gradcheck",
    "gpumlp/gradients/norms.py": "gradient_norms",
    "gpumlp/gradients/sizes.py": "gradient_sizes gradcheck",
    "gpumlp/initializers.py": "initializers",
    "gpumlp/layers.py": "layers model engine gradients",
    "gpumlp/loss_scale.py": "loss_scale divergence",
    "gpumlp/losses.py": "losses gradients oracle",
    "gpumlp/lr_finder.py": "lr_finder",
    "gpumlp/metrics.py": "metrics plots_classes trainer evaluate_command",
    "gpumlp/model.py": "model engine trainer saved_model out_of_memory early_updates",
    "gpumlp/optimizers.py": "optimizers engine early_updates oracle loss_scale precision",
    "gpumlp/parameters.py": "parameters optimizers model precision",
    "gpumlp/parity.py": "parity",
    "gpumlp/randomness.py": "randomness samples trainer",
    "gpumlp/samples.py": "samples trainer data_prepare engine",
    "gpumlp/schedules.py": "schedules trainer",
    "gpumlp/sklearn/lbfgs.py": "sklearn_equality sklearn",
    "gpumlp/sklearn/solvers.py": "sklearn_equality sklearn",
    "gpumlp/sparse.py": "sparse sklearn",
    "gpumlp/trainer.py": "trainer training_state divergence",
    "gpumlp/training_state.py": "training_state",
    "kernels/activation.cu": "kernels fused",
    "kernels/batch.cu": "kernels",
    "kernels/device.h": "kernels",
    "kernels/loss.cu": "kernels",
    "kernels/native.cpp": "backend native native_threads fused",
    "kernels/norm.cu": "kernels",
    "kernels/operand.cu": "backend kernels precision",
    "kernels/portable.h": "backend kernels activations",
    "kernels/update.cu": "backend kernels optimizers",
}
COPIED = ("gpumlp", "kernels", "configs", "tests", "pyproject.toml", "README.md")
OF_LIBRARY = ("portable.h", "native.h", "native.cpp", "threads.h", "update.cu", "operand.cu")
PLAIN, NATIVE = "cpu-plain|cpu-fp64", "cpu-native"  # backends, by their names in conftest.py
LIBRARY = "_gpumlp_native"
# what tests import and no mutant changes
UNCHANGED = ["numpy", "pytest", "hypothesis.extra.numpy", "pydantic", "safetensors.numpy"]
UNCHANGED += ["threadpoolctl", "tomli_w", "tqdm", "concurrent.futures", "unittest.mock"]
IF_NAMED = ["torch", "sklearn", "scipy", "pandas"]
MEMORY = 24 << 30  # bytes of address space


def main(arguments=None):
    options = parse(arguments)
    everything = list(all_mutants(options.files))
    chosen = choose(everything, options)
    print(f"{len(everything)} mutants of {len(options.files)} files, {len(chosen)} of them chosen")
    if options.list:
        print(*chosen, sep="\n")
        return 0
    with Overlay(options.keep) as overlay:
        results = run_all(overlay, chosen, options)
    report(results, options.out)
    return int(any(result == "survived" for _, result, _ in results))


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", nargs="+", default=[*TESTS], choices=[*TESTS], metavar="FILE")
    parser.add_argument("--sample", type=int, metavar="N", help="only so many, drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", metavar="REGEX", help="of the printed lines")
    parser.add_argument("--list", action="store_true", help="print them, run nothing")
    parser.add_argument("--equivalent", action="store_true", help="run the listed ones, too")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="of compiled kernels")
    about = "for each, instead of three times what its tests take as they are"
    parser.add_argument("--limit", type=float, metavar="SECONDS", help=about)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin none after them")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    return parser.parse_args(arguments)


def all_mutants(files=TESTS):
    for file in files:
        yield from names(file)


@cache
def names(file):
    """Return the mutants of a file, with what they are called in the list of equivalent ones."""
    return names_of(mutants_of(file, source(file)), source(file))


@cache
def source(file):
    return (ROOT / file).read_text(encoding="utf-8")


def is_equivalent(mutant):
    return names(mutant.file)[mutant] in EQUIVALENT or (mutant.file, mutant.scope) in RULES


def choose(mutants, options):
    if not options.equivalent:
        mutants = [mutant for mutant in mutants if not is_equivalent(mutant)]
    if options.only:
        mutants = [m for m in mutants if any(re.search(p, str(m)) for p in options.only)]
    if options.sample is not None and options.sample < len(mutants):
        mutants = random.Random(options.seed).sample(mutants, options.sample)
    return mutants


# ------------------------------------------------------------------------------- running


def run_all(overlay, mutants, options):
    """Return (mutant, what became of it, seconds) of each; tests must pass as they are."""
    needed = sorted({test for mutant in mutants for test in TESTS[mutant.file].split()})
    import_unchanged(needed)
    times = {test: time_of(overlay, test) for test in needed}
    results, end = [], time.monotonic() + 60 * options.minutes
    for number, mutant in enumerate(mutants, 1):
        if time.monotonic() > end:
            break
        tests = TESTS[mutant.file].split()
        longest = options.limit or 20 + 3 * sum(times[test] for test in tests)
        began = time.perf_counter()
        outcome = overlay.mutate(mutant, tests, longest)
        seconds = round(time.perf_counter() - began, 2)
        results.append((mutant, outcome, seconds))
        if outcome != "caught":
            print(f"{number}/{len(mutants)} {outcome}: {mutant}", flush=True)
    return results


def time_of(overlay, test):
    """Return the seconds that tests take, which must pass."""
    began = time.perf_counter()
    if overlay.run([test], 900) != "survived":
        sys.exit(f"tests/test_{test}.py fails as it is:\n{overlay.log.read_text()}")
    return time.perf_counter() - began


def import_unchanged(tests):
    """Import what forks then have; it must not import the library."""
    text = "".join((ROOT / "tests" / f"test_{test}.py").read_text() for test in tests)
    for name in UNCHANGED + [name for name in IF_NAMED if name in text]:
        with contextlib.suppress(ImportError):
            import_module(name)
    assert "gpumlp" not in sys.modules


class Overlay:
    """A copy of the checkout in which one file at a time is wrong."""

    def __init__(self, keep=None):
        self.folder = Path(tempfile.mkdtemp(prefix="gpumlp-mutants-"))
        self.root, self.log = self.folder / "copy", self.folder / "log"
        self.compiled = keep or self.folder / "compiled"

    def __enter__(self):
        self.compiled.mkdir(parents=True, exist_ok=True)
        self.root.mkdir()
        for name in COPIED:
            copied = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copied(ROOT / name, self.root / name)
        compileall.compile_dir(self.root, quiet=2)
        spec = find_spec(LIBRARY) or find_in_checkout()
        self.library = None
        if spec is not None:
            self.library = self.root / Path(spec.origin).name
            self.library.symlink_to(spec.origin)
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.folder, ignore_errors=True)

    def mutate(self, mutant, tests, limit):
        """Return "caught" or "survived" of a mutant, or "no text of the language"."""
        path, before = self.root / mutant.file, (ROOT / mutant.file).stat()
        right = path.read_text(encoding="utf-8")
        try:
            path.write_text(mutant.apply(right), encoding="utf-8")
            if path.name in OF_LIBRARY and not self.build_library():
                return "no text of the language"
            return self.run(tests, limit, first=PLAIN if path.suffix == ".py" else NATIVE)
        finally:
            path.write_text(right, encoding="utf-8")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            if path.name in OF_LIBRARY:
                self.restore_library()

    def build_library(self):
        settings = tomllib.loads((self.root / "pyproject.toml").read_text())
        (module,) = settings["tool"]["setuptools"]["ext-modules"]
        flags = [*module["extra-compile-args"], "-O1", "-shared", "-fPIC", "-w"]
        library = self.library or self.root / f"{LIBRARY}.abi3.so"
        library.unlink(missing_ok=True)
        source = self.root / "kernels" / "native.cpp"
        done = subprocess.run(["g++", *flags, source, "-o", library], capture_output=True)
        return done.returncode == 0

    def restore_library(self):
        spec = find_spec(LIBRARY) or find_in_checkout()
        if self.library is not None:
            self.library.unlink(missing_ok=True)
            self.library.symlink_to(spec.origin)

    def run(self, tests, limit, *, first=PLAIN):
        """Run tests in a fork, until the first fails."""
        temporary = self.folder / "tmp"
        temporary.mkdir()
        child = os.fork()
        if not child:
            self.run_here(tests, temporary, first, limit)
        try:
            return outcome_of(child, limit)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            shutil.rmtree(temporary, ignore_errors=True)

    def run_here(self, tests, temporary, first, limit):
        """Run tests, and leave with their exit status."""
        code = 70
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            signal.alarm(int(limit) + 60)  # where whoever waits for it was killed
            out = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.chdir(self.root)
            elsewhere = [p for p in sys.path if not Path(p or ".").resolve().is_relative_to(ROOT)]
            sys.path[:] = [str(self.root), str(self.root / "tests"), *elsewhere]
            for name in [n for n in sys.modules if n in ("mutants", "equivalent_mutants")]:
                del sys.modules[name]
            os.environ |= {"PYTHONPATH": str(self.root), "TMPDIR": str(temporary), "CI": "1"}
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
            tempfile.tempdir = str(temporary)
            sys.dont_write_bytecode = True  # of a mutant it would outlive the mutant
            code = self.pytest(tests, first)
        finally:
            sys.stdout.flush()
            os._exit(code)

    def pytest(self, tests, first):
        import pytest

        options = ["-x", "-q", "--tb=short", "--assert=plain", "-p", "no:cacheprovider"]
        for test in tests:
            code = pytest.main([*options, f"tests/test_{test}.py"], [Quick(self, first)])
            if code:
                return int(code)
        return 0


def find_in_checkout():
    sys.path.insert(0, str(ROOT))
    try:
        return find_spec(LIBRARY)
    finally:
        sys.path.remove(str(ROOT))


def outcome_of(child, limit):
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if status == 0 else "caught"
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "caught"


class Quick:
    """Makes a failure end at once, and compiles kernels once for all mutants."""

    def __init__(self, overlay, first):
        self.overlay, self.first = overlay, first

    def pytest_collection_modifyitems(self, items):
        """Backends that use the wrong text come first, stand-ins for others not at all."""
        if self.first == PLAIN:
            items[:] = [item for item in items if "cuda-stand-in" not in item.name]
        items.sort(key=lambda item: not re.search(self.first, item.name))

    def pytest_sessionstart(self):
        import gpumlp

        assert Path(gpumlp.__file__).is_relative_to(self.overlay.root)
        import kernels_on_fibers
        from hypothesis import Phase, settings

        phases = [Phase.explicit, Phase.generate]  # the smallest example is of no interest
        settings.register_profile("quick", settings(), phases=phases)
        settings.load_profile("quick")
        if "really_run" not in vars(kernels_on_fibers):
            kernels_on_fibers.really_run = kernels_on_fibers.run
            kernels_on_fibers.run = self.compile_once

    def compile_once(self, command):
        """Run a compiler's command, which ends with its output, unless it was run before."""
        import kernels_on_fibers

        *words, out = map(str, command)
        content = [Path(w).read_bytes() if Path(w).is_file() else w.encode() for w in words]
        kept = self.overlay.compiled / sha256(b"\0".join(content)).hexdigest()
        if kept.exists():
            shutil.copyfile(kept, out)
            return ""
        messages = kernels_on_fibers.really_run(command)
        shutil.copyfile(out, kept)
        return messages


# ------------------------------------------------------------------------------ reporting


def report(results, out):
    counts = {"file": Counter(), "caught": Counter()}
    for mutant, outcome, _ in results:
        if outcome in ("caught", "survived"):
            for file in (mutant.file, "all"):
                counts["file"][file] += 1
                counts["caught"][file] += outcome == "caught"
    survivors = [str(mutant) for mutant, outcome, _ in results if outcome == "survived"]
    for file, number in sorted(counts["file"].items()):
        caught = counts["caught"][file]
        print(f"{file:36} {caught:5} of {number:5} caught: {caught / number:.2%}")
    print(f"{len(survivors)} survived", *survivors, sep="\n")
    if out is not None:
        rows = [
            {"mutant": str(mutant), "outcome": outcome, "seconds": seconds}
            for mutant, outcome, seconds in results
        ]
        totals = {f: [counts["caught"][f], n] for f, n in counts["file"].items()}
        out.write_text(json.dumps({"caught of": totals, "mutants": rows}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
