"""Download MNIST and check its content, so that a wrong file, or half of one, is never kept."""

import gzip
import hashlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from ..errors import ConfigError, DataError
from ..files import file_errors, write_atomically
from .mnist import STEMS, present_files
from .reading import blame, open_data

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# Of the files unzipped: mirrors compress anew.
MD5 = dict(
    zip(
        STEMS,
        (
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
        strict=True,
    )
)
BLOCK = 2**20
SECONDS = 30  # without an answer, until the next mirror is tried


def fetch_mnist(folder: Path, say: Callable[[str], None]) -> None:
    """Download those of the four files that ``folder`` lacks; ``say`` gets a line for each.

    Nothing is written before all content is known to be right. Raises DataError if no mirror gives
    it, or if the folder has a file of that name and other content; FileError if the file system
    refuses; ConfigError if pooch is missing.
    """
    present = present_files(folder)
    for stem, path in present.items():
        if path is not None:
            with open_data(path, f"mnist: {path}") as stream:
                _check_content(stem, stream, f"mnist: {path}")
    missing = [stem for stem, path in present.items() if path is None]
    if not missing:
        say(f"mnist: all four files are already in {folder}; nothing to download")
    contents = {folder / f"{stem}.gz": _download(stem, say) for stem in missing}
    for path, content in contents.items():
        with file_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)


def _download(stem: str, say: Callable[[str], None]) -> bytes:
    """The file from the first mirror that gives the right content."""
    try:
        import pooch
        import requests
    except ImportError as error:
        raise ConfigError('fetch needs pooch: pip install "gpumlp[fetch]"') from error
    get = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(),
        chunk_size=2**16,
        timeout=SECONDS,
        headers={"Accept-Encoding": "identity"},  # else a server may unzip the file on its way
    )
    failures = ""
    for mirror in MIRRORS:
        content = io.BytesIO()
        say(f"downloading {mirror}{stem}.gz")
        try:
            get(f"{mirror}{stem}.gz", content, None)
            _check_content(stem, io.BytesIO(content.getvalue()), f"{mirror}{stem}.gz")
        except requests.RequestException as error:
            failures += f"\n  {mirror}{stem}.gz: {_reason(error)}"
        except DataError as error:
            failures += f"\n  {error}"
        else:
            return content.getvalue()
    raise DataError(f"mnist: no mirror gave {stem}.gz:{failures}")


def _check_content(stem: str, stream: BinaryIO, what: str) -> None:
    """Raise DataError about ``what`` if the stream, unzipped, is not the content of that file."""
    digest = hashlib.md5(usedforsecurity=False)
    with blame(what, "gzip"):
        zipped = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        if zipped:
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=stream))
        while block := stream.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != MD5[stem]:
        raise DataError(f"{what}: wrong content: its md5 is {digest.hexdigest()}, not {MD5[stem]}")


def _reason(error: Exception) -> str:
    """A few words; the text of a network error is long and names inner objects."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return f"no answer within {SECONDS} seconds"
    if isinstance(error, requests.exceptions.SSLError):
        return "no secure connection"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return type(error).__name__
