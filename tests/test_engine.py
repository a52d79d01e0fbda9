"""The engines: the same bits however a step is run, the right numbers, and no memory in between."""

import tracemalloc
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from gpumlp import losses
from gpumlp.backend import Backend
from gpumlp.engine import ENGINES, Batches, TrainingStep, get_engine
from gpumlp.layers import Dense
from gpumlp.model import Sequential
from gpumlp.optimizers import OPTIMIZERS

every_engine = pytest.mark.parametrize("engine", ENGINES)
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)

ROWS, FEATURES, CLASSES, EPOCHS = 23, 5, 3, 2
PLAIN = {"layers": {}, "optimizer": {}, "size": 6, "accumulate": 1, "weighted": False}
CASES = {
    "plain": {},
    "weighted": {"weighted": True},
    "dropout": {"layers": {"dropout": 0.4}},
    # effective batches of 9, 9 and 5 rows; the last one has micro-batches of 3 and 2
    "accumulate": {"size": 3, "accumulate": 3},
    "accumulate all": {
        "size": 3,
        "accumulate": 3,
        "weighted": True,
        "layers": {"dropout": 0.4, "max_norm": 0.8},
        "optimizer": {"weight_decay": 0.02, "l1": 0.01, "clip_norm": 0.1},
    },
    "full": {"size": ROWS},
    "full weighted": {"size": ROWS, "weighted": True, "layers": {"dropout": 0.4}},
    "weight_decay": {"optimizer": {"weight_decay": 0.02}},
    "l1": {"optimizer": {"l1": 0.01}},
    "clip_norm": {"optimizer": {"clip_norm": 0.05}},
    "max_norm": {"layers": {"max_norm": 0.6}},
    "no bias": {"layers": {"bias": False}},
}
every_case = pytest.mark.parametrize("case", CASES)


def build(optimizer, case, dtype="float32", seed=3, backend=None):
    """A training step of a small network on random data, and the options it was built with."""
    options = PLAIN | CASES[case]
    backend = backend or Backend(np, dtype)
    rng = np.random.default_rng(7)
    hidden = options["layers"]
    model = Sequential(
        Dense(FEATURES, 7, "sigmoid", backend, **hidden),
        Dense(7, 4, "gelu", backend, **hidden),
        Dense(4, CLASSES, "identity", backend, bias=hidden.get("bias", True)),
        seed=seed,
    )
    weight = rng.integers(0, 4, ROWS).astype(np.float64) if options["weighted"] else None
    batches = Batches(
        x=backend.asarray(rng.normal(size=(ROWS, FEATURES))),
        target=backend.asarray(rng.integers(0, CLASSES, ROWS), np.int64),
        weight=None if weight is None else backend.asarray(weight),
        size=options["size"],
        accumulate=options["accumulate"],
        shuffle=True,
        seed=seed,
        host_weight=weight,
    )
    chosen = OPTIMIZERS[optimizer](lr=0.05, **options["optimizer"])
    loss = losses.SoftmaxCrossEntropy(backend=backend)
    return TrainingStep(model, loss, chosen, batches)


def factors(steps):
    """A learning rate that changes at every step."""
    return 1 / (1 + 0.3 * np.arange(steps))


def train(training, engine, chunks=None, epochs=EPOCHS):
    """Train, in calls of `chunks` steps; return parameters, state and the sums of each epoch."""
    runner, sums, steps = get_engine(engine, training), [], training.batches.steps
    for epoch in range(epochs):
        training.begin_epoch(epoch, epoch * steps, factors(steps))
        for n in chunks or [steps]:
            runner.run(n)
        sums.append(training.sums())
    state = {name: array.copy() for name, array in training.optimizer.state.items()}
    return {"values": training.model.flat.values.copy(), "sums": np.array(sums), **state}


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name, strict=True)


@every_case
@every_optimizer
def test_eager_and_graph_give_the_same_bits(optimizer, case):
    eager = train(build(optimizer, case), "eager")
    assert_same_bits(eager, train(build(optimizer, case), "graph"))
    assert not np.array_equal(eager["values"], build(optimizer, case).model.flat.values)


