"""Go on with a run: its last checkpoint, and what must not have changed since it began."""

import json
import re
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info, threadpool_limits

from .checkpoints import Checkpoint, newest, newest_checkpoint
from .config import Config
from .config_differences import changes
from .config_file import dump_config, load_config, parse_config
from .data.prepare import Prepared
from .errors import ConfigError, DataError, DeviceError, FileError
from .experiment import Experiment
from .files import file_errors, read_small
from .ranges import whole_number
from .run_folder import CHECKPOINTS, RunFolder
from .run_place import ENVIRONMENT, MARK
from .toml_text import read_toml
from .trainer import Trainer

SUMMARY = {"epochs", "steps", "seconds", "samples_per_s", "stop_reason", "best_epoch"}
MOST_THREADS = 4096
DEVICE = re.compile("auto|cpu|cuda(:[0-9]{1,4})?")
# What of env.json decides about bits.
DECISIVE = ("packages", "blas", "kernels", "gpu", "cuda_runtime", "cublaslt")


def finished_summary(path: Path) -> dict[str, Any] | None:
    """Return the summary of a run that is done; None for one that can go on."""
    try:
        summary = json.loads(read_small(path / "summary.json"))
        done = summary["status"] == "done" and summary.keys() >= SUMMARY
        done = done and (path / "model.safetensors").is_file()
    except (FileError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return summary | {"run_dir": str(path)} if done else None


def config_of(path: Path, source: str | None, overrides: list[str]) -> Config:
    """Return the configuration of a run. Raises ConfigError where what is given is another one.

    `source` is a configuration file or None, and `overrides` are changes to it.
    """
    config = load_config(path / MARK)
    given = load_config(source or path / MARK, overrides)
    _refuse(path, "the configuration", changes(config, given), ConfigError)
    return config


def config_sha256(config: Config) -> str:
    """Return the sha256 of a configuration with every default."""
    return sha256(dump_config(config).encode()).hexdigest()


class Resumed:
    """A run that goes on in its folder, which is this process's own from now on.

    Args:
        folder: the run's.
        config: as the run has it.
        warn: is told what is not as it was, and does no harm.

    Raises ConfigError when another process is at it, and FileError when nothing can be read.
    """

    def __init__(self, folder: RunFolder, config: Config, warn: Callable[[str], None]) -> None:
        self.folder, self._config, self._warn = folder, config, warn
        self.environment = folder.read_environment()
        try:
            blas, resumed = self.environment["blas"], self.environment.get("resumed", [])
            self._threads = [whole_number("num_threads", p["num_threads"], 1) for p in blas]
            self._steps = [whole_number("step", one["step"], 0) for one in resumed]
            self._data = dict(self.environment["data"])
            self._device: str = self.environment.get("device", config.device)
            if not DEVICE.fullmatch(self._device):
                raise ValueError(f"device {self._device!r}")
            if max(self._threads, default=1) > MOST_THREADS:
                raise ValueError(f"{max(self._threads)} threads")
        except (KeyError, TypeError, ValueError) as error:
            path = folder.path / ENVIRONMENT
            raise FileError(f"{path}: is not what gpumlp wrote ({error!r})") from None
        self._place = folder.path / CHECKPOINTS
        self.checkpoint: Checkpoint | None = newest_checkpoint(self._place, warn)
        if self.checkpoint is not None:
            path, facts = self.checkpoint.path, self.checkpoint.facts
            then = parse_config(_toml(facts, path), f"{path}: config")
            _refuse(path, "the configuration", changes(then, config), ConfigError)
        elif self.environment.get("config_sha256", config_sha256(config)) != config_sha256(config):
            changed = [f"{MARK} is not what was written"]  # what it was is known from checkpoints
            _refuse(folder.path, "the configuration", changed, ConfigError)

    def build(self) -> Experiment:
        """Return the experiment, on the device on which the run began."""
        try:
            return Experiment.build(self._config, self._device)
        except DeviceError as error:
            raise DeviceError(f"{self.folder.path}: began on {self._device}: {error}") from None

    def threads(self) -> AbstractContextManager[Any]:
        """Give matrix products as many threads as the run began with: their bits depend on it."""
        now = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        if not self._threads or self._threads == now:
            return nullcontext()
        limits: AbstractContextManager[Any] = threadpool_limits(self._threads[0], user_api="blas")
        return limits

    def check_data(self, data: Prepared) -> None:
        """Raise DataError, which lists what has changed, unless the data are what they were."""
        known = self._data if self.checkpoint is None else self.checkpoint.facts["data"]
        changed = _changes(known, data.facts)
        _refuse(self.folder.path, "the data", changed, DataError)

    def go_on(self, trainer: Trainer, environment: Mapping[str, Any]) -> list[int]:
        """Give a trainer the state of the checkpoint, and return the steps of all resumptions."""
        if self.checkpoint is not None:
            try:
                trainer.load_state(self.checkpoint.state)
                trainer.model.backend.choose_as(dict(self.checkpoint.facts["choices"]))
            except (ValueError, KeyError, TypeError) as error:
                path = self.checkpoint.path
                raise FileError(f"{path}: does not hold what a checkpoint holds: {error}") from None
            with file_errors(self.checkpoint.path):  # else the next save would put what is damaged
                self.checkpoint.path.replace(newest(self._place))  # in the place of what is whole
        changed = _changes(_decisive(self.environment), _decisive(environment))
        for line in changed:
            self._warn(f"not the same bits as before, perhaps: {line}")
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        now = {"step": trainer.step, "time": stamp, "changed": changed}
        resumptions = [*self.environment.get("resumed", []), now]
        self.folder.cut_back(trainer.history)
        self.folder.write_environment(self.environment | {"resumed": resumptions})
        return [*self._steps, trainer.step]


def _toml(facts: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the configuration of a checkpoint; FileError for one of no run."""
    try:
        facts["data"].keys()
        return read_toml(facts["config"])
    except (KeyError, TypeError, AttributeError, ValueError):
        raise FileError(f"{path}: not a checkpoint of a run") from None


def _decisive(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides about bits, tables with dotted names."""
    found: dict[str, Any] = {}
    for name in DECISIVE:
        value = environment.get(name)
        if isinstance(value, dict):
            found |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif value is not None:
            found[name] = value
    return found


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}    was {then.get(name, 'not there')}, is {now.get(name, 'not there')}"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    ]


def _refuse(path: Path, what: str, changed: list[str], error: type[Exception]) -> None:
    if changed:
        verb = "have" if what.endswith("data") else "has"
        raise error("\n  ".join([f"{path}: {what} {verb} changed since the run began", *changed]))


def resume_hint(path: Path) -> str:
    """Return the command that goes on with a run."""
    return f"gpumlp train --resume {shlex.quote(str(path))} goes on from here"
