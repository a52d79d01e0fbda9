"""The estimators as scikit-learn's users use them, and what they do that scikit-learn's do not."""

import copy
import io
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra sklearn)")

from fake_cuda import DeviceArray, FakeCudaBackend, on_device
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from gpumlp import cli
from gpumlp.backend import get_backend
from gpumlp.saved_model import load_model
from gpumlp.sklearn import MLPClassifier, MLPRegressor, save_model
from gpumlp.sklearn.base import SMALL

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.default_rng(0)
N = 120
X = rng.normal(size=(N, 6))
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).astype(int)
THREE = np.digitize(X[:, 0] + X[:, 1], [-0.7, 0.7])
LABELS = (X[:, :3] > 0).astype(int)
VALUES = X[:, 0] * 2 + X[:, 1]
FAST = {"max_iter": 5, "random_state": 0}


def test_without_scikit_learn_the_extra_is_named():
    code = "import sys; sys.modules['sklearn'] = None; import gpumlp.sklearn"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        'ImportError: gpumlp.sklearn needs scikit-learn; pip install "gpumlp[sklearn]"'
    )


# -------------------------------------------------------------------- scikit-learn's own tools


def test_a_pipeline_a_grid_search_and_cross_validation_work():
    x, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), MLPClassifier(max_iter=200, random_state=0))
    assert cross_val_score(pipeline, x, y, cv=3).mean() > 0.9
    grid = {"mlpclassifier__hidden_layer_sizes": [(4,), (8, 8)], "mlpclassifier__alpha": [0, 1]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2).fit(x, y)
    assert search.best_score_ > 0.8
    assert len(search.cv_results_["params"]) == 4


def test_probabilities_can_be_calibrated():
    model = CalibratedClassifierCV(MLPClassifier(**FAST), cv=3).fit(X, THREE)
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1)


def test_pandas_in_and_pandas_out():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    model = MLPClassifier((7,), **FAST).fit(frame, pandas.Series(Y))
    assert model.feature_names_in_.tolist() == list("abcdef")
    np.testing.assert_array_equal(model.predict(frame), model.predict_proba(frame).argmax(axis=1))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[list("bacdef")])
    hidden = model.set_output(transform="pandas").transform(frame)
    assert hidden.columns.tolist() == [f"mlpclassifier{i}" for i in range(7)]
    assert hidden.index.equals(frame.index)


# --------------------------------------------------------------------------- hidden features


@pytest.mark.parametrize("layer", [0, 1, 2, 3, -1, -2, -3, -4])
def test_transform_returns_the_activations_of_any_layer(layer):
    model = MLPClassifier((7, 5), activation="tanh", feature_layer=layer, **FAST).fit(X, THREE)
    a = [X]
    for i, (w, b) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        z = a[-1] @ w + b
        a.append(np.tanh(z) if i < 2 else z)
    np.testing.assert_allclose(model.transform(X), a[layer], atol=1e-12)
    assert len(model.get_feature_names_out()) == a[layer].shape[1]


def test_hidden_features_feed_the_next_step_of_a_pipeline():
    pipeline = make_pipeline(MLPRegressor(hidden_layer_sizes=(9,), **FAST), MLPRegressor(**FAST))
    assert pipeline.fit(X, VALUES).predict(X).shape == (N,)
    assert pipeline[:1].transform(X).shape == (N, 9)


# ------------------------------------------------------------- what scikit-learn's have not


