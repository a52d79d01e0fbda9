"""The CUDA backend as a whole: captured steps are right, whatever runs at the same time.

Tests of the stand-in (`fake_cuda.py`) run everywhere. Those marked gpu ask a device the same.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import STATE, CaptureError, FakeCudaBackend, MemoryHook, installed
from test_engine import CASES, EPOCHS, ROWS, assert_same_bits, build, factors, train

from gpumlp import SGD, Adam, Dense, Sequential, SoftmaxCrossEntropy, Trainer, cli, get_backend
from gpumlp.backend import Activation, Backend
from gpumlp.backend.cuda import schedule as schedule_module
from gpumlp.backend.cuda.capture import CapturedCalls, runs_at_once
from gpumlp.backend.cuda.launch import KernelCall
from gpumlp.backend.cuda.schedule import schedule
from gpumlp.backend.precision import FP64, PRECISIONS
from gpumlp.engine import Batches, TrainingStep, get_engine
from gpumlp.errors import DeviceError, DivergedError
from gpumlp.losses import MeanSquaredError
from gpumlp.model import multilayer_perceptron
from gpumlp.optimizers import OPTIMIZERS


def real_device():
    try:
        return get_backend("cuda")
    except DeviceError as error:
        pytest.skip(str(error))


DEVICES = {"stand-in": FakeCudaBackend, "device": real_device}


@pytest.fixture(scope="module", params=["stand-in", pytest.param("device", marks=pytest.mark.gpu)])
def cuda(request):
    return DEVICES[request.param]()


@pytest.fixture(autouse=True)
def stand_in_as_it_was():
    yield
    STATE.graph_order, STATE.thread_order, STATE.free = "first", 0, 2**30


def on_host(backend, result):
    return {
        name: backend.to_numpy(array) if hasattr(array, "get") else array
        for name, array in result.items()
    }


# ------------------------------------------------------------------------- right numbers


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_training_equals_that_of_the_plain_formulas_in_float64(cuda, engine, optimizer, case):
    expected = train(build(optimizer, case, "float64"), engine)
    actual = on_host(cuda, train(build(optimizer, case, backend=cuda), engine))
    for name in expected:
        scale = abs(expected[name]).max()
        np.testing.assert_allclose(actual[name], expected[name], 0, 1e-5 * scale, err_msg=name)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_captured_step_does_not_depend_on_which_branch_is_ahead(optimizer):
    backend, results = FakeCudaBackend(), []
    for graph_order, thread_order in (("first", 0), ("last", 1), ("last", 2)):
        STATE.graph_order, STATE.thread_order = graph_order, thread_order
        training = build(optimizer, "accumulate all", backend=backend)
        results.append(on_host(backend, train(training, "graph")))
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])


def test_a_dependency_that_is_overlooked_would_be_seen(monkeypatch):
    """The test above can fail: here a product no longer waits for what it reads."""
    right = schedule_module.dependencies

    def careless(calls):
        needed = right(calls)
        for number, call in enumerate(calls):
            if not isinstance(call, KernelCall):
                needed[number].clear()
        return needed

    monkeypatch.setattr(schedule_module, "dependencies", careless)
    backend, results = FakeCudaBackend(), []
    for STATE.graph_order in ("first", "last"):
        training = build("sgd", "plain", backend=backend)
        results.append(on_host(backend, train(training, "graph"))["values"])
    assert not np.array_equal(*results)


@pytest.mark.parametrize("chunks", [[4], [1, 3], [2, 1, 1], [3, 1]])
def test_how_many_steps_are_asked_for_at_once_changes_no_bit(cuda, chunks):
    whole = on_host(cuda, train(build("adam", "dropout", backend=cuda), "graph"))
    parts = on_host(cuda, train(build("adam", "dropout", backend=cuda), "graph", chunks))
    assert_same_bits(whole, parts)


def test_many_steps_are_one_graph_and_the_rest_are_graphs_of_one():
    backend = FakeCudaBackend()
    w, g = backend.asarray(np.zeros(5)), backend.asarray(np.ones(5))
    plan = backend.replay([backend.bind("sgd_step", w, g, -1.0, None)] * 3)
    plan(0)
    assert not plan._graphs
    plan(1)
    assert [*map(len, (plan._graphs, plan._graphs[1].launches))] == [1, 3]
    many = plan.runs_at_once
    assert many == runs_at_once(plan.calls) == 33
    plan(2 * many + 2)
    assert len(plan._graphs[many].launches) == 3 * many
    assert (plan._graphs[many].launched, plan._graphs[1].launched) == (2, 3)
    assert backend.to_numpy(w).tolist() == [3.0 * (1 + 2 * many + 2)] * 5


def test_a_graph_is_as_long_as_is_worth_a_launch():
    def calls(n, operations, nbytes):
        class Call:
            pass

        call = Call()
        call.operations, call.nbytes = operations, nbytes
        return [call] * n

    assert runs_at_once(calls(10, 0, 0)) == 10
    assert runs_at_once(calls(10, 10**9, 0)) == 1
    assert runs_at_once(calls(10, 0, 10**9)) == 1
    assert runs_at_once(calls(1, 0, 0)) == 100
    assert runs_at_once(calls(5000, 0, 0)) == 1


# --------------------------------------------------------------- what a step consists of


def captured(sizes, activation, optimizer, backend, rows=64, batch=16, engine="graph"):
    """The captured calls of a network's step, as text: branch, call, what it waits for."""
    rng = np.random.default_rng(0)
    model = multilayer_perceptron(sizes, activation, backend=backend)
    loss = SoftmaxCrossEntropy(backend=backend)
    batches = Batches(
        x=backend.asarray(rng.integers(0, 256, (rows, sizes[0])), np.uint8),
        target=loss.as_target(rng.integers(0, sizes[-1], rows), backend),
        weight=None,
        size=batch,
        accumulate=1,
        shuffle=True,
        seed=0,
        scale=1 / 255,
    )
    training = TrainingStep(model, loss, optimizer, batches)
    runner = get_engine(engine, training)
    training.begin_epoch(0, 0, np.ones(batches.steps))
    runner.run(2)
    calls = runner._plans[batch].calls
    return [
        f"{place.branch} {name_of(call)}" + "".join(f" <{number}" for number in place.after)
        for call, place in zip(calls, schedule(calls, backend.branches), strict=True)
    ]


