"""A diverged run: the step and the tensor that its error names, found by repeating the epoch."""

import gc
import inspect
import re
import tracemalloc

import numpy as np
import pytest

from gpumlp.backend import OPERATIONS, Backend, get_backend
from gpumlp.engine import ENGINES, divergence, get_engine
from gpumlp.engine.watch import NAMES, OUTPUTS, WatchingBackend
from gpumlp.errors import DivergedError
from gpumlp.events import Callback
from gpumlp.layers import Activation, Dense, Dropout
from gpumlp.losses import MeanSquaredError, SoftmaxCrossEntropy
from gpumlp.model import Sequential, multilayer_perceptron
from gpumlp.optimizers import OPTIMIZERS, SGD, Adam
from gpumlp.schedules import Exponential
from gpumlp.trainer import Trainer

every_engine = pytest.mark.parametrize("engine", ENGINES)

ROWS, BATCH, STEPS = 30, 8, 4  # batches of 8, 8, 8, 6 rows
RNG = np.random.default_rng(5)
X = RNG.normal(size=(ROWS, 4)).astype(np.float32)
Y = RNG.normal(size=(ROWS, 3)).astype(np.float32)
WEIGHTS = RNG.integers(1, 4, ROWS).astype(np.float64)
MESSAGE = re.compile(
    r"training diverged in epoch (\d+), step (\d+): first not finite: (.*?)"
    r"(?:; the loss became (?:nan|inf))?"
    r"\. Try a smaller learning rate \(now .*\), scaled inputs, or clip_norm"
)


def trainer_of(optimizer, activation="relu", dropout=0.0, sizes=(4, 6, 5, 3), **options):
    model = multilayer_perceptron(list(sizes), activation, dropout=dropout, seed=1)
    return Trainer(model, MeanSquaredError(), optimizer, **({"batch_size": BATCH} | options))


def diverge(trainer, x=X, y=Y, **options):
    """Train until the run diverges; return (epoch, step, tensor) of the error."""
    with pytest.raises(DivergedError) as error:
        trainer.fit(x, y, epochs=300, **options)
    found = MESSAGE.fullmatch(str(error.value))
    assert found, str(error.value)
    return int(found[1]), int(found[2]), found[3]


class FirstBadStep(Callback):
    """Looks at every step whether loss and parameters are finite."""

    every_steps = 1

    def __init__(self):
        self.step, self.values = None, []

    def on_step(self, trainer):
        self.values.append(trainer.model.flat.values.copy())
        finite = all(np.isfinite(p.value).all() for p in trainer.model.parameters)
        if self.step is None and not finite:
            self.step = trainer.step


# ------------------------------------------------------------------------ what is named


OPTIONS = {
    "plain": {},
    "accumulate": {"batch_size": 3, "accumulate": 3},
    "full": {"batch_size": "full"},
    "dropout": {"dropout": 0.2},
}


@every_engine
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_step_is_the_one_that_looking_at_every_step_finds(name, options, weighted, engine):
    def run(callbacks=()):
        trainer = trainer_of(
            OPTIMIZERS[name](lr=1e-3),
            engine=engine,
            schedule=Exponential(gamma=5.0, every=1),
            callbacks=callbacks,
            **OPTIONS[options],
        )
        return *diverge(trainer, sample_weight=WEIGHTS if weighted else None), trainer

    looked = FirstBadStep()
    alone = run([looked])
    epoch, step, tensor, trainer = run()
    assert (epoch, step, tensor) == alone[:3]
    assert step > STEPS  # not in the first epoch
    # the loss of a step is that of the parameters before it
    assert step in (looked.step, len(looked.values) + 1)
    assert trainer.step == step
    assert trainer.epoch == epoch == 1 + (step - 1) // (1 if options == "full" else STEPS)


@every_engine
def test_the_parameters_are_then_those_after_that_step(engine):
    trainer = trainer_of(SGD(10.0), engine=engine)
    _, step, _ = diverge(trainer)
    assert step == 5
    same = trainer_of(SGD(10.0), engine=engine)
    training = same.training_step(X, Y)
    runner = get_engine(engine, training)
    for epoch, n in ((0, STEPS), (1, step - STEPS)):
        training.begin_epoch(epoch, epoch * STEPS, np.ones(STEPS))
        runner.run(n)
    np.testing.assert_array_equal(trainer.model.flat.values, same.model.flat.values)


