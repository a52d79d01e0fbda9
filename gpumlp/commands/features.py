"""`gpumlp features`: hidden layers extract features; write those of a layer, a row per sample."""

import argparse
import sys

from ..data.output import write_output
from ..errors import ConfigError
from ..wording import count
from .model_and_rows import (
    add_model_arguments,
    add_output_arguments,
    check_out,
    in_blocks,
    model_of,
    rows_of,
)


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
    add_output_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Write the features and say what was written."""
    check_out(options)
    model = model_of(options)
    layers = len(model.network.layers)
    if not -layers - 1 <= options.layer <= layers:
        raise ConfigError(
            f"--layer {options.layer}: must lie in {-layers - 1} to {layers}; "
            f"0 is the input, {layers} or -1 the output"
        )
    x, _ = rows_of(model, options.data)
    values = in_blocks(lambda rows: model.features(rows, options.layer), x)
    layer = options.layer % (layers + 1)
    columns = {f"layer{layer}_{unit}": column for unit, column in enumerate(values.T)}
    write_output(options.out, columns, {"features": values})
    sys.stdout.write(
        f"{options.out}: {count(len(values), 'row')}, {count(len(columns), 'feature')} "
        f"of layer {layer} of {layers}\n"
    )
    return 0