def train_by_hand(training):
    """The same training, each effective batch as one, with layers, loss and optimizer alone."""
    model, loss, batches = training.model, training.loss, training.batches
    optimizer = type(training.optimizer)(
        **{
            name: getattr(training.optimizer, name)
            for name in ("lr", "weight_decay", "l1", "clip_norm")
        }
    )
    sums = []
    for epoch in range(EPOCHS):
        order, total, right = batches.order(epoch).ravel()[:ROWS], 0.0, 0
        for step, start in enumerate(range(0, ROWS, batches.effective)):
            rows = order[start : start + batches.effective]
            weight = None if batches.weight is None else batches.weight[rows]
            z = model.forward(
                batches.x[rows], keys=model.dropout_keys(epoch * batches.steps + step)
            )
            loss.forward(z, batches.target[rows], weight)
            model.backward(loss.backward())
            optimizer.step(model, factors(batches.steps)[step])
            total += loss.total
            hits = z.argmax(axis=1) == batches.target[rows]
            right += float(hits.sum() if weight is None else weight @ hits)
        sums.append((total, right))
    return {"values": model.flat.values, "sums": np.array(sums), **optimizer.state}


@every_case
@every_optimizer
def test_a_step_is_what_layers_loss_and_optimizer_do_one_after_another(optimizer, case):
    trained = train(build(optimizer, case, "float64"), "graph")
    by_hand = train_by_hand(build(optimizer, case, "float64"))
    assert trained.keys() == by_hand.keys()
    for name in trained:
        np.testing.assert_allclose(trained[name], by_hand[name], 1e-9, 1e-12, err_msg=name)


@cache
def in_one_run(engine, case):
    return train(build("adam", case), engine)


@every_engine
@pytest.mark.parametrize("case", ["dropout", "accumulate"])
@settings(max_examples=15, deadline=None)
@given(cuts=st.sets(st.integers(1, 3)), empty=st.booleans())
def test_running_in_chunks_gives_the_same_bits(engine, case, cuts, empty):
    training = build("adam", case)
    steps = training.batches.steps
    chunks = [b - a for a, b in pairwise([0, *sorted(c for c in cuts if c < steps), steps])]
    chunks += [0] * empty
    assert_same_bits(in_one_run(engine, case), train(training, engine, chunks))


@every_engine
def test_running_past_the_epoch_raises_and_runs_nothing(engine):
    training = build("sgd", "plain")
    runner, steps = get_engine(engine, training), training.batches.steps
    training.begin_epoch(0, 0, factors(steps))
    runner.run(steps - 1)
    before = training.model.flat.values.copy()
    with pytest.raises(ValueError, match="past the end of the epoch"):
        runner.run(2)
    np.testing.assert_array_equal(training.model.flat.values, before)
    runner.run(1)
    assert not np.array_equal(training.model.flat.values, before)


@every_engine
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_partial_last_batch_uses_its_own_rows_and_their_number(engine, reduction, shuffle):
    """A linear model and the squared error: its gradient is written down here."""
    x = np.arange(1.0, 8.0)[:, None]  # 7 rows in batches of 3: 3, 3, 1
    t = np.array([2.0, -1.0, 0.5, 3.0, -2.0, 1.0, 4.0])[:, None]
    backend = Backend(np, "float64")
    model = Sequential(Dense(1, 1, backend=backend))
    batches = Batches(x, t, None, size=3, accumulate=1, shuffle=shuffle, seed=5)
    loss = losses.MeanSquaredError(reduction, backend)
    training = TrainingStep(model, loss, OPTIMIZERS["sgd"](lr=0.01), batches)
    assert batches.steps == 3
    weight, bias = model.parameters[0].value[0, 0], 0.0
    training.begin_epoch(4, 0, np.ones(3))
    get_engine(engine, training).run(3)
    order = batches.order(4).ravel()
    assert (order[:7].tolist() == list(range(7))) != shuffle
    for rows in (order[:3], order[3:6], order[6:7]):
        dz = 2 * (weight * x[rows] + bias - t[rows])
        dz = dz / len(rows) if reduction == "mean" else dz
        weight, bias = weight - 0.01 * float((dz * x[rows]).sum()), bias - 0.01 * float(dz.sum())
    values = [float(parameter.value.ravel()[0]) for parameter in model.parameters]
    np.testing.assert_allclose(values, [weight, bias], rtol=1e-12)


