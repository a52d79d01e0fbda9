"""SparseRows: a sparse matrix whose rows become dense when a batch takes them, and not before."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from .backend import Array


def is_sparse(x: Any) -> bool:
    """Return whether x is one of SciPy's sparse matrices or arrays, of any format."""
    return hasattr(x, "tocsr")


class SparseRows:
    """The rows of a sparse matrix (N, D), in as much of an array's interface as training needs.

    Args:
        matrix: SciPy's, of any format; it is kept as CSR, on the host, whatever the device.
        dtype: of the rows that are taken.

    Raises ValueError for a dtype that is no number.

    >>> from scipy.sparse import csr_array
    >>> rows = SparseRows(csr_array([[0, 2], [0, 0], [3, 0]]), np.float32)
    >>> rows.take(np.array([2, 0]))
    array([[3., 0.],
           [0., 2.]], dtype=float32)
    >>> np.asarray(rows[1:])
    array([[0., 0.],
           [3., 0.]], dtype=float32)
    """

    ndim = 2
    flags = SimpleNamespace(c_contiguous=False, f_contiguous=False)  # no kernel reads them

    def __init__(self, matrix: Any, dtype: npt.DTypeLike) -> None:
        if matrix.dtype.kind not in "buif":
            raise ValueError(f"got {matrix.dtype}")
        with np.errstate(over="ignore"):  # what becomes infinite is found by whoever checks
            self._csr = matrix.tocsr().astype(dtype, copy=False)
        self.shape: tuple[int, int] = self._csr.shape
        self.dtype = self._csr.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> "SparseRows":
        return SparseRows(self._csr[rows], self.dtype)

    def __mul__(self, factor: float) -> "SparseRows":
        return SparseRows(self._csr * factor, self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._csr.toarray(), dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of what is stored."""
        csr = self._csr
        return int(csr.data.nbytes + csr.indices.nbytes + csr.indptr.nbytes)

    def take(self, index: Array, axis: int = 0, out: Array = None, mode: str = "clip") -> Array:
        """Return the rows `index` (B,), dense, or write them into `out` (B, D)."""
        dense = self._csr[index.get() if hasattr(index, "get") else index].toarray()
        if out is None:
            return dense
        if hasattr(out, "set"):  # on a GPU
            out.set(dense)
        else:
            out[...] = dense
        return out

    def not_finite(self) -> tuple[Any, Sequence[int]] | None:
        """Return the first value that is not finite, by row and column, and its place; or None."""
        bad = ~np.isfinite(self._csr.data)
        if not bad.any():
            return None
        entries = self._csr.tocoo()
        places = np.stack([entries.row[bad], entries.col[bad]], axis=1)
        first = np.lexsort(places.T[::-1])[0]
        return entries.data[bad][first], places[first].tolist()