def test_class_weights_are_sample_weights():
    weight = {0: 3.0, 1: 0.5, 2: 1.0}
    model = MLPClassifier(class_weight=weight, batch_size=N, **FAST).fit(X, THREE)
    rows = np.array([weight[k] for k in THREE])
    other = MLPClassifier(batch_size=N, **FAST).fit(X, THREE, rows)
    # alpha is divided by the sum of sample weights, and by the number of rows for class weights
    other.alpha *= rows.sum() / N
    other.fit(X, THREE, rows)
    for a, b in zip(model.coefs_, other.coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_balanced_class_weights_find_the_rare_class(solver):
    rare = X[:, 0] + rng.normal(size=N) > 1.7
    plain = MLPClassifier((), solver=solver, learning_rate_init=0.02, random_state=0)
    balanced = clone(plain).set_params(class_weight="balanced")
    found = [model.fit(X, rare).predict(X)[rare].mean() for model in (plain, balanced)]
    assert found[1] > 0.6 > 0.3 > found[0]


def test_class_weights_of_text_classes_and_wrong_ones():
    names = np.array(["ham", "spam"])[Y]
    model = MLPClassifier(class_weight={"spam": 1000, "ham": 1e-3}, learning_rate_init=0.01)
    assert set(model.fit(X, names).predict(X)) == {"spam"}
    for model, y, words in [
        (MLPClassifier(class_weight={"egg": 2}), names, "egg"),
        (MLPClassifier(class_weight="balanced"), LABELS, "several labels"),
        (MLPClassifier(class_weight="fair"), names, "fair"),
    ]:
        with pytest.raises(ValueError, match=words):
            model.fit(X, y)
    with pytest.raises(ValueError, match="needs all rows"):
        MLPClassifier(class_weight="balanced").partial_fit(X, Y, classes=[0, 1])


def test_dropout_is_drawn_in_training_and_not_in_predictions():
    model = MLPClassifier((50,), dropout=0.5, **FAST).fit(X, Y)
    again = MLPClassifier((50,), dropout=[0.5], **FAST).fit(X, Y)
    without = MLPClassifier((50,), **FAST).fit(X, Y)
    np.testing.assert_array_equal(model.predict_proba(X), again.predict_proba(X))
    np.testing.assert_array_equal(model.predict_proba(X), model.predict_proba(X))
    assert not np.allclose(model.coefs_[0], without.coefs_[0])


def test_each_layer_may_have_an_activation_of_its_own():
    model = MLPRegressor(hidden_layer_sizes=(5, 4), activation=["gelu", "logistic"], **FAST)
    model.fit(X, VALUES)
    names = [layer.activation.name for layer in model._network.layers]
    assert names == ["gelu", "sigmoid", "identity"]


def test_a_validation_part_of_ones_own_gives_scores_and_losses():
    train, held = slice(0, 80), slice(80, N)
    model = MLPClassifier(max_iter=10, random_state=0)
    model.fit(X[train], THREE[train], validation=(X[held], THREE[held]))
    assert len(model.validation_scores_) == len(model.validation_loss_curve_) == 10
    assert model.validation_scores_[-1] == model.score(X[held], THREE[held])
    expected = log_loss(THREE[held], model.predict_proba(X[held]))
    assert model.validation_loss_curve_[-1] == pytest.approx(expected, rel=1e-6)
    assert model.best_validation_score_ == max(model.validation_scores_)
    same = MLPClassifier(max_iter=10, random_state=0).fit(X[train], THREE[train])
    np.testing.assert_array_equal(model.coefs_[0], same.coefs_[0])
    assert same.validation_scores_ is None


def test_early_stopping_keeps_the_epoch_that_was_best_on_ones_own_part():
    train, held = slice(0, 30), slice(30, N)
    model = MLPClassifier(
        max_iter=400, early_stopping=True, learning_rate_init=0.05, random_state=0, tol=0
    )
    model.fit(X[train], Y[train], validation=(X[held], Y[held]))
    assert model.score(X[held], Y[held]) == model.best_validation_score_
    assert model.validation_scores_[-1] < model.best_validation_score_
    assert model.t_ == 30 * model.n_iter_


@pytest.mark.parametrize("scoring", ["loss", "neg_log_loss", "balanced_accuracy"])
def test_early_stopping_by_another_score(scoring):
    model = MLPClassifier(scoring=scoring, early_stopping=True, random_state=0, max_iter=30)
    model.fit(X, THREE)
    if scoring == "loss":
        assert [-loss for loss in model.validation_loss_curve_] == model.validation_scores_
    if scoring == "neg_log_loss":
        np.testing.assert_allclose(
            model.validation_scores_, np.negative(model.validation_loss_curve_), rtol=1e-6
        )


def test_early_stopping_by_a_function_of_ones_own():
    seen = []

    def score(model, x, y):
        seen.append(len(x))
        return -float(abs(model.predict(x) - y).mean())

    model = MLPRegressor(scoring=score, early_stopping=True, validation_fraction=0.25, **FAST)
    model.fit(X, VALUES)
    assert seen == [30] * model.n_iter_


# ---------------------------------------------------------------------- types of input


@pytest.mark.parametrize("container", [sparse.csr_matrix, sparse.csc_array, sparse.coo_array])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_sparse_rows_give_what_dense_ones_do(container, solver):
    x = X * (rng.random(X.shape) < 0.3)
    settings = {"solver": solver, "batch_size": 32, "early_stopping": solver == "adam", **FAST}
    dense = MLPClassifier(**settings).fit(x, THREE)
    model = MLPClassifier(**settings).fit(container(x), THREE)
    for a, b in zip(model.coefs_, dense.coefs_, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(model.predict_proba(container(x)), dense.predict_proba(x))
    np.testing.assert_array_equal(model.transform(container(x)), dense.transform(x))


def test_a_sparse_matrix_is_never_made_dense_at_once(monkeypatch):
    most = []
    toarray = sparse.csr_matrix.toarray

    def watched(self, *args, **kwargs):
        most.append(self.shape[0])
        return toarray(self, *args, **kwargs)

    monkeypatch.setattr(sparse.csr_matrix, "toarray", watched)
    x = sparse.random(20_000, 50, 0.01, "csr", rng=0)
    assert isinstance(x, sparse.csr_matrix)
    y = np.arange(20_000) % 2
    model = MLPClassifier((4,), batch_size=100, max_iter=1).fit(x, y)
    model.predict(x)
    MLPClassifier((4,), solver="lbfgs", max_iter=1).fit(x, y)
    assert 100 < max(most) <= 8192


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8, bool])
def test_any_numbers_are_taken_and_float32_stays_float32(dtype):
    x = (np.abs(X) * 2).astype(dtype)
    model = MLPRegressor(**FAST).fit(x, VALUES)
    assert model.predict(x).dtype == model.coefs_[0].dtype
    assert (model.predict(x).dtype == np.float32) == (dtype is np.float32)


