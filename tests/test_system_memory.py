"""What the system says about memory, from files as Linux writes them."""

from pathlib import Path

import numpy as np
import pytest

from gpumlp.backend import Backend, CpuBackend
from gpumlp.backend.system_memory import SystemMemory, system_memory

MACHINE = {"/proc/meminfo": "MemTotal: 8000 kB\nMemFree: 1 kB\nMemAvailable: 4000 kB\nHuge: 0\n"}
KB = 1024


@pytest.fixture
def files(monkeypatch):
    """The files that there are, by path; no others."""
    there, really = {}, Path.read_text

    def read(path, **options):
        if str(path).startswith(("/proc", "/sys")) and str(path) not in there:
            raise FileNotFoundError(str(path))
        return there[str(path)] if str(path) in there else really(path, **options)

    monkeypatch.setattr(Path, "read_text", read)
    return there


def group(version, limit, used, cached):
    """The files of a container in either version of Linux's control groups."""
    if version == 2:
        names, key = ("memory.max", "memory.current", "memory.stat"), "inactive_file"
    else:
        names = "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"
        key = "total_inactive_file"
    contents = f"{limit}\n", f"{used}\n", f"cache 5\n{key} {cached}\n"
    return {f"/sys/fs/cgroup/{n}": content for n, content in zip(names, contents, strict=True)}


def test_a_machine_without_a_container_has_what_is_available(files):
    files |= MACHINE
    assert system_memory() == SystemMemory(8000 * KB, 4000 * KB, None)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("limit", "used", "cached", "free"),
    [
        (3000 * KB, 1000 * KB, 0, 2000 * KB),
        (3000 * KB, 1000 * KB, 400 * KB, 2400 * KB),  # cached files give way
        (7000 * KB, 1000 * KB, 0, 4000 * KB),  # the machine has no more
        (3000 * KB, 3001 * KB, 0, 0),
    ],
)
def test_a_container_has_what_is_left_of_its_limit(files, version, limit, used, cached, free):
    files |= MACHINE | group(version, limit, used, cached)
    assert system_memory() == SystemMemory(8000 * KB, free, limit)


@pytest.mark.parametrize(("version", "limit"), [(2, "max"), (1, 9223372036854771712)])
def test_no_limit_is_none(files, version, limit):
    files |= MACHINE | group(version, limit, 1000 * KB, 0)
    assert system_memory() == SystemMemory(8000 * KB, 4000 * KB, None)


@pytest.mark.parametrize(
    "content", [None, "", "MemTotal: 8000 kB\n", "MemTotal: x kB\nMemAvailable: 4 kB\n"]
)
def test_a_system_that_says_nothing_is_no_problem(files, content):
    files |= {} if content is None else {"/proc/meminfo": content}
    assert system_memory() is None
    assert CpuBackend().free_memory() is None


def test_the_limit_of_the_process_counts(files, monkeypatch):
    resource = pytest.importorskip("resource")
    files |= MACHINE | {"/proc/self/status": "Name:\tpython\nVmSize:\t 2500 kB\n"}
    for limit, free in ((3000, 500), (2000, 0), (9000, 4000), (None, 4000)):
        most = resource.RLIM_INFINITY if limit is None else limit * KB
        monkeypatch.setattr(resource, "getrlimit", lambda _, most=most: (most, most))
        assert system_memory() == SystemMemory(8000 * KB, free * KB, None)


def test_a_backend_on_the_cpu_has_the_memory_of_the_system(files):
    files |= MACHINE
    assert CpuBackend().free_memory() == Backend(np, "float64").free_memory() == 4000 * KB
