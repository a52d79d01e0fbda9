"""What a Python process needs to import the gpumlp that is tested."""

import os
from pathlib import Path

import gpumlp


def environment(**more):
    """Return this process's environment variables, with a path to the package, and more."""
    paths = [str(Path(gpumlp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | more
