"""TOML that anyone may have written, read within limits of size, depth and time."""

import re
import tomllib
from typing import Any

LARGEST = 2**20  # characters, or bytes of a file
DEEPEST = 20  # tables and lists within each other; no key is deeper than 4
TOO_DEEP = f"tables or lists nested more than {DEEPEST} deep"

# What begins without an end reaches to the end of the line or text, where `tomllib` refuses it.
STRINGS_AND_COMMENTS = re.compile(
    r'"""(?:[^\\"]++|\\.|"(?!""))*+"{0,5}+'
    r"|'''(?:[^']++|'(?!''))*+'{0,5}+"
    r'|"(?:[^\\"\n]++|\\.)*+"?'
    r"|'[^'\n]*+'?"
    r"|#[^\n]*+",
    re.DOTALL,
)
NO_PART_OF_A_KEY = re.compile(r"[^\w\-. \t]+")


def read_toml(text: str) -> dict[str, Any]:
    r"""Return what a text in TOML says.

    Raises ValueError for one that is too large or too deep, and `tomllib.TOMLDecodeError`, which is
    a ValueError, for what is no TOML.

    >>> read_toml("[optimizer]\nlr = 0.5")
    {'optimizer': {'lr': 0.5}}
    """
    if len(text) > LARGEST:
        raise ValueError(f"more than {LARGEST} characters")
    # `tomllib` takes time and memory with the square of the parts of a key.
    plain = STRINGS_AND_COMMENTS.sub("_", text)
    if any(piece.count(".") > DEEPEST for piece in NO_PART_OF_A_KEY.split(plain)):
        raise ValueError(TOO_DEEP)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # Python reads no number of more than 4300 digits
        raise ValueError("an integer of more than 300 digits") from None
