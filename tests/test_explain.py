"""`gpumlp explain` shows the notes' quantities, as hand arithmetic, PyTorch and differences do."""

import io
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import call

from gpumlp import (
    Activation,
    BinaryCrossEntropy,
    Dense,
    Dropout,
    MeanSquaredError,
    Sequential,
    Sigmoid,
    SoftmaxCrossEntropy,
    cli,
    get_backend,
)
from gpumlp.backend import ACTIVATIONS
from gpumlp.config_file import load_config
from gpumlp.console import plain
from gpumlp.data.prepare import prepare
from gpumlp.errors import DivergedError
from gpumlp.gradients.explain import explain, largest
from gpumlp.gradients.report import four
from gpumlp.losses import LOSSES
from gpumlp.saved_model import load_model


def two_two_one():
    """The notes' small network: two inputs, two sigmoid units, one output."""
    model = Sequential(Dense(2, 2, "sigmoid"), Dense(2, 1))
    values = ([[1.0, -2.0], [-1.0, 1.0]], [1.0, 0.0], [[2.0, -3.0]], [0.5])
    for parameter, value in zip(model.parameters, values, strict=True):
        parameter.value[...] = value
    return model


def test_a_2_2_1_network_is_explained_as_by_hand():
    hidden, output = explain(two_two_one(), MeanSquaredError(), [1.0, -1.0], [0.25])
    # z = (1 + 2 + 1, -1 - 1) = (4, -2), the notes' numbers
    a = 1 / (1 + np.exp([-4.0, 2.0]))
    y = 2 * a[0] - 3 * a[1] + 0.5
    dz = 2 * (y - 0.25)
    expected = dz * np.array([2.0, -3.0]) * a * (1 - a)
    np.testing.assert_allclose(hidden.z, [4.0, -2.0], rtol=1e-15)
    np.testing.assert_allclose(hidden.a, a, rtol=1e-15)
    np.testing.assert_allclose(hidden.sigma_prime, a * (1 - a), rtol=1e-15)
    np.testing.assert_allclose([*output.z, *output.a], [y, y], rtol=1e-14)
    np.testing.assert_allclose(output.dz, [dz], rtol=1e-14)
    np.testing.assert_allclose(output.dw, [dz * a], rtol=1e-14)
    np.testing.assert_allclose(hidden.da, dz * np.array([2.0, -3.0]), rtol=1e-14)
    np.testing.assert_allclose(hidden.dz, expected, rtol=1e-14)
    np.testing.assert_allclose(hidden.dw, np.outer(expected, [1.0, -1.0]), rtol=1e-14)
    assert (hidden.number, hidden.case, hidden.activation) == (1, 2, "sigmoid")
    assert (output.number, output.case, output.activation) == (2, 1, "identity")
    np.testing.assert_array_equal(hidden.x, [1.0, -1.0])
    np.testing.assert_array_equal(output.x, hidden.a)
    assert max(hidden.error, output.error) < 1e-7


# ------------------------------------------------------------------------- any network

LOSS_TARGETS = {
    "cross_entropy": lambda rng, k: int(rng.integers(k)),
    "bce": lambda rng, k: rng.integers(2, size=k).astype(float),
    "mse": lambda rng, k: rng.normal(size=k),
    "mae": lambda rng, k: rng.normal(size=k),
    "huber": lambda rng, k: rng.normal(size=k),
    "poisson": lambda rng, k: rng.poisson(2, size=k).astype(float),
}


