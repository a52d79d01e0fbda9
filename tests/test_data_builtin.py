"""The data sets that ship: their values are those of their sources, and the script makes them."""

import numpy as np
import pytest

from gpumlp.config import BUILTIN
from gpumlp.data.builtin import SHIPPED, load_builtin, shipped_file
from gpumlp.data.make_builtin import make_builtin
from gpumlp.errors import DataError

SHAPES = {
    "digits": (1797, 64),
    "breast_cancer": (569, 30),
    "diabetes": (442, 10),
    "xor": (4, 2),
    "curve": (1000, 1),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two folders, each with what the script makes."""
    pytest.importorskip("sklearn")
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    for folder in folders:
        make_builtin(folder)
    return folders


@pytest.mark.parametrize("name", BUILTIN)
def test_every_data_set_that_a_configuration_may_name_loads(name):
    x, y = load_builtin(name)
    assert x.shape == SHAPES[name]
    assert y.shape == (len(x),)


@pytest.mark.parametrize("name", ["digit", "", "../digits", "digits.npz", "XOR"])
def test_another_name_is_refused_with_those_there_are(name):
    with pytest.raises(DataError) as caught:
        load_builtin(name)
    assert str(caught.value).startswith(f"builtin:{name}: ")
    assert all(known in str(caught.value) for known in BUILTIN)


def test_a_name_nearly_right_is_suggested():
    with pytest.raises(DataError, match='did you mean "builtin:breast_cancer"'):
        load_builtin("breast-cancer")


def test_the_digits_are_those_of_scikit_learn():
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = load_builtin("digits")
    assert x.dtype == y.dtype == np.uint8
    assert (x == digits.data).all()
    assert (y == digits.target).all()


def test_the_breast_cancer_measurements_are_those_of_scikit_learn_to_the_last_bit():
    cancer = pytest.importorskip("sklearn.datasets").load_breast_cancer()
    x, y = load_builtin("breast_cancer")
    assert x.dtype == np.float64
    assert (x == cancer.data).all()
    assert ((y == "benign") == (cancer.target == 1)).all()
    assert set(y.tolist()) == {"malignant", "benign"}
    assert (y == "malignant").sum() == 212


def test_the_diabetes_measurements_are_those_of_scikit_learn_unscaled():
    diabetes = pytest.importorskip("sklearn.datasets").load_diabetes(scaled=False)
    x, y = load_builtin("diabetes")
    assert x.dtype == y.dtype == np.float64
    assert (x == diabetes.data).all()
    assert (y == diabetes.target).all()


@pytest.mark.parametrize("name", SHIPPED)
def test_the_script_makes_the_shipped_file(name, made):
    one, two = ((folder / f"{name}.npz") for folder in made)
    assert one.read_bytes() == two.read_bytes()
    # Another zlib may compress otherwise, so the shipped file is compared by its arrays.
    with np.load(one) as again, np.load(shipped_file(name)) as shipped:
        assert again.files == shipped.files == ["x", "label"]
        assert all(again[name].tobytes() == shipped[name].tobytes() for name in again.files)
        assert all(again[name].dtype == shipped[name].dtype for name in again.files)


def test_what_ships_is_small():
    assert sum(shipped_file(name).stat().st_size for name in SHIPPED) < 140_000


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digits", ("Alpaydin", "Kaynak", "1998", "UCI", "CC BY 4.0")),
        ("breast_cancer", ("Wolberg", "Street", "1995", "UCI", "10.24432/C5DW2B", "CC BY 4.0")),
        ("diabetes", ("Efron", "Hastie", "Johnstone", "Tibshirani", "2004", "BSD 3-Clause")),
    ],
)
def test_what_ships_comes_with_its_attribution(name, words):
    text = shipped_file(name).with_name("ATTRIBUTION.md").read_text(encoding="utf-8")
    section = text.partition(f"## `{name}.npz`")[2].partition("\n## ")[0]
    assert not [word for word in words if word not in section]
    assert "scikit-learn" in section


def test_xor_is_what_no_straight_line_separates():
    x, y = load_builtin("xor")
    assert (y == np.logical_xor(*x.T.astype(bool))).all()


def test_the_curve_is_its_formula_each_time():
    (x, y), again = load_builtin("curve"), load_builtin("curve")
    assert (x == again[0]).all()
    assert (y == again[1]).all()
    assert x[0] == -1
    assert x[-1] == 1
    np.testing.assert_allclose(
        y, np.sin(2 * np.pi * x)[:, 0] + np.cos(5 * np.pi * x)[:, 0] / 2, atol=1e-8
    )


def test_the_curve_bends_and_no_line_fits_it():
    x, y = load_builtin("curve")
    slope_changes = np.diff(np.sign(np.diff(y))) != 0
    assert slope_changes.sum() == 10
    assert np.corrcoef(x[:, 0], y)[0, 1] ** 2 < 0.13
    assert np.abs(np.diff(y)).max() < 0.05  # continuous
