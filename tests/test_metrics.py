"""The metrics against scikit-learn, against their definitions, and at their edges."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumlp import metrics
from gpumlp.errors import ConfigError
from gpumlp.metrics import DEFAULT_METRICS, METRICS, evaluate, select

N, C = 200, 5


@pytest.fixture(scope="module")
def sklearn_metrics():
    return pytest.importorskip("sklearn.metrics", reason="scikit-learn is the oracle here")


@pytest.fixture(params=["unweighted", "weighted"])
def weight(request):
    if request.param == "unweighted":
        return None
    drawn = np.random.default_rng(9).uniform(0.1, 3, N)
    drawn[::7] = 0
    return drawn


@pytest.fixture
def multiclass():
    """Labels, and probabilities that favour them and hold ties."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, C, N)
    scores = rng.integers(0, 4, (N, C)) + 2.0 * np.eye(C)[labels]
    return labels, np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)


@pytest.fixture
def binary():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, N)
    return labels, np.round(np.clip(rng.normal(0.3 + 0.4 * labels, 0.3), 0, 1), 1)


@pytest.fixture
def multilabel():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, (N, C))
    return labels, np.clip(rng.normal(0.3 + 0.4 * labels, 0.3), 0, 1)


@pytest.fixture(params=["one output", "three outputs"])
def regression(request):
    rng = np.random.default_rng(4)
    target = rng.normal(3, 2, (N, 3))
    prediction = target + rng.normal(0, [0.1, 1, 3], (N, 3))
    return (target, prediction) if "three" in request.param else (target[:, 0], prediction[:, 0])


def test_multiclass_metrics_equal_those_of_scikit_learn(sklearn_metrics, multiclass, weight):
    labels, p = multiclass
    predicted = p.argmax(axis=1)
    names = ["accuracy", "macro_f1", "log_loss", "auc"]
    expected = [
        sklearn_metrics.accuracy_score(labels, predicted, sample_weight=weight),
        sklearn_metrics.f1_score(labels, predicted, average="macro", sample_weight=weight),
        sklearn_metrics.log_loss(labels, p, sample_weight=weight),
        np.mean(
            [
                sklearn_metrics.roc_auc_score(labels == c, p[:, c], sample_weight=weight)
                for c in range(C)
            ]
        ),
    ]
    found = evaluate("multiclass", labels, p, names, weight)
    assert list(found) == names
    assert list(found.values()) == pytest.approx(expected, rel=1e-12)


def test_multiclass_auc_equals_one_versus_rest_of_scikit_learn(sklearn_metrics, multiclass):
    labels, p = multiclass
    expected = sklearn_metrics.roc_auc_score(labels, p, multi_class="ovr", average="macro")
    assert metrics.roc_auc(labels, p) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_top_k_accuracy_equals_that_of_scikit_learn(sklearn_metrics, weight, k):
    rng = np.random.default_rng(5)
    labels, scores = rng.integers(0, C, N), rng.normal(size=(N, C))
    expected = sklearn_metrics.top_k_accuracy_score(labels, scores, k=k, sample_weight=weight)
    assert metrics.top_k_accuracy(labels, scores, k, weight) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", [(N,), (N, 1)])
def test_binary_metrics_equal_those_of_scikit_learn(sklearn_metrics, binary, weight, shape):
    labels, p = binary
    predicted = p > 0.5
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(labels, predicted, sample_weight=weight),
        "macro_f1": sklearn_metrics.f1_score(
            labels, predicted, average="macro", sample_weight=weight
        ),
        "log_loss": sklearn_metrics.log_loss(labels, p, sample_weight=weight),
        "auc": sklearn_metrics.roc_auc_score(labels, p, sample_weight=weight),
    }
    found = evaluate("binary", labels.reshape(shape), p.reshape(shape), expected, weight)
    assert found == pytest.approx(expected, rel=1e-12)


def test_multilabel_metrics_equal_those_of_scikit_learn(sklearn_metrics, multilabel, weight):
    labels, p = multilabel
    predicted = p > 0.5
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(labels, predicted, sample_weight=weight),
        "macro_f1": sklearn_metrics.f1_score(
            labels, predicted, average="macro", sample_weight=weight
        ),
        "auc": sklearn_metrics.roc_auc_score(labels, p, average="macro", sample_weight=weight),
    }
    assert evaluate("multilabel", labels, p, expected, weight) == pytest.approx(expected, rel=1e-12)


