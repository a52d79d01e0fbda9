"""`gpumlp export`: a model for other programs, as ONNX or as a PyTorch state_dict."""

import argparse
from pathlib import Path

from ..backend import get_backend
from ..console import show
from ..data.output import check_output
from ..errors import ConfigError
from ..files import write_atomically
from ..onnx_model import checked_onnx_model
from ..saved_model import SavedModel, load_model
from ..torch_state import save_state_dict, torch_modules
from ..wording import size

RUN_HELP = "a run folder or model file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `export` to a parser."""
    parser.add_argument("run", type=Path, metavar="RUN", help=RUN_HELP)
    parser.add_argument(
        "--onnx",
        type=Path,
        metavar="FILE",
        help="a new .onnx file: scaling, network and class names, checked against onnxruntime",
    )
    parser.add_argument(
        "--torch",
        type=Path,
        metavar="FILE",
        help="a new .safetensors file: the state_dict of a torch.nn.Sequential",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")


def run(options: argparse.Namespace) -> int:
    """Write what was asked for, and say what it is."""
    if options.onnx is None and options.torch is None:
        raise ConfigError("give --onnx FILE, --torch FILE, or both")
    for option, path, suffix in (
        ("--onnx", options.onnx, ".onnx"),
        ("--torch", options.torch, ".safetensors"),
    ):
        if path is not None:
            check_output(path, option, options.overwrite, (suffix,))
    model = exact_model(options.run)
    if options.onnx is not None:
        content, said = checked_onnx_model(model)
        write_atomically(options.onnx, content)
        show(f"{options.onnx}: {size(len(content))}; {said}")
    if options.torch is not None:
        save_state_dict(model.network, options.torch)
        modules = ",\n    ".join(torch_modules(model.network))
        show(
            f"{options.torch}: the state_dict of a module with\n"
            f"self.net = nn.Sequential(\n    {modules},\n)\n"
            "It takes scaled rows, and returns what softmax or sigmoid, if any, are applied to."
        )
    return 0


def exact_model(path: Path) -> SavedModel:
    """Return a model on the CPU that computes in the type of its parameters.

    Other programs do not know what products read in low precisions.
    """
    model = load_model(path)
    exact = "fp64" if model.config.precision == "fp64" else "fp32"
    return load_model(path, get_backend("cpu", exact))
