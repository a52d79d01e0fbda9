"""F6: a damaged checkpoint is never loaded: the one before it serves, and that is said.

GPUMLP_F6=N tries N kinds of damage instead of 2,000.
"""

import os
import random

import numpy as np
import pytest
from safetensors.numpy import load

from gpumlp.checkpoints import Checkpoints, newest_checkpoint
from gpumlp.errors import FileError
from gpumlp.losses import SoftmaxCrossEntropy
from gpumlp.model import multilayer_perceptron
from gpumlp.optimizers import Adam
from gpumlp.trainer import Trainer

COUNT = int(os.environ.get("GPUMLP_F6", 2000))
X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    model = multilayer_perceptron([4, 5, 3], seed=1)
    saving = Checkpoints(folder, every_steps=4)
    trainer = Trainer(model, SoftmaxCrossEntropy(), Adam(0.01), batch_size=5, callbacks=[saving])
    trainer.fit(X, np.arange(30) % 3, epochs=3)
    return folder


def truncated(draw, content):
    return content[: draw.randrange(len(content))]


def extended(draw, content):
    return content + draw.randbytes(draw.randint(1, 100))


def flipped(draw, content):
    content = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 5, 50])):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(content)


def zeroed(draw, content):
    start = draw.randrange(len(content))
    end = min(len(content), start + draw.choice([1, 8, 64, 512, 4096]))
    return content[:start] + bytes(end - start) + content[end:]


def exchanged(draw, content):
    """Two blocks of a disk in each other's place."""
    size = draw.choice([4, 64, 512])
    one, other = sorted(draw.randrange(len(content) - size) for _ in range(2))
    blocks = content[one : one + size], content[other : other + size]
    content = content[:one] + blocks[1] + content[one + size :]
    return content[:other] + blocks[0] + content[other + size :]


def same_content(one, other):
    """Whether two files say the same, as where a blank of the header became a line break."""
    try:
        arrays = load(one), load(other)
    except Exception:
        return False
    return all(
        set(a) == set(arrays[0]) and all(np.array_equal(a[k], arrays[0][k]) for k in a)
        for a in arrays
    )


@pytest.mark.parametrize("damage", [truncated, extended, flipped, zeroed, exchanged])
def test_the_checkpoint_before_a_damaged_one_serves(damage, folder):
    path = folder / "last.safetensors"
    content = path.read_bytes()
    newer, older = newest_checkpoint(folder).state, None
    draw, noticed = random.Random(damage.__name__), 0
    try:
        for _ in range(-(-COUNT // 5)):
            mutant = damage(draw, content)
            path.write_bytes(mutant)
            warnings = []
            state = newest_checkpoint(folder, warnings.append).state
            if warnings:
                noticed += 1
                assert len(warnings) == 1
                assert str(path) in warnings[0]
                older = older or state
                assert state["step"] == older["step"] < newer["step"]
                assert state["history"] == older["history"]
            else:  # then nothing was changed that means anything
                assert mutant == content or same_content(mutant, content)
                assert state["history"] == newer["history"]
            expected = older if warnings else newer
            for name, array in state["parameters"].items():
                assert array.tobytes() == expected["parameters"][name].tobytes()
            for name, array in state["optimizer"].items():
                assert array.tobytes() == expected["optimizer"][name].tobytes()
    finally:
        path.write_bytes(content)
    assert noticed > COUNT / 5 * 0.5  # what is zero can be zeroed, too


def test_all_generations_damaged_is_an_error_that_names_each(folder):
    contents = {path: path.read_bytes() for path in folder.iterdir()}
    try:
        for path, content in contents.items():
            path.write_bytes(content[:-1])
        with pytest.raises(FileError) as error:
            newest_checkpoint(folder)
        assert all(str(path) in str(error.value) for path in contents)
        assert error.value.exit_code == 6
    finally:
        for path, content in contents.items():
            path.write_bytes(content)


def test_a_folder_without_checkpoints_has_none(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "none") is None
    for name in ("best.safetensors", "last.txt", "last-x.safetensors", "last--1.safetensors"):
        (tmp_path / name).write_bytes(b"")
    assert newest_checkpoint(tmp_path) is None


def test_a_generation_may_be_missing(folder, tmp_path):
    """As after a death between two renames."""
    content = (folder / "last-1.safetensors").read_bytes()
    (tmp_path / "last-1.safetensors").write_bytes(content)
    (tmp_path / "last-7.safetensors").write_bytes(b"")
    warnings = []
    assert newest_checkpoint(tmp_path, warnings.append).path.name == "last-1.safetensors"
    assert warnings == []
