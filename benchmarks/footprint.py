"""What a run costs besides its steps: import, start, memory, disk; `benchmarks/footprint.py`.

Every figure comes from fresh processes, one at a time, contenders in turn, round after round:
seconds of the import; seconds from starting Python to the end of the first training step, of a
short script and of a command; and the peak resident memory of an epoch over MNIST (over data
of its shape where MNIST is not found), reading it included. What is run stands in
footprint_scripts.py, as short as each library lets it be.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path
from re import match, sub
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from figure import check_folders
from footprint_scripts import DONE, Command, command, epoch, first_step, import_of
from report import OURS, Row, footprint_table, paired_ratio, summary
from rounds import environment_of, exit_code_of, say
from worker import WorkerError

import gpumlp
from gpumlp import GpumlpError
from gpumlp.data.mnist import find_mnist, present_files

# modules are compiled once, as after an installation, whatever this machine is set to
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
PEERS = {"torch": "torch", "jax": "jax", "sklearn": "scikit-learn"}  # and their distributions


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; exits 2 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--quick", action="store_true", help="within a minute: two rounds, no epoch"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the results here")
    parser.add_argument("--peers", help="of torch,jax,sklearn, or none; default: those installed")
    parser.add_argument("--rounds", type=int, help="default: 5, or 2 with --quick")
    options = parser.parse_args(arguments)
    there = [peer for peer in PEERS if find_spec(peer)]
    if options.device == "cuda":
        there = [peer for peer in there if peer != "sklearn"]  # runs on the CPU only
    try:
        check_folders(options.out)
        if options.peers is None:
            options.peers = there
        else:
            options.peers = [] if options.peers == "none" else options.peers.split(",")
        for peer in options.peers:
            if peer not in there:
                raise ValueError(f"peer {peer!r} is unknown or not installed; there are: {there}")
        options.rounds = (2 if options.quick else 5) if options.rounds is None else options.rounds
        if options.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {options.rounds}")
    except ValueError as error:
        parser.error(str(error))
    return options


def lines_of(command: Command) -> list[tuple[float, str]]:
    """Run a command; return what it prints, each line with the seconds from its start till then."""
    began = perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        lines = [(perf_counter() - began, line.rstrip()) for line in process.stdout]
    if process.returncode:
        raise WorkerError("\n".join([*map(str, command), *(line for _, line in lines)]))
    return lines


def printed(command: Command) -> float:
    """Return the number that a command prints last."""
    return float(lines_of(command)[-1][1])


def until_step(command: Command) -> float:
    """Return seconds from the start of Python to the line that tells of the first step."""
    lines = lines_of(command)
    for seconds, line in lines:
        if line.startswith(DONE):
            return seconds
    raise WorkerError(f"{' '.join(command)}: no line begins with {DONE!r}: {lines}")


def in_turn(
    what: str, measure: Callable[[Command], float], commands: Mapping[str, Command], rounds: int
) -> dict[str, list[float]]:
    """Return what was measured of each system in every round."""
    for system, run_it in commands.items():
        say(f"{what}: first run of {system}")
        measure(run_it)  # files are in the machine's cache from now on
    say(f"{what}: {rounds} rounds")
    found: dict[str, list[float]] = {system: [] for system in commands}
    for _ in range(rounds):
        for system, run_it in commands.items():
            found[system].append(measure(run_it))
    return found


def rows_of(what: str, unit: str, found: Mapping[str, Sequence[float]]) -> list[Row]:
    """Return a row for each system."""
    return [
        {"what": what, "system": system, unit: summary(own)}
        | {"ratio": paired_ratio(own, found[OURS])}
        for system, own in found.items()
    ]


def installed_size(name: str, seen: set[str]) -> int:
    """Return the bytes of a distribution's files and of those it requires, each once."""
    name = sub(r"[-_.]+", "-", name).lower()
    if name in seen:
        return 0
    seen.add(name)
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return 0
    files = {Path(str(path.locate())).resolve() for path in found.files or []}
    if name == OURS and not any(path.name == "trainer.py" for path in files):
        files |= editable_files()
    total = sum(path.stat().st_size for path in files if path.is_file())
    for requirement in found.requires or []:
        needed = match(r"[\w.-]+", requirement)
        if needed and "extra ==" not in requirement:
            total += installed_size(needed[0], seen)
    return total


def editable_files() -> set[Path]:
    """Return gpumlp's own files where it is installed from a checkout (`pip install -e`)."""
    folder = Path(str(gpumlp.__file__)).resolve().parent
    places = [folder, folder.with_name("kernels"), folder.with_name("configs")]
    files = {path for place in places for path in place.rglob("*")}
    return {path for path in files if path.suffix != ".pyc"}


def sizes(systems: Sequence[str]) -> dict[str, list[float]]:
    """Return what each system takes on the disk with all that it requires, and with NumPy."""
    found = {}
    for system in systems:
        seen: set[str] = set()
        names = (PEERS.get(system, system), "numpy")  # PyTorch does not require NumPy
        found[system] = [float(sum(installed_size(name, seen) for name in names))]
    return found


def mnist_files() -> list[str]:
    """Return the four files of MNIST, or none where it is not found."""
    try:
        return [str(path) for path in present_files(find_mnist(None)).values()]
    except GpumlpError:
        say("MNIST is not found: random data of its shape instead")
        return []


def run(options: argparse.Namespace) -> None:
    """Measure, write JSON, print the table."""
    device, rounds, systems = options.device, options.rounds, [OURS, *options.peers]
    environment = environment_of(device, {}) | {"rounds": rounds, "quick": options.quick}
    names = ["numpy", *(PEERS[peer] for peer in options.peers)]
    environment["systems"] = {name: {"versions": {name: version(name)}} for name in names}
    plain = ["numpy"] if device == "cpu" else []
    imports = in_turn("import", printed, {s: import_of(s) for s in ["numpy", *systems]}, rounds)
    rows = rows_of("import", "seconds", imports)
    steps = {system: first_step(system, device) for system in [*plain, *systems]}
    rows += rows_of("first step", "seconds", in_turn("first step", until_step, steps, rounds))
    with TemporaryDirectory() as folder:
        commands = {s: command(s, device, folder) for s in systems if s in (OURS, "torch")}
        rows += rows_of("command", "seconds", in_turn("command", until_step, commands, rounds))
    if not options.quick:
        files = mnist_files()
        environment["mnist"] = bool(files)
        epochs = {system: epoch(system, device, files) for system in [*plain, *systems]}
        rows += rows_of("epoch", "bytes", in_turn("epoch", printed, epochs, rounds))
    rows += rows_of("disk", "bytes", sizes(["numpy", *systems]))
    if options.out:
        text = json.dumps({"environment": environment, "rows": rows}, indent=1)
        options.out.write_text(text + "\n")
    more = median(a - b for a, b in zip(imports[OURS], imports["numpy"], strict=True))
    print(f"import of gpumlp - import of numpy, in the same round: {more:.3f} s\n")
    print(footprint_table(rows))


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code, see `exit_code_of`."""
    options = parse(arguments)
    return exit_code_of(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
