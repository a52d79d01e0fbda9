"""Time training steps and epochs of gpumlp and its peers: `python benchmarks/training.py`.

Each contender is a process of its own, started once. Only one runs at a time, in rounds A B A B,
and a peer's ratio is the median of its ratios to gpumlp in the same round, so that a machine that
slows down for a while slows down both. All of them train the same network on the same rows from the
same weights; that they do is checked before anything is timed.

Needs gpumlp installed (`pip install -e .`), and the peers that it is to be compared with.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from figure import check_folders, check_plot, plot_ratios
from problem import Net
from report import OURS, start_table, table
from rounds import Bench, exit_code_of, say
from worker import SYSTEMS, Worker

from gpumlp import get_backend
from gpumlp.backend import PRECISIONS

EPOCH_NETS = ["784-30-10@10", "784-128-10@64", "784-500-500-10@100"]
STEP_NETS = [*EPOCH_NETS, "784-1024-1024-1024-10@256"]
NETS = {
    "cpu": [*STEP_NETS, "4096-4096-4096-10@512"],
    "cuda": [*STEP_NETS, "4096-4096-4096-10@8192", "64-64-64-64-16@65536"],
}
PEERS = [
    *("torch", "torch-compile", "torch-graph", "torch-graph-50"),
    *("jax", "jax-unroll-8", "jax-step", "sklearn"),
]
VARIANTS = [  # gpumlp run in another way
    *("gpumlp-plain", "gpumlp-numpy", "gpumlp-trainer", "gpumlp-eager", "gpumlp-unforked"),
    "gpumlp-late",
]
CPU_ONLY = {"sklearn", "gpumlp-plain", "gpumlp-numpy"}
CUDA_ONLY = {"torch-graph", "torch-graph-50", "gpumlp-unforked", "gpumlp-late"}
# left out unless they are asked for; unrolling saves a CPU nothing and is slow to compile
NOT_BY_DEFAULT = {"cpu": CUDA_ONLY | {"jax-unroll-8"}, "cuda": CPU_ONLY}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options with their lists checked; exits 2 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="within a minute: less of everything")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the results here")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the ratios")
    parser.add_argument("--nets", help="as in 784-30-10@10,784-128-10@64; default: the standard")
    parser.add_argument(
        "--peers",
        help=f"of {','.join(PEERS)}, or none; default: those installed that suit the device; "
        "besides, gpumlp by the plain formulas, as without a compiler, by Trainer.fit, step by "
        "step, as CUDA graphs without branches, and with all updates last: " + ",".join(VARIANTS),
    )
    parser.add_argument("--optimizers", default="sgd", help="of sgd,adam; default: sgd")
    parser.add_argument(
        "--what", help="of step,epoch; default: step, and epoch on the three smallest standard nets"
    )
    parser.add_argument(
        "--precision",
        choices=[name for name in PRECISIONS if name != "fp64"],
        default="fp32",
        help="of all contenders; PyTorch: autocast; on a CPU gpumlp emulates all but fp32",
    )
    parser.add_argument("--rounds", type=int, help="default: 9, or 3 with --quick")
    options = parser.parse_args(arguments)
    try:
        check_plot(options.plot)
        check_folders(options.out, options.plot)
        standard = NETS[options.device][: 2 if options.quick else None]
        nets = standard if options.nets is None else options.nets.split(",")
        options.nets = [Net.parse(net) for net in nets]
        options.peers = choose_peers(options.peers, options.device, options.quick)
        options.optimizers = choose("optimizer", options.optimizers, ["sgd", "adam"])
        if options.what is not None:
            options.what = choose("what", options.what, ["step", "epoch"])
        if options.precision == "fp16":  # JAX has no loss scaling
            options.peers = [peer for peer in options.peers if not peer.startswith("jax")]
        if options.rounds is not None and options.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {options.rounds}")
    except ValueError as error:
        parser.error(str(error))
    return options


def choose(kind: str, text: str, known: Sequence[str]) -> list[str]:
    """Return the names of a comma-separated list; ValueError for an unknown one."""
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in known:
            raise ValueError(f"unknown {kind} {name!r}; choose from {', '.join(known)}")
    return names


def choose_peers(text: str | None, device: str, quick: bool) -> list[str]:
    """Return the peers; ValueError for one that is unknown, not installed or not for the device.

    By default all that are installed; with --quick not torch-compile, which takes long to compile.
    """
    missing = {peer for peer in PEERS if find_spec(SYSTEMS[peer][2]) is None}
    if text is None:
        left_out = missing | NOT_BY_DEFAULT[device]
        left_out |= {"torch-compile"} if quick else set()
        return [peer for peer in PEERS if peer not in left_out]
    peers = [] if text == "none" else choose("peer", text, [*PEERS, *VARIANTS])
    for peer in peers:
        if peer in missing:
            raise ValueError(f"peer {peer!r} is not installed: no module {SYSTEMS[peer][2]!r}")
        if peer in CPU_ONLY and device == "cuda":
            raise ValueError(f"peer {peer!r} runs on the CPU only")
        if peer in CUDA_ONLY and device == "cpu":
            raise ValueError(f"peer {peer!r} runs on CUDA only")
    return peers


def systems_of(peers: Sequence[str], device: str) -> list[str]:
    """Return gpumlp and the peers; on a CPU with several cores torch also with one thread."""
    systems = [OURS, *peers]
    if "torch" in peers and device == "cpu" and (os.cpu_count() or 1) > 1:
        systems.insert(systems.index("torch") + 1, "torch-1")
    return systems


def run(options: argparse.Namespace) -> None:
    """Measure, write JSON and figure, print the table."""
    get_backend(options.device)
    with ExitStack() as stack:
        workers = []
        for system in systems_of(options.peers, options.device):
            say(f"start {system}")
            workers.append(Worker(system))
            stack.callback(workers[-1].close)
        bench = Bench(workers, options.device, options.quick, options.rounds, options.precision)
        for net in options.nets:
            whats = options.what or (["step", "epoch"] if str(net) in EPOCH_NETS else ["step"])
            for optimizer in options.optimizers:
                bench.measure(net, optimizer, whats)
        environment = bench.environment()
    if options.out:
        results = {"environment": environment, "rows": bench.rows}
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    if options.plot:
        plot_ratios(bench.rows, options.plot)
    print(start_table(bench.starts))
    kernels = f"; kernels: {environment['kernels']}" if "kernels" in environment else ""
    peak = f"peak of a large product: {bench.peak / 1e9:.0f} GFLOP/s"
    print(f"\n{peak}; {environment['cpu']}{kernels}\n")
    print(table(bench.rows))


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code, see `exit_code_of`."""
    options = parse(arguments)
    return exit_code_of(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
