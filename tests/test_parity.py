"""`gpumlp parity` passes what agrees with the formulas, and finds what does not."""

import json
from functools import partial

import numpy as np
import pytest
from fake_cuda import FakeCudaBackend
from in_process import call

from gpumlp import parity
from gpumlp.backend import ACTIVATIONS, PRECISIONS, CpuBackend, get_backend
from gpumlp.backend.native import load_native
from gpumlp.config_file import load_config, parse_config, shipped_configs
from gpumlp.data.prepare import prepare
from gpumlp.engine import graph
from gpumlp.errors import DataError, DeviceError, DivergedError
from gpumlp.gradients.kinks import near_kinks
from gpumlp.gradients.sizes import SizingBackend
from gpumlp.layers import Dense
from gpumlp.losses import MeanAbsoluteError, MeanSquaredError
from gpumlp.model import Sequential
from gpumlp.optimizers import OPTIMIZERS
from gpumlp.parameters import Sink
from gpumlp.parity import compare, find_backends

TARGETS = {
    "multiclass": lambda rng, x: rng.integers(3, size=len(x)),
    "binary": lambda rng, x: np.where(x[:, 0] > 0, "yes", "no"),
    "multilabel": lambda rng, x: (x[:, :2] > 0).astype(int),
    "regression": lambda rng, x: np.stack([3 * x[:, 0], x[:, 1] + rng.normal(size=len(x))], 1),
}
EVERYTHING = {
    "model": {"layers": [{"units": 7, "dropout": 0.4}, {"units": 5, "max_norm": 0.5}]},
    "data": {"sample_weight": "w"},
    "train": {"batch_size": 4, "accumulate": 3},
    "loss": {"class_weight": "balanced", "label_smoothing": 0.1},
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with a data set for each task, one row in five of weight 0."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 4))
    weight = rng.uniform(0.5, 2, len(x)) * (np.arange(len(x)) % 5 > 0)
    for task, targets in TARGETS.items():
        np.savez(tmp_path / f"{task}.npz", x=x, label=targets(rng, x), w=weight)
    np.savez(tmp_path / "counts.npz", x=x, label=rng.poisson(3, len(x)).astype(float), w=weight)
    return tmp_path


def config(task="multiclass", source=None, **sections):
    data = {"source": f"{source or task}.npz", **sections.pop("data", {})}
    model = {"task": task, **({"hidden": [3]} | sections.pop("model", {}))}
    if "layers" in model:
        del model["hidden"]
    sections = {"train": {"batch_size": 8}} | sections
    return parse_config({"data": data, "model": model, "device": "cpu", **sections})


def assert_agrees(found):
    assert found.error < found.tolerance / 5
    assert found.error > 0 or found.precision.name == "fp64"
    for one in found.tensors:
        assert [len(errors) for errors in one.of] == [found.steps] * len(found.candidates)


# ------------------------------------------------------------------------- what agrees


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_configuration_agrees(name):
    try:
        found = compare(load_config(name, ["device=cpu"]), steps=4)
    except DataError as error:
        pytest.skip(str(error))  # of data that does not ship
    assert_agrees(found)
    assert found.steps == 4


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    "more", [{}, {"weight_decay": 0.1}, {"l1": 0.05, "clip_norm": 0.05}], ids=str
)
def test_every_optimizer_agrees(here, name, more):
    assert_agrees(compare(config(optimizer={"name": name, **more}), steps=7))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("task", TARGETS)
def test_every_task_and_activation_agrees(here, task, activation):
    assert_agrees(compare(config(task, model={"activation": activation}), steps=7))


