"""F5: the same configuration gives the same bits in fresh processes, with cold and warm caches.

What is cached are the products that were measured on a GPU; without one nothing is, and the cold
and the warm case are the same. GPUMLP_F5=N starts N processes instead of 5.
"""

import hashlib
import os
import subprocess
import sys

import pytest
from child_process import environment

COUNT = int(os.environ.get("GPUMLP_F5", 5))
SETTINGS = [
    "train.epochs=3",
    "log.plots=false",
    "model.dropout=0.2",
    "model.hidden=[256, 64]",
    "train.batch_size=200",  # whose products are shared by threads
    "early_stopping={patience=2}",
]
FILES = ("model.safetensors", "checkpoints/best.safetensors", "config.resolved.toml")


def sha256_of_a_run(folder, cache, hash_seed):
    arguments = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [sys.executable, "-m", "gpumlp.train", "--config", "digits", "-q", *arguments]
    folder.parent.mkdir(exist_ok=True)
    subprocess.run(
        [*command, "--run-dir", str(folder)],
        cwd=folder.parent,
        env=environment(XDG_CACHE_HOME=str(cache), PYTHONHASHSEED=str(hash_seed)),
        check=True,
        capture_output=True,
    )
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES]


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_fresh_processes_give_the_same_bits(warm, tmp_path):
    found = {
        tuple(sha256_of_a_run(tmp_path / f"{i}" / "run", tmp_path / f"cache{i * (not warm)}", i))
        for i in range(-(-COUNT // 2))
    }
    assert len(found) == 1
