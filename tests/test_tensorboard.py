"""TensorBoard: the event file holds the numbers of the history, and trouble is told."""

import struct
from types import SimpleNamespace

import numpy as np
import pytest

from gpumlp import tensorboard
from gpumlp.config_file import parse_config
from gpumlp.errors import ConfigError, FileError
from gpumlp.gradients.norms import GradientNorms
from gpumlp.losses import SoftmaxCrossEntropy
from gpumlp.model import multilayer_perceptron
from gpumlp.optimizers import Adam
from gpumlp.run_folder import RunFolder, log_callbacks
from gpumlp.tensorboard import TensorBoard, event_size
from gpumlp.trainer import Trainer

X, Y = np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 3


@pytest.fixture
def needs_tensorboard():
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")


def train(callbacks, epochs=3):
    model = multilayer_perceptron([4, 5, 3])
    trainer = Trainer(model, SoftmaxCrossEntropy(), Adam(), callbacks=callbacks)
    trainer.fit(X, Y, epochs=epochs, validation=(X, Y))
    return trainer


def events(folder):
    """All events of the one event file of a folder, read as the format has it."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.iterdir()
    content, found = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[12 + length + 4 :]
    return found


def scalars(folder):
    """{(name, step): value} of the event file."""
    return {(v.tag, e.step): v.simple_value for e in events(folder) for v in e.summary.value}


@pytest.mark.usefixtures("needs_tensorboard")
def test_every_number_of_the_history_is_a_scalar_at_its_epoch(tmp_path):
    trainer = train([GradientNorms(X, Y), TensorBoard(tmp_path / "a" / "b")])
    found = scalars(tmp_path / "a" / "b")
    expected = {
        (name, record["epoch"]): np.float32(value)
        for record in trainer.history
        for name, value in record.items()
        if name != "epoch"
    }
    assert found == expected
    assert ("val_loss", 3) in found
    assert ("grad_norm_2", 1) in found


BEGINNING = SimpleNamespace(began=(0, 0), epoch=0, step=0, history=[])


@pytest.mark.usefixtures("needs_tensorboard")
def test_an_epoch_is_on_disk_before_the_next_one_begins(tmp_path):
    callback = TensorBoard(tmp_path)
    callback.on_train_begin(BEGINNING)
    for epoch in (1, 2):
        callback.on_epoch_end(None, {"epoch": epoch, "loss": 0.5})
        assert len(scalars(tmp_path)) == epoch
    callback.on_train_end(None)
    assert events(tmp_path)[0].file_version == "brain.Event:2"


@pytest.mark.usefixtures("needs_tensorboard")
def test_numbers_that_are_not_finite_are_written_without_a_word(tmp_path, capfd):
    callback = TensorBoard(tmp_path)
    callback.on_train_begin(BEGINNING)
    callback.on_epoch_end(None, {"epoch": 1, "loss": float("nan"), "val_loss": np.inf})
    callback.on_train_end(None)
    found = scalars(tmp_path)
    assert np.isnan(found["loss", 1])
    assert found["val_loss", 1] == np.inf
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("needs_tensorboard")
def test_a_folder_that_cannot_be_made_is_a_file_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileError, match="file"):
        train([TensorBoard(tmp_path / "file")])
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.usefixtures("needs_tensorboard")
def test_a_full_disk_is_a_file_error_and_not_a_standstill(tmp_path):
    resource = pytest.importorskip("resource", reason="no limits on file sizes here")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))  # the system itself stops the write
    try:
        with pytest.raises(FileError, match=str(tmp_path)):
            train([TensorBoard(tmp_path)], epochs=100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_without_tensorboardx_the_message_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "gpumlp\[tensorboard\]"') as caught:
        TensorBoard(tmp_path / "never")
    assert caught.value.exit_code == 2
    assert not any(tmp_path.iterdir())
    log = parse_config({"data": {"source": "builtin:digits"}, "log": {"tensorboard": True}}).log
    with pytest.raises(ConfigError, match=r"log\.tensorboard"):
        log_callbacks(RunFolder(tmp_path), log, X, Y)


@pytest.mark.usefixtures("needs_tensorboard")
def test_a_callback_that_was_never_begun_can_be_ended(tmp_path):
    TensorBoard(tmp_path).on_train_end(None)
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("needs_tensorboard")
def test_the_size_of_an_epoch_is_known_beforehand(tmp_path):
    callback = TensorBoard(tmp_path)
    callback.on_train_begin(BEGINNING)
    (path,) = tmp_path.iterdir()
    before, record = path.stat().st_size, {"epoch": 1, "loss": 0.5, "val_loss": 0.25}
    callback.on_epoch_end(None, record)
    callback.on_train_end(None)
    assert path.stat().st_size - before == event_size(record)


@pytest.mark.usefixtures("needs_tensorboard")
@pytest.mark.parametrize("older", [False, True])
def test_earlier_epochs_are_written_where_no_file_has_them(older, tmp_path):
    if older:
        (tmp_path / "events.out.tfevents.1.here").write_bytes(b"")
    resumed = SimpleNamespace(began=(0, 0), epoch=1, step=5, history=[{"epoch": 1, "loss": 0.5}])
    callback = TensorBoard(tmp_path)
    callback.on_train_begin(resumed)
    callback.on_train_end(resumed)
    assert [path.stat().st_size > 60 for path in sorted(tmp_path.iterdir())][-1] == (not older)
