"""`gpumlp parity`: compare every way to run a configuration here with the formulas in float64."""

import argparse

from ..config import Config
from ..config_file import load_config
from ..console import show
from ..engine import ENGINES
from ..errors import CheckFailed, ConfigError
from ..json_text import to_json
from ..parity import STEPS, Parity, compare
from ..train import add_config_arguments, overrides
from ..wording import count

MOST_STEPS = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `parity` to a parser."""
    add_config_arguments(parser, required=True)
    parser.add_argument(
        "--engine",
        choices=["auto", *ENGINES],
        default="auto",
        help="one of the engines; auto (the default): all",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=STEPS,
        metavar="N",
        help=f"steps to compare, at most {MOST_STEPS} (default: {STEPS})",
    )
    parser.add_argument("--json", action="store_true", help="print all errors as JSON")


def run(options: argparse.Namespace) -> int:
    """Compare, print a table and the largest error; raise CheckFailed if one is too large."""
    if not 1 <= options.steps <= MOST_STEPS:
        raise ConfigError(f"--steps {options.steps}: expected 1 to {MOST_STEPS}")
    config = load_config(options.config, overrides(options))
    found = compare(config, options.steps, options.engine)
    show(as_json(config, found) if options.json else "\n".join(report(config, found)))
    wrong = failures(found)
    if wrong:
        raise CheckFailed("\n".join(wrong))
    return 0


def report(config: Config, found: Parity) -> list[str]:
    """Return the lines of the result: the largest error of each tensor, the worst last."""
    lines = [
        f"{config.name}: {count(found.steps, 'step')} over {count(found.rows, 'row')} in "
        f"{_arithmetic(found)} against the formulas in float64,",
        "each begun from the same bits; largest relative errors",
    ]
    if found.replaced:
        lines.append(f"{count(found.replaced, 'row')} near a kink replaced by others")
    lines += [f"not run: {line}" for line in found.missing]
    width = max(len(one.tensor) for one in found.tensors)
    head = "".join(f"  {name:>11}" for name in found.candidates)
    lines += ["", f"{'tensor':{width}}{head}"]
    for one in found.tensors:
        cells = zip(one.largest, found.candidates, strict=True)
        lines.append(
            f"{one.tensor:{width}}"
            + "".join(f"  {error:>{max(11, len(name))}.1e}" for error, name in cells)
        )
    last = found.tensors[-1]
    worst = found.candidates[last.largest.index(found.error)]
    return [
        *lines,
        "",
        f"allowed: {found.tolerance:.1e} of a tensor's largest value or change, or of what cancels",
        "in it; rounding an updated value to the precision is no error",
        f"largest relative error {found.error:.1e} ({last.tensor}, {worst}): "
        f"{'failed' if failures(found) else 'ok'}",
    ]


def _arithmetic(found: Parity) -> str:
    precision = found.precision
    if precision.format is None:
        return precision.dtype
    return f"{precision.dtype} with products in {precision.name}"


def failures(found: Parity) -> list[str]:
    """Return a line for each tensor and candidate whose error is too large."""
    return [
        f"{one.tensor}: {name} is off by {largest:.1e} (allowed {found.tolerance:.1e}), "
        f"first in step {next(i for i, e in enumerate(steps, 1) if not e <= found.tolerance)}"
        for one in found.tensors
        for name, steps, largest in zip(found.candidates, one.of, one.largest, strict=True)
        if not largest <= found.tolerance
    ]


def as_json(config: Config, found: Parity) -> str:
    """Return the result with the error of every step as JSON."""
    return to_json(
        {
            "config": config.name,
            "steps": found.steps,
            "rows": found.rows,
            "dtype": found.precision.dtype,
            "precision": found.precision.name,
            "tolerance": found.tolerance,
            "error": found.error,
            "ok": not failures(found),
            "not_run": found.missing,
            "tensors": {
                one.tensor: dict(zip(found.candidates, one.of, strict=True))
                for one in found.tensors
            },
        }
    )
