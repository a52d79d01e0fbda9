"""Signals: which of them end a training, and that exit code and reason say the same."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from child_process import environment

from gpumlp.errors import FileError
from gpumlp.events import Callback
from gpumlp.layers import Dense
from gpumlp.losses import SoftmaxCrossEntropy
from gpumlp.model import Sequential
from gpumlp.optimizers import SGD
from gpumlp.signals import StopOnSignal
from gpumlp.trainer import Trainer

X, LABELS, STEPS = np.ones((8, 3), np.float32), np.arange(8) % 2, 4
both = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)


class Send(Callback):
    """Sends this process a signal after a step, or at another event."""

    def __init__(self, number, step=None, event=None):
        self.number, self.step, self.every_steps = number, step, 1
        if event is not None:
            setattr(self, event, lambda *_: os.kill(os.getpid(), number))

    def on_step(self, trainer):
        if trainer.step == self.step:
            os.kill(os.getpid(), self.number)


def train(signals, *callbacks):
    model = Sequential(Dense(3, 2))
    trainer = Trainer(
        model, SoftmaxCrossEntropy(), SGD(), batch_size=2, callbacks=[*callbacks, signals]
    )
    with signals:
        trainer.fit(X, LABELS, epochs=2)
    return trainer


@both
def test_a_signal_ends_training_and_is_its_reason(number, code):
    signals = StopOnSignal()
    trainer = train(signals, Send(number, step=3))
    assert (trainer.step, trainer.stop_reason, signals.exit_code) == (3, number.name, code)


@both
def test_a_signal_at_the_last_step_leaves_the_epoch_to_be_ended_later(number, code):
    signals = StopOnSignal()
    trainer = train(signals, Send(number, step=2 * STEPS))
    assert (trainer.step, trainer.stop_reason, signals.exit_code) == (2 * STEPS, number.name, code)
    assert trainer.interrupted
    assert trainer.epoch == len(trainer.history) == 1


@both
def test_a_signal_after_the_last_step_ends_the_process(number, code):
    with pytest.raises(SystemExit) as caught:
        train(StopOnSignal(), Send(number, event="on_train_end"))
    assert caught.value.code == code


@both
def test_a_signal_after_another_reason_to_stop_ends_the_process(number, code):
    class Stop(Callback):
        every_steps = 3

        def on_step(self, trainer):
            trainer.stop("no improvement")

    reasons = []

    class Look(Callback):
        def on_train_end(self, trainer):
            reasons.append((trainer.step, trainer.stop_reason, trainer.interrupted))

    with pytest.raises(SystemExit) as caught:
        train(StopOnSignal(), Stop(), Send(number, step=3), Look())
    assert caught.value.code == code
    assert reasons == [(3, "no improvement", False)]


@both
def test_a_signal_during_validation_ends_it_after_the_block_of_rows(number, code, monkeypatch):
    monkeypatch.setattr("gpumlp.model.EVALUATION_ROWS", 2)
    signals, blocks = StopOnSignal(), []

    class Count(Callback):
        def on_progress(self, trainer):
            if trainer.step == STEPS and trainer.under_way is not None:
                blocks.append(trainer.step)
                if len(blocks) == 3:  # the first call follows the steps, the others blocks
                    os.kill(os.getpid(), number)

    model = Sequential(Dense(3, 2))
    trainer = Trainer(
        model, SoftmaxCrossEntropy(), SGD(), batch_size=2, callbacks=[Count(), signals]
    )
    with signals:
        trainer.fit(X, LABELS, epochs=2, validation=(X, LABELS))
    assert len(blocks) == 3
    assert (trainer.step, trainer.epoch, trainer.history) == (STEPS, 0, [])
    assert (trainer.stop_reason, signals.exit_code) == (number.name, code)


@both
def test_a_failure_is_said_in_place_of_a_signal_that_came_with_it(number, code):
    class Fail(Callback):
        every_steps = 3

        def on_step(self, trainer):
            os.kill(os.getpid(), number)
            raise FileError("the disk is full")

    with pytest.raises(FileError, match="full"):
        train(StopOnSignal(), Fail())


SECOND = """
import os, signal, time
from gpumlp.signals import StopOnSignal
signals = StopOnSignal()
with signals:
    signals.on_train_begin(None)
    os.kill(os.getpid(), signal.{first})
    os.kill(os.getpid(), signal.{second})
    time.sleep(60)
"""


@pytest.mark.parametrize("second", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
def test_a_second_signal_of_either_kind_kills(first, second):
    script = SECOND.format(first=first, second=second)
    done = subprocess.run([sys.executable, "-c", script], env=environment(), check=False)
    assert done.returncode == -signal.Signals[second]


@both
def test_a_signal_before_training_exits_with_its_code(number, code):
    with pytest.raises(SystemExit) as caught, StopOnSignal():
        os.kill(os.getpid(), number)
    assert caught.value.code == code


def test_without_a_signal_the_exit_code_is_0_and_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    signals = StopOnSignal()
    assert train(signals).step == 2 * STEPS
    assert signals.exit_code == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
