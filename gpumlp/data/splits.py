"""Split rows into the rest and a held-out part, stratified by class on request."""

import numpy as np

from ..errors import DataError
from ..randomness import generator
from .types import Rows


def split(
    n: int,
    fraction: float,
    *,
    seed: int,
    part: int,
    labels: Rows | None = None,
    shuffle: bool = True,
    source: str = "data",
) -> tuple[Rows, Rows]:
    """Hold out round(fraction * n) of the rows 0..n-1; return (rest, held out), each ascending.

    The choice is a function of (seed, part) alone; part tells apart the splits of one run.
    ``shuffle=False`` holds out the last rows. ``labels``, class indices (n,), stratify: each class
    is held out in proportion, within one row, the rows that rounding leaves over going to the
    largest remainders (the lower class first). A class of few rows may then be missing from either
    side. Raises DataError, beginning with ``source``, if either side would have no row.

    >>> split(10, 0.3, seed=0, part=1, shuffle=False)
    (array([0, 1, 2, 3, 4, 5, 6]), array([7, 8, 9]))
    """
    size = round(fraction * n)
    if not 0 < size < n:
        raise DataError(f"{source}: a fraction of {fraction} of {n} rows holds out {size}")
    if labels is None:
        labels = np.zeros(n, np.int64)
    order = generator("split", seed, part).permutation(n) if shuffle else np.arange(n)
    # Grouped by class; stable, so that rows of a class stay in the order drawn (or given).
    order = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    held = np.zeros(n, np.bool_)
    for end, take in zip(np.cumsum(counts), allocate(counts, size), strict=True):
        held[order[end - take : end]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def allocate(counts: Rows, size: int) -> Rows:
    """Share out ``size`` rows over classes of ``counts`` rows by largest remainder, exactly.

    >>> allocate(np.array([50, 30, 1]), 10)
    array([6, 4, 0])
    """
    # Integers throughout: a rounded quota could tip a remainder and with it the total.
    shares, remainders = np.divmod(counts * size, counts.sum())
    largest = np.argsort(-remainders, kind="stable")[: size - shares.sum()]
    shares[largest] += 1
    return shares
