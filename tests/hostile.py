"""What the tests of hostile files share: train on a file, and see that nothing is left behind."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from gpumlp import train

LIMIT = 512 * 2**20  # bytes of memory
N = 40
X = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
LABEL = (X[:, 0] > 0).astype(np.uint8)
CONFIG = """
[data]
source = {source}
{more}
[model]
hidden = [3]
[train]
epochs = 1
"""


def case(words, files, *settings, name=None):
    """The words of the message, the files that cause it, and more lines of the [data] table."""
    label = name or words.rpartition("|")[2]
    return pytest.param(words.split("|"), files, settings, id=label[:50])


def refused(capsys, source, words, files, settings, code=3):
    """Write the files; training on `source` must end with that code and those words."""
    for name, content in files.items():
        Path(name).write_bytes(content)
    got, err = nothing_trains(capsys, source, settings)
    assert got == code, err
    assert any(name in err for name in (source, *files, words[0])), err
    assert not [word for word in words if word not in err], err


def write_config(source, settings, more=""):
    text = CONFIG.format(source=f'"{source}"', more="\n".join(settings)) + more
    Path("run.toml").write_text(text, encoding="utf-8")


def nothing_trains(capsys, source, settings=()):
    """Train in the current folder; return the exit code and what was said on stderr."""
    write_config(source, settings)
    before = sorted(os.listdir())
    tracemalloc.start()
    try:
        code = train.main(["--config", "run.toml", "--run-dir", "run", "-q"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    out, err = capsys.readouterr()
    assert not out
    assert "Traceback" not in err
    assert "a bug in gpumlp" not in err, err
    assert len(err) < 2000
    assert sorted(os.listdir()) == before  # no run folder, whole or half, and nothing ran
    assert peak < LIMIT
    return code, err


def trains(capsys, source, *settings, more=""):
    """Train in the current folder, without a word on stderr."""
    write_config(source, settings, more)
    code = train.main(["--config", "run.toml", "--run-dir", "run", "-q"])
    assert (code, capsys.readouterr().err) == (0, "")
