"""A training that is broken off at any step and resumed ends with the same bits.

In one process; `test_resume_kills.py` does it with processes that are killed.
"""

from contextlib import nullcontext

import numpy as np
import pytest
from fake_cuda import FakeCudaBackend

from gpumlp.backend import get_backend
from gpumlp.callbacks import BestEpoch, EarlyStopping
from gpumlp.checkpoints import Checkpoints, newest_checkpoint
from gpumlp.engine import ENGINES
from gpumlp.errors import DivergedError, StateError
from gpumlp.events import Callback
from gpumlp.gradients.norms import GradientNorms
from gpumlp.layers import Dense
from gpumlp.losses import MeanSquaredError, SoftmaxCrossEntropy
from gpumlp.model import Sequential, multilayer_perceptron
from gpumlp.optimizers import OPTIMIZERS, SGD, Adam, AdamW
from gpumlp.schedules import Cosine, Exponential, OneCycle, Plateau, Step, Warmup
from gpumlp.trainer import Trainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 4)).astype(np.float32)
LABELS = RNG.integers(0, 3, 50)
WEIGHTS = RNG.integers(1, 4, 40).astype(np.float64)
STEPS = 5  # an epoch: 40 rows in batches of 9, the last one smaller
EPOCHS = 4
SCHEDULES = {
    "plateau": lambda: Plateau(factor=0.5, patience=0, cooldown=1),
    "step": lambda: Step(every=3, gamma=0.7),
    "exponential": lambda: Exponential(gamma=0.9, every=2),
    "cosine": lambda: Cosine(EPOCHS * STEPS),
    "onecycle": lambda: OneCycle(EPOCHS * STEPS),
    "warmup": lambda: Warmup(Plateau(factor=0.5, patience=0), 7),
}


class BreakOff(Callback):
    """Interrupts the training after a step."""

    every_steps = 1

    def __init__(self, step):
        self.step = step

    def on_step(self, trainer):
        if trainer.step == self.step:
            trainer.interrupt("test")


def trainer_of(*callbacks, optimizer=None, backend="cpu", dropout=0.2, **options):
    backend = get_backend(backend) if isinstance(backend, str) else backend
    hidden = Dense(4, 6, "tanh", backend, dropout=dropout, max_norm=1.0)
    model = Sequential(hidden, Dense(6, 3, backend=backend), seed=1)
    optimizer = optimizer or Adam(0.05, weight_decay=0.01)
    options = {"batch_size": 9, **options}
    return Trainer(model, SoftmaxCrossEntropy(), optimizer, callbacks=callbacks, **options)


def fit(trainer, **options):
    options = {"epochs": EPOCHS, "validation": (X[40:], LABELS[40:]), **options}
    trainer.fit(X[:40], LABELS[:40], **options)
    return trainer


def left_by(trainer):
    """All that a training leaves, as bytes and numbers, without times."""
    times = ("seconds", "samples_per_s")
    return {
        "parameters": trainer.model.backend.to_numpy(trainer.model.flat.values).tobytes(),
        "optimizer": {
            name: trainer.model.backend.to_numpy(array).tobytes()
            for name, array in trainer.optimizer.arrays.items()
        },
        "history": [{k: v for k, v in r.items() if k not in times} for r in trainer.history],
        "where": (trainer.epoch, trainer.step, trainer.best_epoch, trainer.stop_reason),
        "schedule": trainer.schedule.state(),
    }


def resumed(make, folder, step, **options):
    """A training that was broken off after a step and resumed by another trainer."""
    broken = fit(make(BreakOff(step), Checkpoints(folder)), **options)
    assert broken.interrupted
    assert broken.step == step
    trainer = make(Checkpoints(folder))
    trainer.load_state(newest_checkpoint(folder).state)
    assert trainer.step == step
    return fit(trainer, **options)


def steps_of(make, **options):
    return range(1, fit(make(), **options).step + 1)