def test_regression_metrics_equal_those_of_scikit_learn(sklearn_metrics, regression, weight):
    target, prediction = regression
    expected = {
        "mse": sklearn_metrics.mean_squared_error(target, prediction, sample_weight=weight),
        "rmse": sklearn_metrics.root_mean_squared_error(target, prediction, sample_weight=weight),
        "mae": sklearn_metrics.mean_absolute_error(target, prediction, sample_weight=weight),
        "r2": sklearn_metrics.r2_score(target, prediction, sample_weight=weight),
    }
    found = evaluate("regression", target, prediction, expected, weight)
    assert found == pytest.approx(expected, rel=1e-12)


def test_confusion_matrix_equals_that_of_scikit_learn(sklearn_metrics, multiclass):
    labels, p = multiclass
    expected = sklearn_metrics.confusion_matrix(labels, p.argmax(axis=1), labels=range(C + 1))
    found = metrics.confusion_matrix(labels, p.argmax(axis=1), C + 1)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_loss_clips_certainty_where_scikit_learn_does(sklearn_metrics, dtype):
    labels, p = [0, 1, 1], np.array([[1, 0], [1, 0], [0, 1]], dtype)
    expected = -math.log(np.finfo(dtype).eps) / 3
    assert metrics.log_loss(labels, p) == pytest.approx(expected, rel=1e-6)
    assert metrics.log_loss(labels, p) == pytest.approx(sklearn_metrics.log_loss(labels, p), 1e-6)


def test_log_loss_of_whole_numbers_clips_as_float64_does():
    expected = -math.log(2.0**-52) / 2
    assert metrics.log_loss([0, 1], np.array([[1, 0], [1, 0]])) == pytest.approx(expected)
    assert metrics.log_loss([0, 1], np.array([0, 0])) == pytest.approx(expected)


def test_constant_targets_give_the_r2_of_scikit_learn(sklearn_metrics):
    target = np.array([[5.0, 5.0, 1.0], [5.0, 5.0, 2.0]])
    prediction = np.array([[5.0, 5.0, 1.0], [5.0, 6.0, 2.0]])
    assert metrics.r2(target, prediction) == sklearn_metrics.r2_score(target, prediction) == 2 / 3


def test_r2_of_constants_that_float64_cannot_hold_is_zero():
    assert metrics.r2([0.1, 0.1, 0.1], [0.1, 0.1, 0.2]) == 0


def test_log_loss_of_soft_rows_is_their_cross_entropy():
    soft, p = np.array([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]]), np.array([[0.5, 0.3, 0.2]] * 2)
    expected = -(soft * np.log(p)).sum() / 2
    assert evaluate("multiclass", soft, p, ["log_loss"])["log_loss"] == pytest.approx(expected)


def test_one_hot_rows_give_what_integer_labels_give(multiclass, weight):
    labels, p = multiclass
    names = [name for name, metric in METRICS.items() if "multiclass" in metric.tasks]
    by_rows = evaluate("multiclass", np.eye(C)[labels], p, names, weight)
    by_column = evaluate("multiclass", labels[:, None], p, names, weight)
    assert by_rows == by_column == evaluate("multiclass", labels, p, names, weight)


def brute_force_auc(labels, scores, weight):
    pairs = [
        (w * v, (s > r) + (s == r) / 2)
        for label, s, w in zip(labels, scores, weight, strict=True)
        for other, r, v in zip(labels, scores, weight, strict=True)
        if label == 1 and other == 0
    ]
    return sum(w * won for w, won in pairs) / sum(w for w, _ in pairs)


# few distinct scores, so that ties are the rule
samples = st.lists(
    st.tuples(st.integers(0, 1), st.integers(-2, 2), st.integers(1, 4)), min_size=2, max_size=30
)


@given(samples)
def test_auc_with_ties_equals_the_count_over_all_pairs(rows):
    labels, scores, weight = np.array([(0, 1, 1), (1, 1, 2), *rows]).T
    expected = brute_force_auc(labels, scores, weight)
    assert metrics.roc_auc(labels, scores, weight) == pytest.approx(expected)


@given(samples)
def test_reversed_scores_mirror_the_auc(rows):
    labels, scores, weight = np.array([(0, 1, 1), (1, 1, 2), *rows]).T
    mirrored = metrics.roc_auc(labels, -scores, weight)
    assert metrics.roc_auc(labels, scores, weight) == pytest.approx(1 - mirrored)


def random_problem(task, seed):
    """Target and prediction, small enough that classes go missing and rows repeat."""
    rng = np.random.default_rng(seed)
    shape = {"multiclass": (9, 3), "binary": (9,), "multilabel": (9, 2), "regression": (9, 2)}[task]
    prediction = rng.integers(1, 6, shape) / 8
    if task == "multiclass":
        return rng.integers(0, 3, 9), prediction / prediction.sum(axis=1, keepdims=True)
    return rng.integers(0, 2, shape), prediction


