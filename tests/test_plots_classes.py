"""Plots of classifiers: curves over all thresholds have the points and areas of scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumlp.metrics import average_precision
from gpumlp.plots import Predictions
from gpumlp.plots.classes import confusion, thresholds
from gpumlp.plots.style import our_style, percent, png

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
CLASSES = ("no", "yes")


@pytest.fixture(autouse=True)
def style():
    with our_style():
        yield


def binary(target, score, weight=None, classes=CLASSES):
    target, score = np.array(target, float)[:, None], np.array(score, float)[:, None]
    weight = None if weight is None else np.array(weight, float)
    return Predictions("test", target, score, classes, sample_weight=weight)


def line(axes, label=None):
    """The points of the curve of a panel: the line that is not the dashed one."""
    (found,) = [one for one in axes.get_lines() if (one.get_label() == "chance") == (label == 1)]
    return np.array(found.get_xdata()), np.array(found.get_ydata())


samples = st.lists(
    st.tuples(
        st.booleans(),
        st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]),
        st.sampled_from([0, 1, 2.5]),
    ),
    min_size=1,
    max_size=20,
)


@given(samples)
def test_average_precision_is_that_of_scikit_learn(rows):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    target, score, weight = (np.array(column, float) for column in zip(*rows, strict=True))
    if not (weight * target).any():
        assert np.isnan(average_precision(target.astype(int), score, weight))
        return
    kept = weight > 0  # scikit-learn lets thresholds of no weight divide 0 by 0
    expected = metrics.average_precision_score(
        target[kept], score[kept], sample_weight=weight[kept]
    )
    assert average_precision(target.astype(int), score, weight) == pytest.approx(expected)


def test_average_precision_is_undefined_without_scores():
    assert np.isnan(average_precision([0, 1], [0.5, float("nan")]))
    assert np.isnan(average_precision([], []))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_curves_are_those_of_scikit_learn(weighted, rng):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    target = rng.integers(0, 2, 200)
    score = np.round(np.clip(0.3 * target + rng.normal(0.4, 0.2, 200), 0, 1), 2)  # with ties
    weight = rng.integers(1, 4, 200) if weighted else None
    figure = thresholds("run", binary(target, score, weight))
    roc, pr = figure.axes
    expected = metrics.roc_curve(target, score, sample_weight=weight, drop_intermediate=False)
    for ours, theirs in zip(line(roc), expected[:2], strict=True):
        assert np.allclose(ours, theirs)
    auc = metrics.roc_auc_score(target, score, sample_weight=weight)
    assert roc.get_title() == f"ROC: AUC = {auc:.4f}"
    precision, recall, _ = metrics.precision_recall_curve(target, score, sample_weight=weight)
    ours = line(pr)
    assert np.allclose(ours[0], recall[::-1])
    assert np.allclose(ours[1][1:], precision[::-1][1:])
    ap = metrics.average_precision_score(target, score, sample_weight=weight)
    assert pr.get_title() == f"average precision = {ap:.4f}"
    share = np.average(target, weights=weight)
    assert line(pr, 1)[1] == pytest.approx([share, share])
    assert 'finding "yes"' in figure.get_suptitle()
    png(figure)


@pytest.mark.parametrize(
    ("target", "score", "weight"),
    [
        ([1, 1, 1], [0.1, 0.5, 0.9], None),
        ([0, 0, 0], [0.1, 0.5, 0.9], None),
        ([0, 1, 1], [0.1, np.nan, 0.9], None),
        ([0, 1, 1], [0.1, np.inf, 0.9], None),
        ([0, 1, 1], [0.1, 0.5, 0.9], [1, 0, 0]),
    ],
)
def test_without_two_classes_or_a_finite_score_there_are_no_curves(target, score, weight):
    assert thresholds("run", binary(target, score, weight)) is None


def test_without_names_of_classes_there_are_no_plots_of_them():
    assert thresholds("run", binary([0, 1], [0, 1], classes=())) is None
    assert confusion("run", binary([0, 1], [0, 1], classes=())) is None


def test_one_score_for_all_is_a_curve_of_one_step():
    roc, pr = thresholds("run", binary([0, 1, 1, 1], [0.5] * 4)).axes
    assert [c.tolist() for c in line(roc)] == [[0, 1], [0, 1]]
    assert [c.tolist() for c in line(pr)] == [[0, 1], [0.75, 0.75]]


def test_a_share_is_all_or_none_only_where_it_is():
    shares = (0, 1e-9, 0.004, 0.5, 0.994, 0.996, 1 - 1e-9, 1)
    said = ["0%", "<1%", "<1%", "50%", "99%", ">99%", ">99%", "100%"]
    assert [percent(share) for share in shares] == said


def test_large_counts_fit_their_cells():
    target = np.repeat([0, 1], [25_000, 9_999])
    figure = confusion("run", Predictions("test", target, np.eye(2)[target], CLASSES))
    assert [text.get_text() for text in figure.axes[0].texts] == ["25k\n100%", "9,999\n100%"]


def test_average_precision_wants_a_score_for_each_label():
    with pytest.raises(ValueError, match=r"\(2,\).*\(2, 2\)"):
        average_precision([0, 1], [[0.1, 0.9], [0.2, 0.8]])
