"""What every command line here shares: errors become one message on stderr and an exit code."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from .errors import DeviceError, FileError, GpumlpError


def guarded(work: Callable[[], int]) -> int:
    """Return what `work` returns; an error that it raises is said on stderr instead.

    Exit codes are those of `errors`; 5 also for memory that ran out, 6 also for output that cannot
    be written, 1 for a bug, whose place is named.
    """
    try:
        code = work()
        sys.stdout.flush()
        return code
    except GpumlpError as error:
        return _say(str(error), error.exit_code)
    except MemoryError as error:
        return _say(f"out of memory: {error or 'no details'}", DeviceError.exit_code)
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
    print(text, file=sys.stderr)
    return code
