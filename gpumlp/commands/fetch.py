"""`gpumlp fetch`: download a data set that does not ship, and print the folder it lies in."""

import argparse
import sys
from pathlib import Path

from ..console import show
from ..data.fetch import fetch_mnist
from ..data.mnist import mnist_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `fetch` to a parser."""
    parser.add_argument("dataset", choices=["mnist"], help="what to download (11 MB)")
    parser.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        help="where to (default: where training looks, $GPUMLP_DATA/mnist or a cache folder)",
    )


def run(options: argparse.Namespace) -> int:
    """Download what is not there yet; lines about it go to stderr, the folder to stdout."""
    folder: Path = options.to or mnist_folder()
    fetch_mnist(folder, lambda line: print(line, file=sys.stderr))
    show(str(folder))
    return 0