def test_the_whole_message_of_a_network_of_one_weight():
    """z = w x with w = 1e30 after the first step, and then z = 1e40 is no float32."""
    model = Sequential(Dense(1, 1, bias=False, init="zeros"))
    trainer = Trainer(model, MeanSquaredError(), SGD(5e29), batch_size="full")
    with pytest.raises(DivergedError) as error:  # x = 1, then 1e10: dz = 2 (0 - 1) / 2
        trainer.fit([[1.0], [1e10]], [1.0, 0.0], epochs=9)
    assert str(error.value) == (
        "training diverged in epoch 2, step 2: first not finite: z of layer 1 "
        "(Dense(1, 1, 'identity')), largest |W| 5e+29; the loss became inf. "
        "Try a smaller learning rate (now 5e+29), scaled inputs, or clip_norm"
    )


def linear(w, **options):
    model = Sequential(Dense(1, 1, bias=False))
    model.parameters[0].value[...] = w
    return Trainer(model, MeanSquaredError(), batch_size="full", **options)


@pytest.mark.parametrize(
    ("optimizer", "w", "x", "y", "tensor"),
    [
        (SGD(1e39), 1.0, 1.0, 2.0, "the optimizer's learning rate"),
        (SGD(0.1), 1e20, 1.0, 0.0, "the sample losses, largest |z| 1e+20"),
        # dz = 2e15 and x = 1e30, so dW = 2e45; W itself where nothing else holds the gradient
        (SGD(0.1), 1e-15, 1e30, 0.0, "W of layer 1 (Dense(1, 1, 'identity'))"),
        (Adam(0.1), 1e-15, 1e30, 0.0, "∂l/∂W of layer 1 (Dense(1, 1, 'identity'))"),
        (
            OPTIMIZERS["momentum"](0.1),
            1e-15,
            1e30,
            0.0,
            "the optimizer's velocity of W of layer 1 (Dense(1, 1, 'identity'))",
        ),
        (SGD(1e20), 1e10, 1e5, 0.0, "W of layer 1 (Dense(1, 1, 'identity'))"),
    ],
)
@pytest.mark.parametrize("epochs", [1, 3])
def test_what_overflows_is_named(optimizer, w, x, y, tensor, epochs):
    """Also in the last step of all, whose loss still is finite."""
    trainer = linear(w, optimizer=type(optimizer)(optimizer.lr))
    with pytest.raises(DivergedError) as error:
        trainer.fit([[x]], [y], epochs=epochs)
    assert f"in epoch 1, step 1: first not finite: {tensor}" in str(error.value)
    assert trainer.step == 1


def test_the_repetition_reads_the_parameters_that_it_went_back_to_where_products_read_copies():
    """W is -∞ after the only step; its copy of before is not, and so z is finite in that step."""
    backend = get_backend("cpu", "bf16")
    model = Sequential(Dense(1, 1, bias=False, backend=backend))
    model.parameters[0].value[...] = 1e10
    trainer = Trainer(model, MeanSquaredError(backend=backend), SGD(1e20), batch_size="full")
    assert diverge(trainer, [[1e5]], [0.0])[2] == "W of layer 1 (Dense(1, 1, 'identity'))"


def test_the_layers_passes_and_letters_are_right():
    """Each tensor in turn is spoilt by hand where the operation that computes it has run."""
    trainer = trainer_of(SGD(0.1, clip_norm=9.0), dropout=0.3)
    training = trainer.training_step(X, Y)
    training.begin_epoch(0, 0, np.ones(STEPS))
    names = []

    class Spoiling(WatchingBackend):
        def look(self, operation, arguments):
            for output in OUTPUTS.get(operation) or tuple(arguments)[:1]:
                array = arguments[output]
                if isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.size:
                    kept = array.copy()
                    array[(0,) * array.ndim] = np.nan
                    WatchingBackend.look(self, operation, arguments)
                    array[...] = kept
                    names.append((operation, output, self.found[0].name))
                    self.found = []

    Spoiling(training).run_step()
    one, two, three = (f"layer {n} ({layer!r})" for n, layer in enumerate(trainer.model.layers, 1))
    forward = [
        line
        for layer in (one, two)
        for line in (
            ("matmul", "out", f"z of {layer}"),
            ("bias_activation_forward", "z", f"z of {layer}"),
            ("bias_activation_forward", "a", f"z of {layer}"),  # in place, and z comes first
            ("dropout", "out", f"a after dropout of {layer}"),
        )
    ]
    assert names[:1] == [("gather", "out", "out of gather")]
    assert [n for n in names if n[0] != "gather"] == [
        *forward,
        ("matmul", "out", f"z of {three}"),
        ("bias_activation_forward", "z", f"z of {three}"),
        ("bias_activation_forward", "a", f"z of {three}"),
        ("pointwise_loss", "loss", "the sample losses"),
        ("pointwise_loss", "dz", "∂l/∂z of the output"),
        ("accumulate", "total", "the sum of the losses"),
        ("bias_activation_backward", "dz", f"∂l/∂z of {three}"),
        ("bias_activation_backward", "bias_sink", f"∂l/∂b of {three}"),
        ("matmul", "out", f"∂l/∂x of {three}"),
        ("matmul", "out", f"∂l/∂W of {three}"),
        ("dropout", "out", f"∂l/∂a of {two}"),
        ("bias_activation_backward", "dz", f"∂l/∂z of {two}"),
        ("bias_activation_backward", "bias_sink", f"∂l/∂b of {two}"),
        ("matmul", "out", f"∂l/∂x of {two}"),
        ("matmul", "out", f"∂l/∂W of {two}"),
        ("dropout", "out", f"∂l/∂a of {one}"),
        ("bias_activation_backward", "dz", f"∂l/∂z of {one}"),
        ("bias_activation_backward", "bias_sink", f"∂l/∂b of {one}"),
        ("matmul", "out", f"∂l/∂W of {one}"),
        ("clip_norm", "g", f"∂l/∂W of {one}"),
        ("sgd_step", "w", f"W of {one}"),
    ]


