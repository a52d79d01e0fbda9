"""The learning-rate test: its answer trains, its arithmetic is right, and it changes nothing."""

import json
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_process import call

import gpumlp.lr_finder
from gpumlp import (
    SGD,
    Adam,
    Dense,
    MeanSquaredError,
    Poisson,
    Sequential,
    SoftmaxCrossEntropy,
    Trainer,
    get_backend,
    multilayer_perceptron,
)
from gpumlp.config_file import load_config
from gpumlp.errors import DeviceError
from gpumlp.events import Callback
from gpumlp.experiment import Experiment
from gpumlp.lr_finder import LearningRates, find_lr
from gpumlp.optimizers import OPTIMIZERS
from gpumlp.schedules import Constant

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype("float32")
LABELS = (X[:, 0] + X[:, 1] > 0).astype(int) + (X[:, 2] > 0)


def classifier(optimizer=None, precision="fp32", **options):
    model = Sequential(
        Dense(4, 8, "tanh", get_backend("cpu", precision), dropout=options.pop("dropout", 0.0)),
        Dense(8, 3, backend=get_backend("cpu", precision)),
        seed=1,
    )
    options.setdefault("batch_size", 16)
    return Trainer(model, SoftmaxCrossEntropy(), optimizer or Adam(), **options)


def state(trainer):
    """Everything that a training changes, as it can be compared."""
    flat, optimizer = trainer.model.flat, trainer.optimizer
    arrays = [flat.values, flat.gradients, *optimizer.state.values()]
    if optimizer.loss_scale is not None:
        arrays.append(optimizer.loss_scale.state)
    layers = [sorted(map(str, vars(layer))) for layer in trainer.model.layers]
    numbers = {k: v for k, v in vars(trainer).items() if isinstance(v, int | float | str | list)}
    numbers["running_loss"] = repr(trainer.running_loss)
    return [a.tobytes() for a in arrays], layers, deepcopy(numbers), optimizer.steps, optimizer.lr


def experiment(name, *sets):
    return Experiment.build(load_config(name, list(sets)))


def found_of(built, **options):
    train = built.data.train
    return find_lr(built.trainer(), train.x, train.y, sample_weight=train.sample_weight, **options)


# ----------------------------------------------------------------------------- the answer


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("digits", []),
        ("digits", ["optimizer.name=sgd", "train.batch_size=16"]),
        ("digits", ["optimizer.name=rmsprop", "precision=bf16", "model.dropout=0.2"]),
        ("digits", ["optimizer.name=nesterov", "train.accumulate=2"]),
        ("xor", []),
        ("diabetes", []),
        ("diabetes", ["optimizer.name=momentum", "loss.name=mae"]),
        ("breast_cancer", ["loss.class_weight=balanced"]),
    ],
)
def test_the_suggested_rate_trains_better_than_one_a_hundred_times_smaller(name, sets):
    sets = [*sets, "schedule.name=constant", "train.max_steps=200", "train.epochs=1000"]
    suggested = found_of(experiment(name, *sets)).suggestion
    losses = {}
    for lr in (suggested, suggested / 100):
        built = experiment(name, *sets, f"optimizer.lr={lr}")
        losses[lr] = built.evaluate(built.fit(built.trainer()))["train"]["loss"]
    assert losses[suggested] < 0.9 * losses[suggested / 100]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_its_own_rate(name):
    found = found_of(experiment("digits", f"optimizer.name={name}"))
    assert found.ending == "rose"
    assert len(found.rates) < 200
    assert found.rates[0] == 1e-6
    assert 1e-4 < found.suggestion < 1
    assert found.suggestion == pytest.approx(found.steepest, rel=0.005)
    assert found.tenth == pytest.approx(found.rates[found.smoothed[10:].argmin() + 10] / 10)
    assert found.advice == ""


@pytest.mark.parametrize(
    "sets",
    [
        ["precision=fp16"],
        ["precision=fp64", "train.engine=eager"],
        ["model.dropout=0.5"],
        ["train.accumulate=3"],
        ["train.batch_size=full"],
        ["loss.reduction=sum"],
    ],
)
def test_it_works_for_every_way_to_train(sets):
    found = found_of(experiment("digits", *sets), highest=1000)
    assert found.ending != "end of the range"
    assert found.suggestion > 1e-5