def name_of(call):
    return call.name if isinstance(call, KernelCall) else repr(call)[len("ProductCall") :]


STANDARD = {  # of the benchmarks; fewer rows change sizes only, 4096-4096 is as 500-500
    "784-30-10@10": [784, 30, 10],
    "784-128-10@64": [784, 128, 10],
    "784-500-500-10@100": [784, 500, 500, 10],
    "784-1024-1024-1024-10@256": [784, 1024, 1024, 1024, 10],
    "64-64-64-64-16@65536": [64, 64, 64, 64, 16],
}
SNAPSHOT = Path(__file__).with_name("captured_steps.txt")


def steps_of_standard_networks():
    for net, sizes in STANDARD.items():
        for optimizer in (SGD(), Adam()):
            backend = FakeCudaBackend(tune=False)
            lines = captured(sizes, "sigmoid", optimizer, backend, rows=16, batch=8)
            yield f"{net} sigmoid {optimizer.name}\n" + "".join(f"  {line}\n" for line in lines)
    for precision, optimizer in (("bf16", SGD()), ("bf16", Adam()), ("fp16", SGD())):
        net = "784-500-500-10@100"
        backend = FakeCudaBackend(precision=PRECISIONS[precision], tune=False)
        lines = captured(STANDARD[net], "sigmoid", optimizer, backend, rows=16, batch=8)
        title = f"{net} sigmoid {optimizer.name} {precision}\n"
        yield title + "".join(f"  {line}\n" for line in lines)


def test_the_steps_of_the_standard_networks_are_the_calls_that_they_should_be():
    """Each line: branch, call (a product by its m x n x k), and the calls that it waits for.

    On the longest path of a small network with SGD are nine calls: begin, gather, product,
    activation, product, loss, product (dX), activation backward, product (dW). The weights are
    written by the products themselves, beside the way back. After a change that is meant:
    python tests/test_cuda.py
    """
    assert SNAPSHOT.read_text().split("\n\n") == [*map(str.strip, steps_of_standard_networks())]


def test_the_step_of_a_relu_network_with_adam():
    """Bias, ReLU, its derivative and the sums of bias gradients are done by the products."""
    assert captured([784, 64, 32, 10], "relu", Adam(), FakeCudaBackend()) == [
        "0 begin_step",
        "0 gather_scaled",
        "1 gather <0",
        "0 (64 x 16 x 784, RELU_AUX_BIAS)",
        "0 (32 x 16 x 64, RELU_AUX_BIAS)",
        "0 (10 x 16 x 32, BIAS)",
        "0 softmax_cross_entropy <2",
        "1 accumulate <6",
        "1 accumulate",
        "0 (32 x 16 x 10, DRELU_BGRAD)",
        "1 (32 x 10 x 16, BGRADB)",
        "0 (64 x 16 x 32, DRELU_BGRAD)",
        "1 (64 x 32 x 16) <9",
        "0 (784 x 64 x 16)",
        "0 adam_step <12",
    ]