def test_large_tables_are_computed_in_float32_and_small_ones_in_float64():
    rows = SMALL // (7 * 100 + 101) + 1
    x = np.resize(X, (rows, 6))
    y = np.arange(rows) % 2
    assert MLPClassifier(max_iter=1).fit(x, y).coefs_[0].dtype == np.float32
    assert MLPClassifier(max_iter=1).fit(x[:-1], y[:-1]).coefs_[0].dtype == np.float64
    assert MLPClassifier(max_iter=1, solver="lbfgs").fit(x, y).coefs_[0].dtype == np.float64
    assert MLPClassifier(max_iter=1, precision="fp64").fit(x, y).coefs_[0].dtype == np.float64
    assert MLPClassifier(max_iter=1, precision="bf16").fit(X, Y).coefs_[0].dtype == np.float32


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_arrays_of_a_gpu_give_arrays_of_the_gpu(solver):
    backend = FakeCudaBackend()
    x = on_device(X.astype(np.float32))
    settings = {"solver": solver, "batch_size": 60, "max_iter": 2, "random_state": 0}
    model = MLPClassifier((8,), device=backend, **settings).fit(x, on_device(THREE))
    host = MLPClassifier((8,), device="cpu", **settings).fit(X.astype(np.float32), THREE)
    for result, expected in [
        (model.predict_proba(x), host.predict_proba(X.astype(np.float32))),
        (model.transform(x), host.transform(X.astype(np.float32))),
    ]:
        assert isinstance(result, DeviceArray)
        np.testing.assert_allclose(result.get(), expected, atol=1e-5)
    assert isinstance(model.predict(x), DeviceArray)
    assert not isinstance(model.predict_proba(X), DeviceArray)
    assert not isinstance(model.coefs_[0], DeviceArray)
    with pytest.raises(ValueError, match="X has 5 features, but MLPClassifier is expecting 6"):
        model.predict(on_device(X[:, :5].astype(np.float32)))