# ------------------------------------------------------------------------------ the same bits


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on_at_every_step(name, engine, tmp_path):
    def make(*callbacks):
        optimizer = OPTIMIZERS[name](weight_decay=0.01)
        return trainer_of(*callbacks, optimizer=optimizer, engine=engine)

    expected = left_by(fit(make()))
    for step in steps_of(make):
        assert left_by(resumed(make, tmp_path / str(step), step)) == expected, step


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_goes_on_at_every_step(name, tmp_path):
    def make(*callbacks):
        return trainer_of(*callbacks, optimizer=SGD(0.5), schedule=SCHEDULES[name]())

    expected = left_by(fit(make()))
    assert len({record["lr"] for record in expected["history"]}) > 1
    for step in steps_of(make):
        assert left_by(resumed(make, tmp_path / str(step), step)) == expected, step


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16", "bf16x3", "fp64"])
@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_every_precision_goes_on(precision, optimizer, tmp_path):
    backend = get_backend("cpu", precision)

    def make(*callbacks):
        return trainer_of(*callbacks, optimizer=optimizer(0.05), backend=backend)

    expected = left_by(fit(make()))
    for step in (1, STEPS - 1, STEPS, STEPS + 2):
        assert left_by(resumed(make, tmp_path / str(step), step)) == expected, step