@st.composite
def problems(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    name = draw(st.sampled_from(sorted(LOSSES)))
    if name == "cross_entropy":
        sizes[-1] += 1
    activation = draw(st.sampled_from(sorted(ACTIVATIONS)))
    precision = draw(st.sampled_from(["fp32", "fp64"]))
    backend = get_backend("cpu", precision)
    bias = draw(st.booleans())
    layers = [
        Dense(n, m, activation if i + 2 < len(sizes) else "identity", backend, bias=bias)
        for i, (n, m) in enumerate(pairwise(sizes))
    ]
    model = Sequential(*layers, seed=int(rng.integers(99)))
    for parameter in model.parameters:
        parameter.value[...] = rng.normal(size=parameter.shape)
    loss = LOSSES[name](backend=backend)
    return model, loss, rng.normal(size=sizes[0]), LOSS_TARGETS[name](rng, sizes[-1])


@given(problems())
@settings(max_examples=60)
def test_every_quantity_is_what_the_notes_say(problem):
    model, loss, x, target = problem
    layers = explain(model, loss, x, target)
    assert [layer.case for layer in layers] == [2] * (len(layers) - 1) + [1]
    entering = x
    for layer, dense in zip(layers, model.layers, strict=True):
        np.testing.assert_array_equal(layer.x, entering)
        b = 0 if layer.b is None else layer.b
        np.testing.assert_allclose(layer.z, layer.w @ layer.x + b, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(layer.dz, layer.sigma_prime * layer.da, rtol=1e-14)
        np.testing.assert_allclose(layer.dw, np.outer(layer.dz, layer.x), rtol=1e-13, atol=1e-300)
        assert (layer.b is None) == (dense.bias is None) == (layer.numeric_db is None)
        if layer.b is not None:
            np.testing.assert_array_equal(layer.db, layer.dz)
        entering = layer.a
    for layer, after in pairwise(layers):
        np.testing.assert_allclose(layer.da, after.w.T @ after.dz, rtol=1e-11, atol=1e-13)


@given(problems())
@settings(max_examples=60)
def test_the_differences_agree_wherever_there_is_no_kink(problem):
    for layer in explain(*problem):
        if not np.isnan(layer.error):  # all lie at kinks
            assert layer.error < 1e-6
            compared = ~np.isnan(layer.numeric_dw)
            difference = abs(layer.numeric_dw - layer.dw)[compared]
            size = max(abs(layer.dw).max(), 1.0)
            assert difference.max(initial=0) < 1e-6 * size


@given(problems())
@settings(max_examples=40)
def test_the_gradients_are_those_of_the_models_own_backward_pass(problem):
    model, loss, x, target = problem
    z = model.forward(x[None])
    loss.forward(z, np.asarray(target)[None])
    model.backward(loss.backward())
    expected = [p.gradient.copy() for p in model.parameters]
    z, values = z.copy(), model.flat.values.copy()
    layers = explain(model, loss, x, target)
    found = [g for layer in layers for g in (layer.dw, layer.db) if g is not None]
    rtol = 1e-12 if model.backend.dtype == "float64" else 2e-4
    for mine, theirs, parameter in zip(found, expected, model.parameters, strict=True):
        scale = max(1e-3, abs(theirs).max())
        np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=rtol * scale)
        np.testing.assert_array_equal(parameter.gradient, theirs)  # left alone
    np.testing.assert_array_equal(model.flat.values, values)
    np.testing.assert_array_equal(model.forward(x[None]), z)
    assert loss.backend is model.backend


def test_pytorch_finds_the_same():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.set_num_threads(1)
    rng = np.random.default_rng(5)
    double = get_backend("cpu", "fp64")
    for name in ("sigmoid", "tanh", "relu", "softplus", "silu", "elu"):
        sizes = (4, 5, 3)
        model = Sequential(
            Dense(4, 5, name, double), Dense(5, 3, backend=double), seed=int(rng.integers(99))
        )
        x, label = rng.normal(size=4), 2
        loss = SoftmaxCrossEntropy(label_smoothing=0.1, backend=double)
        layers = explain(model, loss, x, label)
        a, kept = torch.tensor(x), []
        for i, layer in enumerate(layers):
            w = torch.tensor(layer.w, requires_grad=True)
            z = w @ a + torch.tensor(layer.b)
            z.retain_grad()
            a = getattr(torch.nn.functional, name)(z) if i + 2 < len(sizes) else z
            kept.append((w, z, a))
        entropy = torch.nn.functional.cross_entropy(
            a[None], torch.tensor([label]), label_smoothing=0.1
        )
        entropy.backward()
        for layer, (w, z, out) in zip(layers, kept, strict=True):
            np.testing.assert_allclose(layer.z, z.detach(), rtol=1e-12)
            np.testing.assert_allclose(layer.a, out.detach(), rtol=1e-12)
            np.testing.assert_allclose(layer.dz, z.grad, rtol=1e-10, atol=1e-14)
            np.testing.assert_allclose(layer.dw, w.grad, rtol=1e-10, atol=1e-14)


# ------------------------------------------------------------------------- edges


def test_of_a_large_layer_the_largest_are_compared():
    model = Sequential(Dense(30, 20, "tanh"), Dense(20, 1))
    x = np.random.default_rng(0).normal(size=30)
    hidden, output = explain(model, BinaryCrossEntropy(), x, [1.0], entries=7)
    compared = ~np.isnan(hidden.numeric_dw)
    assert compared.sum() == 7
    assert abs(hidden.dw[compared]).min() >= abs(hidden.dw[~compared]).max()
    assert (~np.isnan(hidden.numeric_db)).sum() == (~np.isnan(output.numeric_dw)).sum() == 7
    everything = explain(model, BinaryCrossEntropy(), x, [1.0], entries=None)
    assert not any(np.isnan(layer.numeric_dw).any() for layer in everything)


def test_a_wrong_derivative_shows_as_an_error(monkeypatch):
    right = ACTIVATIONS["sigmoid"]

    def derivative(xp, d, kept, scratch):
        right.derivative(xp, d, kept, scratch)
        d *= 1.1

    monkeypatch.setitem(ACTIVATIONS, "sigmoid", replace(right, derivative=derivative))
    hidden, output = explain(two_two_one(), MeanSquaredError(), [1.0, -1.0], [0.25])
    assert hidden.error == pytest.approx(0.1 / 1.1, rel=1e-4)
    assert output.error < 1e-7


def test_at_a_kink_there_is_no_difference():
    model = Sequential(Dense(1, 1, "relu"), Dense(1, 1))
    hidden, output = explain(model, MeanSquaredError(), [0.0], [1.0])
    assert np.isnan(hidden.numeric_db).all()
    assert not np.isnan(output.numeric_db).any()


@pytest.mark.parametrize("layers", [
    [Sigmoid(), Dense(2, 1)],
    [Dense(2, 2, "relu"), Activation("tanh"), Dense(2, 1)],
    [Dropout(0.5), Dense(2, 1)],
], ids=str)  # fmt: skip
def test_networks_of_other_layers_are_refused(layers):
    with pytest.raises(ValueError, match=r"explain takes networks of Dense layers; layer [01] is"):
        explain(Sequential(*layers), MeanSquaredError(), [1.0, 2.0], [0.0])


def test_dropout_is_off():
    plain_model, dropped = (
        Sequential(Dense(3, 4, "tanh", dropout=rate), Dense(4, 2), seed=1) for rate in (0.0, 0.9)
    )
    for one, other in zip(
        explain(plain_model, SoftmaxCrossEntropy(), [1, 2, 3], 0),
        explain(dropped, SoftmaxCrossEntropy(), [1, 2, 3], 0),
        strict=True,
    ):
        np.testing.assert_array_equal(one.dw, other.dw)


@pytest.mark.parametrize(("x", "target"), [([1.0], 0), ([1.0, 2.0], 3), ([1.0, 2.0], 0.5)])
def test_rows_and_targets_that_do_not_fit_are_refused(x, target):
    with pytest.raises(ValueError, match=r"shape|labels"):
        explain(Sequential(Dense(2, 3)), SoftmaxCrossEntropy(), x, target)


def test_a_loss_that_is_not_finite_is_said():
    with pytest.raises(DivergedError, match="the loss of this sample is inf"):
        explain(two_two_one(), MeanSquaredError(), [1.0, 1.0], [1e300])


@given(st.floats(-1e300, 1e300))
def test_numbers_are_written_in_at_most_ten_characters(value):
    text = four(value)
    assert len(text) <= 10 or abs(value) < 1e-99 or abs(value) >= 1e99
    assert float(text) == pytest.approx(value, rel=6e-4)


def test_the_largest_come_first():
    values = np.array([[0.0, -3.0], [2.0, 3.0]])
    assert largest(values, None).tolist() == [[0, 1], [1, 1], [1, 0], [0, 0]]
    assert largest(values, 1).tolist() == [[0, 1]]


# ------------------------------------------------------------------------- the command


def run(capsys, *arguments):
    return call(capsys, "explain", *arguments)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with a configuration, its data, and a test part in a file of its own."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(30, 3))
    np.savez("small.npz", x=x, label=np.where(x[:, 0] > 0, "up", "down"))
    np.savez("test.npz", x=x[:4], label=["up", "down", "up", "up"])
    (tmp_path / "small.toml").write_text(
        '[data]\nsource = "small.npz"\nval = { fraction = 0.3 }\ntest = { path = "test.npz" }\n'
        '[model]\ntask = "binary"\nhidden = [3]\n[train]\nepochs = 2\n'
    )
    return tmp_path


def test_the_command_shows_sample_formulas_layers_and_the_error_last(capsys):
    code, out, err = run(capsys, "--config", "digits", "--sample", 0)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == "digits: row 0 of builtin:digits (training part)"
    assert lines[1] == "before training, parameters drawn from seed 0 (θ⁰)"
    assert "layer 1 of 2: 64 -> 256, sigmoid; hidden layer, case 2" in lines
    assert "layer 2 of 2: 256 -> 10, identity; output layer, case 1" in lines
    assert "  (the 10 of 256 units with the largest |∂l/∂z|)" in lines
    assert lines[-1].startswith("largest relative error ")
    assert float(lines[-1].split()[3]) < 1e-6
    assert "310 central differences" in lines[-1]


def test_the_arithmetic_that_is_spelled_out_is_right(here, capsys):
    out = run(capsys, "--config", "small.toml", "--sample", 3)[1]
    product = next(line for line in out.splitlines() if line.startswith("∂l/∂w["))
    _, _, factors, value, *_ = product.replace("   central difference", " =").split(" = ")
    one, other = map(float, factors.split(" · "))
    assert one * other == pytest.approx(float(value), rel=2e-3)
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("∂l/∂z["))
    slope, rest = lines[start + 1].removeprefix("  = ").split(" · ", 1)
    terms = [term.split(" · ") for term in rest.strip("()").split(" + ")]
    total = float(slope) * sum(float(w) * float(dz) for w, dz in terms)
    assert total == pytest.approx(float(lines[start + 2].rpartition("=")[2]), rel=3e-3)