def test_text_classes_of_rows_on_a_gpu_come_back_on_the_host():
    names = np.array(["ham", "spam"])[Y]
    x = on_device(X.astype(np.float32))
    model = MLPClassifier((8,), device=FakeCudaBackend(), max_iter=2, batch_size=60).fit(x, names)
    assert set(model.predict(x).tolist()) <= {"ham", "spam"}
    early = MLPRegressor(device=FakeCudaBackend(), early_stopping=True, max_iter=2)
    assert early.fit(x, VALUES).predict(x).shape == (N,)


# --------------------------------------------------------------------------- pickling, copies


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_pickle_predicts_alike_and_is_smaller_than_the_training_state(solver):
    model = MLPClassifier((64, 64), solver=solver, **FAST).fit(X, THREE)
    packed = pickle.dumps(model)
    parameters = sum(a.nbytes for a in model.coefs_ + model.intercepts_)
    assert parameters < len(packed) < 1.2 * parameters + 2000
    back = pickle.loads(packed)
    np.testing.assert_array_equal(back.predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(copy.deepcopy(model).transform(X), model.transform(X))
    with pytest.raises(NotFittedError):
        clone(model).predict(X)


def test_joblib_keeps_a_model():
    import joblib

    model = MLPRegressor(**FAST).fit(X, VALUES)
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    back = joblib.load(file)
    np.testing.assert_array_equal(back.predict(X), model.predict(X))


def test_training_goes_on_after_unpickling():
    model = MLPClassifier((8,), **FAST)
    model.partial_fit(X, THREE, classes=[0, 1, 2])
    back = pickle.loads(pickle.dumps(model)).partial_fit(X, THREE)
    assert back.t_ == 2 * N
    assert not np.allclose(back.coefs_[0], model.coefs_[0])


def test_coefficients_may_be_changed_in_place():
    model = MLPRegressor(device="cpu", **FAST).fit(X, VALUES)
    for array in model.coefs_ + model.intercepts_:
        array[...] = 0
    assert not model.predict(X).any()


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_coefficients_may_be_replaced(solver):
    model, other = (
        MLPRegressor(solver=solver, max_iter=3, random_state=seed).fit(X, VALUES) for seed in (0, 1)
    )
    model.predict(X)
    model.coefs_ = [w.copy() for w in other.coefs_]
    model.intercepts_[:] = [b.copy() for b in other.intercepts_]
    np.testing.assert_array_equal(model.predict(X), other.predict(X))
    np.testing.assert_array_equal(model.transform(X), other.transform(X))
    trained = model.set_params(warm_start=True).fit(X, VALUES)
    assert np.shares_memory(trained.coefs_[0], trained._network.flat.values)


def test_a_poisson_loss_of_the_validation_part_is_half_its_deviance():
    from sklearn.metrics import mean_poisson_deviance

    y = np.exp(X[:, 0]).round()
    model = MLPRegressor("poisson", max_iter=5, random_state=0)
    model.fit(X[:80], y[:80], validation=(X[80:], y[80:]))
    deviance = mean_poisson_deviance(y[80:], model.predict(X[80:]))
    assert model.validation_loss_curve_[-1] == pytest.approx(deviance / 2, rel=1e-9)


# ------------------------------------------------------------------------------- training


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=12, max_size=12).filter(lambda w: sum(w) > 0))
def test_weight_k_is_a_row_k_times_and_weight_0_is_no_row(weights):
    weights = np.array(weights)
    x, y = X[:12], VALUES[:12]
    common = {"max_iter": 3, "random_state": 0, "batch_size": "auto"}
    weighted = MLPRegressor(**common).fit(x, y, weights)
    repeated = MLPRegressor(**common).fit(x.repeat(weights, 0), y.repeat(weights))
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-6, atol=1e-9)