@pytest.mark.parametrize("name", ["mse", "mae", "huber", "poisson"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_every_loss_of_values_agrees(here, name, reduction):
    source = "counts" if name == "poisson" else "regression"
    own = config("regression", source, loss={"name": name, "reduction": reduction})
    assert_agrees(compare(own, steps=7))


@pytest.mark.parametrize(
    "sections",
    [
        EVERYTHING,
        EVERYTHING | {"optimizer": {"name": "sgd", "clip_norm": 0.01}},
        EVERYTHING | {"optimizer": {"name": "momentum", "weight_decay": 0.1}},
        {"train": {"batch_size": "full"}, "optimizer": {"name": "sgd", "weight_decay": 0.1}},
        {"train": {"batch_size": 39}, "schedule": {"name": "cosine", "warmup_steps": 3}},
        {"model": {"hidden": []}, "data": {"scale": "none"}},
        {"train": {"batch_size": 8, "shuffle": False}},
    ],
    ids=str,
)
def test_what_a_configuration_may_ask_for_agrees(here, sections):
    found = compare(config(**sections), steps=12)  # into the next epochs, with their partial batch
    assert_agrees(found)


def test_float64_is_compared_with_itself_on_the_cpu(here):
    found = compare(config(precision="fp64"))
    assert found.candidates == ("numpy eager", "numpy graph")
    assert found.error == 0
    assert found.tolerance < 1e-13


def test_large_data_are_thinned_out(here):
    x = np.random.default_rng(0).normal(size=(5000, 4))
    np.savez("large.npz", x=x, label=x[:, 0] > 0)
    found = compare(config("binary", "large", train={"batch_size": "full"}))
    assert found.rows == parity.MOST_ROWS
    assert_agrees(found)


def test_every_step_begins_with_the_same_bits(here, monkeypatch):
    starts = []
    step = parity.Run.step

    def noting(self):
        starts.append([np.array(array, np.float32) for array in self.buffers()])
        exact = all((np.array(a, np.float32) == a).all() for a in self.buffers())
        assert exact, "the reference begins with numbers that the precision has"
        return step(self)

    monkeypatch.setattr(parity.Run, "step", noting)
    found = compare(config(), steps=3)
    runs = 1 + len(found.candidates)
    assert len(starts) == 3 * runs
    for i in range(3):
        for one in starts[i * runs + 1 : (i + 1) * runs]:
            for array, expected in zip(one, starts[i * runs], strict=True):
                np.testing.assert_array_equal(array, expected)
    assert not np.array_equal(starts[0][0], starts[runs][0])


# ------------------------------------------------------------------------- rows near a kink


@pytest.mark.parametrize("batch_size", [29, "full"])
def test_rows_near_a_kink_are_replaced_everywhere(here, batch_size):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 1))
    x[::3] *= 1e-9  # while b = 0, rounding may put their z on either side of 0
    np.savez("near.npz", x=x, label=x)
    found = compare(
        config(
            "regression",
            "near",
            data={"scale": "none"},
            model={"activation": "relu"},
            train={"batch_size": batch_size},
        ),
        steps=1,
    )
    assert found.replaced in ((10,) if batch_size == "full" else (9, 10))
    assert_agrees(found)


def test_where_all_rows_are_near_a_kink_none_is_replaced(here, monkeypatch):
    monkeypatch.setattr("gpumlp.parity.near_kinks", lambda _, __, x, *rest: np.ones(len(x), bool))
    found = compare(config(), steps=2)
    assert found.replaced == 0
    assert_agrees(found)


def test_an_error_beside_nothing_is_itself(here):
    settings = config()
    data = prepare(settings.data, settings.model.task, settings.seed, "float64")
    reference = parity.Reference(settings, data)
    away = np.full(reference.flat.values.shape, 0.25)
    assert set(reference.relative(away, 0 * away).values()) == {0.25}


def test_rows_are_looked_at_under_the_masks_of_their_step(here, monkeypatch):
    seen = []

    def look(model, loss, x, target, keys):
        seen.append((model, keys))
        return np.zeros(len(x), bool)

    monkeypatch.setattr("gpumlp.parity.near_kinks", look)
    compare(config(model={"dropout": 0.5}), steps=3)
    assert len(seen) == 3
    for step, (model, keys) in enumerate(seen):
        np.testing.assert_array_equal(keys, model.dropout_keys(step))


def test_what_is_near_depends_on_the_mask_and_on_the_loss():
    double = get_backend("cpu", "fp64")
    model = Sequential(
        Dense(1, 1, "identity", double, dropout=0.5), Dense(1, 1, "relu", double, seed=0), seed=0
    )
    for parameter, value in zip(model.parameters, (1, 0, 1, 1e-9), strict=True):
        parameter.value[...] = value
    x = np.ones((40, 1))
    near = near_kinks(model, MeanSquaredError(backend=double), x, x, model.dropout_keys(0))
    assert 0 < near.sum() < 40  # where the input is dropped z = 1e-9 is left
    assert not near_kinks(model, MeanSquaredError(backend=double), x, x, None).any()
    target = x + 1e-9 + np.where(np.arange(40) < 7, 1e-9, 1.0)[:, None]
    assert near_kinks(model, MeanAbsoluteError(backend=double), x, target, None).sum() == 7
    assert not near_kinks(model, MeanSquaredError(backend=double), x, target, None).any()


# ------------------------------------------------------------------------- sizes


