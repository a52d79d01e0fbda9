"""`gpumlp features`: hidden layers extract features; write those of a layer, a row per sample."""

import argparse
from pathlib import Path

from ..console import show
from ..data.output import check_output, write_matrix
from ..errors import ConfigError
from ..wording import count
from .model_and_rows import add_model_arguments, in_blocks, open_model, open_rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `features` to a parser."""
    add_model_arguments(parser, "what the run was trained on")
    parser.add_argument(
        "--layer",
        type=int,
        default=-2,
        metavar="K",
        help="1 is the first hidden layer, -1 the output; default: -2, the last hidden layer",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="a new .npy, .npz, .csv or .parquet file",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file in --out")


def run(options: argparse.Namespace) -> int:
    """Write the features and say what was written."""
    check_output(options.out, "--out", options.overwrite)
    model = open_model(options)
    layers = len(model.network.layers)
    if not -layers - 1 <= options.layer <= layers:
        raise ConfigError(
            f"--layer {options.layer}: must lie in {-layers - 1} to {layers}; "
            f"0 is the input, {layers} or -1 the output"
        )
    x, _ = open_rows(options, model)
    values = in_blocks(lambda rows: model.features(rows, options.layer), x)
    layer = options.layer % (layers + 1)
    names = [f"layer{layer}_{unit}" for unit in range(values.shape[1])]
    write_matrix(options.out, "features", values, names)
    show(
        f"{options.out}: {count(len(values), 'row')}, {count(len(names), 'feature')} "
        f"of layer {layer} of {layers}"
    )
    return 0
