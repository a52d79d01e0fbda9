"""How numbers, counts, sizes and times are written for people."""

from collections.abc import Sequence
from itertools import groupby


def number(value: float) -> str:
    """Return a number with four digits that count, short enough for a column.

    >>> [number(value) for value in (0.98765, 0, 123.456, 2.5e-7, 1e13, float("nan"))]
    ['0.9877', '0.0000', '123.4560', '2.5000e-07', '1.0000e+13', 'nan']
    """
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.4e}"


def count(n: int, thing: str) -> str:
    """Return how many of a thing there are.

    >>> count(1, "epoch"), count(1640, "step"), count(2, "class")
    ('1 epoch', '1,640 steps', '2 classes')
    """
    plural = f"{thing}es" if thing.endswith("s") else f"{thing}s"
    return f"{n:,} {thing if n == 1 else plural}"


def size(n: int) -> str:
    """Return a number of bytes.

    >>> size(999), size(45_000), size(2_200_000), size(13_000_000_000)
    ('999 bytes', '45 kB', '2.2 MB', '13 GB')
    """
    if n < 1000:
        return count(n, "byte")
    for unit, prefix in ((1e9, "GB"), (1e6, "MB")):
        if n >= unit:
            return f"{n / unit:.{0 if n >= 10 * unit else 1}f} {prefix}"
    return f"{n / 1000:.0f} kB"


def duration(seconds: float) -> str:
    """Return a time as short as it can be read.

    >>> duration(0.0123), duration(1.26), duration(75), duration(7500)
    ('0.012 s', '1.3 s', '1 min 15 s', '2 h 5 min')
    """
    if seconds < 1:
        return f"{seconds:.3f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def layer_sizes(sizes: Sequence[int | None]) -> str:
    """Return layer sizes, equal neighbours together.

    >>> layer_sizes([64, 256, 10]), layer_sizes([64, 32, 32, 32, 32, 10])
    ('64-256-10', '64-(4×32)-10')
    """
    runs = [(size, len(list(run))) for size, run in groupby(sizes)]
    return "-".join(f"({n}×{size})" if n > 3 else "-".join([str(size)] * n) for size, n in runs)
