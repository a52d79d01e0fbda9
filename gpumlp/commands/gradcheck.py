"""`gpumlp gradcheck`: compare the gradient with central differences, and the engine's with it."""

import argparse
from math import isnan

from ..config import Config
from ..config_file import load_config
from ..console import show
from ..errors import CheckFailed, ConfigError
from ..gradients.check import MOST_ROWS, SAMPLED, GradientCheck, TensorCheck, check, failures
from ..gradients.differences import TOLERANCE
from ..wording import count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `gradcheck` to a parser."""
    parser.add_argument(
        "--config", required=True, metavar="NAME|PATH", help="a TOML file, or a shipped config"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, as in train.engine=eager; VALUE is TOML; repeatable",
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=MOST_ROWS,
        metavar="N",
        help=f"rows of the batch, at most {MOST_ROWS} (the default)",
    )
    parser.add_argument("--seed", metavar="N", help="another seed than the config's")


def run(options: argparse.Namespace) -> int:
    """Check, print a table and the largest errors; raise CheckFailed if one is too large."""
    if not 1 <= options.rows <= MOST_ROWS:
        raise ConfigError(f"--rows {options.rows}: expected 1 to {MOST_ROWS}")
    overrides = list(options.set)
    overrides += [f"seed={options.seed}"] if options.seed is not None else []
    config = load_config(options.config, overrides)
    found = check(config, options.rows)
    wrong = failures(found)
    show("\n".join(report(config, found, not wrong)))
    if wrong:
        raise CheckFailed("\n".join(wrong))
    return 0


def report(config: Config, found: GradientCheck, ok: bool) -> list[str]:
    """Return the lines of the result; the largest errors are the last."""
    total = sum(tensor.checked + tensor.skipped for tensor in found.tensors)
    lines = [
        f"{config.name}: gradient of cost + penalty over {count(found.rows, 'row')}, "
        f"parameters drawn from seed {config.seed}",
        f"float64: backpropagation against {count(total, 'central difference')}"
        + ("" if found.direction is None else f" ({SAMPLED} a tensor)"),
        f"{found.arithmetic}: one step of engine {found.engine} on {found.device} "
        "against backpropagation in float64",
    ]
    if found.left_out:
        lines.append(
            f"{count(found.left_out, 'row')} with weight 0: {found.arithmetic} rounds onto the "
            "other side of a kink"
        )
    width = max(8, *(len(tensor.name) for tensor in found.tensors))
    lines += [
        "",
        f"{'tensor':{width}}  {'shape':>13}  {'checked':>8}  {'skipped':>8}"
        f"  {'float64 error':>14}  {found.arithmetic + ' error':>14}",
    ]
    lines += [_line(tensor, width) for tensor in found.tensors]
    if found.direction is not None:
        where = "all parameters along a random direction"
        lines.append(f"{where:<{width + 35}}  {_number(found.direction):>14}")
    lines += [
        "",
        f"allowed: {TOLERANCE:.1e} (float64), {found.engine_tolerance:.1e} ({found.arithmetic}); "
        "skipped: ±h crosses a kink",
        f"largest relative error {_number(found.error)} (float64), "
        f"{_number(found.engine_error)} ({found.arithmetic}, engine {found.engine}): "
        f"{'ok' if ok else 'failed'}",
    ]
    return lines


def _line(tensor: TensorCheck, width: int) -> str:
    shape = " x ".join(map(str, tensor.shape))
    error = _number(float("nan") if tensor.worst is None else tensor.worst.error)
    return (
        f"{tensor.name:{width}}  {shape:>13}  {tensor.checked:>8,}  {tensor.skipped:>8,}"
        f"  {error:>14}  {_number(tensor.engine_error):>14}"
    )


def _number(error: float) -> str:
    return "-" if isnan(error) else f"{error:.1e}"
