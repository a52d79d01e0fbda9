"""Make digits.npz, the handwritten digits that ship with the package, from scikit-learn's copy.

Run it with scikit-learn installed: ``python -m gpumlp.data.make_digits [FILE]``.
"""

import sys
from pathlib import Path

import numpy as np

DIGITS = Path(__file__).with_name("digits.npz")


def make_digits(path: Path) -> None:
    """Write ``path``: x uint8 (1797, 64) with values 0..16, label uint8 (1797,) with 0..9.

    Rows keep the order of the original file. NumPy dates every zip member 1980-01-01, so the same
    NumPy and zlib write the same bytes.
    """
    # Here and not above, so that the package never imports scikit-learn.
    from sklearn.datasets import load_digits

    digits = load_digits()
    np.savez_compressed(path, x=digits.data.astype(np.uint8), label=digits.target.astype(np.uint8))


if __name__ == "__main__":
    make_digits(Path(sys.argv[1]) if len(sys.argv) > 1 else DIGITS)
