"""The estimators beside scikit-learn's own: the same parameters after the same steps.

Both draw the same start from a random state; without shuffling they then take the same batches.
"""

import warnings
from inspect import signature

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra sklearn)")

from sklearn import neural_network as theirs

import gpumlp.sklearn as ours

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of SciPy, about its older versions
]

N = 60
rng = np.random.default_rng(0)
X = rng.normal(size=(N, 5))
CLASSES = {
    "three classes": rng.integers(0, 3, N),
    "two classes": rng.integers(0, 2, N),
    "text": np.array(["no", "yes"])[rng.integers(0, 2, N)],
    "labels": rng.integers(0, 2, (N, 4)),
}
VALUES = {"values": rng.normal(size=N), "columns of values": rng.normal(size=(N, 3))}
COUNTS = {"counts": rng.poisson(3, N) * 1.0, "columns of counts": rng.poisson(3, (N, 2)) * 1.0}
COMMON = {
    "hidden_layer_sizes": (8, 6),
    "random_state": 3,
    "shuffle": False,
    "batch_size": 20,
    "max_iter": 8,
    "alpha": 0.05,
    "tol": 0,
    "n_iter_no_change": 1000,
}
SGD = {"solver": "sgd", "learning_rate_init": 0.02}
SOLVERS = {
    # the two put Adam's epsilon in different places, so it is made too small to matter
    "adam": ({"epsilon": 1e-14}, 1e-9),
    "nesterov": (SGD, 1e-12),
    "momentum": (SGD | {"nesterovs_momentum": False}, 1e-12),
    "sgd": (SGD | {"momentum": 0}, 1e-12),
    "lbfgs": ({"solver": "lbfgs", "tol": 1e-4}, 1e-9),
}
every_solver = pytest.mark.parametrize("solver", SOLVERS)