def test_samples_are_found_in_every_part(here, capsys):
    parts = set()
    for row in range(30):
        code, out, _ = run(capsys, "--config", "small.toml", "--sample", row)
        assert code == 0
        lines = out.splitlines()
        parts.add(lines[0].rpartition("(")[2])
        sign = np.load("small.npz")["x"][row, 0] > 0
        assert lines[3] == f"target ŷ: {'up' if sign else 'down'}"
    assert parts == {"training part)", "validation part)"}
    code, _, err = run(capsys, "--config", "small.toml", "--sample", 30)
    assert code == 2
    assert "has rows 0 to 29" in err


def test_one_layer_and_all_of_it(here, capsys):
    some = run(capsys, "--config", "small.toml", "--sample", 0, "--set", "model.hidden=[12]")[1]
    assert "  (the 8 of 36 weights with the largest |∂l/∂w|)" in some.splitlines()
    out = run(
        capsys, "--config", "small.toml", "--sample", 0, "--set", "model.hidden=[12]", "--layer", 1,
        "--all",
    )[1]  # fmt: skip
    lines = out.splitlines()
    assert not any(line.startswith("layer 2") for line in lines)
    assert "  (all 36 weights)" in lines
    weights = [line.split()[0] for line in lines if line.startswith("      w[") or "   w[" in line]
    assert weights == [f"w[{i},{j}]" for i in range(12) for j in range(3)]
    assert "(48 central differences)" in lines[-1]


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_other_tasks_say_their_targets(here, capsys, task):
    rng = np.random.default_rng(1)
    label = rng.integers(2, size=(9, 2)) if task == "multilabel" else rng.normal(size=(9, 2))
    label[0] = [0, 1]
    np.savez("other.npz", x=rng.normal(size=(9, 3)), label=label)
    (here / "other.toml").write_text(f'[data]\nsource = "other.npz"\n[model]\ntask = "{task}"\n')
    code, out, _ = run(capsys, "--config", "other.toml", "--sample", 0)
    assert code == 0
    assert out.splitlines()[3] == f"target ŷ: {'1' if task == 'multilabel' else '0, 1.000'}"
    assert " / K  (from the loss)" in out


