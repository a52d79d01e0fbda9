"""How much memory this process may still take, as the operating system and the container say."""

from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

CONTAINERS = (  # limit, use, statistics, and there the cached files, which give way; cgroup 2, 1
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


class SystemMemory(NamedTuple):
    """Bytes of the machine, those that are free, and what a container may use (None: no limit)."""

    total: int
    free: int
    limit: int | None


def system_memory() -> SystemMemory | None:
    """Return what Linux says; None on other systems."""
    try:
        facts = _numbers("/proc/meminfo")
        total, free = facts["MemTotal:"] * 1024, facts["MemAvailable:"] * 1024
    except (OSError, KeyError, ValueError):
        return None
    with suppress(ImportError, OSError, KeyError, ValueError):  # what `ulimit -v` leaves
        resource = import_module("resource")
        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            free = min(free, max(0, most - _numbers("/proc/self/status")["VmSize:"] * 1024))
    for names in CONTAINERS:
        limit, use, statistics, cached = (f"/sys/fs/cgroup/{name}" for name in names)
        try:
            allowed = int(Path(limit).read_text())
        except (OSError, KeyError, ValueError):  # no such file, or "max"
            continue
        if allowed >= total:
            continue
        try:
            used = int(Path(use).read_text()) - _numbers(statistics)[Path(cached).name]
        except (OSError, KeyError, ValueError):
            used = 0
        return SystemMemory(total, min(free, max(0, allowed - used)), allowed)
    return SystemMemory(total, free, None)


def _numbers(path: str) -> dict[str, int]:
    """Return the first number of each line by its first word."""
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