def assert_equal(mine, other, tolerance):
    for attribute in ("coefs_", "intercepts_"):
        for a, b in zip(getattr(mine, attribute), getattr(other, attribute), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
    for attribute in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_"):
        assert getattr(mine, attribute) == getattr(other, attribute), attribute
    assert mine.loss_ == pytest.approx(other.loss_, rel=5e-3)  # penalties of batches differ


def both(kind, settings, y, weight=None, loss=None):
    more = {} if loss is None else {"loss": loss}
    models = [getattr(module, kind)(**settings, **more) for module in (ours, theirs)]
    extra = () if weight is None else (weight,)
    return [model.fit(X, y, *extra) for model in models]


@every_solver
@pytest.mark.parametrize("target", CLASSES)
@pytest.mark.parametrize("activation", ["relu", "logistic", "tanh", "identity"])
def test_classifiers_have_the_same_parameters(solver, target, activation):
    settings, tolerance = SOLVERS[solver]
    settings = COMMON | {"activation": activation} | settings
    mine, other = both("MLPClassifier", settings, CLASSES[target])
    assert_equal(mine, other, tolerance)
    assert mine.classes_.tolist() == other.classes_.tolist()
    np.testing.assert_allclose(
        mine.predict_proba(X), other.predict_proba(X), rtol=0, atol=10 * tolerance
    )
    assert mine.predict(X).tolist() == other.predict(X).tolist()
    assert mine.predict(X).dtype == other.predict(X).dtype
    assert mine.score(X, CLASSES[target]) == other.score(X, CLASSES[target])


def needs_poisson():
    if "loss" not in theirs.MLPRegressor().get_params():
        pytest.skip("this scikit-learn has no Poisson loss")


@every_solver
@pytest.mark.parametrize("target", [*VALUES, *COUNTS])
def test_regressors_have_the_same_parameters(solver, target):
    settings, tolerance = SOLVERS[solver]
    loss = None
    if target in COUNTS:
        needs_poisson()
        loss = "poisson"
    mine, other = both("MLPRegressor", COMMON | settings, (VALUES | COUNTS)[target], loss=loss)
    assert_equal(mine, other, tolerance)
    np.testing.assert_allclose(mine.predict(X), other.predict(X), rtol=0, atol=100 * tolerance)


@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize("rule", ["invscaling", "adaptive"])
def test_learning_rates_fall_alike(rule, momentum):
    settings = COMMON | SGD | {"learning_rate": rule, "momentum": momentum}
    settings |= {"tol": 1e-2, "n_iter_no_change": 2, "max_iter": 200, "learning_rate_init": 0.1}
    mine, other = both("MLPClassifier", settings, CLASSES["three classes"])
    assert_equal(mine, other, 1e-10)
    np.testing.assert_allclose(mine.loss_curve_, other.loss_curve_, rtol=5e-3)
    assert mine.n_iter_ < 200


def test_what_ends_or_slows_a_training_is_said_alike(capsys):
    settings = COMMON | SGD | {"learning_rate": "adaptive", "learning_rate_init": 1e-5}
    settings |= {"tol": 1e-2, "n_iter_no_change": 2, "max_iter": 200, "verbose": True}
    said = []
    for module in (ours, theirs):
        module.MLPClassifier(**settings).fit(X, CLASSES["three classes"])
        lines = capsys.readouterr().out.splitlines()
        said.append([line for line in lines if "did not improve" in line])
    assert said[0] == said[1]
    assert len(said[0]) == 3  # at 1e-5, at 2e-6, and at the end


def test_a_training_that_stops_in_its_last_epoch_has_converged():
    settings = COMMON | SGD | {"tol": 1e-3, "n_iter_no_change": 3, "max_iter": 500, "alpha": 0}
    for module in (ours, theirs):
        stopped = module.MLPClassifier(**settings).fit(X, CLASSES["three classes"])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = module.MLPClassifier(**settings | {"max_iter": stopped.n_iter_})
            again.fit(X, CLASSES["three classes"])
            assert again.n_iter_ == stopped.n_iter_


def test_a_loss_that_stays_as_it_is_counts_alike():
    settings = COMMON | SGD | {"learning_rate_init": 1e-300, "tol": 0.0, "max_iter": 12}
    mine, other = both("MLPClassifier", settings | {"n_iter_no_change": 3}, CLASSES["two classes"])
    assert len(set(mine.loss_curve_)) == len(set(other.loss_curve_)) == 1
    assert mine.n_iter_ == other.n_iter_


def test_the_least_learning_rate_ends_the_training_alike():
    settings = COMMON | SGD | {"learning_rate": "adaptive", "learning_rate_init": 1e-6}
    settings |= {"tol": 1e-2, "n_iter_no_change": 2, "max_iter": 200}
    mine, other = both("MLPClassifier", settings, CLASSES["three classes"])
    assert mine.n_iter_ == other.n_iter_ < 10


@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
def test_early_stopping_takes_the_same_rows_and_stops_at_the_same_epoch(kind):
    y = CLASSES["two classes"] if kind == "MLPClassifier" else VALUES["values"]
    settings = COMMON | {"early_stopping": True, "batch_size": 16, "max_iter": 100}
    settings |= SGD | {"n_iter_no_change": 5, "validation_fraction": 0.2, "tol": 1e-4}
    mine, other = both(kind, settings, y)
    assert_equal(mine, other, 1e-12)
    np.testing.assert_allclose(mine.validation_scores_, other.validation_scores_, rtol=1e-9)
    assert mine.best_validation_score_ == pytest.approx(other.best_validation_score_, rel=1e-9)
    assert mine.best_loss_ is other.best_loss_ is None
    assert len(mine.validation_loss_curve_) == mine.n_iter_


def test_training_stops_for_want_of_progress_at_the_same_epoch():
    settings = COMMON | SGD | {"tol": 1e-3, "n_iter_no_change": 3, "max_iter": 500, "alpha": 0}
    mine, other = both("MLPClassifier", settings, CLASSES["three classes"])
    assert mine.n_iter_ == other.n_iter_ < 500
    assert mine.best_loss_ == pytest.approx(other.best_loss_, rel=1e-9)
    np.testing.assert_allclose(mine.loss_curve_, other.loss_curve_, rtol=1e-9)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_a_full_batch_with_sample_weights_is_the_same(solver):
    if "sample_weight" not in signature(theirs.MLPClassifier.fit).parameters:
        pytest.skip("this scikit-learn takes no sample weights")
    weight = rng.integers(0, 4, N) * 1.0
    settings, tolerance = SOLVERS[solver]
    settings = COMMON | settings | {"batch_size": N, "learning_rate_init": 0.01}
    mine, other = both("MLPClassifier", settings, CLASSES["three classes"], weight)
    assert_equal(mine, other, 50 * tolerance)


def test_partial_fit_makes_the_same_steps():
    settings = COMMON | SGD
    mine, other = ours.MLPClassifier(**settings), theirs.MLPClassifier(**settings)
    y = CLASSES["three classes"]
    for rows in (slice(0, 40), slice(20, 60), slice(0, 60)):
        for model in (mine, other):
            model.partial_fit(X[rows], y[rows], classes=[0, 1, 2])
    assert_equal(mine, other, 1e-12)
    assert len(mine.loss_curve_) == len(other.loss_curve_) == 3


def test_warm_start_goes_on_alike():
    settings = COMMON | SGD | {"warm_start": True}
    mine, other = ours.MLPRegressor(**settings), theirs.MLPRegressor(**settings)
    for _ in range(3):
        mine.fit(X, VALUES["values"])
        other.fit(X, VALUES["values"])
    assert_equal(mine, other, 1e-12)
    assert len(mine.loss_curve_) == len(other.loss_curve_) == 24


def test_every_parameter_and_attribute_of_scikit_learn_is_there():
    for kind in ("MLPClassifier", "MLPRegressor"):
        y = CLASSES["three classes"] if kind == "MLPClassifier" else VALUES["values"]
        mine, other = getattr(ours, kind)(), getattr(theirs, kind)()
        defaults = mine.get_params()
        for name, default in other.get_params().items():
            assert defaults[name] == default, name
        mine.set_params(max_iter=2).fit(X, y)
        other.set_params(max_iter=2).fit(X, y)
        public = {a for a in vars(other) if a.endswith("_") and not a.startswith("_")}
        assert not {a for a in public if not hasattr(mine, a)}
        methods = {m for m in dir(type(other)) if not m.startswith("_")}
        assert not {m for m in methods if not hasattr(mine, m)}