def test_a_random_state_repeats_a_fit():
    a, b = (MLPClassifier(random_state=4, max_iter=5).fit(X, THREE) for _ in range(2))
    np.testing.assert_array_equal(a.coefs_[0], b.coefs_[0])
    generator = np.random.RandomState(4)
    first, second = (MLPClassifier(random_state=generator, max_iter=5) for _ in range(2))
    assert not np.allclose(first.fit(X, THREE).coefs_[0], second.fit(X, THREE).coefs_[0])


def test_verbose_prints_what_scikit_learn_prints(capsys):
    MLPClassifier(verbose=True, max_iter=2, early_stopping=True).fit(X, Y)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Iteration 1, loss = ")
    assert lines[1].startswith("Validation score: ")
    MLPClassifier(verbose=True, max_iter=2, solver="lbfgs").fit(X, Y)
    assert "Iteration 2, loss = " in capsys.readouterr().out


@pytest.mark.filterwarnings("default::sklearn.exceptions.ConvergenceWarning")
def test_the_end_of_max_iter_is_a_warning():
    from sklearn.exceptions import ConvergenceWarning

    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\) reached"):
        MLPClassifier(max_iter=2).fit(X, Y)
    with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge"):
        MLPClassifier(max_iter=2, solver="lbfgs").fit(X, Y)
    with pytest.warns(UserWarning, match="batch_size=1000 and 120 samples: it is clipped"):
        MLPClassifier(batch_size=1000, max_iter=1).fit(X, Y)


def test_an_interrupted_training_keeps_what_it_has(monkeypatch):
    def interrupt(estimator, x, y):
        if estimator.n_iter_ == 3:
            raise KeyboardInterrupt
        return 0.0

    model = MLPClassifier(early_stopping=True, scoring=interrupt, random_state=0)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.fit(X, Y)
    assert model.n_iter_ == 3
    assert model.predict(X).shape == (N,)


def test_a_diverging_training_is_a_value_error():
    model = MLPRegressor(solver="sgd", learning_rate_init=1e6, max_iter=50)
    with pytest.raises(ValueError, match=r"non-finite parameter weights.*learning rate"):
        model.fit(X, VALUES * 1e3)


