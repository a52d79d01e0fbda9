"""The parameters of a saved model as a PyTorch state_dict in safetensors, and back.

The names are those of a `torch.nn.Sequential` called `net` that holds each layer, activation and
dropout in turn: "net.0.weight", "net.0.bias", "net.2.weight" ... PyTorch itself is not needed.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .data.types import Array
from .errors import DataError, FileError
from .files import write_atomically
from .layers import Dense
from .model import Sequential

MODULES = {  # of torch.nn, with our definitions
    "identity": "nn.Identity()",
    "sigmoid": "nn.Sigmoid()",
    "tanh": "nn.Tanh()",
    "relu": "nn.ReLU()",
    "leaky_relu": "nn.LeakyReLU(0.01)",
    "elu": "nn.ELU()",
    "gelu": 'nn.GELU(approximate="tanh")',
    "silu": "nn.SiLU()",
    "softplus": "nn.Softplus()",
}
NAME = re.compile(r"(?P<prefix>(?:[^.]+\.)*?)(?P<number>0|[1-9][0-9]{0,8})\.(?P<kind>weight|bias)")
MOST_SHOWN = 20  # names, in a message


def torch_modules(network: Sequential) -> list[str]:
    """Return the modules of the network as PyTorch code, in the order of its Sequential.

    >>> from gpumlp.model import multilayer_perceptron
    >>> torch_modules(multilayer_perceptron([4, 3, 2], "tanh"))
    ['nn.Linear(4, 3)', 'nn.Tanh()', 'nn.Linear(3, 2)']
    """
    modules = []
    layers = _dense(network)
    for layer in layers:
        bias = "" if layer.bias is not None else ", bias=False"
        modules.append(f"nn.Linear({layer.n_in}, {layer.n_out}{bias})")
        if layer is not layers[-1]:
            modules.append(MODULES[layer.activation.name])
            if layer.dropout.rate:
                modules.append(f"nn.Dropout({layer.dropout.rate:g})")
    return modules


def state_dict(network: Sequential) -> dict[str, Array]:
    """Return name → array of every parameter, with the names that PyTorch would give them."""
    places = [i for i, module in enumerate(torch_modules(network)) if "Linear" in module]
    to_numpy = network.backend.to_numpy
    return {
        f"net.{place}.{parameter.name.rpartition('.')[2]}": np.ascontiguousarray(
            to_numpy(parameter.value)
        )
        for place, layer in zip(places, _dense(network), strict=True)
        for parameter in layer.parameters
    }


def save_state_dict(network: Sequential, path: Path) -> None:
    """Write the network's parameters to a safetensors file, atomically. Raises FileError."""
    write_atomically(path, save(state_dict(network)))


def load_state_dict(network: Sequential, path: Path) -> None:
    """Give the network the parameters of a safetensors file, as PyTorch's users write it.

    Layers are taken in the order of their numbers, whatever stands before these ("net.", "model.",
    nothing). All is checked before anything changes. Raises FileError for a file that cannot be
    read, and DataError, which lists the names, for parameters that are missing, too many, of
    another shape or type, or not finite.
    """
    tensors = _read(path)
    wanted = state_dict(network)
    renamed = _in_our_names(tensors, list(wanted), path)
    problems = [f"{name} is missing" for name in wanted if name not in renamed]
    problems += [
        f"{given} belongs to no layer" for n, (given, _) in renamed.items() if n not in wanted
    ]
    for name in wanted.keys() & renamed.keys():
        given, array = renamed[name]
        problems += _problems(given, array, wanted[name])
    if problems:
        raise DataError(f"{path}: does not fit the model: {_listed(problems, '; ')}")
    for parameter, name in zip(network.parameters, wanted, strict=True):
        parameter.value[...] = network.backend.asarray(renamed[name][1])


def _dense(network: Sequential) -> list[Dense]:
    return [layer for layer in network.layers if isinstance(layer, Dense)]


def _listed(lines: Sequence[str], between: str) -> str:
    """Return sorted texts for a message, however many and long they are."""
    shown = [line if len(line) <= 200 else f"{line[:197]}..." for line in sorted(lines)]
    more = [f"and {len(lines) - MOST_SHOWN} more"] if len(lines) > MOST_SHOWN else []
    return between.join([*shown[:MOST_SHOWN], *more])


def _read(path: Path) -> dict[str, Array]:
    if path.exists() and not path.is_file():  # a pipe may never end
        raise FileError(f"{path}: cannot be read as safetensors: not a file")
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise FileError(f"{path}: cannot be read as safetensors: {error}") from None
    except (TypeError, AttributeError, KeyError) as error:  # a type that NumPy lacks: bfloat16
        raise DataError(
            f"{path}: holds a type that NumPy has not ({error}); save .float() in PyTorch"
        ) from None


def _in_our_names(
    tensors: dict[str, Array], wanted: list[str], path: Path
) -> dict[str, tuple[str, Array]]:
    """Return our name → (its name, array), the layers in the order of their numbers."""
    found = {name: NAME.fullmatch(name) for name in tensors}
    strange = [name for name, match in found.items() if match is None]
    if strange or not tensors:
        what = f"no parameter of a Linear: {_listed(strange, ', ')}" if strange else "no parameter"
        raise DataError(f"{path}: holds {what}")
    matches = {name: match for name, match in found.items() if match is not None}
    prefixes = sorted({match["prefix"] for match in matches.values()})
    if len(prefixes) > 1:
        shown = _listed([f'"{prefix}"' for prefix in prefixes], ", ")
        raise DataError(f"{path}: layers of several networks: their names begin with {shown}")
    numbers = sorted({int(match["number"]) for match in matches.values()})
    ours = dict.fromkeys(name.rpartition(".")[0] for name in wanted)
    # layers beyond the model's keep a name that it has not
    places = dict(zip(numbers, [*ours, *(f"net.+{i}" for i in numbers)], strict=False))
    return {
        f"{places[int(match['number'])]}.{match['kind']}": (name, tensors[name])
        for name, match in matches.items()
    }


def _problems(name: str, array: Array, wanted: Array) -> list[str]:
    if array.shape != wanted.shape:
        return [f"{name} is {array.shape}, not {wanted.shape}"]
    if array.dtype.kind != "f" or array.dtype.itemsize > wanted.dtype.itemsize:
        return [f"{name} is {array.dtype}, the model {wanted.dtype}"]
    if not np.isfinite(array).all():
        return [f"{name} is not finite"]
    return []
