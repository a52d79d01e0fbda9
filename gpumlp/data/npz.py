"""Read arrays from an npz file that anyone may have written: no pickle, no bomb, one error."""

import zipfile
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from ..errors import DataError
from .npy import check_header, read_array
from .reading import blame, check_unpacked, open_data
from .types import Array

MAX_BYTES = 16 * 2**30  # of all arrays of a file, decompressed
# What NumPy writes. Python unpacks bzip2 and LZMA without a limit, a gigabyte from some 100 bytes.
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_npz(path: Path, names: Sequence[str], source: str) -> list[Array]:
    """Return the named arrays of a file that np.savez or np.savez_compressed wrote.

    Every byte of an array is covered by its zip checksum, so a damaged file cannot yield other
    values. Raises DataError, whose text begins with ``source``, if the file is missing, damaged,
    too large or lacks a name, and FileError if the system refuses to open it.
    """
    with open_data(path, source) as stream, blame(source, "npz"):
        archive = zipfile.ZipFile(stream)
        size = sum(info.file_size for info in archive.infolist())
        if size > MAX_BYTES:
            raise DataError(f"{source}: {size} bytes decompressed, the limit is {MAX_BYTES}")
        return [_read_member(archive, name, source) for name in names]


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [member[:-4] for member in archive.namelist() if member.endswith(".npy")]


def _read_member(archive: zipfile.ZipFile, name: str, source: str) -> Array:
    stored = _names(archive)
    if stored.count(name) != 1:
        raise DataError(f"{source}: {_not_one(name, stored)}")
    member = archive.getinfo(name + ".npy")
    what = f'{source}: array "{name}"'
    with blame(what, "npz"):
        if member.compress_type not in COMPRESSIONS:
            raise DataError(f"{what} is compressed in another way than np.savez_compressed does")
        with archive.open(member) as stream:
            check_header(stream, member.file_size, what)  # type: ignore[arg-type]
        check_unpacked(member.file_size, member.compress_size, what, "save it with np.savez")
        with archive.open(member) as stream:
            return read_array(stream)  # type: ignore[arg-type]


def _not_one(name: str, stored: list[str]) -> str:
    if name in stored:
        return f'{stored.count(name)} arrays are called "{name}"'
    close = get_close_matches(name, stored[:1000], n=1)
    return f'no array "{name}"; it has {_listed(stored)}' + (
        f'; did you mean "{close[0]}"?' if close else ""
    )


def _listed(names: list[str], most: int = 20) -> str:
    """Names for a message, however many and long they are."""
    cut = [name if len(name) <= 60 else f"{name[:57]}..." for name in names[:most]]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(cut) + more if names else "none"