def test_each_step_has_sizes_of_its_own(here):
    """A sum over the steps so far would excuse ever larger errors."""
    own = config("regression")
    reference = parity.Reference(own, prepare(own.data, "regression", 0, np.float64))
    start, sizes = [array.copy() for array in reference.buffers()], []
    for _ in range(2):
        reference.put(start, 0)
        reference.training.begin_epoch(0, 0, np.ones(reference.training.batches.steps))
        reference.run(0)
        sizes.append((reference.loss_size, dict(reference.sizing.sizes)))
    assert sizes[0] == sizes[1]


def test_the_sizes_are_those_of_the_terms_and_not_of_what_is_left():
    backend = SizingBackend()
    model = Sequential(Dense(2, 1, backend=backend))
    backend.watch(model.flat, [model.flat.gradients])
    x, dz = np.array([[1.0, 2.0], [1.0, 2.0]]), np.array([[3.0], [-3.0]])
    model.forward(x)
    model.backward(dz)
    np.testing.assert_array_equal(model.flat.gradients, 0)
    assert backend.sizes == {"0.weight": 12.0, "0.bias": 6.0}
    model.backward(dz, into=lambda p: Sink(p.gradient, -0.5, 1.0))
    assert backend.sizes == {"0.weight": 18.0, "0.bias": 9.0}
    model.flat.gradients[:2] = 3, 4
    backend.clip_norm(model.flat.gradients, 0.5, np.empty_like(model.flat.gradients))
    assert backend.sizes == pytest.approx({"0.weight": 1.8, "0.bias": 0.9})
    backend.clear()
    assert backend.sizes == {}


# ------------------------------------------------------------------------- what does not agree


def spoil(monkeypatch, operation, change, kind=CpuBackend):
    """Let the plain formula of one operation run with changed arguments where `kind` computes."""
    honest = kind.bind

    def bind(self, name, *args, **kwargs):
        if name == operation and not self.native:
            args = change(*args)
        return honest(self, name, *args, **kwargs)

    monkeypatch.setattr(kind, "bind", bind)


def failing(found):
    """(tensor, candidate) of what is beyond the tolerance."""
    return {
        (one.tensor, name)
        for one in found.tensors
        for name, largest in zip(found.candidates, one.largest, strict=True)
        if not largest <= found.tolerance
    }


@pytest.mark.parametrize(
    ("operation", "change", "tensors"),
    [
        (
            "adam_step",
            lambda w, m, v, g, lr, c, betas, *rest: (w, m, v, g, lr, c, betas[::-1], *rest),
            {"0.weight update", "0.bias update", "1.weight update", "1.bias update"},
        ),
        (
            "adam_step",
            lambda w, m, v, g, lr, c, betas, eps, *s: (w, m, v, g, lr, c, betas, 30 * eps, *s),
            None,
        ),
        (
            "bias_activation_backward",
            lambda dz, sink, da, kept, activation, *rest: (
                dz, sink, da, kept, ACTIVATIONS["relu" if dz is not da else "identity"], *rest
            ),
            {"0.weight gradient", "0.bias gradient"},
        ),
        (
            "softmax_cross_entropy",
            lambda loss, c, dz, z, t, w, smoothing, s: (loss, c, dz, z, t, w, smoothing + 1e-3, s),
            {"loss", *(f"{i}.{p} gradient" for i in (0, 1) for p in ("weight", "bias"))},
        ),
        (
            "dropout",
            lambda out, x, key, rate, first, s: (out, x, key, rate, first + 1, s),
            None,
        ),
    ],
    ids=["swapped betas", "epsilon", "derivative", "smoothing", "mask"],
)  # fmt: skip
def test_a_mistake_in_one_operation_is_found(here, monkeypatch, operation, change, tensors):
    spoil(monkeypatch, operation, change)
    own = config(
        model={"dropout": 0.3},
        optimizer={"name": "adam", "eps": 1e-5},
        loss={"label_smoothing": 0.1},
    )
    found = compare(own)
    wrong = failing(found)
    assert {name for _, name in wrong} == {"numpy eager", "numpy graph"}
    if tensors is not None:
        assert {tensor for tensor, _ in wrong} == tensors