def test_the_outputs_that_are_looked_at_are_those_of_operations():
    assert set(OUTPUTS) <= set(OPERATIONS)
    assert {operation for _, operation, _ in NAMES} <= set(OPERATIONS)
    for operation, outputs in OUTPUTS.items():
        assert set(outputs) <= set(inspect.signature(getattr(Backend, operation)).parameters)


def test_layers_that_stand_alone_are_named():
    layers = [Dense(4, 3, bias=False), Dropout(0.5), Activation("elu"), Dense(3, 3)]
    model = Sequential(*layers, seed=1)
    model.parameters[0].value[...] = 3e38
    trainer = Trainer(model, MeanSquaredError(), SGD(0.1), batch_size=BATCH)
    assert diverge(trainer)[2].startswith("z of layer 1 (Dense(4, 3, 'identity', dropout=0.5))")


@pytest.mark.parametrize("callbacks", [[], [FirstBadStep()]], ids=["seldom", "every step"])
def test_what_is_infinite_in_every_step_is_not_blamed(callbacks):
    """The bias -∞ excludes a class: its z is -∞ in every step, and nothing diverges by it."""

    def run(**options):
        model = multilayer_perceptron([4, 3], seed=1)
        model.parameters[1].value[2] = -np.inf
        options |= {"batch_size": BATCH, "callbacks": callbacks}
        with pytest.raises(DivergedError) as error:
            Trainer(model, SoftmaxCrossEntropy("sum"), SGD(1e-6), **options).fit(X, Y[:, 0] > 0)
        return str(error.value)

    # at the end of the epoch it is said, but no step did it
    assert re.search(r"epoch 1, steps? \S+; not finite: 0\.bias\. Try", run())
    text = run(schedule=Exponential(gamma=6.7e14, every=1))
    assert re.search("epoch 1, step 4: first not finite: [Wb] of layer 1", text)


def test_a_saturated_unit_whose_z_always_overflows_is_not_blamed():
    model = multilayer_perceptron([4, 6, 3], "sigmoid", seed=1)
    model.parameters[0].value[...] = 2e38
    trainer = Trainer(
        model,
        SoftmaxCrossEntropy("sum"),
        SGD(1e-6),
        batch_size=BATCH,
        schedule=Exponential(gamma=6.7e14, every=1),
        callbacks=[FirstBadStep()],
    )
    epoch, step, tensor = diverge(trainer, abs(X) + 1, Y[:, 0] > 0)
    assert (epoch, step) == (1, 4)
    assert tensor.startswith(("W of layer 2", "b of layer 2"))


@every_engine
def test_a_parameter_that_is_not_finite_and_does_no_harm_is_dated_all_the_same(engine):
    class SpoilsOne(SGD):
        """Multiplies a bias by infinity in the second step: the sigmoid is 1 from then on."""

        writes_through = False

        def _columns(self, lr, t):
            return super()._columns(lr, t) | {"factor": np.where(t == 2, np.inf, 1.0)}

        def _update(self, backend, part):
            super()._update(backend, part)
            start = self.flat.parameters[3].start
            backend.scale(self.flat.values[start : start + 1], self.scalar("factor"))

    trainer = trainer_of(SpoilsOne(0.1), "sigmoid", engine=engine, callbacks=[FirstBadStep()])
    bias = trainer.model.parameters[1]
    bias.value[0] = 1
    with pytest.raises(DivergedError) as error:
        trainer.fit(X, Y)
    assert "epoch 1, step 2: first not finite: the optimizer's learning rate" in str(error.value)
    assert len(trainer.callbacks[0].values) == STEPS - 1  # it was noticed at the end of the epoch
    assert np.isinf(bias.value[0])