@every_engine
def test_a_batch_without_weight_changes_nothing(engine):
    training = build("sgd", "weighted")
    training.batches.weight[...] = 0
    training.batches.host_weight[...] = 0
    before = training.model.flat.values.copy()
    result = train(training, engine)
    np.testing.assert_array_equal(result["values"], before)
    assert result["sums"][:, 0].tolist() == [0.0, 0.0]


@every_engine
@pytest.mark.parametrize("case", ["full weighted", "plain"])
def test_the_data_are_left_as_they_are(engine, case):
    training, untouched = build("sgd", case), build("sgd", case)
    train(training, engine)
    for name in ("x", "target", "weight"):
        after, before = (getattr(step.batches, name) for step in (training, untouched))
        if before is not None:
            np.testing.assert_array_equal(after, before)


# ------------------------------------------------------------------ memory

# Each array of a wide batch has at least 128 kB, each weight matrix 16 kB. The rest is NumPy's:
# buffers of a fixed number of entries for broadcasting and casting (made small here), and headers.
WIDTH, BATCH, LIMIT, BUFFER = 64, 512, 16_000, 256
MEMORY_CASES = {
    "sgd": {},
    "sgd decay": {"optimizer": {"weight_decay": 0.01}},
    "momentum": {"optimizer_name": "momentum"},
    "nesterov": {"optimizer_name": "nesterov"},
    "adagrad": {"optimizer_name": "adagrad"},
    "rmsprop": {"optimizer_name": "rmsprop"},
    "adamw": {"optimizer_name": "adamw"},
    "gelu dropout adam weights": {
        "activation": "gelu",
        "layers": {"dropout": 0.5},
        "optimizer_name": "adam",
        "weighted": True,
    },
    "penalties and clipping": {
        "optimizer_name": "adam",
        "layers": {"max_norm": 1.0},
        "optimizer": {"weight_decay": 0.01, "l1": 0.01, "clip_norm": 1.0},
    },
    "accumulate": {"optimizer_name": "adam", "accumulate": 2},
    "soft targets": {"loss": losses.SoftmaxCrossEntropy(label_smoothing=0.1), "soft": True},
    "bce": {"loss": losses.BinaryCrossEntropy(label_smoothing=0.1), "soft": True},
    "mse": {"loss": losses.MeanSquaredError(), "soft": True},
    "mae": {"loss": losses.MeanAbsoluteError(), "soft": True, "weighted": True},
    "huber": {"loss": losses.Huber(), "soft": True},
    "poisson": {"loss": losses.Poisson(), "soft": True},
} | {
    name: {"activation": name}
    for name in ("tanh", "relu", "leaky_relu", "elu", "silu", "softplus", "identity")
}


def build_big(options, width=WIDTH, batch=BATCH):
    backend, rng = Backend(np), np.random.default_rng(0)
    accumulate = options.get("accumulate", 1)
    rows = 2 * batch * accumulate + 3 * batch // 4  # two full steps and a partial one
    activation, layers = options.get("activation", "sigmoid"), options.get("layers", {})
    model = Sequential(
        Dense(width, width, activation, backend, **layers),
        Dense(width, width, activation, backend, **layers),
        Dense(width, width, backend=backend),
    )
    soft = options.get("soft", False)
    target = rng.random((rows, width)) if soft else rng.integers(0, width, rows)
    weight = rng.random(rows) if options.get("weighted") else None
    batches = Batches(
        x=backend.asarray(rng.normal(size=(rows, width))),
        target=backend.asarray(target) if soft else target,
        weight=None if weight is None else backend.asarray(weight),
        size=batch,
        accumulate=accumulate,
        shuffle=True,
        seed=0,
        host_weight=weight,
    )
    name = options.get("optimizer_name", "sgd")
    optimizer = OPTIMIZERS[name](lr=1e-3, **options.get("optimizer", {}))
    loss = options.get("loss", losses.SoftmaxCrossEntropy())
    return TrainingStep(model, loss, optimizer, batches)


