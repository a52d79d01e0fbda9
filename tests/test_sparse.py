"""Sparse rows: made dense batch by batch, with the bits of a dense array."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("scipy", reason="SciPy is not installed (extra sklearn)")

from fake_cuda import FakeCudaBackend
from scipy import sparse

from gpumlp import Adam, SoftmaxCrossEntropy, Trainer, get_backend, multilayer_perceptron
from gpumlp.sparse import SparseRows, is_sparse

rng = np.random.default_rng(0)
X = rng.normal(size=(90, 12)) * (rng.random((90, 12)) < 0.25)
Y = (X[:, 0] + X[:, 1] > 0).astype(int)
BACKENDS = {
    "fp32": lambda: get_backend("cpu"),
    "fp64": lambda: get_backend("cpu", "fp64"),
    "bf16": lambda: get_backend("cpu", "bf16"),
    "cuda stand-in": FakeCudaBackend,
}
FORMATS = [sparse.csr_matrix, sparse.csc_matrix, sparse.coo_array, sparse.lil_matrix]


def trained(x, backend, batch_size, engine="auto"):
    model = multilayer_perceptron([12, 8, 2], "tanh", backend=backend, seed=1)
    loss, rule = SoftmaxCrossEntropy(backend=backend), Adam(lr=0.01)
    trainer = Trainer(model, loss, rule, batch_size=batch_size, engine=engine)
    trainer.fit(x, Y, epochs=3, validation=(x, Y))
    return trainer


@pytest.mark.parametrize("batch_size", [30, 40, "full"])
@pytest.mark.parametrize("name", BACKENDS)
def test_training_on_sparse_rows_gives_the_bits_of_dense_ones(name, batch_size):
    backend = BACKENDS[name]()
    dense, thin = (trained(x, backend, batch_size) for x in (X, sparse.csr_array(X)))
    to_numpy = backend.to_numpy
    values = [to_numpy(trainer.model.flat.values) for trainer in (dense, thin)]
    np.testing.assert_array_equal(*values)
    assert thin.history.column("val_loss") == dense.history.column("val_loss")
    predicted = [to_numpy(dense.predict(x)) for x in (X, sparse.csr_array(X))]
    np.testing.assert_array_equal(*predicted)
    hidden = [to_numpy(dense.model.features(x, 1)) for x in (X, sparse.csr_array(X))]
    np.testing.assert_array_equal(*hidden)


@pytest.mark.parametrize("engine", ["eager", "graph"])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_and_engine_takes_them(kind, engine):
    expected = trained(X, get_backend("cpu"), 40, engine).model.flat.values
    np.testing.assert_array_equal(
        trained(kind(X), get_backend("cpu"), 40, engine).model.flat.values, expected
    )


def test_values_that_are_not_finite_are_named_by_the_first_place():
    wrong = X.copy()
    wrong[70, 3] = np.nan
    wrong[40, 11] = wrong[40, 5] = np.inf
    with pytest.raises(ValueError, match=r"x has inf at row 40, column 5 \(counted from 0\)"):
        trained(sparse.csc_matrix(wrong), get_backend("cpu"), 30)
    with pytest.raises(ValueError, match="x has inf at row 0, column 0"):  # not a float32
        trained(sparse.csr_matrix(np.full((90, 12), 1e300)), get_backend("cpu"), 30)


def test_what_is_no_matrix_of_real_numbers_is_refused():
    with pytest.raises(ValueError, match="x must be an array of numbers: got complex128"):
        trained(sparse.csr_matrix(X * 1j), get_backend("cpu"), 30)
    with pytest.raises(ValueError, match=r"x must have shape \(N, 12\), got \(90, 11\)"):
        trained(sparse.csr_matrix(X[:, 1:]), get_backend("cpu"), 30)


def test_rows_are_taken_by_numbers_that_lie_on_a_device():
    on_device = SimpleNamespace(get=lambda: np.array([3, 1]))  # as CuPy's arrays are
    taken = SparseRows(sparse.csr_matrix(X), np.float64).take(on_device)
    np.testing.assert_array_equal(taken, X[[3, 1]])


def test_rows_in_as_much_of_an_array_as_is_needed():
    rows = SparseRows(sparse.csr_matrix(X), np.float32)
    assert (len(rows), rows.shape, rows.dtype, rows.ndim) == (90, (90, 12), np.float32, 2)
    np.testing.assert_array_equal(np.asarray(rows[5:9] * 2.0), X[5:9].astype(np.float32) * 2)
    given = sparse.csr_matrix(X)
    indices = given.indices.nbytes + given.indptr.nbytes
    assert rows.nbytes == given.data.nbytes * rows.dtype.itemsize // 8 + indices < X.nbytes
    assert is_sparse(sparse.csr_matrix(X))
    assert not is_sparse(X)
    assert not is_sparse(rows)


def test_input_scale_multiplies_sparse_rows():
    models = []
    for x in (X, sparse.csr_matrix(X)):
        model = multilayer_perceptron([12, 8, 2], seed=1)
        trainer = Trainer(model, SoftmaxCrossEntropy(), Adam(), batch_size=30, input_scale=0.5)
        trainer.fit(x, Y, epochs=2)
        models.append(model.flat.values)
    np.testing.assert_array_equal(*models)
