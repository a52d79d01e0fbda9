"""What every command line here shares: results on stdout, errors on stderr with an exit code."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from .errors import DeviceError, FileError, GpumlpError

LETTERS = str.maketrans(
    {
        # one letter each, so that columns stay where they are
        "∂": "d",
        "σ": "s",
        "Σ": "S",
        "ŷ": "t",
        "·": "*",
        "⁰": "0",
        "θ": "theta",
        "±": "+-",
        "δ": "delta",
    }
)


def guarded(work: Callable[[], int]) -> int:
    """Return what `work` returns; an error that it raises is said on stderr instead.

    Exit codes are those of `errors`; 5 also for memory that ran out, 6 also for output that cannot
    be written, 130 for Ctrl-C, 1 for a bug, whose place is named.
    """
    try:
        code = work()
        sys.stdout.flush()
        return code
    except GpumlpError as error:
        return _say(str(error), error.exit_code)
    except MemoryError as error:
        return _say(
            f"out of memory ({error or 'no details'}); fewer rows or columns, a smaller "
            "train.batch_size or smaller layers need less",
            DeviceError.exit_code,
        )
    except KeyboardInterrupt:
        return _say("stopped", 130)
    except BrokenPipeError:  # `| head` has seen enough; Python flushes once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FileError.exit_code
    except OSError as error:
        return _say(f"{error.filename or 'output'}: {error.strerror or error}", FileError.exit_code)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        return _say(f"a bug in gpumlp: {error!r} ({where})", GpumlpError.exit_code)


def _say(text: str, code: int) -> int:
    # names in hostile files may hold control characters, which a terminal would obey
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    print(shown, file=sys.stderr)
    return code


def plain(text: str, encoding: str | None) -> str:
    """Return the text as it can be written in an encoding.

    >>> plain("∂l/∂z = σ'(z) · 2", "utf-8"), plain("∂l/∂z = σ'(z) · 2", "ascii")
    ("∂l/∂z = σ'(z) · 2", "dl/dz = s'(z) * 2")
    """
    encoding = encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(LETTERS).encode(encoding, "replace").decode(encoding)
    return text


def show(text: str) -> None:
    """Print a result."""
    print(plain(text, sys.stdout.encoding), flush=True)