def test_scaled_targets_are_also_said_in_the_units_of_the_data(capsys):
    raw = load_config("diabetes").data
    with_scaler, without = (
        prepare(raw.model_copy(update={"target_scale": scale}), "regression", 0, np.float64)
        for scale in ("standard", "none")
    )
    row, scaled, own = with_scaler.train.rows[5], with_scaler.train.y[5, 0], without.train.y[5, 0]
    code, out, _ = run(
        capsys, "--config", "diabetes", "--sample", row, "--set", "data.target_scale=standard"
    )
    assert code == 0
    assert f"target ŷ: {four(scaled)}" in out.splitlines()
    assert f"in the units of the data: ŷ = {four(own)}; y = " in out


def test_a_run_is_explained_with_the_parameters_it_ended_with(here, capsys):
    assert cli.main(["train", "--config", "small.toml", "--run-dir", "run", "-q"]) == 0
    capsys.readouterr()
    code, out, err = run(capsys, "run", "--sample", 1)
    assert (code, err) == (0, "")
    assert out.splitlines()[1] == "parameters as trained in run"
    before = run(capsys, "--config", "small.toml", "--sample", 1)[1]
    assert out.splitlines()[-1] != before.splitlines()[-1]
    y = load_model("run").predict(np.load("small.npz")["x"][1:2])[0, 0]
    assert out.splitlines()[4] == f"prediction y: up: {four(y)}"


