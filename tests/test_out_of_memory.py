"""When memory runs out: what is said, and that what is said would fit."""

import re
import weakref

import numpy as np
import pytest

from gpumlp import train
from gpumlp.backend import Backend, CpuBackend, get_backend
from gpumlp.engine import footprint
from gpumlp.engine.footprint import StepBytes, prediction_bytes, step_bytes
from gpumlp.errors import DeviceError
from gpumlp.losses import MeanSquaredError, SoftmaxCrossEntropy
from gpumlp.model import multilayer_perceptron
from gpumlp.optimizers import OPTIMIZERS, SGD, Adam
from gpumlp.out_of_memory import Needs, _like, largest_batch, parameter_bytes
from gpumlp.trainer import Trainer

RNG = np.random.default_rng(0)
ROWS = 3000
X = RNG.normal(size=(ROWS, 64)).astype(np.float32)
LABELS = RNG.integers(0, 10, ROWS)
MB = 10**6


class OutOfMemoryError(MemoryError):
    """As CuPy's: a subclass of the built-in one."""


class SmallBackend(Backend):
    """A device of a few bytes, which counts what is alive."""

    def __init__(self, limit, known=True):
        super().__init__(np)
        self.name, self.limit, self.used, self.known = "cuda:0", limit, 0, known

    def __eq__(self, other):
        return self is other

    __hash__ = Backend.__hash__

    def _take(self, array):
        if self.used + array.nbytes > self.limit:
            raise OutOfMemoryError(f"Out of memory allocating {array.nbytes:,} bytes.")
        self.used += array.nbytes
        weakref.finalize(array, self._give, array.nbytes)
        return array

    def _give(self, size):
        self.used -= size

    def empty(self, shape, dtype=None, order=None):
        return self._take(super().empty(shape, dtype, order))

    def zeros(self, shape, dtype=None):
        return self._take(super().zeros(shape, dtype))

    def asarray(self, array, dtype=None):
        found = super().asarray(array, dtype)
        return found if found is array else self._take(found.copy())

    def free_memory(self):
        return self.limit - self.used if self.known else None


def trainer_on(backend, hidden=256, optimizer=None, **options):
    model = multilayer_perceptron([64, hidden, 10], backend=backend, seed=1)
    loss = SoftmaxCrossEntropy(backend=backend)
    return Trainer(model, loss, optimizer or SGD(0.1), **options)


def said(call, *arguments, **options):
    with pytest.raises(DeviceError) as error:
        call(*arguments, **options)
    assert error.value.exit_code == 5
    assert "\n" not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------ the arithmetic


@pytest.mark.parametrize(
    ("free", "data", "parameters", "fixed", "per_row", "rows"),
    [
        (1000, 0, 0, 0, 1, 768),  # a tenth stays free: 900, and two binary digits of it
        (1000, 300, 100, 50, 1, 384),  # 450
        (1000, 300, 100, 50, 450, 1),
        (1000, 300, 100, 50, 451, 0),  # not even a row
        (1000, 901, 0, 0, 1, 0),  # the data alone
        (1000, 0, 950, 0, 1, 0),
        (10**10, 10**9, 10**6, 0, 10**5, 65536),
        (1000, 0, 0, 0, 100, 8),
        (1000, 0, 0, 0, 130, 6),
        (0, 0, 0, 0, 1, 0),
    ],
)
def test_the_largest_batch_is_what_the_free_memory_holds(
    free, data, parameters, fixed, per_row, rows
):
    needs = Needs(data, parameters, StepBytes(fixed, per_row))
    assert largest_batch(free, needs) == rows
    least = round(0.9 * free) - data - parameters  # exactly what is left
    for more, expected in ((0, rows), (1, 0)):
        needs = Needs(data, parameters, StepBytes(fixed, per_row, max(0, least) + more))
        assert largest_batch(free, needs) == expected


