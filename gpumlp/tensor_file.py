"""Named arrays and facts in one safetensors file, whose content is verified when it is read.

Reading runs no code: safetensors holds arrays and text only. The format itself does not notice
changed bits, so a sha256 over all names, types, shapes, bytes and facts goes with them.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from .backend import Array
from .errors import FileError
from .files import write_atomically

FORMAT = 2
ENTRY = "gpumlp"  # of the metadata: one, because its order with others would be arbitrary
NET = "net."  # begins the names of a network's parameters
DTYPES = {  # of NumPy, and as safetensors calls them
    **{"bool": "BOOL", "float16": "F16", "float32": "F32", "float64": "F64"},
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
}


def write_tensors(
    path: Path, tensors: Mapping[str, Array], facts: Mapping[str, Any], generations: int = 1
) -> str:
    """Write arrays and facts (what JSON can hold) to `path`, and return their sha256.

    As in `write_atomically`, which also says what `generations` are and what is raised. Pieces are
    written from where they lie: safetensors' own `save` would hold all of them three times. Raises
    TypeError for an array of other things than numbers.
    """
    arrays = {name: _plain(name, array) for name, array in sorted(tensors.items())}
    facts = {"format": FORMAT, **facts}
    digest = _digest(arrays, facts)
    start = _start(arrays, facts | {"sha256": digest})
    write_atomically(path, chain([start], map(_bytes, arrays.values())), generations)
    return digest


def _plain(name: str, array: Array) -> Array:
    """Return an array as files hold it: in the order of C, and of bytes from the smallest on."""
    array = np.asarray(array, order="C")
    if array.dtype.name not in DTYPES:
        raise TypeError(f"{name}: arrays of {array.dtype} cannot be saved")
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def file_size(tensors: Mapping[str, Array], facts: Mapping[str, Any]) -> int:
    """Return how many bytes `write_tensors` would write."""
    start = _start(tensors, {"format": FORMAT, **facts, "sha256": "0" * 64})
    return len(start) + sum(int(array.nbytes) for array in tensors.values())


def _start(tensors: Mapping[str, Array], facts: Mapping[str, Any]) -> bytes:
    """Return what stands before the arrays: the length of the header, and the header."""
    header: dict[str, Any] = {"__metadata__": {ENTRY: json.dumps(facts)}}
    end = 0
    for name, array in tensors.items():
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": array.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that arrays are aligned
    return len(text).to_bytes(8, "little") + text


def read_tensors(path: Path, what: str = "model") -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays and facts of a file.

    Raises FileError, which calls it a `what`, when the file cannot be read or is not what was
    written.
    """
    if path.exists() and not path.is_file():  # a pipe may never end
        raise FileError(f"{path}: cannot be read as a {what}: not a file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, AttributeError, TypeError, KeyError) as error:
        # the last three for types of numbers that NumPy has not
        raise FileError(f"{path}: cannot be read as a {what}: {error}") from None
    try:
        facts = json.loads(metadata[ENTRY])
        version, digest = facts["format"], facts.pop("sha256")
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        raise FileError(f"{path}: not a gpumlp {what}") from None
    if version != FORMAT:
        raise FileError(f"{path}: a {what} of format {version}; this gpumlp reads {FORMAT}")
    if digest != _digest(tensors, facts):
        raise FileError(f"{path}: its content is not what was saved (sha256 differs)")
    return tensors, facts


def _bytes(array: Array) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))


def _digest(tensors: Mapping[str, Array], facts: Mapping[str, Any]) -> str:
    """Return the sha256 over every name, type, shape and byte, in the order of names."""
    digest = hashlib.sha256()
    for piece in _digested(tensors, facts):
        digest.update(piece)
    return digest.hexdigest()


def _digested(
    tensors: Mapping[str, Array], facts: Mapping[str, Any]
) -> Iterator[bytes | memoryview]:
    for name, array in sorted(tensors.items()):
        yield f"{name} {array.dtype.name} {array.shape}\n".encode()
        yield _bytes(np.asarray(array, order="C"))
    yield json.dumps(facts, sort_keys=True).encode()
