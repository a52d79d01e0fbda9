"""TensorBoard: writes the numbers of each epoch as an event file, to be looked at in a browser."""

from importlib.util import find_spec
from pathlib import Path
from socket import gethostname
from time import time
from typing import Any

from .errors import ConfigError
from .events import Callback, Record
from .files import file_errors
from .trainer import Trainer

NAME = "events.out.tfevents"  # begins the names of event files
FRAME = 16  # bytes around an event: its length and two checksums


def check_tensorboard() -> None:
    """Raise ConfigError, with the command that installs it, when tensorboardX is missing."""
    if find_spec("tensorboardX") is None:
        raise ConfigError(
            "log.tensorboard: needs tensorboardX, which is not installed; "
            'pip install "gpumlp[tensorboard]", or log.tensorboard = false'
        )


class TensorBoard(Callback):
    """Write each number of an epoch's record as a scalar of the same name, at the epoch's number.

    `tensorboard --logdir FOLDER` shows them. A run that is resumed begins with its earlier epochs,
    unless there is a file that has them.

    Args:
        folder: where the event file goes; made when training starts.

    Raises ConfigError when tensorboardX is missing, and FileError when a file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        check_tensorboard()
        self._folder = folder
        self._writer: Any = None

    def on_train_begin(self, trainer: Trainer) -> None:
        """Open an event file."""
        # not SummaryWriter: its thread dies of a full disk, and training then waits for it forever
        from tensorboardX import RecordWriter

        name = f"{NAME}.{int(time())}.{gethostname()}"
        with file_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            older = any(self._folder.glob(f"{NAME}.*"))
            self._writer = RecordWriter(str(self._folder / name))
        self._write({"file_version": "brain.Event:2"})
        resumed = trainer.began != (trainer.epoch, trainer.step)
        for record in trainer.history if resumed and not older else ():
            self.on_epoch_end(trainer, record)

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        """Write the epoch's numbers."""
        self._write(_fields(record))

    def on_train_end(self, trainer: Trainer) -> None:
        """Close the event file."""
        if self._writer is not None:  # an earlier callback may have failed before it was opened
            writer, self._writer = self._writer, None
            with file_errors(self._folder):
                writer.close()

    def _write(self, fields: dict[str, Any]) -> None:
        with file_errors(self._folder):
            self._writer.write(_event(fields))
            self._writer.flush()


def event_size(record: Record) -> int:
    """Return how many bytes an epoch's record takes in an event file."""
    return FRAME + len(_event(_fields(record)))


def _fields(record: Record) -> dict[str, Any]:
    from tensorboardX.proto.summary_pb2 import Summary

    values = [
        Summary.Value(tag=name, simple_value=value)
        for name, value in record.items()
        if name != "epoch"
    ]
    return {"step": record["epoch"], "summary": Summary(value=values)}


def _event(fields: dict[str, Any]) -> bytes:
    from tensorboardX.proto.event_pb2 import Event

    content: bytes = Event(wall_time=time(), **fields).SerializeToString()
    return content