OPTIONS = {
    "accumulated": {"batch_size": 4, "accumulate": 3},
    "full batch": {"batch_size": "full"},
    "not shuffled": {"shuffle": False},
    "clipped": {"optimizer": lambda: SGD(0.5, clip_norm=0.1, l1=0.01)},
    "class weights": {"class_weight": [1.0, 2.0, 0.5]},
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_way_to_batch_goes_on_at_every_step(name, weighted, tmp_path):
    def make(*callbacks):
        options = dict(OPTIONS[name])
        optimizer = options.pop("optimizer", lambda: Adam(0.05))()
        return trainer_of(*callbacks, optimizer=optimizer, **options)

    options = {"sample_weight": WEIGHTS} if weighted else {}
    expected = left_by(fit(make(), **options))
    for step in steps_of(make, **options):
        assert left_by(resumed(make, tmp_path / str(step), step, **options)) == expected, step


@pytest.mark.parametrize(("optimizer", "step"), [(SGD, 3), (Adam, 1)])
def test_the_captured_step_of_the_gpu_goes_on(optimizer, step, tmp_path):
    backend, options = FakeCudaBackend(), {"epochs": 2, "validation": None}

    def make(*callbacks):
        return trainer_of(*callbacks, optimizer=optimizer(0.05), backend=backend, batch_size=20)

    expected = left_by(fit(make(), **options))
    assert left_by(resumed(make, tmp_path, step, **options)) == expected


def test_what_the_gpu_chose_by_measuring_travels_with_the_checkpoint(tmp_path):
    backend = FakeCudaBackend()
    fit(trainer_of(Checkpoints(tmp_path), backend=backend), epochs=1)
    chosen = newest_checkpoint(tmp_path).facts["choices"]
    assert chosen == backend.choices != {}
    other = FakeCudaBackend()
    changed = {key: ["00", *choice[1:]] for key, choice in chosen.items()}
    other.choose_as(changed)
    assert [other.products.choices.get(key) for key in chosen] == list(changed.values())


@pytest.mark.parametrize("restore_best", [False, True])
@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy"])
def test_early_stopping_goes_on_at_every_step(monitor, restore_best, tmp_path):
    def make(*callbacks):
        stopping = EarlyStopping(monitor, patience=3, restore_best=restore_best)
        return trainer_of(stopping, *callbacks, optimizer=SGD(2.0))

    options = {"epochs": 30}
    whole = fit(make(), **options)
    assert whole.stop_reason
    assert 3 < whole.epoch < 30
    for step in range(1, whole.step + 1):
        again = resumed(make, tmp_path / str(step), step, **options)
        assert left_by(again) == left_by(whole), step


def test_a_run_that_early_stopping_ended_stays_ended(tmp_path):
    def make(*callbacks):
        return trainer_of(EarlyStopping(patience=2), *callbacks, optimizer=SGD(2.0))

    whole = fit(make(Checkpoints(tmp_path)), epochs=30)
    again = make()
    again.load_state(newest_checkpoint(tmp_path).state)
    assert left_by(fit(again, epochs=30)) == left_by(whole)


def test_max_steps_count_from_the_first_step_of_all(tmp_path):
    def make(*callbacks):
        return trainer_of(*callbacks)

    options = {"max_steps": 2 * STEPS + 2}
    expected = left_by(fit(make(), **options))
    assert expected["where"][:2] == (3, 2 * STEPS + 2)
    for step in range(1, 2 * STEPS + 3):
        again = resumed(make, tmp_path / str(step), step, **options)
        assert left_by(again) == expected, step


def test_the_second_fit_of_a_trainer_goes_on_too(tmp_path):
    first = {"epochs": 2, "max_steps": STEPS + 2}  # ends in the midst of an epoch
    whole = fit(fit(trainer_of(), **first))
    broken = fit(fit(trainer_of(BreakOff(STEPS + 8), Checkpoints(tmp_path)), **first))
    assert broken.interrupted
    again = trainer_of()
    again.load_state(newest_checkpoint(tmp_path).state)
    assert left_by(fit(again)) == left_by(whole)


def test_gradient_norms_before_the_first_step_are_remembered(tmp_path):
    def make(*callbacks):
        return trainer_of(GradientNorms(X[:40], LABELS[:40]), *callbacks)

    whole = fit(make())
    again = resumed(make, tmp_path, STEPS + 1)
    assert again.callbacks[0].initial == whole.callbacks[0].initial != {}
    assert left_by(again) == left_by(whole)


def test_breaking_off_many_times_is_like_once(tmp_path):
    expected = left_by(fit(trainer_of()))
    for step in range(1, EPOCHS * STEPS + 1):
        trainer = trainer_of(BreakOff(step), Checkpoints(tmp_path))
        if step > 1:
            trainer.load_state(newest_checkpoint(tmp_path).state)
        fit(trainer)
        assert trainer.step == step
    last = trainer_of()
    last.load_state(newest_checkpoint(tmp_path).state)
    assert left_by(fit(last)) == expected


# ------------------------------------------------------------------------- what is left half done


def test_an_epoch_that_was_broken_off_has_no_record_and_is_not_counted(tmp_path):
    trainer = fit(trainer_of(BreakOff(STEPS + 2), Checkpoints(tmp_path)))
    assert (trainer.epoch, trainer.step, len(trainer.history)) == (1, STEPS + 2, 1)
    state = newest_checkpoint(tmp_path).state
    assert (state["epoch"], state["fit"]["progress"]["position"]) == (1, 2)
    assert state["fit"]["stop_reason"] is None


def test_a_stop_ends_the_epoch_with_a_record_and_an_interruption_afterwards_does_nothing():
    class Stop(Callback):
        every_steps = STEPS + 2

        def on_step(self, trainer):
            trainer.stop("enough")
            trainer.interrupt("too late")

    trainer = fit(trainer_of(Stop()))
    assert (trainer.epoch, len(trainer.history), trainer.interrupted) == (2, 2, False)
    assert trainer.stop_reason == "enough"


def test_the_seconds_of_an_epoch_are_those_of_all_its_parts(tmp_path, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr("gpumlp.trainer.perf_counter", lambda: float(next(clock)))
    broken = fit(trainer_of(BreakOff(STEPS - 1), Checkpoints(tmp_path)))
    state = newest_checkpoint(tmp_path).state
    spent, before = state["fit"]["epoch_seconds"], state["fit"]["seconds"]
    assert spent > 3
    again = trainer_of()
    again.load_state(state)
    began = next(clock)
    fit(again)
    assert again.history[0]["seconds"] > spent
    # but for a look at the clock or two at either end
    assert before == pytest.approx(broken.seconds, abs=2)
    assert again.seconds == pytest.approx(before + next(clock) - began, abs=3)


@pytest.mark.parametrize("broken_off", [None, 2, 4, 5, 7])
def test_a_run_that_diverges_names_the_same_step_after_a_resumption(broken_off, tmp_path):
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 3))

    def make(*callbacks):
        model = multilayer_perceptron([4, 6, 5, 3], "relu", seed=1)
        options = {"batch_size": 8, "callbacks": callbacks, "schedule": Exponential(5.0, 1)}
        return Trainer(model, MeanSquaredError(), SGD(0.2), **options)

    whole = make()
    with pytest.raises(DivergedError) as expected:
        whole.fit(x, y, epochs=20)
    assert (whole.epoch, whole.step) == (2, 8)  # of 4 steps each
    trainer = make()
    if broken_off:
        make(BreakOff(broken_off), Checkpoints(tmp_path)).fit(x, y, epochs=20)
        trainer.load_state(newest_checkpoint(tmp_path).state)
    with pytest.raises(DivergedError) as error:
        trainer.fit(x, y, epochs=20)
    assert str(error.value) == str(expected.value)
    assert trainer.step == whole.step