@every_engine
def test_a_clipped_gradient_leaves_nothing_behind_for_the_repetition(engine):
    """Not in the padding either, which the norm of the whole gradient includes."""
    trainer = trainer_of(SGD(1e30, clip_norm=1.0), engine=engine, callbacks=[FirstBadStep()])
    epoch, step, tensor = diverge(trainer)
    assert (epoch, step) == (1, 2)
    assert tensor.startswith("z of layer 2 ")


@every_engine
@pytest.mark.parametrize("validated", [False, True])
def test_validation_between_epochs_changes_nothing(validated, engine):
    trainer = trainer_of(SGD(10.0), engine=engine)
    assert diverge(trainer, validation=(X, Y) if validated else None)[:2] == (2, 5)


def test_a_learning_rate_that_changed_within_the_epoch_does_not_mislead():
    class Slower(Callback):
        every_steps = 1

        def on_step(self, trainer):
            trainer.optimizer.lr = 1e-9  # of the next epoch

    looked = FirstBadStep()
    trainer = trainer_of(SGD(100.0), callbacks=[looked, Slower()])
    assert diverge(trainer)[:2] == (1, 4)


def test_the_kernels_of_every_device_are_watched(backend):
    model = multilayer_perceptron([4, 6, 3], "relu", seed=1, backend=backend)
    lr = 1e6 if backend.dtype == np.float32 else 1e60
    trainer = Trainer(model, SoftmaxCrossEntropy(backend=backend), SGD(lr), batch_size=BATCH)
    trainer.loss = MeanSquaredError(backend=backend)
    assert diverge(trainer)[2].startswith("z of layer 2 (Dense(6, 3, 'identity')), largest |W| ")


# ------------------------------------------------------------------------ what is not found


@every_engine
def test_what_the_steps_did_not_do_is_said_as_far_as_it_is_known(engine):
    class Break(Callback):
        def on_progress(self, trainer):
            trainer.model.parameters[3].value[1] = np.inf

    trainer = trainer_of(SGD(0.1), engine=engine, callbacks=[Break()])
    with pytest.raises(DivergedError, match=r"epoch 1, steps? 2(-\d)?; not finite: .*1\.bias"):
        trainer.fit(X, Y)


def test_without_memory_to_repeat_the_steps_they_are_named(monkeypatch):
    def fail(*_):
        raise MemoryError("Unable to allocate 8 GiB")

    monkeypatch.setattr(divergence, "WatchingBackend", fail)
    monkeypatch.setattr("gpumlp.trainer.PROGRESS_SECONDS", 1e9)  # the loss is read after step 1, 4
    with pytest.raises(DivergedError, match=r"epoch 1, steps 2-4; not finite: 0\.weight"):
        trainer_of(SGD(100.0)).fit(X, Y, epochs=20)
    with pytest.raises(DivergedError, match=r"epoch 2, step 5; not finite: 0\.weight"):
        trainer_of(SGD(10.0)).fit(X, Y, epochs=20)
    with pytest.raises(DivergedError, match="epoch 1, step 1; the loss became inf"):
        linear(1e20, optimizer=SGD(0.1)).fit([[1.0]], [0.0])


# ------------------------------------------------------------------------ what it costs


@every_engine
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_finite_run_has_the_bits_of_its_steps_alone(name, engine):
    trainer = trainer_of(OPTIMIZERS[name](), dropout=0.2, engine=engine)
    trainer.fit(X, Y, epochs=3)
    same = trainer_of(OPTIMIZERS[name](), dropout=0.2)
    training = same.training_step(X, Y)
    runner = get_engine(engine, training)
    for epoch in range(3):
        training.begin_epoch(epoch, epoch * STEPS, np.ones(STEPS))
        runner.run(STEPS)
    for one, other in zip(
        [trainer.model.flat.values, *trainer.optimizer.state.values()],
        [same.model.flat.values, *same.optimizer.state.values()],
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("lr", [1e-3, 1e30], ids=["finite", "diverged"])
def test_the_copy_is_given_back(lr):
    trainer = trainer_of(OPTIMIZERS["momentum"](lr), sizes=(4, 500, 500, 3))
    size = trainer.model.flat.values.nbytes
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        error = None
        try:
            trainer.fit(X, Y, epochs=2)
        except DivergedError as diverged:
            error = diverged  # with its traceback, and what that holds
        gc.collect()
        left = tracemalloc.get_traced_memory()[0] - before
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert (error is None) == (lr < 1)
    assert peak > 3 * size  # the velocity, and copies of both
    # the velocity stays, and with a traceback the engine's workspace: scratch of twice that size
    assert left < (1.2 if error is None else 3.2) * size
