"""scikit-learn's estimators on gpumlp: `MLPClassifier` and `MLPRegressor` (extra `sklearn`).

Parameters, methods and attributes have scikit-learn's names and meanings wherever they exist there.

>>> from sklearn.datasets import load_iris
>>> from sklearn.pipeline import make_pipeline
>>> from sklearn.preprocessing import StandardScaler
>>> x, y = load_iris(return_X_y=True)
>>> model = make_pipeline(StandardScaler(), MLPClassifier(max_iter=500, random_state=0))
>>> model.fit(x, y).score(x, y) > 0.95
True
"""

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(
        'gpumlp.sklearn needs scikit-learn; pip install "gpumlp[sklearn]"', name="sklearn"
    ) from error

from .classifier import MLPClassifier
from .regressor import MLPRegressor
from .saving import save_model

__all__ = ["MLPClassifier", "MLPRegressor", "save_model"]