def test_a_step_is_what_the_trainer_does_at_that_rate():
    """Against a fit with the same rates, whose epochs' mean losses must come out."""
    rates = np.geomspace(1e-3, 1e-2, 52)
    found = find_lr(classifier(dropout=0.3), X, LABELS, lowest=1e-3, highest=1e-2, steps=52)
    assert found.rates == pytest.approx(rates)

    class Given(Constant):
        def factors(self, step):
            return rates[step.astype(int)] / 0.001

    trainer = classifier(dropout=0.3, schedule=Given())
    history = trainer.fit(X, LABELS, epochs=13)  # of 4 batches: 16, 16, 16, 12 rows
    means = [np.average(found.losses[i : i + 4], weights=[16, 16, 16, 12]) for i in range(0, 52, 4)]
    assert means == pytest.approx(history.column("loss"), rel=1e-12)


def test_batches_count_as_their_weights_do():
    weight = RNG.uniform(0.5, 2, size=60)
    weight[::3] = 0
    found = find_lr(classifier(shuffle=False), X, LABELS, sample_weight=weight, steps=60)
    trainer = classifier()
    for step, rows in enumerate([slice(0, 16), slice(16, 32), slice(32, 48), slice(48, 60)]):
        loss = trainer.evaluate(X[rows], LABELS[rows], weight[rows])["loss"]
        assert found.losses[step] == pytest.approx(loss, rel=1e-3)  # rates are still tiny


def test_a_batch_of_rows_without_weight_is_left_out():
    weight = np.ones(60)
    weight[:16] = 0
    trainer = classifier(shuffle=False)
    found = find_lr(trainer, X, LABELS, sample_weight=weight, highest=1e-3, steps=60)
    assert len(found.rates) == 45  # fifteen epochs of four batches, the first of which is nothing
    assert found.rates[:4] == pytest.approx(np.geomspace(1e-6, 1e-3, 60)[[1, 2, 3, 5]])
    assert np.isfinite(found.losses).all()


def test_the_running_average_is_the_mean_of_equal_losses_from_the_first_on():
    model = multilayer_perceptron([4, 1], init="zeros")
    constant = Trainer(model, MeanSquaredError(), SGD(), batch_size="full")
    found = find_lr(constant, np.zeros((60, 4)), np.repeat([2.0, -2.0], 30), highest=1e-3)
    assert found.losses == pytest.approx(np.full(200, 4.0))
    assert found.smoothed == pytest.approx(np.full(200, 4.0))


def test_two_tests_have_the_same_bits():
    one, two = (found_of(experiment("digits", "model.dropout=0.2")) for _ in range(2))
    assert one.losses.tobytes() == two.losses.tobytes()
    assert one.suggestion == two.suggestion


# -------------------------------------------------------------------------- no clear answer


def test_a_loss_that_cannot_fall_has_no_suggestion():
    noise = np.random.default_rng(1).integers(0, 3, 2000)
    trainer = classifier(batch_size=8)
    found = find_lr(trainer, np.zeros((2000, 4), "float32"), noise)
    assert found.suggestion is None
    assert found.steepest is None
    assert found.advice.startswith("the loss rises before it clearly falls")


def test_a_range_that_ends_too_low_has_no_suggestion():
    found = found_of(experiment("digits"), highest=1e-5)
    assert (found.suggestion, found.tenth, found.ending) == (None, None, "end of the range")
    assert found.advice.startswith("the loss never clearly falls")
    assert len(found.rates) == 200


def test_a_loss_that_still_falls_at_the_end_has_no_suggestion():
    found = found_of(experiment("digits"), highest=5e-3)
    assert found.steepest > 1e-3
    assert (found.suggestion, found.tenth) == (None, None)
    assert "go higher" in found.advice


def test_a_range_that_begins_too_high_has_no_suggestion():
    built = experiment("diabetes", "optimizer.name=sgd", "model.activation=relu")
    found = found_of(built, lowest=1e3, highest=1e9)
    assert found.ending != "end of the range"
    assert found.suggestion is None
    assert "begin lower" in found.advice


def test_a_loss_that_is_not_finite_at_once_is_no_error():
    trainer = Trainer(multilayer_perceptron([4, 1]), MeanSquaredError(), SGD())
    trainer.model.flat.values[:4] = 3e38
    found = find_lr(trainer, X, X[:, :1])
    assert (len(found.rates), found.ending, found.suggestion) == (0, "not finite", None)
    assert found.advice == (
        "the loss is not finite at the lowest rate: look at the data, or begin lower"
    )


