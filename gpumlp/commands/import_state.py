"""`gpumlp import`: a run's model with the weights of a PyTorch state_dict."""

import argparse
from pathlib import Path

from ..console import show
from ..data.output import check_output
from ..saved_model import load_model
from ..torch_state import load_state_dict
from ..wording import count
from .export import RUN_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `import` to a parser."""
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN_HELP)
    parser.add_argument(
        "--torch",
        type=Path,
        required=True,
        metavar="FILE",
        help="the state_dict in safetensors, with the names and shapes that export --torch writes",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="a new .safetensors model file"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file in --out")


def run(options: argparse.Namespace) -> int:
    """Write the model: scaling, classes and configuration of RUN, parameters of the file."""
    check_output(options.out, "--out", options.overwrite, (".safetensors",))
    model = load_model(options.run)
    load_state_dict(model.network, options.torch)
    model.save(options.out)
    parameters = count(model.network.flat.count, "parameter")
    show(f"{options.out}: {parameters} of {options.torch}, the rest of {options.run}")
    return 0