tasks = pytest.mark.parametrize("task", DEFAULT_METRICS)
seeds = st.integers(0, 2**32)


def every_metric(task):
    return [name for name, metric in METRICS.items() if task in metric.tasks]


@tasks
@given(seed=seeds)
def test_the_order_of_samples_does_not_matter(task, seed):
    target, prediction = random_problem(task, seed)
    weight, order = np.arange(1, 10), np.random.default_rng(seed + 1).permutation(9)
    straight = evaluate(task, target, prediction, every_metric(task), weight)
    shuffled = evaluate(task, target[order], prediction[order], every_metric(task), weight[order])
    assert straight == pytest.approx(shuffled, rel=1e-9, abs=1e-9, nan_ok=True)


@tasks
@given(seed=seeds)
def test_an_integer_weight_is_that_many_copies_and_zero_is_absence(task, seed):
    target, prediction = random_problem(task, seed)
    weight = np.array([0, 1, 2, 3, 1, 0, 2, 1, 1])
    weighted = evaluate(task, target, prediction, every_metric(task), weight)
    copies = np.repeat(np.arange(9), weight)
    copied = evaluate(task, target[copies], prediction[copies], every_metric(task))
    assert weighted == pytest.approx(copied, rel=1e-9, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize(
    ("task", "target", "prediction"),
    [
        ("multiclass", np.arange(4), np.eye(4)),
        ("binary", np.array([0, 1]), np.array([0.0, 1.0])),
        ("multilabel", np.array([[0, 1], [1, 0]]), np.array([[0.0, 1.0], [1.0, 0.0]])),
        ("regression", np.array([0.0, 1.0]), np.array([0.0, 1.0])),
    ],
)
def test_a_perfect_prediction_scores_one_or_loses_nothing(task, target, prediction):
    for name, value in evaluate(task, target, prediction, every_metric(task)).items():
        assert value == pytest.approx(float(METRICS[name].greater_is_better), abs=1e-15), name


def test_greater_is_better_says_in_which_direction_noise_moves_a_metric(regression, multiclass):
    rng = np.random.default_rng(6)
    target, prediction = regression
    labels, p = multiclass
    for task, truth, good, bad in (
        ("regression", target, prediction, prediction + rng.normal(0, 9, prediction.shape)),
        ("multiclass", labels, p, rng.permutation(p)),
    ):
        better = evaluate(task, truth, good, every_metric(task))
        worse = evaluate(task, truth, bad, every_metric(task))
        for name in better:
            assert (better[name] > worse[name]) == METRICS[name].greater_is_better, name


def test_auc_of_one_class_is_nan_without_a_warning():
    assert math.isnan(metrics.roc_auc([1, 1, 1], [0.2, 0.3, 0.4]))
    assert math.isnan(metrics.roc_auc([0, 0], [[0.9, 0.1], [0.8, 0.2]]))
    assert math.isnan(metrics.roc_auc([0, 1], [0.2, 0.8], sample_weight=[1, 0]))


def test_auc_of_a_score_that_is_nan_is_nan():
    assert math.isnan(metrics.roc_auc([0, 1], [0.5, math.nan]))


def test_macro_f1_leaves_out_an_empty_class_unless_classes_are_given():
    labels, predicted = [0, 0, 2], [0, 0, 2]
    assert metrics.macro_f1(labels, predicted) == 1
    assert metrics.macro_f1(labels, predicted, classes=4) == 0.5


def test_macro_f1_counts_a_column_without_any_one_as_zero():
    assert metrics.macro_f1([[1, 0], [1, 0]], [[1, 0], [1, 0]]) == 0.5


def test_a_tie_goes_to_the_lower_class():
    rng = np.random.default_rng(7)
    scores = rng.integers(0, 3, (50, 100))  # many classes: a sort of few is stable in any case
    for k in (1, 10, 40):
        ahead = [sorted(range(100), key=lambda c, row=row: (-row[c], c))[:k] for row in scores]
        for label in range(0, 100, 9):
            expected = np.mean([label in best for best in ahead])
            assert metrics.top_k_accuracy(np.full(50, label), scores, k) == expected


@tasks
def test_metrics_of_no_samples_are_nan(task):
    target, prediction = random_problem(task, 0)
    empty = evaluate(task, target[:0], prediction[:0], every_metric(task))
    weightless = evaluate(task, target, prediction, every_metric(task), np.zeros(9))
    assert all(math.isnan(value) for value in (*empty.values(), *weightless.values()))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_regression_is_reported_without_a_warning(value):
    found = evaluate("regression", [1.0, 2.0, 3.0], [1.0, value, 3.0], ["rmse", "mae", "r2"])
    assert not any(math.isfinite(score) for score in found.values())


@pytest.mark.parametrize("k", [0, 4])
def test_k_outside_the_classes_is_an_error(k):
    with pytest.raises(ValueError, match="between 1 and the 3 classes"):
        metrics.top_k_accuracy([0], [[0.2, 0.3, 0.5]], k)


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0], [0.5, 1], [math.nan, 1], [math.inf, 0]])
def test_labels_that_are_not_class_numbers_are_an_error(labels):
    scores = np.full((2, 3), 1 / 3)
    for name in ("top_3_accuracy", "log_loss", "auc"):
        with pytest.raises(ValueError, match="whole numbers from 0 to 2"):
            evaluate("multiclass", labels, scores, [name])
    with pytest.raises(ValueError, match="whole numbers from 0 to 2"):
        metrics.confusion_matrix(labels, [0, 0], 3)