@pytest.mark.parametrize("optimizer", [SGD(), Adam()])
def test_a_loss_below_zero_rises_by_its_size(optimizer):
    """A Poisson loss, e^z - ŷ z, of large counts is negative."""
    counts = np.exp(3 + 0.5 * X[:, :1]).round()
    trainer = Trainer(
        multilayer_perceptron([4, 8, 1], "tanh"), Poisson(), optimizer, batch_size="full"
    )
    found = find_lr(trainer, X, counts)
    assert found.smoothed.min() < -10
    assert found.suggestion > 1e-5


@pytest.mark.parametrize(
    ("smoothed", "window", "place"),
    [
        ([10, 10, 10, 10, 10, 8, 5, 1], 3, 7),  # there the window ends with the curve
        ([10, 10, 10, 9, 5, 1.1, 1, 1, 0.9], 2, 4),
    ],
)
def test_the_curve_falls_fastest_where_its_slope_over_a_window_is_steepest(smoothed, window, place):
    smoothed = np.array(smoothed, np.float64)
    assert gpumlp.lr_finder._steepest(smoothed, window, len(smoothed) - 1) == place


def test_the_deviation_of_a_running_average_is_that_of_the_losses_but_for_what_it_averages():
    """An average a ← (1 - 1/n) a + x/n of independent x has the variance σ² / (2n - 1)."""
    losses = np.random.default_rng(3).normal(5, 2, 100_000)
    found = gpumlp.lr_finder._deviation(losses, 10)
    assert found == pytest.approx(2 / np.sqrt(19), rel=0.02)
    average, averages = 5.0, []
    for loss in losses:
        average += (loss - average) / 10
        averages.append(average)
    assert found == pytest.approx(np.std(averages), rel=0.03)


def judged(smoothed, ending="end of the range", window=5):
    smoothed = np.array(smoothed, np.float64)
    rates = np.geomspace(1e-6, 10, len(smoothed))
    return gpumlp.lr_finder._judged(rates, smoothed, smoothed, ending, window)


def test_a_curve_that_has_come_to_rest_has_a_suggestion_and_one_that_still_falls_has_none():
    fall = np.linspace(10, 1, 40)
    assert judged([*[10] * 20, *fall]).suggestion is None
    assert judged([*[10] * 20, *fall, *[1] * 6]).suggestion is not None
    assert judged([*[10] * 20, *fall, *[1] * 3]).suggestion is None
    risen = judged([*[10] * 20, *fall, 2, 3])  # as far as the range goes
    assert risen.suggestion is not None
    assert risen.tenth == pytest.approx(risen.rates[59] / 10)


def test_what_changes_by_less_than_a_fiftieth_of_the_first_loss_has_not_changed():
    assert judged(np.linspace(100, 98.1, 60)).steepest is None
    assert judged(np.linspace(100, 97, 60)).steepest is not None
    assert judged(np.linspace(-100, -101.9, 60)).steepest is None


@pytest.mark.parametrize(("fall", "clear"), [(1.8, False), (2.0, True)])
def test_nor_has_what_changes_by_less_than_four_deviations_of_the_smoothed_loss(fall, clear):
    """Losses that differ by ±2 have, averaged over 5 steps, the deviation 2 / √2 · √(0.2 / 1.8)."""
    smoothed = np.linspace(0, -fall, 200)
    losses = smoothed + (-1.0) ** np.arange(200)
    rates = np.geomspace(1e-6, 10, 200)
    found = gpumlp.lr_finder._judged(rates, losses - losses[:99].mean(), smoothed, "rose", 5)
    assert (found.steepest is not None) == clear


def test_a_loss_that_falls_and_is_then_not_finite_has_risen():
    found = judged([*[10] * 20, *np.linspace(10, 1, 40)], ending="not finite")
    assert found.tenth == pytest.approx(1.0)
    assert found.suggestion == pytest.approx(found.steepest, rel=0.005)


