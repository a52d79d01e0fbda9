"""F3: a process that dies at any system call of a save leaves the old checkpoint or the new one.

The saving process is a child that ends itself, without any cleaning up, at one call after another.
"""

import builtins
import io
import os

import numpy as np
import pytest

from gpumlp import checkpoints, tensor_file
from gpumlp.callbacks import BestEpoch
from gpumlp.checkpoints import Checkpoints, newest_checkpoint
from gpumlp.errors import FileError
from gpumlp.losses import SoftmaxCrossEntropy
from gpumlp.model import multilayer_perceptron
from gpumlp.optimizers import Adam
from gpumlp.saved_model import load_model
from gpumlp.tensor_file import read_tensors
from gpumlp.trainer import Trainer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
DIED = 77
X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
LABELS = np.arange(30) % 3
# every call by which a save changes the file system; pieces of a file count one by one
CALLS = [
    (builtins, "open"),
    (io, "open"),
    (os, "mkdir"),
    (os, "open"),
    (os, "fsync"),
    (os, "replace"),
    (os, "rename"),
    (os, "close"),
    (tensor_file, "_bytes"),
]


def trainer_of(folder):
    saving = Checkpoints(folder, every_epochs=1)
    model = multilayer_perceptron([4, 5, 3], seed=1)
    callbacks = [BestEpoch(), saving]
    trainer = Trainer(model, SoftmaxCrossEntropy(), Adam(0.01), batch_size=10, callbacks=callbacks)
    trainer.fit(X, LABELS, epochs=2, validation=(X, LABELS))
    return trainer, saving


def in_a_child(work):
    """Do the work in a child process; return its exit code."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)  # an exception
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def save_and_die(saving, trainer, at):
    """Save a newer state; the process ends before its call number `at`."""
    trainer.model.flat.values += 1
    trainer.optimizer.steps += 1
    saving._best = None  # so that best.safetensors is written, too
    count = 0

    def counted(function):
        def call(*arguments, **options):
            nonlocal count
            if count == at:
                os._exit(DIED)
            count += 1
            return function(*arguments, **options)

        return call

    for module, name in CALLS:
        setattr(module, name, counted(getattr(module, name)))
    saving.save(trainer)


def test_death_at_any_call_leaves_the_old_checkpoint_or_the_new(tmp_path):
    folder = tmp_path / "checkpoints"
    trainer, saving = trainer_of(folder)
    old = trainer.model.flat.values.copy()
    step, seen, at = trainer.step, [], 0
    while True:
        for path in folder.iterdir():
            path.unlink()
        saving._saved, saving._best = (-1, -1), None
        for _ in range(2):  # two generations, of the old state
            trainer.optimizer.steps = step
            saving.save(trainer)
            saving._saved = (-1, -1)
        code = in_a_child(lambda at=at: save_and_die(saving, trainer, at))
        assert code in (0, DIED)
        warnings = []
        found = newest_checkpoint(folder, warnings.append)
        assert warnings == []  # nothing is damaged: it is there whole, or not at all
        assert found.state["step"] in (step, step + 1)
        new = found.state["step"] == step + 1
        weight = found.state["parameters"]["0.weight"]
        np.testing.assert_array_equal(weight, old[: weight.size].reshape(weight.shape) + new)
        read_tensors(folder / "best.safetensors")
        seen.append(new)
        # and a run goes on from there, whatever else lies there
        other, _ = trainer_of(tmp_path / "other")
        other.load_state(found.state)
        if code == 0:
            break
        at += 1
    assert seen == sorted(seen)  # old up to some call, new after it
    assert seen.count(False) > 15
    assert seen.count(True) >= 3  # the rename, and what follows it


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_at_any_call_leaves_the_old_checkpoint_or_the_new(error, tmp_path, monkeypatch):
    trainer, saving = trainer_of(tmp_path)
    step = trainer.step
    trainer.optimizer.steps += 1
    for at in range(100):
        saving._saved, count = (-1, -1), 0

        def counted(function, at=at):
            def call(*arguments, **options):
                nonlocal count
                count += 1
                if count - 1 == at:
                    raise error
                return function(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for module, name in CALLS:
                if (module, name) != (os, "close"):  # cannot fail for want of space
                    patch.setattr(module, name, counted(getattr(module, name)))
            try:
                saving.save(trainer)
                done = True
            except (FileError, OSError, KeyboardInterrupt):
                done = False
        found = newest_checkpoint(tmp_path)
        assert found.state["step"] in (step, step + 1)
        assert not list(tmp_path.glob(".*"))
        if done:
            break
    assert at > 10
    assert found.state["step"] == step + 1


def test_the_best_epoch_is_on_the_disk_before_the_checkpoint_that_names_it(tmp_path, monkeypatch):
    written = []

    def write(path, *arguments, write=checkpoints.write_tensors):
        written.append(path.name)
        return write(path, *arguments)

    monkeypatch.setattr(checkpoints, "write_tensors", write)
    trainer_of(tmp_path)
    assert written[:2] == ["best.safetensors", "last.safetensors"]
    tensors, facts = read_tensors(tmp_path / "best.safetensors")
    assert newest_checkpoint(tmp_path).facts["best"]["sha256"] == tensor_file._digest(
        tensors, facts
    )


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
    trainer, saving = trainer_of(tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()
    trainer.model.flat.values[3] = np.nan
    trainer.optimizer.steps += 1
    saving.save(trainer)
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_a_checkpoint_of_no_configuration_is_no_model(tmp_path):
    trainer_of(tmp_path)
    with pytest.raises(FileError, match=r"last\.safetensors"):
        load_model(tmp_path / "last.safetensors")