def test_the_step_of_a_sigmoid_network_with_clipping():
    """The norm needs all gradients, so the branches meet before it."""
    text = captured([20, 16, 10], "sigmoid", SGD(clip_norm=1.0), FakeCudaBackend())
    assert text[-6:] == [
        "1 (16 x 10 x 16, BGRADB)",
        "0 bias_activation_backward",
        "0 (20 x 16 x 16)",
        "0 square_sum <10",
        "0 clip_scale",
        "0 sgd_step",
    ]


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "gelu"])
def test_one_branch_is_the_order_of_the_program(activation):
    backend = FakeCudaBackend()
    backend.branches = 1
    text = captured([20, 16, 16, 10], activation, Adam(), backend)
    assert all(line.startswith("0 ") and "<" not in line for line in text)


# ----------------------------------------------------------- memory, transfers and streams


def test_nothing_is_allocated_or_copied_to_the_host_after_the_first_steps(monkeypatch):
    backend, sizes = FakeCudaBackend(), []

    class Watch(MemoryHook):
        def malloc_postprocess(self, **about):
            sizes.append(about["mem_size"])

    training = build("adam", "accumulate all", backend=backend)
    engine = get_engine("graph", training)
    for epoch in range(3):
        training.begin_epoch(epoch, 3 * epoch, factors(3))
        if epoch < 2:  # the second epoch captures
            engine.run(3)
            continue
        monkeypatch.setattr(
            "fake_cuda.DeviceArray.get", lambda array: pytest.fail("a copy to the host")
        )
        with Watch():
            engine.run(3)
    assert not sizes


def test_an_allocation_in_a_capture_is_an_error():
    backend = FakeCudaBackend()

    class Careless:
        reads = writes = ()
        operations = nbytes = 0

        def __call__(self):
            backend.empty((3,))

    with pytest.raises(RuntimeError, match="12 bytes were allocated in a capture"):
        backend._capture.graph([Careless()])
    backend._capture.graph([])  # and the stream can be captured again


def test_what_fails_in_a_capture_leaves_the_stream_usable():
    backend = FakeCudaBackend()
    array = backend.zeros((3,))

    class Forbidden:
        reads = writes = ()
        operations = nbytes = 0

        def __call__(self):
            array.get()

    with pytest.raises(CaptureError, match="copy to the host"):
        backend._capture.graph([Forbidden()])
    backend._capture.graph([])


def test_a_call_that_no_graph_can_hold_runs_between_graphs():
    """An activation of somebody's own has no kernel; the rest of the step is captured."""

    def forward(xp, a, z):
        a[...] = xp.tanh(z)

    def derivative(xp, d, kept, scratch):
        d[...] = 1 - kept * kept

    own = Activation("own", "output", forward, derivative)
    results = []
    for backend in (FakeCudaBackend(), Backend(np)):
        training = build("sgd", "plain", backend=backend)
        training.model.layers[0].activation = own
        engine = get_engine("graph", training)
        training.begin_epoch(0, 0, factors(4))
        engine.run(4)
        results.append(np.asarray(training.model.flat.values))
    np.testing.assert_allclose(*results, 0, 1e-6)
    assert not isinstance(engine._plans[6], CapturedCalls)


def test_float64_runs_by_the_plain_formulas_but_for_copies():
    backend = FakeCudaBackend(precision=FP64)
    STATE.launches.clear()
    actual = on_host(backend, train(build("adam", "accumulate all", backend=backend), "graph"))
    expected = train(build("adam", "accumulate all", "float64"), "graph")
    np.testing.assert_allclose(actual["values"], expected["values"], 1e-9)
    assert {*STATE.launches} == {"begin_step", "gather"}  # which copy whatever type


def test_work_goes_to_the_stream_that_is_current(cuda):
    stream = cuda.xp.cuda.Stream(non_blocking=True)
    with stream:
        layer = Dense(4, 3, "relu", cuda, seed=0)
        a = layer.forward(cuda.asarray(np.ones((5, 4))))
        stream.synchronize()
    weight = cuda.to_numpy(layer.weight.value)
    np.testing.assert_allclose(
        cuda.to_numpy(a), np.maximum(0, np.ones((5, 4)) @ weight.T), 1e-6, 1e-7
    )


# --------------------------------------------------------------------------- as a user


def fit(backend, engine="auto", **options):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 6)).astype(np.float32)
    y = rng.integers(0, 3, ROWS)
    model = Sequential(
        Dense(6, 8, "relu", backend, dropout=0.2), Dense(8, 3, backend=backend), seed=0
    )
    trainer = Trainer(
        model,
        SoftmaxCrossEntropy(backend=backend),
        Adam(0.01),
        batch_size=5,
        engine=engine,
        **options,
    )
    history = trainer.fit(backend.asarray(x), y, epochs=EPOCHS, validation=(x, y))
    return trainer, history


