"""Results on stdout, with letters in place of symbols where the terminal has no symbols."""

import sys

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
