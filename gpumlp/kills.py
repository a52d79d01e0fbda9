"""Kill a training at random moments, resume it, and compare what it leaves with an unbroken run.

Trainings are processes of their own, as users start them; nothing here looks into them.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoints import newest, newest_checkpoint, read_checkpoint
from .errors import CheckFailed
from .run_folder import CHECKPOINTS

TIMES = ("seconds", "samples_per_s")  # what no two runs have in common
OF_A_RUN = ("run_dir", "resumed_at", *TIMES)
EARLY = 0.2  # of the kills may fall into the start, where there is nothing to lose yet
PATIENCE = 3600.0  # seconds until a training counts as hanging


@dataclass
class Kill:
    """One training that was killed: when, how it ended, and the checkpoint's step before and after.

    `before` and `after` are None where there was none.
    """

    signal: str
    seconds: float
    code: int
    before: int | None
    after: int | None


@dataclass
class Verification:
    """What came out: the kills, the runs they were made in, and what was not the same."""

    kills: list[Kill] = field(default_factory=list)
    runs: int = 0
    ended_by_themselves: int = 0
    steps: int = 0
    start: float = 0.0  # seconds until an unbroken run had its folder
    seconds: float = 0.0  # that it took in all
    fruitless: int = 0  # the last so many kills came before there was a newer checkpoint
    differences: list[str] = field(default_factory=list)


def verify(
    arguments: Sequence[str],
    folder: Path,
    kills: int,
    signals: Sequence[signal.Signals],
    said: Callable[[Kill], None] = lambda kill: None,
    seed: int | None = None,
) -> Verification:
    """Train unbroken, then as often as it takes for so many kills, and compare.

    Args:
        arguments: of `train`, without those that name folders.
        folder: where the runs go; must be there.
        kills: how many trainings to kill.
        signals: of which one is drawn for each.
        said: is told of each kill.
        seed: draws moments and signals; None: others every time.

    Raises CheckFailed when a training ends as none should.
    """
    draw, found = random.Random(seed), Verification()
    whole = folder / "unbroken"
    began = time.perf_counter()
    process = _start(arguments, whole)
    while process.poll() is None and not whole.exists():
        time.sleep(0.01)
    found.start = time.perf_counter() - began
    _end(process, (0,))
    found.seconds = time.perf_counter() - began
    found.steps = _summary(whole)["steps"]
    for number in count(1):
        broken = folder / f"broken-{number}"
        finished = False
        while not finished and len(found.kills) < kills:
            finished = _kill_one(arguments, broken, draw, signals, found, said)
        if not finished:
            _end(_start(arguments, broken), (0,))
        found.runs += 1
        found.differences += [f"{broken.name}: {line}" for line in differences(whole, broken)]
        if len(found.kills) >= kills:
            return found
    raise AssertionError("count never ends")


def _kill_one(
    arguments: Sequence[str],
    broken: Path,
    draw: random.Random,
    signals: Sequence[signal.Signals],
    found: Verification,
    said: Callable[[Kill], None],
) -> bool:
    """Go on with a run and kill it; return whether it ended by itself before that."""
    number, early = draw.choice(signals), draw.random() < EARLY
    moment = draw.uniform(0 if early else found.start, found.seconds)
    moment *= 1 + found.fruitless / 4  # a machine with more to do than before is slower
    before = _step(broken)
    process = _start(arguments, broken)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    # a signal before there is a handler for it ends a process as it ends any; one that comes when
    # all is done changes nothing
    code = _end(process, (0, -number, 128 + number), starting=number == signal.SIGINT)
    if code == 0:
        found.ended_by_themselves += 1
        return True
    kill = Kill(number.name, moment, code, before, _step(broken))
    if code == 128 + number and (broken / "summary.json").exists():
        summary = _summary(broken)
        if summary["steps"] != kill.after:
            line = f"stopped after step {summary['steps']}, the checkpoint is of {kill.after}"
            found.differences.append(f"{broken.name}: {line}")
    if (before or 0) > (kill.after or 0):
        found.differences.append(f"{broken.name}: went back from step {before} to {kill.after}")
    found.fruitless = found.fruitless + 1 if kill.after == before else 0
    found.kills.append(kill)
    said(kill)
    return False


def _start(arguments: Sequence[str], folder: Path) -> "subprocess.Popen[str]":
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-m", "gpumlp.train", *arguments, "--run-dir", str(folder), "--resume"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def _end(process: "subprocess.Popen[str]", allowed: Sequence[int], starting: bool = False) -> int:
    """Return the exit code, one of those; also Python's own 1, if it may have been starting."""
    try:
        _, said = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise CheckFailed(f"a training did not end within {PATIENCE:,.0f} s") from None
    starting &= process.returncode == 1 and said.startswith("Fatal Python error: init")
    if process.returncode not in allowed and not starting:
        raise CheckFailed(f"a training ended with code {process.returncode}:\n{said[-2000:]}")
    return process.returncode


def _step(folder: Path) -> int | None:
    """Return the step of the newest checkpoint; None where there is none."""
    found = newest_checkpoint(folder / CHECKPOINTS)
    return None if found is None else int(found.state["step"])


def _summary(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_bytes())
    return summary


def differences(one: Path, other: Path) -> list[str]:
    """Return what two runs have left that is not the same to the bit, times aside."""
    return list(_differences(one, other))


def _differences(one: Path, other: Path) -> Iterator[str]:
    for name in ("model.safetensors", "checkpoints/best.safetensors"):
        contents = [p.read_bytes() if p.exists() else b"" for p in (one / name, other / name)]
        if contents[0] != contents[1]:
            yield f"{name} differs"
    for name in ("metrics.jsonl", "metrics.csv"):
        lines = [_without_times(folder / name) for folder in (one, other)]
        if lines[0] != lines[1]:
            place = next(
                (i for i, pair in enumerate(zip(*lines, strict=False), 1) if len(set(pair)) > 1),
                min(map(len, lines)) + 1,
            )
            yield f"{name} differs from line {place} on"
    summaries = [
        {name: value for name, value in _summary(folder).items() if name not in OF_A_RUN}
        for folder in (one, other)
    ]
    for name in {**summaries[0], **summaries[1]}:
        if summaries[0].get(name) != summaries[1].get(name):
            yield f"summary.json differs in {name}"
    tensors = [read_checkpoint(newest(folder / CHECKPOINTS)) for folder in (one, other)]
    slots = [checkpoint.state["optimizer"] for checkpoint in tensors]
    for name in {**slots[0], **slots[1]}:
        if not _same(slots[0].get(name), slots[1].get(name)):
            yield f"the optimizer's {name} differs"


def _same(one: Any, other: Any) -> bool:
    return all(isinstance(a, np.ndarray) for a in (one, other)) and one.tobytes() == other.tobytes()


def _without_times(path: Path) -> list[str]:
    """Return the lines of a metrics file, without the times."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.suffix == ".jsonl":
        records = map(json.loads, lines)
        return [json.dumps({k: v for k, v in r.items() if k not in TIMES}) for r in records]
    names = lines[0].split(",") if lines else []
    kept = [i for i, name in enumerate(names) if name not in TIMES]
    return [",".join(line.split(",")[i] for i in kept) for line in lines]