def test_small_label_types_do_not_overflow():
    labels, predicted = np.array([200, 255], np.uint8), np.array([255, 255], np.uint8)
    assert metrics.confusion_matrix(labels, predicted, 1000)[255, 255] == 1
    assert metrics.macro_f1(labels, predicted) == pytest.approx(1 / 3)


def test_binary_labels_outside_zero_and_one_are_an_error():
    with pytest.raises(ValueError, match="between 0 and 1"):
        metrics.log_loss([-1, 1], [0.5, 0.5])


@pytest.mark.parametrize(
    ("task", "target", "prediction"),
    [
        ("regression", (9,), (9, 3)),
        ("regression", (9,), (8,)),
        ("regression", (), ()),
        ("multiclass", (9,), (9,)),
        ("multiclass", (9, 4), (9, 3)),
        ("binary", (9,), (9, 2)),
        ("multilabel", (9, 2), (9, 3)),
    ],
)
def test_arrays_that_do_not_fit_are_an_error(task, target, prediction):
    with pytest.raises(ValueError, match=r"shape|fit"):
        evaluate(task, np.zeros(target), np.zeros(prediction))


@pytest.mark.parametrize(
    "metric", [metrics.mean_squared_error, metrics.rmse, metrics.mae, metrics.r2, metrics.macro_f1]
)
def test_the_error_says_which_shape_is_the_target(metric):
    said = r"a target of \(3, 2\) does not fit a prediction of \(3, 4\)"
    with pytest.raises(ValueError, match=said):
        metric(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="3 targets do not fit 4 predictions"):
        metric(np.zeros(3), np.zeros(4))


@pytest.mark.parametrize("weight", [[1, 1], [1, -1, 1], [1, math.nan, 1], [[1], [1], [1]]])
def test_weights_that_are_not_one_finite_number_a_sample_are_an_error(weight):
    with pytest.raises(ValueError, match="sample_weight"):
        metrics.accuracy([0, 1, 1], [0, 1, 1], weight)


@tasks
def test_the_default_metrics_of_a_task_are_computed_without_names(task):
    assert tuple(evaluate(task, *random_problem(task, 1))) == DEFAULT_METRICS[task]


def test_an_unknown_metric_is_refused_with_the_allowed_ones():
    allowed = "allowed for binary: accuracy, macro_f1, log_loss, auc"
    with pytest.raises(ConfigError, match=f"^metric 'acuracy' is unknown; {allowed}$"):
        select("binary", ["acuracy"])
    with pytest.raises(ConfigError, match=f"'rmse' is not meant for binary; {allowed}"):
        evaluate("binary", [0, 1], [0.1, 0.9], ["rmse"])
    with pytest.raises(ConfigError, match=r"unknown task 'ranking'.*regression"):
        select("ranking")


def test_a_string_is_the_name_of_one_metric():
    assert select("multiclass", "auc") == select("multiclass", ["auc"])
    with pytest.raises(ConfigError, match="metric 'acc' is unknown"):
        select("multiclass", "acc")


def test_a_metric_of_more_classes_than_there_are_is_refused_before_it_is_computed():
    assert select("multiclass", ["top_3_accuracy"], outputs=3)
    with pytest.raises(ConfigError, match="'top_3_accuracy' needs at least 3 outputs, not 2"):
        select("multiclass", ["accuracy", "top_3_accuracy"], outputs=2)


def test_an_auc_of_many_classes_needs_no_square_of_their_number():
    classes = 3000
    scores = np.zeros((2, classes), np.float32)
    tracemalloc.start()
    metrics._one_hot(np.array([0, classes - 1]), classes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * scores.size
    one_hot = metrics._one_hot(np.array([2, 0]), 3)
    assert one_hot.dtype == np.int64
    assert one_hot.tolist() == [[0, 0, 1], [1, 0, 0]]
