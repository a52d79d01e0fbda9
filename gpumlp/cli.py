"""The `gpumlp` command: `gpumlp train` is `python -m gpumlp.train`."""

import argparse
import sys
from collections.abc import Sequence

from . import __version__, train


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="gpumlp",
        description="Train multilayer perceptrons on the CPU or an NVIDIA GPU.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gpumlp {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "train", help="train a network from one TOML file", allow_abbrev=False
    )
    train.add_arguments(command)
    command.set_defaults(run=train.run)
    options = parser.parse_args(arguments)
    code: int = options.run(options)
    return code


if __name__ == "__main__":
    sys.exit(main())