# ---------------------------------------------------------------------------- what is refused


def other(sizes=None, **options):
    if sizes is not None:
        return lambda: Trainer(multilayer_perceptron(sizes), SoftmaxCrossEntropy(), Adam())
    return lambda: trainer_of(**options)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (other(optimizer=SGD(0.1)), "optimizer 'Adam', not 'SGD'"),
        (other(optimizer=AdamW(0.1)), "optimizer 'Adam', not 'AdamW'"),
        (other(backend=get_backend("cpu", "fp64")), "not float64"),
        (other(schedule=Plateau()), "schedule 'Constant', not 'Plateau'"),
        (other(batch_size=10), "batch_size 9, not 10"),
        (other(seed=3), "seed 0, not 3"),
        (other(accumulate=2), "accumulate 1, not 2"),
        (other(shuffle=False), "shuffle True, not False"),
        (other(dropout=0.3), "dropout=0.2"),
        (lambda: trainer_of(EarlyStopping()), "EarlyStopping"),
        (other(sizes=[4, 7, 3]), "Dense(4, 7"),
    ],
)
def test_the_state_of_another_training_is_refused_and_changes_nothing(make, said, tmp_path):
    fit(trainer_of(Checkpoints(tmp_path)))
    trainer = make()
    before = trainer.model.flat.values.copy()
    with pytest.raises(StateError, match="state") as error:
        trainer.load_state(newest_checkpoint(tmp_path).state)
    assert said in str(error.value)
    np.testing.assert_array_equal(trainer.model.flat.values, before)
    assert (trainer.step, trainer.epoch, trainer.history) == (0, 0, [])


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({"step": 2.5}, True),
        ({"step": True}, True),
        ({"epoch": True}, True),
        ({"epoch": -1}, True),
        ({"step": 2**53}, False),
        ({"step": 2**53 + 1}, True),
        ({"fit": {"began": [1, STEPS]}}, False),
        ({"fit": {"began": [2, STEPS]}}, True),
        ({"fit": {"began": [1, STEPS + 1]}}, True),
        ({"fit": {"best_epoch": 0.5}}, True),
    ],
)
def test_numbers_that_no_training_comes_to_are_refused(changed, refused, tmp_path):
    fit(trainer_of(BreakOff(STEPS + 3), Checkpoints(tmp_path)))
    state = newest_checkpoint(tmp_path).state
    assert (state["epoch"], state["step"]) == (1, STEPS + 3)
    changed = changed | {"fit": state["fit"] | changed.get("fit", {})}
    with pytest.raises(StateError, match="the state is none") if refused else nullcontext():
        trainer_of().load_state(state | changed)


