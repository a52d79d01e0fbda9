"""The `gpumlp` command: `gpumlp train` is `python -m gpumlp.train`; the rest is in `commands`."""

import argparse
import sys
from collections.abc import Sequence

from . import __version__, train
from .commands import (
    configs,
    doctor,
    evaluate,
    explain,
    export,
    features,
    fetch,
    gradcheck,
    import_state,
    lr_find,
    parity,
    predict,
    report,
    verify_resume,
)
from .console import guarded

COMMANDS = {
    "train": (train, "train a network from one TOML file"),
    "lr-find": (lr_find, "find a learning rate by a test of some hundred steps"),
    "report": (report, "write one HTML page of a run, with its pictures inside"),
    "evaluate": (evaluate, "metrics of a model on any data, as a gate on request"),
    "predict": (predict, "classes, probabilities or values for any data"),
    "features": (features, "write the activations of a layer: the notes' feature extraction"),
    "export": (export, "write a model as ONNX or as a PyTorch state_dict"),
    "import": (import_state, "give a run's model the weights of a PyTorch state_dict"),
    "explain": (explain, "show every quantity of backpropagation for one sample"),
    "gradcheck": (gradcheck, "compare all gradients with central differences"),
    "parity": (parity, "compare every way to run a configuration here, step by step"),
    "verify-resume": (verify_resume, "kill a training again and again, resume it, compare bits"),
    "config": (configs, "list, show or describe configurations"),
    "fetch": (fetch, "download a data set that does not ship"),
    "doctor": (doctor, "say what this machine has and what is missing"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="gpumlp",
        description="Train multilayer perceptrons on the CPU or an NVIDIA GPU.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gpumlp {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, help_text) in COMMANDS.items():
        command = commands.add_parser(
            name, help=help_text, description=module.__doc__, allow_abbrev=False
        )
        module.add_arguments(command)
        command.set_defaults(command=module.run)
    options = parser.parse_args(arguments)
    return guarded(lambda: options.command(options))


if __name__ == "__main__":
    sys.exit(main())
