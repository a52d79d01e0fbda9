"""`gpumlp doctor`: being written."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `doctor` to a parser."""


def run(options: argparse.Namespace) -> int:
    """Run it and return the exit code."""
    raise NotImplementedError
