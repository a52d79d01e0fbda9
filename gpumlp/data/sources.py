"""Load a named source, built in or a file, as a checked table."""

from pathlib import Path

from gpumlp.data.npz import read_npz
from gpumlp.data.table import Table, check
from gpumlp.errors import DataError

BUILTIN = {"digits": Path(__file__).with_name("digits.npz")}
SUFFIXES = (".npz",)


def load(
    source: str, *, features: str = "x", target: str = "label", sample_weight: str | None = None
) -> Table:
    """Return the table of ``builtin:NAME`` or of a file; the other arguments name its arrays.

    Raises DataError for a source that is unknown, missing, damaged or unusable, and FileError for
    one that the system refuses to open.

    >>> digits = load("builtin:digits")
    >>> digits.x.shape, digits.x.dtype, digits.y.shape
    ((1797, 64), dtype('uint8'), (1797,))
    """
    names = [features, target] + ([] if sample_weight is None else [sample_weight])
    x, y, *weights = read_npz(_path(source), names, source)
    table = Table(x, y, weights[0] if weights else None, source)
    return check(table, (features, target, sample_weight or "sample_weight"))


def _path(source: str) -> Path:
    kind, _, name = source.partition(":")
    if kind == "builtin" and name in BUILTIN:
        return BUILTIN[name]
    if kind == "builtin" or Path(source).suffix.lower() not in SUFFIXES:
        known = ", ".join(f"builtin:{name}" for name in BUILTIN)
        raise DataError(
            f"{source}: unknown source; allowed: {known}, or a file {', '.join(SUFFIXES)}"
        )
    return Path(source)
