import numpy as np
import pytest

from gpumlp.data import table
from gpumlp.data.scaling import SCALERS, Scaler
from gpumlp.errors import DataError


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch):
    """Make every array of these tests longer than a block, with a ragged last one."""
    monkeypatch.setattr(table, "BLOCK_VALUES", 64)


@pytest.fixture(params=[np.uint8, np.int64, np.float32, np.float64])
def x(request):
    values = np.random.default_rng(1).normal(100, 30, (101, 7)).clip(0, 255)
    return values.astype(request.param)


def test_standard_gives_mean_0_and_variance_1(x):
    scaled = Scaler.fit("standard", x).transform(x, np.float64)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-13)
    np.testing.assert_allclose(scaled.var(axis=0), 1, rtol=1e-13)


def test_minmax_reaches_0_and_1_and_nothing_beyond(x):
    scaled = Scaler.fit("minmax", x).transform(x, np.float64)
    assert (scaled.min(axis=0) == 0).all()
    np.testing.assert_allclose(scaled.max(axis=0), 1, rtol=1e-15)
    assert scaled.max() <= 1


def test_none_changes_only_the_dtype(x):
    scaled = Scaler.fit("none", x).transform(x, np.float32)
    assert (scaled == x.astype(np.float32)).all()


def test_scalers_agree_with_scikit_learn(x):
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    new = np.random.default_rng(2).normal(100, 90, (20, 7))
    for name, peer in (("standard", "StandardScaler"), ("minmax", "MinMaxScaler")):
        expected = getattr(preprocessing, peer)().fit(x.astype(np.float64)).transform(new)
        actual = Scaler.fit(name, x).transform(new, np.float64)
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SCALERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_result_is_c_contiguous_and_of_the_dtype_asked_for(name, dtype, x):
    scaled = Scaler.fit(name, x).transform(np.asfortranarray(x), dtype)
    assert scaled.flags.c_contiguous
    assert scaled.dtype == dtype


@pytest.mark.parametrize("name", SCALERS)
def test_rows_select_as_a_copy_would(name, x):
    rows = np.array([90, 3, 50, 4, 77])
    by_rows, by_copy = Scaler.fit(name, x, rows), Scaler.fit(name, x[rows])
    assert (by_rows.transform(x, np.float32, rows) == by_copy.transform(x[rows], np.float32)).all()


# 0.1 summed and divided again is not 0.1: its deviation is rounding error, not 0.
@pytest.mark.parametrize("value", [0, 0.1, 1e300, -7])
@pytest.mark.parametrize("name", ["standard", "minmax"])
def test_a_constant_column_becomes_0_and_keeps_its_unit(name, value):
    x = np.column_stack([np.full(100, value, np.float64), np.arange(100.0)])
    scaler = Scaler.fit(name, x)
    assert (scaler.transform(x, np.float64)[:, 0] == 0).all()
    assert scaler.factor[0] == 1


@pytest.mark.parametrize("name", ["standard", "minmax"])
def test_a_column_that_hardly_varies_stays_finite(name):
    x = np.array([[0.0], [5e-324], [0.0]])
    assert np.isfinite(Scaler.fit(name, x).transform(x, np.float64)).all()


def test_standard_survives_a_large_mean():
    x = 1e9 + np.arange(100.0)[:, None]
    expected = (np.arange(100.0) - 49.5) / np.arange(100.0).std()
    actual = Scaler.fit("standard", x).transform(x, np.float64)[:, 0]
    np.testing.assert_allclose(actual, expected, rtol=1e-7)


@pytest.mark.parametrize("name", ["standard", "minmax"])
def test_a_column_too_wide_for_float64_is_named(name):
    x = np.array([[0.0, -1.5e308], [1.0, 1.5e308]])
    with pytest.raises(DataError, match=r"my\.npz: column 1 .*spans -1\.5e\+308 to 1\.5e\+308"):
        Scaler.fit(name, x, source="my.npz")


def test_a_value_out_of_the_range_of_the_dtype_is_named_with_its_own_row():
    x = np.zeros((200, 3))
    x[150, 2] = 1e300
    scaler = Scaler.fit("none", x)
    with pytest.raises(
        DataError, match=r"my\.npz: row 150, column 2 .*: scaled x as float32 is inf"
    ):
        scaler.transform(x, np.float32, np.arange(100, 200), source="my.npz")
    assert np.isfinite(scaler.transform(x, np.float64)).all()


