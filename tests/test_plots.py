"""Plots: they show the numbers of the run, whatever these are, and always give the same bytes."""

import subprocess
import sys

import numpy as np
import pytest

from gpumlp import plots
from gpumlp.config_file import parse_config
from gpumlp.errors import ConfigError, FileError
from gpumlp.events import History
from gpumlp.gradients.norms import GradientNorms
from gpumlp.losses import BinaryCrossEntropy, MeanSquaredError, SoftmaxCrossEntropy
from gpumlp.model import multilayer_perceptron
from gpumlp.optimizers import Adam
from gpumlp.plots import Predictions, plots_wanted, write_plots
from gpumlp.plots.classes import confusion
from gpumlp.plots.epochs import gradient_norms, history, learning_rate
from gpumlp.plots.regression import predicted_against_true
from gpumlp.plots.style import our_style, png
from gpumlp.plots.weights import first_layer
from gpumlp.trainer import Trainer

LARGEST = 100_000  # bytes
ALWAYS = {"history.png", "learning_rate.png"}
CLASSES = ("zero", "one", "two")


@pytest.fixture(autouse=True)
def style(request):
    """The style in which `write_plots` makes the figures."""
    if "without_matplotlib" in request.node.name:
        yield
        return
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    with our_style():
        yield


def trained(sizes=(4, 5, 3), loss=SoftmaxCrossEntropy, epochs=2, norms=True, validation=True):
    """A trainer after training, and the test part with its predictions."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, sizes[0]))
    y = rng.integers(0, sizes[-1], 40) if loss is SoftmaxCrossEntropy else x[:, : sizes[-1]]
    if loss is BinaryCrossEntropy:
        y = (y > 0).astype(float)
    callbacks = [GradientNorms(x, y)] if norms else []
    model = multilayer_perceptron(list(sizes), seed=1)
    trainer = Trainer(model, loss(), Adam(), callbacks=callbacks)
    trainer.fit(x, y, epochs=epochs, validation=(x, y) if validation else None)
    classes = CLASSES[: max(sizes[-1], 2)] if trainer.task != "regression" else ()
    return trainer, Predictions("test", y, trainer.predict(x), classes, x=x)


def names(written):
    return {path.name for path in written}


def texts(figure):
    """All texts of a figure, after it was drawn."""
    from matplotlib.text import Text

    png(figure)
    return [text for text in figure.findobj(Text) if text.get_visible()]


def figure_texts(figure):
    return [text.get_text() for text in texts(figure)]


def lines_of(axes):
    """{label: (epochs, values)} of the lines of a panel."""
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.get_lines()
        if not line.get_label().startswith("_")
    }


# --------------------------------------------------------------------------- which files


@pytest.mark.parametrize(
    ("sizes", "loss", "more"),
    [
        ((144, 70, 3), SoftmaxCrossEntropy, {"first_layer.png", "confusion_matrix.png"}),
        (
            (16, 5, 1),
            BinaryCrossEntropy,
            {"first_layer.png", "confusion_matrix.png", "thresholds.png"},
        ),
        ((4, 5, 3), BinaryCrossEntropy, {"first_layer.png"}),
        ((4, 3), MeanSquaredError, {"first_layer.png", "predictions.png", "residuals.png"}),
        ((101, 5, 1), MeanSquaredError, {"predictions.png", "residuals.png"}),
    ],
)
def test_each_task_has_its_plots_small_and_without_date_or_version(sizes, loss, more, tmp_path):
    trainer, predictions = trained(sizes, loss)
    written = write_plots(tmp_path / "plots", "run", trainer, predictions)
    assert names(written) == ALWAYS | {"gradient_norms.png", "features.png"} | more
    assert names((tmp_path / "plots").iterdir()) == names(written)
    for path in written:
        content = path.read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert len(content) < LARGEST
        assert not any(chunk in content for chunk in (b"tEXt", b"iTXt", b"zTXt", b"tIME"))


def test_what_was_not_recorded_has_no_plot(tmp_path):
    trainer, _ = trained(norms=False, validation=False)
    assert names(write_plots(tmp_path, "run", trainer)) == ALWAYS | {"first_layer.png"}


def test_the_same_run_gives_the_same_bytes_whatever_the_users_style(tmp_path):
    import matplotlib

    trainer, predictions = trained()
    first = write_plots(tmp_path / "a", "run", trainer, predictions)
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "axes.grid": False}):
        before = dict(matplotlib.rcParams)
        second = write_plots(tmp_path / "b", "run", trainer, predictions)
        assert dict(matplotlib.rcParams) == before
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_plots_need_neither_pyplot_nor_a_display(tmp_path):
    code = f"""