def test_a_trainer_on_a_gpu_gives_the_history_of_the_cpu(cuda):
    trainer, history = fit(cuda)
    _, expected = fit(get_backend("cpu"))
    assert trainer.engine == "graph"
    for column in ("loss", "val_loss", "accuracy", "val_accuracy"):
        actual = [record[column] for record in history]
        np.testing.assert_allclose(actual, [record[column] for record in expected], 1e-4)


def test_two_networks_train_in_turns_on_one_device(cuda):
    alone = cuda.to_numpy(fit(cuda)[0].model.flat.values)
    first, second = build("sgd", "plain", backend=cuda), build("adam", "plain", backend=cuda)
    engines = [get_engine("graph", training) for training in (first, second)]
    for training in (first, second):
        training.begin_epoch(0, 0, factors(4))
    for _ in range(4):
        for engine in engines:
            engine.run(1)
    expected = train(build("adam", "plain", backend=cuda), "graph", epochs=1)["values"]
    np.testing.assert_array_equal(cuda.to_numpy(second.model.flat.values), cuda.to_numpy(expected))
    np.testing.assert_array_equal(cuda.to_numpy(fit(cuda)[0].model.flat.values), alone)


def test_a_run_that_diverges_on_a_gpu_names_the_step_and_the_tensor(cuda):
    messages = []
    for backend in (cuda, get_backend("cpu")):
        rng = np.random.default_rng(0)
        x, y = 10 * rng.normal(size=(ROWS, 6)).astype(np.float32), rng.normal(size=(ROWS, 1))
        model = Sequential(Dense(6, 8, "relu", backend), Dense(8, 1, backend=backend), seed=0)
        trainer = Trainer(model, MeanSquaredError(backend=backend), SGD(1.0), batch_size=5)
        with pytest.raises(DivergedError) as caught:
            trainer.fit(backend.asarray(x), y, epochs=50)
        # how far it went before it was noticed depends on the pace
        messages.append(re.sub(r"[\d.]+e\+?\d+|nan|inf\b", "(a number)", str(caught.value)))
    assert "first not finite" in messages[0]
    assert messages[0] == messages[1]


def test_a_run_from_the_command_line_on_the_stand_in_is_that_of_the_cpu(tmp_path, capsys):
    losses = {}
    for device in ("cuda", "cpu"):
        folder = tmp_path / device
        command = ["train", "--config", "diabetes", "--device", device, "--run-dir", str(folder)]
        with installed(tmp_path):
            assert cli.main([*command, "--set", "train.epochs=3", "--no-progress"]) == 0
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses[device] = [[r["loss"], r["val_loss"], r["val_rmse"]] for r in records]
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], 1e-4)
    environment = json.loads((tmp_path / "cuda" / "env.json").read_text())
    expected = {"gpu": "Stand-In 1", "cublaslt": 130000, "products": "fp32", "device": "cuda:0"}
    assert expected.items() <= environment.items()
    assert "cuda:0, fp32" in capsys.readouterr().err


@pytest.mark.parametrize("case", ["plain", "accumulate all"])
def test_sanitizer_a_few_steps_of_a_small_network(cuda, case):
    """What compute-sanitizer is run over, on a device: every kernel of a step, captured and not."""
    for engine in ("eager", "graph"):
        result = on_host(cuda, train(build("adam", case, backend=cuda), engine))
        assert np.isfinite(result["values"]).all()


if __name__ == "__main__":
    SNAPSHOT.write_text("\n\n".join(map(str.strip, steps_of_standard_networks())))


@pytest.mark.parametrize("kind", [float, np.float64, np.float32])
def test_numbers_may_be_those_of_numpy(kind):
    """As a search of hyperparameters over an array gives them."""
    losses = []
    for number in (float, kind):
        rate, optimizer = number(0.25), Adam(number(0.125), betas=(number(0.5), number(0.75)))
        hidden = Dense(4, 5, "relu", FakeCudaBackend(), dropout=rate, max_norm=number(2))
        model = Sequential(hidden, Dense(5, 2, backend=hidden.backend), seed=1)
        trainer = Trainer(
            model, SoftmaxCrossEntropy(label_smoothing=number(0.125)), optimizer, batch_size=4
        )
        x = np.arange(32).reshape(8, 4) / 32
        losses.append(trainer.fit(x, np.arange(8) % 2, epochs=2).column("loss"))
    assert losses[0] == losses[1]