def test_no_seconds_of_an_epoch_are_counted_between_two_epochs():
    states = []

    class Look(Callback):
        def on_epoch_end(self, trainer, record):
            states.append(trainer.state()["fit"])

    fit(trainer_of(Look()))
    assert [(state["progress"], state["epoch_seconds"]) for state in states] == [(None, 0)] * EPOCHS


def test_a_whole_number_may_be_written_as_a_fraction():
    trainer = trainer_of()
    trainer.load_state(fit(trainer_of(), epochs=1).state() | {"epoch": 1.0, "step": float(STEPS)})
    assert (trainer.epoch, trainer.step) == (1, STEPS)
    assert type(trainer.epoch) is type(trainer.step) is int


def test_the_state_of_other_data_is_refused_and_then_goes_on_with_its_own(tmp_path):
    fit(trainer_of(BreakOff(STEPS - 1), Checkpoints(tmp_path)))
    trainer = trainer_of()
    trainer.load_state(newest_checkpoint(tmp_path).state)
    with pytest.raises(StateError, match="other data: 4 steps of an epoch of 1"):
        trainer.fit(X[:9], LABELS[:9])
    assert left_by(fit(trainer)) == left_by(fit(trainer_of()))


# --------------------------------------------------------------- states between two calls of `fit`


def copied(state):
    return {**state, "parameters": {k: v.copy() for k, v in state["parameters"].items()}}


def test_the_state_between_two_fits_starts_the_next_one():
    def make():
        return trainer_of(EarlyStopping("loss", patience=9), optimizer=SGD(0.1))

    trainer = fit(make(), epochs=2)
    state = copied(trainer.state())
    expected = left_by(fit(trainer, epochs=2))
    other = make()
    other.load_state(state)
    assert left_by(fit(other, epochs=2)) == expected
    assert other.step == 4 * STEPS


def test_a_state_that_was_loaded_can_be_taken_again(tmp_path):
    def make(*callbacks):
        return trainer_of(EarlyStopping("loss", patience=9), *callbacks)

    fit(make(BreakOff(STEPS + 3), Checkpoints(tmp_path)))
    one, other = make(), make()
    one.load_state(newest_checkpoint(tmp_path).state)
    other.load_state(one.state())
    assert left_by(fit(other)) == left_by(fit(make()))


def test_a_fit_that_was_interrupted_has_no_state_afterwards(tmp_path):
    trainer = fit(trainer_of(BreakOff(STEPS + 3), Checkpoints(tmp_path)))
    with pytest.raises(ValueError, match="callbacks can take its state"):
        trainer.state()
    trainer.load_state(newest_checkpoint(tmp_path).state)
    assert trainer.state()["fit"]["progress"]["position"] == 3


class StopAt(Callback):
    """Ends the training in the midst of an epoch; the first one interrupts it, too."""

    every_steps = STEPS + 2
    interrupting = False

    def on_step(self, trainer):
        if trainer.step == self.every_steps:
            if self.interrupting:
                trainer.interrupt("test")
            trainer.stop("enough")


def test_a_stop_within_an_epoch_is_remembered_until_the_epoch_has_its_record(tmp_path):
    whole = fit(trainer_of(StopAt()))
    assert len(whole.history) == 2
    first = StopAt()
    first.interrupting = True
    fit(trainer_of(first, Checkpoints(tmp_path)))
    again = trainer_of(StopAt())
    again.load_state(newest_checkpoint(tmp_path).state)
    assert again.step == STEPS + 2
    assert left_by(fit(again)) == left_by(whole)


def test_callbacks_of_one_kind_are_told_apart(tmp_path):
    def make(*callbacks):
        return trainer_of(BestEpoch("val_loss"), BestEpoch("loss"), *callbacks)

    whole = fit(make())
    again = resumed(make, tmp_path, 3 * STEPS + 1)
    assert [c.best for c in again.callbacks[:2]] == [c.best for c in whole.callbacks[:2]]
