"""`gpumlp features`: hidden layers extract features; write those of a layer, a row per sample."""

import argparse
import sys
from pathlib import Path

from ..data.output import check_output, write_matrix
from ..data.sources import load_rows
from ..errors import ConfigError, DataError
from ..saved_model import load_model
from ..wording import count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `features` to a parser."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder or model file")
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help="file, builtin:NAME or mnist, with the columns of the training data; "
        "default: what the run was trained on",
    )
    parser.add_argument(
        "--layer",
        type=int,
        default=-2,
        metavar="K",
        help="1 is the first hidden layer, -1 the output; default: -2, the last hidden layer",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="a new .npy, .npz or .csv file"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file in --out")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def run(options: argparse.Namespace) -> int:
    """Write the features and say what was written."""
    check_output(options.out, "--out", options.overwrite)
    try:
        model = load_model(options.run, options.device)
    except ValueError as error:
        raise ConfigError(f"--device: {error}") from None
    layers = len(model.network.layers)
    if not -layers - 1 <= options.layer <= layers:
        raise ConfigError(
            f"--layer {options.layer}: must lie in {-layers - 1} to {layers}; "
            f"0 is the input, {layers} or -1 the output"
        )
    source = options.data or model.config.data.source
    x, _ = load_rows(source, model.config.data, model.columns)
    width = len(model.scaler.offset)
    if x.shape[1] != width:
        raise DataError(f"{source}: {x.shape[1]} columns, the training data has {width}")
    values = model.features(x, options.layer)
    layer = options.layer % (layers + 1)
    names = [f"layer{layer}_{unit}" for unit in range(values.shape[1])]
    write_matrix(options.out, "features", values, names)
    sys.stdout.write(
        f"{options.out}: {count(len(values), 'row')}, {count(len(names), 'feature')} "
        f"of layer {layer} of {layers}\n"
    )
    return 0