@pytest.mark.parametrize(
    ("smoothed", "high"),
    [
        ([2.0, 1.0, 4.1], True),
        ([2.0, 1.0, 4.0], False),
        ([0.2, 0.1, 0.41], True),
        # of losses below zero: 3 times the size of the least, or of the first where that is more
        ([-2.0, -10.0, 20.1], True),
        ([-2.0, -10.0, 19.9], False),
        ([20.0, -1.0, 59.1], True),
        ([20.0, -1.0, 58.9], False),
        ([2.0, 0.0, 5.9], False),
    ],
)
def test_the_loss_is_too_high_three_times_its_least_above_it(smoothed, high):
    assert gpumlp.lr_finder._too_high(smoothed) is high


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=300),
    st.sampled_from(["rose", "not finite", "end of the range"]),
    st.integers(1, 20),
)
def test_any_curve_is_judged(losses, ending, window):
    losses = np.array(losses)
    rates = np.geomspace(1e-6, 10, len(losses))
    found = gpumlp.lr_finder._judged(rates, losses, losses, ending, window)
    assert (found.suggestion is None) == bool(found.advice)
    for rate in (found.suggestion, found.steepest):
        assert rate is None or 0.99e-6 <= rate <= 10.1


# ---------------------------------------------------------------------- nothing is changed


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("trained", [False, True])
def test_the_trainer_is_left_as_it_was(precision, trained):
    trainer = classifier(precision=precision)
    if trained:
        trainer.fit(X, LABELS, epochs=2)
        trainer.model.forward(X)
    before, twin = state(trainer), classifier(precision=precision)
    if trained:
        twin.fit(X, LABELS, epochs=2)
    assert find_lr(trainer, X, LABELS).suggestion is not None
    assert state(trainer) == before
    assert trainer.optimizer._flat is (trainer.model.flat if trained else None)
    trainer.fit(X, LABELS, epochs=2)
    twin.fit(X, LABELS, epochs=2)
    assert state(trainer)[0] == state(twin)[0]
    assert trainer.history.column("loss") == twin.history.column("loss")


def test_a_backward_pass_that_is_still_to_come_finds_what_its_forward_pass_kept():
    trainer, twin = classifier(), classifier()
    da = np.ones((60, 3), "float32")
    for one in (trainer, twin):
        one.model.forward(X)
    find_lr(trainer, X, LABELS)
    assert np.array_equal(trainer.model.backward(da), twin.model.backward(da))


def test_callbacks_and_schedule_play_no_part():
    class Loud(Callback):
        def on_train_begin(self, trainer):
            raise AssertionError

    class Broken(Constant):
        def factors(self, step):
            raise AssertionError

    found = find_lr(classifier(callbacks=[Loud()], schedule=Broken()), X, LABELS)
    assert np.array_equal(found.losses, find_lr(classifier(Adam(lr=0.5)), X, LABELS).losses)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_in_between_leaves_the_trainer_as_it_was(error, monkeypatch):
    trainer = classifier()
    trainer.fit(X, LABELS, epochs=1)
    before = state(trainer)
    calls = []

    def interrupted(smoothed):
        calls.append(len(smoothed))
        if len(calls) == 30:
            assert state(trainer) != before
            raise error
        return False

    monkeypatch.setattr(gpumlp.lr_finder, "_too_high", interrupted)
    with pytest.raises(error):
        find_lr(trainer, X, LABELS)
    assert state(trainer) == before


def test_memory_that_runs_out_is_explained(monkeypatch):
    def too_much(*_):
        raise MemoryError

    trainer = classifier()
    monkeypatch.setattr(gpumlp.lr_finder, "get_engine", too_much)
    with pytest.raises(DeviceError, match="out of memory on cpu"):
        find_lr(trainer, X, LABELS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lowest": 0}, "lowest must be > 0 and finite, got 0"),
        ({"lowest": float("nan")}, "lowest must be > 0 and finite, got nan"),
        ({"highest": 1e-7}, "highest must be > 1e-06, the lowest and finite, got 1e-07"),
        ({"steps": 49}, "steps must be a whole number, at least 50, got 49"),
        ({"sample_weight": np.ones(3)}, "weight"),
    ],
)
def test_misuse_is_a_value_error(options, message):
    trainer = classifier()
    before = state(trainer)
    with pytest.raises(ValueError, match=message):
        find_lr(trainer, X, LABELS, **options)
    assert state(trainer) == before


# ------------------------------------------------------------------------------ the command


@pytest.fixture
def lr_find(capsys):
    return partial(call, capsys, "lr-find")


