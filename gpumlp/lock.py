"""A lock of the operating system on an open file: gone with its process, however that ends."""

import errno
import sys
from typing import IO, Any

if sys.platform != "win32":
    import fcntl


def lock(file: IO[Any]) -> bool:
    """Lock a file, which is open for writing, until it is closed; False where another has it.

    True, too, where the system (Windows has other locks) or the file system knows none.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True
