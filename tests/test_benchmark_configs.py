"""benchmarks/configs.py: its quick form, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gpumlp
from gpumlp.config_file import load_config, shipped_configs

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "configs.py"


def run(*arguments, **environment):
    paths = [str(Path(gpumlp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | environment,
    )


def test_the_quick_form_runs_every_configuration_that_can_run(tmp_path):
    done = run("--quick", "--out", tmp_path / "out.json", GPUMLP_DATA=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "left out: what needs MNIST" in done.stderr
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["environment"]["cpu"]
    rows = {row["config"]: row for row in content["rows"]}
    expected = [n for n in shipped_configs() if load_config(n).data.source != "mnist"]
    assert list(rows) == expected
    assert all(len(row["values"]) == 1 and row["seconds"]["median"] > 0 for row in rows.values())
    assert (rows["xor"]["part"], rows["xor"]["metric"]) == ("train", "accuracy")
    assert (rows["diabetes"]["part"], rows["diabetes"]["metric"]) == ("test", "r2")
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--configs", "xor,none"], "unknown configuration 'none'"), (["--seeds", "0"], "at least 1")],
)
def test_wrong_usage_exits_2(arguments, words):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