def test_another_number_of_columns_is_refused():
    scaler = Scaler.fit("minmax", np.zeros((5, 64)))
    with pytest.raises(DataError, match=r"test\.npz: 63 columns, the training data has 64"):
        scaler.transform(np.zeros((5, 63)), np.float32, source="test.npz")


@pytest.mark.parametrize("name", SCALERS)
def test_a_scaler_survives_saving(name, x):
    scaler = Scaler.fit(name, x)
    arrays = scaler.to_arrays()
    assert {key: value.dtype for key, value in arrays.items()} == {
        "offset": np.float64,
        "factor": np.float64,
    }
    loaded = Scaler.from_arrays(name, {key: value.copy() for key, value in arrays.items()})
    assert loaded.name == name
    assert (loaded.transform(x, np.float32) == scaler.transform(x, np.float32)).all()


def test_an_unknown_scaler_is_an_error_of_the_caller():
    with pytest.raises(ValueError, match="none, standard, minmax"):
        Scaler.fit("robust", np.zeros((2, 2)))


# ---------------------------------------------------------------------------- missing values


@pytest.fixture
def gaps():
    x = np.random.default_rng(3).normal(5, 2, (101, 4))
    x[np.random.default_rng(4).random(x.shape) < 0.2] = np.nan
    return x


@pytest.mark.parametrize("name", SCALERS)
def test_missing_values_are_the_mean_of_the_rows_fitted(name, gaps):
    rows = np.arange(0, 101, 2)
    scaler = Scaler.fit(name, gaps, rows, missing=True)
    means = np.nanmean(gaps[rows], axis=0)
    np.testing.assert_allclose(scaler.fill, means, rtol=1e-13)
    filled = np.where(np.isnan(gaps), means, gaps)
    expected = Scaler.fit(name, filled, rows).transform(filled, np.float64)
    np.testing.assert_allclose(scaler.transform(gaps, np.float64), expected, atol=1e-12)
    assert np.isnan(gaps).any()  # the data itself stays as it is


def test_a_column_without_any_value_in_the_rows_fitted_is_named(gaps):
    gaps[:50, 2] = np.nan
    with pytest.raises(DataError, match=r"my\.csv: column 2 .*has no value in the training part"):
        Scaler.fit("standard", gaps, np.arange(50), "my.csv", missing=True)


def test_missing_values_without_a_fill_are_refused(gaps):
    scaler = Scaler.fit("none", gaps)
    with pytest.raises(DataError, match=r"x as float32 is nan"):
        scaler.transform(gaps, np.float32)


def test_values_too_large_to_average_are_refused():
    x = np.array([[1e308], [1.7e308], [np.nan]])
    with pytest.raises(DataError, match="too wide to scale"):
        Scaler.fit("standard", x, missing=True)


@pytest.mark.parametrize("name", SCALERS)
def test_a_scaler_with_a_fill_survives_saving(name, gaps):
    scaler = Scaler.fit(name, gaps, missing=True)
    loaded = Scaler.from_arrays(name, scaler.to_arrays())
    assert (loaded.transform(gaps, np.float64) == scaler.transform(gaps, np.float64)).all()
    with pytest.raises(ValueError, match="no scaler"):
        Scaler.from_arrays(name, {**scaler.to_arrays(), "fill": np.zeros(3)})


@pytest.mark.parametrize("key", ["offset", "factor", "fill"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_saved_numbers_that_are_not_finite_are_refused(key, value):
    saved = {"offset": np.ones(2), "factor": np.ones(2), "fill": np.ones(2)}
    with pytest.raises(ValueError, match="not finite"):
        Scaler.from_arrays("standard", saved | {key: np.array([1, value])})


@pytest.mark.parametrize("factor", [0.0, -1.0])
def test_a_saved_factor_that_no_data_give_is_refused(factor):
    with pytest.raises(ValueError, match="not positive"):
        Scaler.from_arrays("minmax", {"offset": np.ones(2), "factor": np.array([1, factor])})


@pytest.mark.parametrize("name", SCALERS)
def test_inverse_undoes_transform(name, x):
    scaler = Scaler.fit(name, x)
    scaled = scaler.transform(x, np.float64)
    np.testing.assert_allclose(scaler.inverse(scaled), x.astype(np.float64), rtol=1e-12, atol=1e-12)