@pytest.mark.parametrize("batch", [1000, 1400, "full"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("activation", ["sigmoid", "gelu"])
def test_the_bytes_of_a_step_are_those_that_it_takes(activation, name, accumulate, batch):
    model = multilayer_perceptron([64, 90, 50, 10], activation, dropout=0.2, seed=1)
    loss, optimizer = SoftmaxCrossEntropy(), OPTIMIZERS[name]()
    trainer = Trainer(model, loss, optimizer, batch_size=batch, accumulate=accumulate)
    before, row = model.flat.values.copy(), optimizer.__dict__.copy()
    like = _like(trainer, X, LABELS)
    found = step_bytes(model, loss, optimizer, like, whole=batch == "full")
    assert optimizer.__dict__ == row
    np.testing.assert_array_equal(model.flat.values, before)
    trainer.fit(X, LABELS, max_steps=1)
    rows = ROWS if batch == "full" else batch
    of_rows = 24 * min(rows * accumulate, ROWS)  # kept by the step, not by its workspace
    assert found.of(rows) - of_rows == pytest.approx(trainer.workspace_bytes, rel=1e-6)


def test_the_scratch_of_small_batches_is_as_large_as_the_parameters():
    trainer = trainer_on("cpu", batch_size=1)
    found = step_bytes(trainer.model, trainer.loss, trainer.optimizer, _like(trainer, X, LABELS))
    trainer.fit(X, LABELS, max_steps=1)
    assert found.of(1) - 24 == trainer.workspace_bytes
    assert found.of(1) > found.fixed + 10 * found.per_row


def test_counting_needs_no_memory(monkeypatch):
    """None that is touched: a backend that writes into what it gets would show it."""
    trainer = trainer_on("cpu")
    touched = []
    monkeypatch.setattr(footprint.Backend, "matmul", lambda *_: touched.append("matmul"))
    step_bytes(trainer.model, trainer.loss, trainer.optimizer, _like(trainer, X, LABELS))
    assert touched == []


def test_prediction_takes_a_block_and_twice_the_outputs():
    model = multilayer_perceptron([64, 256, 10])
    assert prediction_bytes(model, 100, 64) == 100 * (256 + 10 + 2 * 10) * 4
    assert prediction_bytes(model, 10_000, 64) == 4096 * 266 * 4 + 10_000 * 20 * 4


@pytest.mark.parametrize(("optimizer", "arrays"), [(SGD(), 3), (Adam(), 7)])
def test_parameters_count_with_gradients_state_and_copies(optimizer, arrays):
    trainer = trainer_on("cpu", optimizer=optimizer)
    assert parameter_bytes(trainer) == arrays * trainer.model.flat.values.nbytes


# ------------------------------------------------------------------------ what is said


@pytest.mark.parametrize("engine", ["eager", "graph"])
@pytest.mark.parametrize("batch", [2000, "full"])
@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam()], ids=["sgd", "adam"])
def test_the_batch_size_that_is_named_fits_and_three_of_it_do_not(optimizer, batch, engine):
    def trainer(batch_size, accumulate=1):
        return trainer_on(
            SmallBackend(4 * MB),
            optimizer=type(optimizer)(),
            batch_size=batch_size,
            accumulate=accumulate,
            engine=engine,
        )

    first = trainer(batch)
    text = said(first.fit, X, LABELS)
    assert text.startswith("out of memory on cuda:0 (Out of memory allocating ")
    rows = f"{ROWS if batch == 'full' else batch:,}"
    assert re.search(rf"about \S+ MB for a step of {rows} rows: the largest batch_size", text)
    fits, accumulate = map(int, re.search(r"about (\d+) \(with accumulate (\d+)", text).groups())
    assert fits >= 64
    trainer(fits, accumulate).fit(X, LABELS, epochs=1)
    said(trainer(3 * fits).fit, X, LABELS)
    # the same trainer can go on: what it had taken is given back
    first.batch_size = fits
    assert first.fit(X, LABELS, epochs=1)[-1]["epoch"] == 1


def test_the_bytes_that_are_free_are_counted_after_all_was_given_back():
    backend = SmallBackend(4 * MB)
    trainer = trainer_on(backend, batch_size=2000)
    free = backend.free_memory()
    text = said(trainer.fit, X, LABELS)
    assert backend.free_memory() == pytest.approx(free, rel=0.01)
    assert f"; {free / MB:.1f} MB free. Training takes 24 kB for data, 231 kB for par" in text


def test_data_that_do_not_fit_alone_are_said():
    trainer = trainer_on(SmallBackend(1 * MB))
    text = said(trainer.fit, X.astype(np.float64), LABELS)
    assert "Training takes 792 kB for data, " in text  # ROWS x 64 x 4 and the order
    assert "the data alone do not fit; fewer rows or columns do" in text