def test_a_run_whose_data_changed_is_refused(here, capsys):
    assert cli.main(["train", "--config", "small.toml", "--run-dir", "run", "-q"]) == 0
    with np.load("small.npz") as data:
        np.savez("small.npz", x=data["x"] + 1, label=data["label"])
    capsys.readouterr()
    code, _, err = run(capsys, "run", "--sample", 1)
    assert code == 3
    assert "is not what the model was trained on any more" in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--sample", 1], 2, "either RUN or --config"),
        (["run", "--config", "digits", "--sample", 1], 2, "either RUN or --config"),
        (["--config", "digits"], 2, "--sample"),
        (["--config", "digits", "--sample", "one"], 2, "--sample"),
        (["--config", "digits", "--sample", 1797], 2, "rows 0 to 1796"),
        (["--config", "digits", "--sample", -1], 2, "rows 0 to 1796"),
        (["--config", "digits", "--sample", 1, "--layer", 0], 2, "layers 1 to 2"),
        (["--config", "digits", "--sample", 1, "--layer", 3], 2, "layers 1 to 2"),
        (["run", "--sample", 1, "--set", "seed=1"], 2, "--set needs --config"),
        (["--config", "digits", "--sample", 1, "--set", "seeds=1"], 2, "seeds"),
        (["no-such-run", "--sample", 1], 6, "no-such-run"),
    ],
)
def test_what_cannot_be_explained_is_refused(capsys, arguments, code, said):
    found, out, err = run(capsys, *arguments)
    assert (found, out) == (code, "")
    assert said in err


def test_targets_that_the_loss_does_not_take_are_an_error_of_the_data(here, capsys):
    np.savez("other.npz", x=np.ones((3, 2)), label=[1.0, -2.0, 3.0])
    (here / "other.toml").write_text(
        '[data]\nsource = "other.npz"\n[model]\ntask = "regression"\n[loss]\nname = "poisson"\n'
    )
    code, _, err = run(capsys, "--config", "other.toml", "--sample", 1)
    assert code == 3
    assert "row 1" in err


def test_a_terminal_without_symbols_gets_letters(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["explain", "--config", "digits", "--sample", "3"]) == 0
    out = stream.buffer.getvalue().decode("ascii")
    assert "dl/dw = dz/dw * dl/dz" in out
    assert "?" not in out


def test_columns_stay_where_they_are_without_symbols():
    for line in ("  σ'(z)  Σ w ∂l/∂z     ∂l/∂z", "target ŷ: 1 · 2"):
        assert len(plain(line, "ascii")) == len(line)
        assert plain(line, "utf-8") == line
    assert plain("Größe", "ascii") == "Gr??e"