def test_partial_fit_learns_piece_by_piece():
    model = MLPClassifier(learning_rate_init=0.01, random_state=0)
    for _ in range(60):
        for start in range(0, N, 40):
            rows = slice(start, start + 40)
            model.partial_fit(X[rows], THREE[rows], classes=[0, 1, 2])
    assert model.score(X, THREE) > 0.95
    assert model.t_ == 60 * N
    assert not hasattr(MLPRegressor(solver="lbfgs"), "partial_fit")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.partial_fit(X, Y), "classes must be passed on the first call"),
        (
            lambda m: m.partial_fit(X, THREE, classes=[0, 1]),
            r"classes not in `self.classes_`: \[2\]",
        ),
        (
            lambda m: m.partial_fit(X, Y, classes=[0, 1]).partial_fit(X, Y, classes=[1, 2]),
            "not the same as in the first call",
        ),
        (
            lambda m: m.set_params(early_stopping=True).partial_fit(X, Y, classes=[0, 1]),
            "does not support early_stopping",
        ),
        (
            lambda m: m.set_params(warm_start=True).fit(X, Y).fit(X, THREE),
            "classes not in",
        ),
        (
            lambda m: (
                m.set_params(warm_start=True).fit(X, Y).set_params(hidden_layer_sizes=3).fit(X, Y)
            ),
            r"hidden_layer_sizes is \[3\], but what is trained further has \[100\]",
        ),
        (lambda m: m.fit(X, Y, validation=X), r"validation must be \(X, y\)"),
        (lambda m: m.set_params(solver="lbfgs").fit(X, Y, validation=(X, Y)), "has no epochs"),
        (lambda m: m.fit(X, Y, sample_weight=np.ones(3)), r"shape \(120,\), got \(3,\)"),
        (lambda m: m.fit(X, Y, sample_weight=-np.ones(N)), "must be >= 0, got -1"),
        (lambda m: m.fit(X, np.zeros(N)), "needs at least 2 classes; y has 1 class"),
        (lambda m: m.fit(X, np.stack([THREE, THREE], 1)), "has 2 columns of classes"),
        (lambda m: m.fit(X, VALUES), "Unknown label type"),
        (
            lambda m: m.set_params(early_stopping=True, validation_fraction=0.005).fit(X, LABELS),
            "validation set is too small",
        ),
    ],
)
def test_misuse_is_explained(call, words):
    with pytest.raises(ValueError, match=words):
        call(MLPClassifier(max_iter=2))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"hidden_layer_sizes": (3, 0)}, "hidden_layer_sizes must be > 0"),
        ({"hidden_layer_sizes": "3"}, "hidden_layer_sizes"),
        ({"activation": "sigmoidal"}, "activation must be one of logistic, .* got 'sigmoidal'"),
        ({"activation": ["relu", "tanh"]}, "one for each of the 1 hidden layers, got 2"),
        ({"solver": "newton"}, "solver must be one of adam, sgd, lbfgs, got 'newton'"),
        ({"alpha": -1}, "alpha must be >= 0, got -1"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1 or 'auto', got 0"),
        ({"learning_rate": "slow"}, "learning_rate must be one of"),
        ({"learning_rate_init": 0}, "learning_rate_init must be > 0, got 0"),
        ({"max_iter": 1.5}, "max_iter must be an integer >= 1, got 1.5"),
        ({"momentum": 1}, r"momentum must be in \[0, 1\), got 1"),
        ({"n_iter_no_change": 0}, "n_iter_no_change must be an integer >= 1 or inf"),
        ({"shuffle": "yes"}, "shuffle must be True or False"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"dropout": 0.5, "solver": "lbfgs"}, "dropout needs solver"),
        ({"precision": "half"}, "unknown precision 'half'"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
    ],
)
def test_parameters_are_checked_when_training_begins(parameters, words):
    model = MLPClassifier(**parameters)
    with pytest.raises(ValueError, match=words):
        model.fit(X, Y)


def test_a_poisson_model_refuses_negative_targets():
    with pytest.raises(ValueError, match="needs y >= 0"):
        MLPRegressor(loss="poisson").fit(X, VALUES)


def test_an_absolute_error_ignores_outliers():
    y = VALUES.copy()
    y[:10] = 1e4
    settings = {"hidden_layer_sizes": (), "max_iter": 500, "random_state": 0, "tol": 0}
    models = [
        MLPRegressor(loss, learning_rate_init=0.05, **settings)
        for loss in ("absolute_error", "squared_error")
    ]
    errors = [abs(m.fit(X, y).predict(X[10:]) - VALUES[10:]).mean() for m in models]
    assert errors[0] < 0.1 * errors[1]


# -------------------------------------------------------------------------- saved models


SAVED = {
    "binary": (MLPClassifier((5,), **FAST), load_breast_cancer),
    "multiclass": (MLPClassifier((5, 4), activation=["gelu", "tanh"], **FAST), load_iris),
    "regression": (MLPRegressor(hidden_layer_sizes=(5,), **FAST), load_diabetes),
    "linear": (MLPClassifier((), **FAST), load_iris),
    "bf16": (MLPClassifier((5,), precision="bf16", **FAST), load_iris),
}


