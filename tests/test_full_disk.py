"""F10: a disk that is full, read-only or gone, and no more open files: exit 6, nothing lost.

The last checkpoint stays whole, and when there is room again a resumed run ends with the same bits.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from child_process import environment

from gpumlp.checkpoints import newest_checkpoint
from gpumlp.kills import differences

resource = pytest.importorskip("resource", reason="no limits of processes here")
SETTINGS = [
    *("train.epochs=40", "checkpoint.every_epochs=1", "log.plots=false", "device=cpu"),
    "log.gradient_norms=false",
]
ARGUMENTS = ["--config", "digits", "-q", *(part for s in SETTINGS for part in ("--set", s))]
# run a training in which something happens at an epoch, in an otherwise ordinary process
AT_AN_EPOCH = """
import sys
from gpumlp import train
from gpumlp.events import Callback
from gpumlp.trainer import Trainer
class Happen(Callback):
    def on_epoch_end(self, trainer, record):
        if trainer.epoch == 20:
            happen()
def happen():
    {}
made = Trainer.__init__
def with_callback(self, *a, callbacks=(), **k):
    made(self, *a, callbacks=[Happen(), *callbacks], **k)
Trainer.__init__ = with_callback
sys.exit(train.main(sys.argv[1:]))
"""


def train(folder, *arguments, happening=None, **options):
    start = ["-m", "gpumlp.train"] if happening is None else ["-c", AT_AN_EPOCH.format(happening)]
    return subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    assert train(folder, *ARGUMENTS, "--run-dir", "run").returncode == 0
    return folder / "run"


def failed(done, code=6):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def goes_on(folder, whole):
    """Resume the run and compare it with the one that nothing happened to."""
    found = newest_checkpoint(folder / "run" / "checkpoints")
    assert found.state["epoch"] >= 18
    assert found.path.name == "last.safetensors"
    assert not list((folder / "run").rglob("*.tmp"))
    done = train(folder, "--resume", "run", "-q")
    assert done.returncode == 0, done.stderr
    assert differences(whole, folder / "run") == []


LIMITS = {
    "no open files": (
        "import os, resource; n = len(os.listdir('/proc/self/fd')); "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (n - 1, n - 1))",
        "Too many open files",
    ),
    "files may not be that large": (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))",
        "File too large",
    ),
}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_that_is_reached_ends_the_run_with_6(name, tmp_path, whole):
    happening, said = LIMITS[name]
    message = failed(train(tmp_path, *ARGUMENTS, "--run-dir", "run", happening=happening))
    assert said in message
    assert "run/" in message
    goes_on(tmp_path, whole)


@pytest.mark.parametrize("gone", ["run", "run/checkpoints"])
def test_a_folder_that_vanishes_ends_the_run_with_6(gone, tmp_path):
    happening = f"import shutil; shutil.rmtree({gone!r})"
    message = failed(train(tmp_path, *ARGUMENTS, "--run-dir", "run", happening=happening))
    assert "run/" in message
    assert "No such file or directory" in message


@pytest.mark.skipif(os.name == "posix" and not os.getuid(), reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_ends_with_6(tmp_path):
    tmp_path.chmod(0o500)
    try:
        assert "Permission denied" in failed(train("/", *ARGUMENTS, "--run-dir", tmp_path / "run"))
    finally:
        tmp_path.chmod(0o700)


# ------------------------------------------------------------- file systems of a test's own


def in_a_namespace(script, folder):
    """Run a shell script that may mount file systems, seen by nobody else."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", script]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def can_mount(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mount")
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    done = in_a_namespace("mount -t tmpfs -o size=64k tmpfs .", folder)
    if done.returncode:
        pytest.skip(f"no file systems can be mounted here: {done.stderr.strip()}")


TRAIN = f"{sys.executable} -m gpumlp.train " + " ".join(f"'{a}'" for a in ARGUMENTS)
SCRIPTS = {
    # what is there is some 80 kB for best, twice 330 kB for last, and as much for a new one
    "full": """
        mkdir disk; mount -t tmpfs -o size={size}k tmpfs disk
        code=0; {train} --run-dir disk/run || code=$?
        cp -r disk/run .; exit $code""",
    "read-only at the start": """
        mkdir disk; mount -t tmpfs -o size=64k,ro tmpfs disk
        {train} --run-dir disk/run""",
}


@pytest.mark.usefixtures("can_mount")
@pytest.mark.parametrize("size", [200, 500, 700, 850])
def test_a_full_disk_ends_the_run_with_6_and_leaves_a_whole_checkpoint_or_none(
    size, tmp_path, whole
):
    done = in_a_namespace(SCRIPTS["full"].format(size=size, train=TRAIN), tmp_path)
    assert "No space left on device" in failed(done)
    assert not list((tmp_path / "run").rglob("*.tmp"))
    newest_checkpoint(tmp_path / "run" / "checkpoints")  # or FileError
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").exists() == (size >= 500)
    done = train(tmp_path, "--resume", "run", "-q")
    assert done.returncode == 0, done.stderr
    assert differences(whole, tmp_path / "run") == []


@pytest.mark.usefixtures("can_mount")
def test_a_read_only_disk_ends_with_6_before_anything_is_done(tmp_path):
    done = in_a_namespace(SCRIPTS["read-only at the start"].format(train=TRAIN), tmp_path)
    assert "disk/run: Read-only file system" in failed(done)