def test_an_error_of_a_thousandth_in_a_derivative_is_found(here, monkeypatch):
    spoil(monkeypatch, "bias_activation_backward", lambda dz, s, da, kept, activation, alpha, *r: (
        dz, s, da, kept, activation, 1.001 * alpha, *r))  # fmt: skip
    wrong = failing(compare(config(optimizer={"name": "nesterov"})))
    assert {tensor for tensor, _ in wrong} == {"0.bias gradient", "1.bias gradient"}


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_an_update_that_the_product_writes_is_compared(here, monkeypatch, optimizer):
    def change(out, a, b, *rest):
        return (out, a, b, 1.001 * rest[0], *rest[1:]) if len(rest) > 1 else (out, a, b, *rest)

    spoil(monkeypatch, "matmul", change)
    found = compare(config(optimizer={"name": optimizer}))
    assert not any("gradient" in one.tensor for one in found.tensors)
    assert {t for t, _ in failing(found)} == {"0.weight update", "1.weight update"}


def test_it_is_the_replayed_step_that_is_looked_at(here, monkeypatch):
    honest = graph.GraphEngine._record

    def forgetful(self, rows):
        honest(self, rows)
        return lambda steps: None

    monkeypatch.setattr(graph.GraphEngine, "_record", forgetful)
    assert compare(config(), steps=1).error < 1e-5
    found = compare(config(), steps=2)
    assert {name.split()[1] for _, name in failing(found)} == {"graph"}


def test_what_is_not_a_number_does_not_agree(here, monkeypatch):
    def change(w, g, *rest):
        g[0] = np.nan
        return (w, g, *rest)

    spoil(monkeypatch, "sgd_step", change)
    found = compare(config(optimizer={"name": "sgd", "clip_norm": 1e9}))
    assert found.error == float("inf")
    assert failing(found)


# ------------------------------------------------------------------------- devices


def test_what_cannot_run_is_said_with_its_reason(monkeypatch):
    monkeypatch.setattr(parity, "load_native", lambda: (None, "not built: why"))
    monkeypatch.setattr("gpumlp.backend.cpu.load_native", lambda: (None, "not built: why"))
    monkeypatch.setattr(parity, "get_backend", without_cuda)
    found, missing = find_backends("auto", "fp32")
    assert [name for name, _ in found] == ["numpy"]
    assert missing == ["native kernels: not built: why", "cuda: no driver"]
    assert find_backends("cpu", "fp32")[1] == missing[:1]
    with pytest.raises(DeviceError, match="no driver"):
        find_backends("cuda:1", "fp32")


def without_cuda(device, precision=None):
    if device != "cpu":
        raise DeviceError("no driver")
    return get_backend(device, precision)


def with_stand_in(device, precision=None):
    return FakeCudaBackend() if device.startswith("cuda") else get_backend(device, precision)


@pytest.mark.skipif(load_native()[0] is None, reason="the native library is missing")
def test_a_gpu_is_compared_beside_the_cpu(here, monkeypatch):
    """With the GPU's kernels on fibers, see fake_cuda.py."""
    monkeypatch.setattr(parity, "get_backend", with_stand_in)
    own = config(model={"activation": "relu"}).model_copy(update={"device": "auto"})
    found = compare(own, steps=6, engine="graph")
    assert found.candidates == ("cpu graph", "numpy graph", "cuda:0 graph")
    assert_agrees(found)
    assert len({tuple(one.of[2]) for one in found.tensors} - {tuple(found.tensors[0].of[0])}) > 1


@pytest.mark.skipif(load_native()[0] is None, reason="the native library is missing")
@pytest.mark.parametrize(
    ("precision", "activation"),
    [*((name, "sigmoid") for name in PRECISIONS if PRECISIONS[name].format), ("bf16", "relu")],
)
def test_in_a_low_precision_all_devices_agree_but_for_a_few_roundings(
    here, monkeypatch, precision, activation
):
    def get(device, name=None):
        on_gpu = device.startswith("cuda")
        return FakeCudaBackend(precision=PRECISIONS[name]) if on_gpu else get_backend(device, name)

    monkeypatch.setattr(parity, "get_backend", get)
    own = config(model={"activation": activation, "hidden": [9, 6]})
    own = own.model_copy(update={"device": "auto", "precision": precision})
    found = compare(own, steps=3, engine="graph")
    assert len(found.candidates) == 3
    assert failing(found) == set()
    # below what rounding itself is off by
    assert found.error < max(0.2 * PRECISIONS[precision].epsilon, 1e-5)


def test_a_device_that_rounds_otherwise_is_found(here, monkeypatch):
    monkeypatch.setattr(CpuBackend, "_bind_split", lambda self, parts, x, format: None)
    honest = CpuBackend.formulas.split

    def truncated(self, parts, x, format):
        honest(self, parts, x, format)
        if isinstance(self, CpuBackend):
            parts[0][...] = (x.view("uint32") & 0xFFFF0000).view("float32")

    monkeypatch.setattr(CpuBackend.formulas, "split", truncated)
    own = config().model_copy(update={"precision": "bf16"})
    assert failing(compare(own, steps=2))


