"""The soak test: its figures, and that it notices what grows."""

import pytest
import soak

pytestmark = pytest.mark.skipif(
    not soak.Path("/proc/self/statm").exists(), reason="memory is read from /proc"
)


def test_some_runs_and_steps_leave_no_files_open(monkeypatch):
    monkeypatch.setattr(soak, "MOMENTS", 3)
    found = soak.runs(6)
    assert [one["runs"] for one in found] == [2, 4, 6]
    assert len({one["files"] for one in found}) == 1
    found = soak.steps(300)
    assert [one["steps"] for one in found] == [100, 200, 300]
    assert len({one["files"] for one in found}) == 1


def test_growth_is_what_comes_after_the_warm_up():
    flat = [{"memory": 100, "files": 5, "threads": 1}] * 30
    start = [{"memory": 10 * i, "files": 3, "threads": 1} for i in range(10)]
    assert soak.growth(start + flat) == {"memory": 0, "files": 0, "threads": 0}
    leak = [{"memory": 100 + i, "files": 5, "threads": 1} for i in range(50)]
    assert soak.growth(leak)["memory"] > soak.LIMIT
    files = [{"memory": 100, "files": 5 + (i > 45), "threads": 1} for i in range(50)]
    assert soak.growth(files)["files"] > soak.LIMIT
