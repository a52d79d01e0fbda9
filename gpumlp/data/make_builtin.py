"""Make the npz files that ship with the package from the copies that scikit-learn ships.

Run it with scikit-learn installed: ``python -m gpumlp.data.make_builtin [FOLDER]``.
"""

import sys
from pathlib import Path

import numpy as np

from .builtin import SHIPPED, shipped_file
from .types import Array


def make_builtin(folder: Path) -> None:
    """Write NAME.npz with the arrays x and label for each of SHIPPED into ``folder``.

    Values and row order are those of the original files. NumPy dates every zip member 1980-01-01,
    so the same NumPy and zlib write the same bytes.
    """
    for name in SHIPPED:
        x, label = _from_sklearn(name)
        np.savez_compressed(folder / f"{name}.npz", x=x, label=label)


def _from_sklearn(name: str) -> tuple[Array, Array]:
    # Here and not above, so that the package never imports scikit-learn.
    from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits

    if name == "digits":
        digits = load_digits()
        return digits.data.astype(np.uint8), digits.target.astype(np.uint8)
    if name == "breast_cancer":
        cancer = load_breast_cancer()
        return cancer.data, cancer.target_names[cancer.target]
    diabetes = load_diabetes(scaled=False)
    return diabetes.data, diabetes.target


if __name__ == "__main__":
    make_builtin(Path(sys.argv[1]) if len(sys.argv) > 1 else shipped_file("digits").parent)