def run_epochs(training, runner, epochs, first=0):
    steps = training.batches.steps
    for epoch in range(first, first + epochs):
        training.begin_epoch(epoch, epoch * steps, np.ones(steps))
        runner.run(steps)


@pytest.fixture
def small_buffers():
    before = np.setbufsize(BUFFER)
    with threadpool_limits(1):  # for speed: such matrices are too small for several threads
        yield
    np.setbufsize(before)


# A wide batch, and a long one in which even one number a row makes 128 kB.
@pytest.mark.parametrize(("width", "batch"), [(WIDTH, BATCH), (2, 32_768)], ids=["wide", "long"])
@every_engine
@pytest.mark.parametrize("case", MEMORY_CASES)
def test_after_the_first_step_of_a_shape_nothing_is_allocated(
    case, engine, width, batch, small_buffers
):
    training = build_big(MEMORY_CASES[case], width, batch)
    runner, steps = get_engine(engine, training), training.batches.steps
    run_epochs(training, runner, 1)
    held = runner._workspace.nbytes
    training.begin_epoch(1, steps, np.ones(steps))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    runner.run(steps)
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - before < LIMIT
    assert after - before < LIMIT / 2
    assert runner._workspace.nbytes == held > 2 * batch * width * 4


@every_engine
def test_a_partial_batch_and_micro_batches_take_turns_in_the_memory_of_one(engine, small_buffers):
    training = build_big({})
    runner = get_engine(engine, training)
    training.begin_epoch(0, 0, np.ones(3))
    runner.run(2)
    held = runner._workspace.nbytes
    runner.run(1)
    assert runner._workspace.nbytes == held
    accumulated = build_big({"accumulate": 4, "optimizer": {"clip_norm": 1.0}})
    runner = get_engine(engine, accumulated)
    run_epochs(accumulated, runner, 1)
    assert runner._workspace.nbytes <= held + accumulated.model.flat.values.nbytes


def test_a_small_batch_first_makes_the_workspace_grow_once():
    """The full batch replaces the buffers; the small one's plan goes on with those it had."""
    results, held = {}, {}
    for engine in ENGINES:
        for sizes in ([5, 6, 6, 6], [6, 6, 6, 5]):
            training = build("adam", "dropout")
            runner = get_engine(engine, training)
            training.batches.take = lambda n, sizes=sizes: ((size, 1) for size in sizes[:n])
            run_epochs(training, runner, 1)
            first = runner._workspace.nbytes
            run_epochs(training, runner, 2, first=1)
            assert runner._workspace.nbytes == first
            held[sizes[0], engine] = first
            results[sizes[0], engine] = {
                "values": training.model.flat.values,
                **training.optimizer.state,
            }
    assert len(set(held.values())) == 1
    for size in (5, 6):
        assert_same_bits(results[size, "eager"], results[size, "graph"])


# -------------------------------------------------------------------- plan


def plan_of(optimizer, size, **options):
    rng = np.random.default_rng(0)
    model = Sequential(Dense(4, 3, "sigmoid"), Dense(3, 2))
    batches = Batches(
        x=rng.random((8, 4), np.float32),
        target=rng.integers(0, 2, 8),
        weight=None,
        size=size,
        accumulate=options.pop("accumulate", 1),
        shuffle=True,
        seed=0,
    )
    chosen = OPTIMIZERS[optimizer](lr=0.1, **options)
    training = TrainingStep(model, losses.SoftmaxCrossEntropy(), chosen, batches)
    runner = get_engine("graph", training)
    training.begin_epoch(0, 0, np.ones(batches.steps))
    backend, names = training.backend, []
    bind = backend.bind
    backend.bind = lambda name, *args, **kwargs: names.append(name) or bind(name, *args, **kwargs)
    runner.run(1)
    return names