@pytest.mark.parametrize("scaler", [None, StandardScaler(), MinMaxScaler((-1, 1))])
@pytest.mark.parametrize("name", SAVED)
def test_a_saved_estimator_predicts_the_same_with_its_scaling(name, scaler, tmp_path):
    estimator, load = SAVED[name]
    x, y = load(return_X_y=True)
    steps = [step for step in (scaler, estimator) if step is not None]
    model = make_pipeline(*map(clone, steps)).fit(x, y)
    save_model(model, tmp_path / "model.safetensors")
    saved = load_model(tmp_path / "model.safetensors")
    if name == "regression":
        expected = model.predict(x)[:, None]
    else:
        expected = model.predict_proba(x)
        expected = expected[:, 1:] if name == "binary" else expected
        assert saved.classify(x) == [str(label) for label in model.predict(x)]
    np.testing.assert_allclose(saved.predict(x), expected, rtol=1e-4, atol=1e-5)


def test_class_names_and_columns_travel_with_a_saved_model(tmp_path, monkeypatch, capsys):
    pandas = pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    names = np.array(["low", "mid", "high"])[THREE]
    model = make_pipeline(StandardScaler(), MLPClassifier(**FAST)).fit(frame, names)
    save_model(model, "model.safetensors", target="size")
    frame[list("fedcba")].to_csv("reordered.csv", index=False)
    saved = load_model("model.safetensors")
    assert saved.targets.classes == ("high", "low", "mid")
    assert saved.config.data.target == "size"
    assert (
        cli.main(["features", "model.safetensors", "--data", "reordered.csv", "--out", "f.npy"])
        == 0
    )
    scaled = model[0].transform(frame)
    np.testing.assert_allclose(np.load("f.npy"), model[-1].transform(scaled), atol=1e-5)
    assert cli.main(["features", "model.safetensors", "--out", "g.npy"]) == 3
    assert "given from Python" in capsys.readouterr().err


def test_class_weights_travel_with_a_saved_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = MLPClassifier(class_weight="balanced", precision="fp64", **FAST).fit(X, THREE)
    save_model(model, "m.safetensors", target="kind")
    np.savez("new.npz", x=X, kind=THREE)
    command = "evaluate m.safetensors --data new.npz --json"
    assert cli.main(command.split()) == 0
    found = json.loads(capsys.readouterr().out)
    weight = model.class_weight_[THREE]
    expected = log_loss(THREE, model.predict_proba(X), sample_weight=weight)
    assert found["loss"] == pytest.approx(expected, rel=1e-9)
    assert found["accuracy"] == model.score(X, THREE)


def test_labels_and_whole_numbers_as_names(tmp_path):
    for y, names in [(LABELS, ("0", "1", "2")), (THREE + 1.0, ("1", "2", "3"))]:
        saved = save_model(MLPClassifier(**FAST).fit(X, y), tmp_path / "m.safetensors")
        assert saved.targets.classes == names


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (StandardScaler(), "only gpumlp's estimators"),
        (make_pipeline(StandardScaler(), MinMaxScaler(), MLPClassifier(**FAST)), "one step"),
        (make_pipeline(MinMaxScaler(clip=True), MLPClassifier(**FAST)), "cannot be saved"),
    ],
)
def test_what_cannot_be_saved_is_refused(model, words, tmp_path):
    model.fit(X, Y)
    with pytest.raises(ValueError, match=words):
        save_model(model, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())
    with pytest.raises(NotFittedError):
        save_model(MLPClassifier(), tmp_path / "m.safetensors")


def test_a_model_of_a_gpu_opens_on_a_machine_without_one():
    model = MLPClassifier((8,), device=FakeCudaBackend(), max_iter=1, batch_size=60).fit(X, Y)
    back = pickle.loads(pickle.dumps(model.set_params(device="cpu")))
    assert back._net().backend == get_backend("cpu", "fp32")
    assert back.predict(X).shape == (N,)


@pytest.mark.parametrize("name", ["nul\0", "\udce9"])
def test_class_names_that_no_file_can_hold_are_not_saved(name, tmp_path):
    classifier = MLPClassifier(**FAST).fit(X, np.where(Y, "a", name + "b").astype(object))
    with pytest.raises(ValueError, match="class name"):
        save_model(classifier, tmp_path / "model.safetensors")
    assert not any(tmp_path.iterdir())
