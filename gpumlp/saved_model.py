"""A trained model in one file (see `tensor_file`): parameters, scaling, classes, configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .backend import Backend, get_backend
from .build import build_loss, build_network
from .config import Config
from .config_file import dump_config, parse_config
from .data.features import Features
from .data.prepare import Prepared, prepare
from .data.scaling import Scaler
from .data.table import NUMERIC
from .data.targets import Targets, class_indices
from .data.types import Array
from .errors import DataError, DeviceError, FileError
from .losses import Loss
from .model import Sequential
from .tensor_file import NET, read_tensors, write_tensors
from .toml_text import read_toml


@dataclass(eq=False)
class SavedModel:
    """A network with everything needed to use it on raw rows.

    `predict` returns probabilities or values for unscaled rows (N, D), `classify` class names,
    `features` the activations of a layer (see `Sequential.features`). `columns` says how the
    columns of a file become such rows (see `data.sources.load_rows`). `class_weight`, (C,) or
    None, is what the loss of a row of each class counted in training.
    """

    config: Config
    network: Sequential
    loss: Loss
    scaler: Scaler
    targets: Targets
    columns: Features = field(default_factory=Features)
    target_scaler: Scaler | None = None
    class_weight: Array | None = None

    def predict(self, x: Array) -> Array:
        """Return probabilities (N, C), (N, 1) or (N, K), or values (N, K), as a NumPy array."""
        backend = self.network.backend
        y: Array = self.loss.link(self.network.predict(self._scaled(x)), backend)
        y = np.asarray(backend.to_numpy(y))
        return y if self.target_scaler is None else self.target_scaler.inverse(y).astype(y.dtype)

    def classify(self, x: Array) -> list[str]:
        """Return the name of each row's most probable class (multiclass and binary)."""
        y = self.predict(x)
        if self.targets.task not in ("multiclass", "binary"):
            raise ValueError(f"a {self.targets.task} model has no single class per row")
        return self.targets.decode(class_indices(y))

    def features(self, x: Array, layer: int = -2) -> Array:
        """Return the activations of one layer for unscaled rows, as a NumPy array."""
        features = self.network.features(self._scaled(x), layer)
        return np.asarray(self.network.backend.to_numpy(features))

    def prepare_again(self, fingerprint: str | None, dtype: npt.DTypeLike) -> Prepared:
        """Return the data that the model was trained on, split and scaled as it was.

        Raises DataError when the data are not what they were, as far as scaling, classes and the
        fingerprint (see `Prepared`; None where it is not known) tell, and what `prepare` raises.
        """
        config = self.config
        data = prepare(config.data, config.model.task, config.seed, dtype)
        now, then = data.scaler.to_arrays(), self.scaler.to_arrays()
        same = now.keys() == then.keys() and all(np.array_equal(now[k], then[k]) for k in now)
        known = fingerprint in (None, data.fingerprint)
        if not (same and known and data.targets == self.targets):
            raise DataError(
                f"{config.data.source}: is not what the model was trained on any more; "
                "evaluate --data takes it as it is"
            )
        return data

    def _scaled(self, x: Array) -> Array:
        """Return rows (N, D), or images (N, H, W), scaled; ValueError for anything else."""
        x = np.asarray(x)
        if x.dtype.kind not in NUMERIC or x.ndim < 2:
            raise ValueError(f"rows must be numbers (N, D), got {x.dtype} of shape {x.shape}")
        x = x.reshape(len(x), prod(x.shape[1:]))
        if x.shape[1] != len(self.scaler.offset):
            raise ValueError(f"rows must have {len(self.scaler.offset)} values, got {x.shape[1]}")
        return self.scaler.transform(x, self.network.backend.dtype)

    def save(self, path: Path) -> None:
        """Write the model to `path`, atomically. Raises FileError."""
        write_tensors(path, *self.content())

    def content(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the arrays and facts of its file."""
        to_numpy = self.network.backend.to_numpy
        tensors = {
            f"{NET}{parameter.name}": to_numpy(parameter.value)
            for parameter in self.network.parameters
        }
        for prefix, scaler in (("scaler", self.scaler), ("target_scaler", self.target_scaler)):
            for name, array in ({} if scaler is None else scaler.to_arrays()).items():
                tensors[f"{prefix}.{name}"] = array
        facts = {
            "config": dump_config(self.config),
            "scaler": self.scaler.name,
            "target_scaler": None if self.target_scaler is None else self.target_scaler.name,
            "features": self.columns.to_dict(),
            "targets": self.targets.to_dict(),
        }
        if self.class_weight is not None:
            facts["class_weight"] = np.asarray(self.class_weight, np.float64).tolist()
        return tensors, facts


def load_model(path: str | Path, device: str | Backend = "cpu") -> SavedModel:
    """Read a model file, or the one in a run folder.

    Raises FileError when the file cannot be read or is not what was saved, DeviceError when the
    device cannot be used, ValueError when there is no such device.
    """
    get_backend(device)  # what is wrong with it is not the file's fault
    path = Path(path)
    if path.is_dir():
        path /= "model.safetensors"
    tensors, about = read_tensors(path)
    try:
        return _assembled(tensors, about, device)
    except DeviceError:
        raise
    except Exception as error:  # the checksum is right: another program wrote it, and anything goes
        raise FileError(f"{path}: does not hold what a gpumlp model holds ({error!r})") from None


def _assembled(
    tensors: Mapping[str, Array], about: Mapping[str, Any], device: str | Backend
) -> SavedModel:
    config = parse_config(read_toml(about["config"]), "config of the model")
    targets = Targets.from_dict(about["targets"])
    scaler = _scaler("scaler", tensors, about)
    if scaler is None:
        raise ValueError("there is no scaler")
    features = Features.from_dict(about["features"])
    target_scaler = _scaler("target_scaler", tensors, about)
    weight = about.get("class_weight")
    _check_together(config, tensors, targets, scaler, target_scaler, features, weight)
    backend = device if isinstance(device, Backend) else get_backend(device, config.precision)
    network = build_network(config, len(scaler.offset), targets.outputs, backend)
    for parameter in network.parameters:
        with np.errstate(over="ignore"):
            value = tensors[f"{NET}{parameter.name}"].astype(backend.dtype)
        finite = np.isfinite(value)
        if parameter.name == f"{len(network.layers) - 1}.bias" and targets.classes and finite.any():
            finite |= value == -np.inf  # excludes a class
        if not finite.all():
            raise ValueError(f"{parameter.name} is not finite")
        parameter.value[...] = backend.asarray(value)
    return SavedModel(
        config,
        network,
        build_loss(config, backend),
        scaler,
        targets,
        features,
        target_scaler,
        None if weight is None else np.array(weight, backend.dtype),
    )


def _check_together(
    config: Config,
    tensors: Mapping[str, Array],
    targets: Targets,
    scaler: Scaler,
    target_scaler: Scaler | None,
    features: Features,
    weight: Any,
) -> None:
    """Raise ValueError unless the parts are of one model; before a network is built of any size."""
    layers = config.model.hidden_layers
    sizes = [len(scaler.offset), *(layer.units for layer in layers), targets.outputs]
    has_bias = [*(layer.bias for layer in layers), True]
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (before, after) in enumerate(pairwise(sizes)):
        shapes[f"{NET}{i}.weight"] = after, before
        if has_bias[i]:
            shapes[f"{NET}{i}.bias"] = (after,)
    given = {name: array for name, array in tensors.items() if name.startswith(NET)}
    if shapes != {name: array.shape for name, array in given.items()}:
        raise ValueError("parameters of another network")
    if any(array.dtype.kind != "f" for array in given.values()):
        raise ValueError("parameters that are no floating-point numbers")
    if targets.task != config.model.task:
        raise ValueError(f"targets of {targets.task}, a network for {config.model.task}")
    if features.names and len(features.columns) != len(scaler.offset):
        raise ValueError(f"{len(features.columns)} columns, a scaler of {len(scaler.offset)}")
    if target_scaler is not None and len(target_scaler.offset) != targets.outputs:
        raise ValueError("a scaler of other targets")
    if weight is not None:
        weights = np.array(weight, np.float64)
        whole = bool((np.isfinite(weights) & (weights >= 0)).all())
        if weights.shape != (len(targets.classes),) or not whole:
            raise ValueError("class weights of other classes")


def _scaler(name: str, tensors: Mapping[str, Array], about: Mapping[str, Any]) -> Scaler | None:
    """Return the scaler of that name, or None where there is none."""
    if about[name] is None:
        return None
    start = f"{name}."
    arrays = {key.removeprefix(start): a for key, a in tensors.items() if key.startswith(start)}
    return Scaler.from_arrays(about[name], arrays)