import sys
from pathlib import Path
import numpy as np
from gpumlp.losses import MeanSquaredError
from gpumlp.model import multilayer_perceptron
from gpumlp.optimizers import SGD
from gpumlp.plots import write_plots
from gpumlp.trainer import Trainer
assert "matplotlib" not in sys.modules
x = np.ones((4, 2))
trainer = Trainer(multilayer_perceptron([2, 1]), MeanSquaredError(), SGD())
trainer.fit(x, x[:, :1], epochs=1)
assert len(write_plots(Path({str(tmp_path)!r}), "run", trainer)) == 3
assert "matplotlib.pyplot" not in sys.modules
"""
    environment = {"MPLBACKEND": "TkAgg", "MPLCONFIGDIR": str(tmp_path / "cache")}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_folder_that_cannot_be_made_is_a_file_error(tmp_path):
    (tmp_path / "plots").write_text("mine")
    with pytest.raises(FileError, match="plots"):
        write_plots(tmp_path / "plots", "run", trained()[0])
    assert (tmp_path / "plots").read_text() == "mine"


# --------------------------------------------------------------------------- whether


def test_plots_are_made_where_they_can_be_unless_they_are_unwanted():
    assert [plots_wanted(setting) for setting in (True, "auto", False)] == [True, True, False]
    assert parse_config({"data": {"source": "builtin:digits"}}).log.plots == "auto"


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    assert not plots_wanted("auto")
    assert not plots_wanted(False)
    with pytest.raises(ConfigError, match=r'log\.plots.*pip install "gpumlp\[plot\]"') as caught:
        plots_wanted(True)
    assert caught.value.exit_code == 2


# --------------------------------------------------------------------------- what they show


def test_the_history_shows_every_quantity_of_training_and_validation():
    records = trained(epochs=5)[0].history
    figure = history("a run", records, best_epoch=3)
    loss, accuracy = figure.axes
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        drawn = lines_of(axes)
        assert drawn["training"] == ([1, 2, 3, 4, 5], records.column(name))
        assert drawn["validation"] == ([1, 2, 3, 4, 5], records.column(f"val_{name}"))
        assert drawn["best epoch"][0] == [3, 3]
        value = records[2][f"val_{name}"]
        assert f"{value:.4g} in epoch 3" in figure_texts(figure)
    assert "a run: training" in figure_texts(figure)


def test_without_early_stopping_the_lowest_validation_loss_is_marked():
    losses = [float("nan"), 0.5, 0.2, 0.3, float("inf")]
    records = [{"epoch": i, "loss": 1.0, "val_loss": v} for i, v in enumerate(losses, 1)]
    (axes,) = history("run", records, None).axes
    assert lines_of(axes)["epoch of the lowest validation loss"][0] == [3, 3]
    without = [{"epoch": 1, "loss": 1.0}]
    assert list(lines_of(history("run", without, None).axes[0])) == ["training"]


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_best_epoch_without_a_finite_value_says_so(value):
    records = [{"epoch": i, "loss": 1.0, "val_loss": 1 / i, "val_auc": value} for i in (1, 2)]
    shown = figure_texts(history("run", records, 2))
    assert "not finite in epoch 2" in shown
    assert "no finite value" in shown


def test_all_metrics_of_a_task_have_a_panel_each():
    metrics = ("accuracy", "top_3_accuracy", "macro_f1", "log_loss", "auc")
    record = {"epoch": 1, "loss": 0.5} | {f"val_{name}": 0.5 for name in metrics}
    titles = {axes.get_title("left") for axes in history("run", [record], None).axes}
    assert titles == {"loss", "accuracy", "top 3 accuracy", "macro f1", "log loss", "auc"}


@pytest.mark.parametrize(
    ("losses", "scale"),
    [([1, 0.5, 0.2], "linear"), ([100, 1, 0.01], "log"), ([100, 1, 0], "linear")],
)
def test_the_loss_is_drawn_over_a_logarithm_where_that_shows_more(losses, scale):
    records = [{"epoch": i, "loss": value} for i, value in enumerate(losses, 1)]
    assert history("run", records, None).axes[0].get_yscale() == scale


@pytest.mark.parametrize(
    ("rates", "scale"),
    [
        (0.5 + 0.5 * np.cos(np.linspace(0, 3.14, 40)), "linear"),  # ends next to nothing
        (0.8 ** np.arange(40), "log"),
        (np.ones(40), "linear"),
        (np.zeros(40), "linear"),
    ],
)
def test_a_rate_that_falls_all_the_time_is_drawn_over_a_logarithm(rates, scale):
    records = [{"epoch": i, "lr": float(rate)} for i, rate in enumerate(rates, 1)]
    assert learning_rate("run", records).axes[0].get_yscale() == scale


@pytest.mark.parametrize("epochs", [1, 2, 3, 41, 1000])
def test_epochs_are_marked_by_whole_numbers(epochs):
    records = [{"epoch": i, "lr": 0.1} for i in range(1, epochs + 1)]
    (axes,) = learning_rate("run", records).axes
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(tick == int(tick) for tick in ticks)


def test_gradient_norms_are_drawn_from_before_the_first_step():
    trainer, _ = trained(sizes=(4, 5, 6, 3), epochs=3)
    initial = trainer.callbacks[0].initial
    (axes,) = gradient_norms("run", trainer.history, initial).axes
    drawn = lines_of(axes)
    assert list(drawn) == ["layer 1 (input)", "layer 2", "layer 3 (output)"]
    for i, (epochs, values) in enumerate(drawn.values(), 1):
        key = f"grad_norm_{i}"
        assert epochs == [0, 1, 2, 3]
        assert values == [initial[key], *trainer.history.column(key)]
    assert axes.get_yscale() == "log"


@pytest.mark.parametrize("layers", [1, 12, 13, 40])
def test_many_layers_stay_readable(layers):
    record = {"epoch": 1} | {f"grad_norm_{i}": 10.0**-i for i in range(1, layers + 1)}
    figure = gradient_norms("run", [record], {})
    assert len(figure.axes[0].get_lines()) == layers
    assert len(figure_texts(figure)) < 60
    assert bool(figure.legends) == (layers <= 12) == (len(figure.axes) == 1)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), None])
def test_norms_that_no_logarithm_has_are_left_out(value):
    records = [{"epoch": 1, "grad_norm_1": 0.5, "grad_norm_2": value}]
    records.append({"epoch": 2, "grad_norm_1": 0.25, "grad_norm_2": value})
    (axes,) = gradient_norms("run", records, {}).axes
    assert list(lines_of(axes)) == ["layer 1 (input)"]


def test_the_confusion_matrix_counts_true_classes_in_rows():
    target, predicted = np.array([0, 0, 0, 1, 1, 2]), np.eye(3)[[0, 0, 1, 1, 1, 0]]
    figure = confusion("run", Predictions("val", target, predicted, CLASSES))
    axes = figure.axes[0]
    cells = {t.get_position(): t.get_text() for t in axes.texts}
    assert cells == {
        (0, 0): "2\n67%",
        (1, 0): "1\n33%",
        (1, 1): "2\n100%",
        (0, 2): "1\n100%",
    }
    (image,) = axes.images
    assert np.allclose(image.get_array(), [[2 / 3, 1 / 3, 0], [0, 1, 0], [1, 0, 0]])
    assert "run: 2 of 6 wrong (val part)" in figure_texts(figure)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(CLASSES)


def test_binary_and_one_hot_targets_have_a_confusion_matrix_too():
    score = np.array([[0.1], [0.5], [0.9], [0.8]])
    target = np.array([[0.0], [0.0], [1.0], [0.0]])
    binary = confusion("run", Predictions("test", target, score, ("no", "yes")))
    assert np.allclose(binary.axes[0].images[0].get_array(), [[2 / 3, 1 / 3], [0, 1]])
    soft = np.array([[0.1, 0.9], [0.6, 0.4]])
    figure = confusion("run", Predictions("test", soft, soft[::-1], ("no", "yes")))
    assert "run: 2 of 2 wrong (test part)" in figure_texts(figure)


@pytest.mark.parametrize("classes", [2, 20, 60, 300])
def test_confusion_matrices_of_any_size_can_be_drawn(classes):
    target = np.arange(classes)[: classes - 1]  # one class is absent
    prediction = np.eye(classes)[target]
    names = [f"a class with the long name {i}" for i in range(classes)]
    figure = confusion("run", Predictions("test", target, prediction, names))
    assert len(png(figure)) < LARGEST
    assert len(figure.axes[0].texts) == (classes - 1 if classes <= 20 else 0)


def test_predictions_are_drawn_in_the_units_of_the_data():
    target = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 4.0]])
    predictions = Predictions("test", target, target[:, ::-1], unscale=lambda a: 10 * a + 1)
    left, right = predicted_against_true("run", predictions).axes
    (points,) = left.collections
    assert points.get_offsets().tolist() == [[1, 11], [11, 21], [21, 41]]
    assert left.get_title() == "output 1: R² = -2.000"
    assert right.get_title() == "output 2: R² = -0.286"
    one = predicted_against_true("run", Predictions("test", target[:, 0], target[:, :1]))
    assert one.axes[0].get_title() == "R² = 1.000"


def test_few_outputs_and_points_stand_for_many():
    target = np.random.default_rng(0).normal(size=(4001, 6))
    figure = predicted_against_true("run", Predictions("test", target, target))
    assert len(figure.axes) == 4
    assert all(1000 < len(a.collections[0].get_offsets()) <= 2000 for a in figure.axes)


def test_weights_of_square_inputs_are_images():
    weights = [np.arange(3 * 16.0).reshape(3, 16) - 20, np.ones((2, 3))]
    axes = first_layer("run", weights).axes[0]
    sheet = axes.images[0].get_array().filled(np.nan)
    assert sheet.shape == (4, 3 * 4 + 2)
    for i in range(3):
        assert (sheet[:, 5 * i : 5 * i + 4].ravel() == weights[0][i]).all()
    assert np.isnan(sheet[:, 4]).all()
    low, high = axes.images[0].get_clim()
    assert -low == high > 0


def test_of_many_units_those_that_weigh_most_are_shown():
    w, outgoing = np.zeros((70, 9)), np.zeros((2, 70))
    w[:, 0], outgoing[0] = np.arange(70), np.arange(70)
    figure = first_layer("run", [w, outgoing])
    axes = figure.axes[0]
    assert axes.images[0].get_array()[:, 0].tolist() == list(range(69, 5, -1))
    assert "the 64 of 70 units with the largest outgoing weights" in figure_texts(figure)
    linear = first_layer("run", [w])
    assert "the first 64 units" in figure_texts(linear)


@pytest.mark.parametrize(
    ("inputs", "kind"),
    [(9, "heat map"), (16, "images"), (30, "heat map"), (100, "images"), (101, None)],
)
def test_the_number_of_inputs_decides_how_weights_are_drawn(inputs, kind):
    figure = first_layer("run", [np.ones((3, inputs))])
    assert (figure is None) == (kind is None)
    if figure is not None:
        assert (figure.axes[0].get_xlabel() != "") == figure.axes[0].axison == (kind == "heat map")


# --------------------------------------------------------------------------- odd runs


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_numbers_that_cannot_be_drawn_do_no_harm(value):
    records = [{"epoch": i, "lr": value, "loss": value, "val_loss": value} for i in (1, 2)]
    norms = [{"epoch": i, "grad_norm_1": value} for i in (1, 2)]
    target, prediction = np.ones((3, 1)), np.full((3, 1), value)
    png(history("run", records, None))
    png(history("run", records, 2))
    png(learning_rate("run", records))
    assert gradient_norms("run", norms, {}) is None
    png(first_layer("run", [np.full((2, 16), value)]))
    png(predicted_against_true("run", Predictions("test", target, prediction)))
    png(confusion("run", Predictions("test", target, prediction, ("no", "yes"))))


def test_a_run_that_ended_before_its_first_epoch_has_only_its_weights(tmp_path):
    trainer, _ = trained(norms=False)
    trainer.history = History()
    assert names(write_plots(tmp_path, "run", trainer)) == {"first_layer.png"}


def test_classes_may_be_called_anything(capfd):
    names = ["$", "$x$_^{", "类别", "\N{PILE OF POO}", "\n", "", "%s\\frac", "long " * 99]
    target = np.arange(len(names))
    png(confusion("run", Predictions("test", target, np.eye(len(names)), names)))
    assert capfd.readouterr() == ("", "")


def test_a_long_name_of_a_run_is_shortened():
    figure = learning_rate("n" * 100, [{"epoch": 1, "lr": 0.1}])
    (title,) = [text for text in texts(figure) if text.get_text().endswith(": learning rate")]
    assert title.get_text().startswith("nnnnn")
    assert title.get_window_extent().width <= figure.bbox.width
