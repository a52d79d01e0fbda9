"""scikit-learn's own checks of estimators: all of them pass, and none is expected to fail."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra sklearn)")

from sklearn.utils.estimator_checks import estimator_checks_generator

from gpumlp.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore")  # the checks provoke them

ESTIMATORS = [
    MLPClassifier(),
    MLPRegressor(),
    MLPClassifier(solver="lbfgs", max_iter=50),
    MLPRegressor(solver="lbfgs", max_iter=50),
]


CHECKS = [case for estimator in ESTIMATORS for case in estimator_checks_generator(estimator)]
NAMES = [f"{estimator!r}-{getattr(check, 'func', check).__name__}" for estimator, check in CHECKS]


def test_there_are_as_many_checks_as_scikit_learn_has():
    assert len(CHECKS) > 4 * 60


@pytest.mark.parametrize(("estimator", "check"), CHECKS, ids=NAMES)
def test_every_check_of_scikit_learn_passes(estimator, check):
    check(estimator)


ARRAY_API = """
import sys, warnings
warnings.simplefilter("ignore")
from sklearn.utils import estimator_checks
from gpumlp.sklearn import MLPClassifier, MLPRegressor
for estimator in (MLPClassifier(), MLPRegressor()):
    for check in estimator_checks._yield_array_api_checks(estimator, only_numpy=True):
        check(type(estimator).__name__, estimator)
        print("passed")
"""


def test_numpy_arrays_work_with_array_api_dispatch(tmp_path):
    """SciPy looks at its variable when it is imported, so in a process of its own."""
    import sklearn.utils.estimator_checks as checks

    if not hasattr(checks, "_yield_array_api_checks"):
        pytest.skip("this scikit-learn has no such check")
    import inspect

    if "only_numpy" not in inspect.signature(checks._yield_array_api_checks).parameters:
        pytest.skip("this scikit-learn checks declared support only, and there is none")
    done = subprocess.run(
        [sys.executable, "-c", ARRAY_API],
        env={**os.environ, "SCIPY_ARRAY_API": "1", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.count("passed") == 2, done.stderr[-2000:]
