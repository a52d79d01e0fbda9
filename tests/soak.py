"""A soak test: many runs in one process, and very many steps in one run; nothing may grow.

`python tests/soak.py` does 1,000 runs and 1,000,000 steps (some minutes), prints memory and open
files on the way, and exits with 1 where either has grown by 1 % or more after the warm-up.
"""

import argparse
import contextlib
import ctypes
import gc
import io
import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from gpumlp import train
from gpumlp.callbacks import Callback
from gpumlp.trainer import Trainer

RUNS, STEPS = 1000, 1_000_000
ROWS = 30_000
MOMENTS = 50  # at which it is looked how much there is
WARM_UP = 0.2  # the share after which nothing may grow any more
LIMIT = 0.01
SETTINGS = {
    "adam": ["optimizer.name=adam", "early_stopping={patience=1}", "model.dropout=0.2"],
    "sgd": ["optimizer.name=sgd", "schedule.name=cosine", "train.batch_size=100"],
    "fp64": ["precision=fp64", "optimizer.name=momentum"],
    "fp16": ["precision=fp16", "train.accumulate=2"],
}
COMMON = ["device=cpu", "train.epochs=2", "checkpoint.every_epochs=1"]


def usage() -> dict[str, int]:
    """Return what this process has: bytes of memory, open files, threads."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory": pages * os.sysconf("SC_PAGESIZE"),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }


def one_run(number: int, folder: Path) -> None:
    """Train, evaluate, save; every tenth run draws plots, every fifth is resumed when done."""
    settings = [*COMMON, *list(SETTINGS.values())[number % len(SETTINGS)]]
    settings.append(f"log.plots={'true' if number % 10 == 0 else 'false'}")
    arguments = [part for setting in settings for part in ("--set", setting)]
    command = ["--config", "digits", "--run-dir", str(folder), "--overwrite", "-q", *arguments]
    with contextlib.redirect_stdout(io.StringIO()):
        assert train.main(command) == 0
        if number % 5 == 0:
            (folder / "summary.json").unlink()
            assert train.main(["--resume", str(folder), "-q"]) == 0


def runs(count: int) -> list[dict[str, Any]]:
    """Do so many runs; return the usage now and then."""
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(1, count + 1):
            one_run(number, Path(scratch) / "run")
            if number % max(1, count // MOMENTS) == 0:
                found.append({"runs": number, **usage()})
    return found


def steps(count: int) -> list[dict[str, Any]]:
    """Take so many steps in one run; return the usage now and then."""
    found: list[dict[str, Any]] = []

    class Look(Callback):
        every_steps = max(1, count // MOMENTS)

        def on_step(self, trainer: Trainer) -> None:
            found.append({"steps": trainer.step, **usage()})

    made = Trainer.__init__

    def watched(self: Trainer, *given: Any, callbacks: Any = (), **options: Any) -> None:
        made(self, *given, callbacks=[*callbacks, Look()], **options)

    Trainer.__init__ = watched  # type: ignore[method-assign]
    draw = np.random.default_rng(0)
    x = draw.normal(size=(ROWS, 8))
    try:
        with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
            # long epochs: the history, which is kept, has a record for each
            np.savez(f"{scratch}/data.npz", x=x, label=x[:, 0] > x[:, 1])
            settings = [f"data.source='{scratch}/data.npz'", f"train.max_steps={count}"]
            settings += [f"train.epochs={count}", "train.batch_size=2", "log.plots=false"]
            arguments = [part for setting in settings for part in ("--set", setting)]
            command = ["--config", "full_batch", "--run-dir", f"{scratch}/run", "-q", *arguments]
            assert train.main(command) == 0
    finally:
        Trainer.__init__ = made  # type: ignore[method-assign]
    return found


def growth(found: list[dict[str, Any]]) -> dict[str, float]:
    """Return by which share each quantity grew: its largest values at the end and after warm-up."""
    kept = found[int(WARM_UP * len(found)) :]
    half = (len(kept) + 1) // 2
    return {
        name: max(one[name] for one in kept[-half:]) / max(one[name] for one in kept[:half]) - 1
        for name in ("memory", "files", "threads")
    }


def main() -> int:
    """Run the soak test from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    options = parser.parse_args()
    failed = False
    result = {}
    for what, found in (("steps", steps(options.steps)), ("runs", runs(options.runs))):
        grown = growth(found)
        result[what] = {"usage": found, "growth": grown}
        last = found[-1]
        print(
            f"{last[what]:,} {what}: memory {last['memory'] / 1e6:.1f} MB "
            f"({grown['memory']:+.2%}), files {last['files']} ({grown['files']:+.2%}), "
            f"threads {last['threads']} ({grown['threads']:+.2%})",
            flush=True,
        )
        failed |= any(share >= LIMIT for share in grown.values())
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