def test_bytes_are_counted_as_bytes():
    trainer = trainer_on(SmallBackend(MB), batch_size=2000, input_scale=1 / 255)
    text = said(trainer.fit, X.astype(np.uint8).tolist(), LABELS)
    assert "Training takes 792 kB for data" in text
    trainer = trainer_on(SmallBackend(MB), batch_size=2000, input_scale=1 / 255)
    text = said(trainer.fit, X.astype(np.uint8), LABELS)
    assert "Training takes 24 kB for data" in text


def test_parameters_that_do_not_fit_are_said():
    backend = SmallBackend(2 * MB)
    trainer = trainer_on(backend, hidden=1200, optimizer=Adam())
    backend.limit = backend.used + 380_000  # one more array of their size
    text = said(trainer.fit, X, LABELS)
    assert "the parameters do not fit; smaller layers do" in text


def test_a_row_that_does_not_fit_is_said():
    backend = SmallBackend(2 * MB)
    trainer = trainer_on(backend, hidden=1200, batch_size=8)
    backend.limit = backend.used + 420_000  # enough for a copy of W, and not for scratch
    text = said(trainer.fit, X[:8], LABELS[:8])
    assert "not even a batch of one row fits" in text


def test_without_a_count_of_what_is_free_a_smaller_batch_is_advised():
    trainer = trainer_on(SmallBackend(MB, known=False), batch_size=2000)
    text = said(trainer.fit, X, LABELS)
    assert " free" not in text
    assert text.endswith(": a smaller batch_size takes less")


def test_where_the_count_says_that_it_fits_half_the_batch_is_advised(monkeypatch):
    backend = SmallBackend(4 * MB)
    trainer = trainer_on(backend, batch_size=2000)
    monkeypatch.setattr(backend, "free_memory", lambda: 10**10)
    assert "with nothing else in memory it fits; try batch_size 1000" in said(
        trainer.fit, X, LABELS
    )


@pytest.mark.parametrize("event", ["evaluate", "predict"])
def test_rows_that_cannot_be_predicted_at_once_are_said(event):
    trainer = trainer_on(SmallBackend(MB))
    arguments = (X, LABELS) if event == "evaluate" else (X,)
    text = said(getattr(trainer, event), *arguments)
    assert "3,000 rows take 768 kB, and predicting them about 3.4 MB: fewer rows" in text
    assert trainer.predict(X[:100]).shape == (100, 10)


def test_validation_counts_as_data():
    trainer = trainer_on(SmallBackend(MB), batch_size=10)
    text = said(trainer.fit, X, LABELS, validation=(X, LABELS))
    assert "Training takes 3.5 MB for data" in text


def test_rows_of_several_targets_with_weights_are_counted():
    backend = SmallBackend(MB)
    model = multilayer_perceptron([64, 256, 3], backend=backend)
    trainer = Trainer(model, MeanSquaredError(backend=backend), SGD(), batch_size=2000)
    text = said(trainer.fit, X, X[:, :3].tolist(), sample_weight=[1] * ROWS)
    assert "Training takes 72 kB for data" in text  # (3 + 1) x 4 and 8 bytes a row


def test_memory_that_is_missing_for_counting_too_leaves_a_general_advice(monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr("gpumlp.out_of_memory.step_bytes", fail)
    text = said(trainer_on(SmallBackend(MB), batch_size=2000).fit, X, LABELS)
    assert text.endswith("Fewer rows, a smaller batch_size or smaller layers take less")


def test_a_run_that_fits_is_not_touched():
    trainer = trainer_on(get_backend("cpu"))
    assert len(trainer.fit(X, LABELS, epochs=2)) == 2


# ------------------------------------------------------------------------ the command


def test_the_command_line_says_it_in_one_paragraph_and_exits_5(tmp_path, monkeypatch, capsys):
    class SmallCpu(CpuBackend):
        """A processor whose memory ends at some size of one array."""

        def empty(self, shape, dtype=None, order=None):
            if np.prod(shape, dtype=int) > 60_000:
                raise OutOfMemoryError("Unable to allocate that")
            return super().empty(shape, dtype, order)

        def free_memory(self):
            return 2 * MB

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gpumlp.experiment.choose_backend", lambda *_: (SmallCpu(), None))
    arguments = ["--config", "digits", "--set", "train.batch_size=1000", "--set", "log.plots=false"]
    code = train.main(["-q", "--run-dir", "run", *arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (5, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("out of memory on cpu (Unable to allocate that); 2.0 MB free. Training ")
    assert "the largest batch_size that fits is about 256 (with accumulate 4 " in err
    assert err.strip() in (tmp_path / "run" / "run.log").read_text()