def test_the_last_line_is_the_one_to_paste(lr_find):
    code, out, err = lr_find("--config", "digits", "--steps", 100)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    found = found_of(experiment("digits"), steps=100)
    assert lines[-1] == f"--set optimizer.lr={found.suggestion:g}"
    assert lines[0].startswith("digits: adam, batches of 32, ")
    assert sum(line.endswith(" falls fastest") for line in lines) == 1
    assert sum(line.endswith(" lowest") for line in lines) == 1
    config = load_config("digits", [lines[-1].removeprefix("--set ")])
    assert config.optimizer.lr == found.suggestion


def test_json_holds_the_curve_and_the_answer(lr_find):
    code, out, _ = lr_find("--config", "xor", "--seed", 4, "--device", "cpu", "--json")
    assert code == 0
    found = json.loads(out)
    same = found_of(experiment("xor", "seed=4"))
    for name in ("rates", "losses", "smoothed"):
        assert found[name] == getattr(same, name).tolist()
    assert found["suggestion"] == same.suggestion > 0.01
    assert (found["seed"], found["ending"], found["optimizer"]) == (4, "end of the range", "adam")
    assert "tenth" not in found  # the loss of xor falls to nothing, and stays there
    assert "advice" not in found


def test_no_clear_answer_exits_0_with_advice(lr_find):
    options = ("--config", "digits", "--from", "1e-9", "--to", "1e-8", "--steps", 60)
    code, out, err = lr_find(*options)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("no clear answer: the loss never clearly falls")
    found = json.loads(lr_find(*options, "--json")[1])
    assert found["advice"].startswith("the loss never clearly falls")
    assert not {"suggestion", "steepest", "tenth"} & set(found)


def test_the_plot_is_a_file_with_the_same_bytes_each_time(lr_find, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "rates.png"
    assert lr_find("--config", "xor", "--out", out)[0] == 0
    first = out.read_bytes()
    assert first.startswith(b"\x89PNG")
    code, _, err = lr_find("--config", "digits", "--out", out)
    assert (code, out.read_bytes()) == (2, first)
    assert err == f"--out {out}: is there already; --overwrite replaces it\n"
    assert lr_find("--config", "xor", "--out", out, "--overwrite")[0] == 0
    assert out.read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["rates.png"]


def curve(losses, **answers):
    losses = np.array(losses, np.float64)
    rates = np.geomspace(1e-6, 10, len(losses))
    return LearningRates(rates, losses, losses, "not finite", **answers)


@pytest.mark.parametrize(
    "found",
    [
        curve([]),
        curve([1.0]),
        curve([0.0, 0.0]),
        curve([-3.0, -5.0, 1e30], suggestion=0.003),
        curve([1e300, -1e300]),
    ],
)
def test_any_curve_can_be_drawn(found, tmp_path):
    pytest.importorskip("matplotlib")
    from gpumlp.plots.rates import write_rates

    write_rates(tmp_path / "a.png", "a name", found)
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from", "0"], "--from 0: expected a number above 0"),
        (["--from", "nan"], "--from nan: expected a number above 0"),
        (["--to", "1e-7"], "--to 1e-07: expected a number above --from"),
        (["--to", "inf"], "--to inf: expected a number above --from"),
        (["--steps", "3"], "--steps 3: expected 50 to 1000000"),
        (["--steps", "1" + "0" * 400], "0: expected 50 to 1000000"),
        (["--out", "rates.pdf"], "--out rates.pdf: must end in .png"),
        (["--overwrite"], "--overwrite needs --out, which says what to replace"),
        (["--set", "optimizer.rate=1"], "optimizer.rate"),
    ],
)
def test_a_wrong_option_exits_2_and_says_what_is_allowed(lr_find, options, message):
    code, out, err = lr_find("--config", "xor", *options)
    assert (code, out) == (2, "")
    assert message in err


def test_a_plot_without_matplotlib_says_how_to_get_it(lr_find, tmp_path, monkeypatch):
    monkeypatch.setattr("gpumlp.plots.find_spec", lambda name: None)
    code, out, err = lr_find("--config", "xor", "--out", tmp_path / "rates.png")
    assert (code, out) == (2, "")
    assert 'pip install "gpumlp[plot]"' in err


def test_help_names_the_options(lr_find):
    code, out, _ = lr_find("--help")
    assert code == 0
    for option in ("--config", "--set", "--from", "--to", "--steps", "--out", "--json", "--device"):
        assert option in out