# ------------------------------------------------------------------------- the command


def run(capsys, *arguments):
    return call(capsys, "parity", *arguments)


@pytest.mark.skipif(load_native()[0] is None, reason="the native library is missing")
def test_the_command_prints_a_row_a_tensor_with_the_worst_last(capsys):
    code, out, err = run(capsys, "--config", "digits", "--device", "cpu", "--steps", "2")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    head = next(i for i, line in enumerate(lines) if line.startswith("tensor"))
    assert lines[head].split("  ")[-1] == "numpy graph"
    rows = [line.rsplit(maxsplit=4) for line in lines[head + 1 : head + 10]]
    worst = [max(map(float, cells)) for _, *cells in rows]
    assert worst == sorted(worst)
    assert {name for name, *_ in rows} == {
        "loss",
        *(f"{i}.{p} {what}" for i in (0, 1) for p in ("weight", "bias")
          for what in ("gradient", "update")),
    }  # fmt: skip
    assert lines[-1].startswith(f"largest relative error {worst[-1]:.1e} ({rows[-1][0]}, ")
    assert lines[-1].endswith("): ok")
    assert "allowed: 1.2e-05 of a tensor" in out


def test_json_has_the_error_of_every_step(capsys):
    arguments = ["--config", "xor", "--device", "cpu", "--engine", "graph", "--seed", "3"]
    code, out, _ = run(capsys, *arguments, "--set", "optimizer.name=sgd", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["ok"]
    assert found["error"] < found["tolerance"]
    assert set(found["tensors"]) == {
        "loss", *(f"{i}.{p} update" for i in (0, 1) for p in ("weight", "bias"))
    }  # fmt: skip
    for errors in found["tensors"].values():
        assert "numpy graph" in errors
        assert {len(of_steps) for of_steps in errors.values()} == {5}
    again = json.loads(run(capsys, *arguments, "--set", "optimizer.name=sgd", "--json")[1])
    assert again == found


def test_a_failure_exits_with_7_and_names_tensor_candidate_and_step(capsys, monkeypatch):
    calls = []

    def late(w, m, v, g, lr, correction, betas, *rest):
        calls.append(1)
        swapped = betas[::-1] if len(calls) > 1 else betas
        return (w, m, v, g, lr, correction, swapped, *rest)

    spoil(monkeypatch, "adam_step", late)
    arguments = ["--config", "digits", "--device", "cpu", "--engine", "eager", "--steps", "3"]
    code, out, err = run(capsys, *arguments)
    assert code == 7
    assert out.splitlines()[-1].endswith("failed")
    assert "0.weight update: numpy eager is off by " in err
    assert "(allowed 1.2e-05), first in step 2" in err
    calls.clear()
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 7
    assert json.loads(out)["ok"] is False


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--config", "digits", "--steps", "0"], 2, "--steps 0: expected 1 to 1000"),
        (["--config", "digits", "--steps", "1001"], 2, "--steps 1001"),
        (["--config", "digits", "--steps", "x"], 2, "invalid int"),
        (["--config", "digits", "--engine", "steam"], 2, "invalid choice"),
        (["--config", "none-such"], 2, "no such file"),
        (["--config", "digits", "--set", "model.hiden=[3]"], 2, "model.hiden"),
        (["--config", "digits", "--seed", "-1"], 2, "seed"),
        ([], 2, "--config"),
        (["--config", "digits", "--set", "data.source=none.npz"], 3, "none.npz"),
        (["--config", "digits", "--device", "cuda:99"], 5, "cuda"),
    ],
)
def test_what_cannot_be_compared_is_refused(capsys, monkeypatch, arguments, code, said):
    if "cuda:99" in arguments:
        monkeypatch.setattr(parity, "get_backend", without_cuda)
        said = "no driver"
    found, out, err = run(capsys, *arguments)
    assert (found, out) == (code, "")
    assert said in err


def test_a_loss_that_is_not_finite_is_said(here):
    np.savez("huge.npz", x=np.full((9, 2), 1e200), label=np.full((9, 1), 1e200))
    own = partial(config, "regression", "huge", data={"scale": "none"}, model={"hidden": []})
    with pytest.raises(DivergedError, match="scale the inputs"):
        compare(own(precision="fp64"))


def test_targets_that_the_loss_does_not_take_are_an_error_of_the_data(here):
    with pytest.raises(DataError, match=r"regression\.npz: .*targets of Poisson"):
        compare(config("regression", loss={"name": "poisson"}))