FORWARD_AND_BACKWARD = [
    "matmul",  # z = x Wᵀ
    "bias_activation_forward",
    "matmul",
    "bias_activation_forward",
    "softmax_cross_entropy",
    "accumulate",  # sample losses
    "accumulate",  # correct rows
    "bias_activation_backward",
    "matmul",  # dx, of the second layer only
    "matmul",  # dW
    "bias_activation_backward",
    "matmul",
]


@pytest.mark.parametrize(
    ("optimizer", "options", "update"),
    [
        ("sgd", {}, []),  # the matrix product itself updates W
        ("sgd", {"weight_decay": 0.1}, []),
        ("sgd", {"clip_norm": 1.0}, ["clip_norm", "sgd_step"]),
        ("sgd", {"l1": 0.1}, ["add_penalty", "sgd_step"]),
        ("momentum", {}, ["sgd_step"]),  # the matrix product updates the velocity
        ("momentum", {"weight_decay": 0.1}, ["add_penalty", "sgd_step"]),
        ("adam", {}, ["adam_step"]),
        ("adamw", {"weight_decay": 0.1}, ["scale", "adam_step"]),
    ],
)
def test_the_plan_of_a_step_can_be_read(optimizer, options, update):
    expected = ["begin_step", "gather", "gather", *FORWARD_AND_BACKWARD, *update]
    assert plan_of(optimizer, 4, **options) == expected


def test_the_plan_of_the_whole_data_gathers_nothing():
    assert plan_of("sgd", 8) == ["begin_step", *FORWARD_AND_BACKWARD]


def test_the_plan_of_two_micro_batches_updates_once():
    micro_batch = ["gather", "gather", *FORWARD_AND_BACKWARD]
    expected = ["begin_step", *micro_batch, *micro_batch, "sgd_step"]
    assert plan_of("sgd", 2, accumulate=2) == expected


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
@pytest.mark.parametrize("case", ["plain", "weight_decay", "max_norm", "weighted", "no bias"])
def test_writing_through_equals_going_through_the_gradient(optimizer, case):
    through = build(optimizer, case)
    options = (PLAIN | CASES[case])["optimizer"]
    limited = build(optimizer, case)
    # a limit that no gradient reaches changes nothing, except that the gradient must be stored
    limited = TrainingStep(
        limited.model,
        limited.loss,
        OPTIMIZERS[optimizer](lr=0.05, clip_norm=1e30, **options),
        limited.batches,
    )
    assert through.writes_through
    assert not limited.writes_through
    first, second = train(through, "graph"), train(limited, "graph")
    assert not through.model.flat.gradients.any()
    assert limited.model.flat.gradients.any()
    for name in first:
        np.testing.assert_allclose(first[name], second[name], 2e-6, 1e-6, err_msg=name)


def test_an_unknown_engine_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="unknown engine 'fast'; choose auto, eager, graph"):
        get_engine("fast", build("sgd", "plain"))


def test_rows_that_count_nothing_so_far_divide_by_one():
    rows = {"x": np.zeros((4, 1)), "target": np.zeros(4), "weight": None}
    weights = np.array([0.0, 0.0, 3.0, 1.0])
    batches = Batches(
        **rows,
        size=2,
        accumulate=1,
        shuffle=False,
        seed=0,
        host_weight=weights / 2,
        host_count_weight=weights,
    )
    assert batches.scale == 1.0
    batches.order(0)
    batches.position = 1
    assert (batches.weight_taken, batches.count_taken) == (1.0, 1.0)
    batches.position = 2
    assert (batches.weight_taken, batches.count_taken) == (2.0, 4.0)
