"""PyTorch, an independent oracle, computes the same networks, losses, gradients and trainings."""

from functools import cache

import numpy as np
import pytest

from gpumlp import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    BinaryCrossEntropy,
    Callback,
    Dense,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    Momentum,
    Nesterov,
    Poisson,
    RMSProp,
    Sequential,
    SoftmaxCrossEntropy,
    Trainer,
    get_backend,
)
from gpumlp.backend import ACTIVATIONS
from gpumlp.engine import ENGINES
from gpumlp.optimizers import OPTIMIZERS
from gpumlp.randomness import permutation

torch = pytest.importorskip("torch", reason="PyTorch, the oracle, is not installed")
F = torch.nn.functional
torch.set_num_threads(1)

SINGLE, DOUBLE = get_backend("cpu", "fp32"), get_backend("cpu", "fp64")
ROWS, INPUTS, OUTPUTS = 9, 4, 3

TORCH_ACTIVATIONS = {
    "identity": lambda z: z,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "gelu": lambda z: F.gelu(z, approximate="tanh"),
    "silu": F.silu,
    "softplus": F.softplus,
}


def labels(rng, rows):
    return rng.integers(OUTPUTS, size=rows)


def one_hot(rng, rows):
    return np.eye(OUTPUTS)[labels(rng, rows)]


def soft(rng, rows):
    return rng.dirichlet(np.ones(OUTPUTS), rows)


def bits(rng, rows):
    return rng.integers(2, size=(rows, OUTPUTS)).astype(float)


def values(rng, rows):
    return rng.normal(size=(rows, OUTPUTS))


def counts(rng, rows):
    return rng.integers(5, size=(rows, OUTPUTS)).astype(float)


def cross_entropy(smoothing):
    return lambda z, t: F.cross_entropy(z, t, reduction="none", label_smoothing=smoothing)


def bce(smoothing):
    def losses(z, t):
        t = t * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(z, t, reduction="none").mean(1)

    return losses


CASES = {  # name -> our loss, targets, torch's sample losses
    "labels": (SoftmaxCrossEntropy, {}, labels, cross_entropy(0.0)),
    "labels, smoothed": (
        SoftmaxCrossEntropy,
        {"label_smoothing": 0.1},
        labels,
        cross_entropy(0.1),
    ),
    "one-hot": (SoftmaxCrossEntropy, {}, one_hot, cross_entropy(0.0)),
    "soft": (SoftmaxCrossEntropy, {}, soft, cross_entropy(0.0)),
    "soft, smoothed": (SoftmaxCrossEntropy, {"label_smoothing": 0.2}, soft, cross_entropy(0.2)),
    "bce": (BinaryCrossEntropy, {}, bits, bce(0.0)),
    "bce, smoothed": (BinaryCrossEntropy, {"label_smoothing": 0.1}, bits, bce(0.1)),
    "mse": (MeanSquaredError, {}, values, lambda z, t: ((z - t) ** 2).mean(1)),
    "mae": (MeanAbsoluteError, {}, values, lambda z, t: F.l1_loss(z, t, reduction="none").mean(1)),
    "huber": (
        Huber,
        {"delta": 0.8},
        values,
        lambda z, t: F.huber_loss(z, t, reduction="none", delta=0.8).mean(1),
    ),
    "poisson": (
        Poisson,
        {},
        counts,
        lambda z, t: F.poisson_nll_loss(z, t, reduction="none").mean(1),
    ),
}


def network(activation, backend, seed=0, **second):
    """Return a network of three layers; `second` are arguments of the second."""
    model = Sequential(
        Dense(INPUTS, 6, activation, backend),
        Dense(6, 5, activation, backend, bias=False, **second),
        Dense(5, OUTPUTS, backend=backend),
        seed=seed,
    )
    rng = np.random.default_rng(seed)
    for parameter in model.parameters:
        if not parameter.is_weight:
            parameter.value[...] = rng.normal(scale=0.5, size=parameter.shape)
    return model


class Twin:
    """A network of torch, built from the weights of one of ours."""

    def __init__(self, model, activation):
        self.parameters = {
            parameter.name: torch.tensor(parameter.value, requires_grad=True)
            for parameter in model.parameters
        }
        self.layers = len(model.layers)
        self.activation = TORCH_ACTIVATIONS[activation]

    def __call__(self, x):
        for i in range(self.layers):
            x = F.linear(x, self.parameters[f"{i}.weight"], self.parameters.get(f"{i}.bias"))
            x = self.activation(x) if i + 1 < self.layers else x
        return x


def as_tensor(array, like):
    array = np.asarray(array)
    return torch.tensor(array if array.dtype.kind == "i" else array.astype(like.dtype.name))


def reduced(losses, weight, reduction):
    """Torch's weighted mean or sum, written out."""
    weight = torch.ones_like(losses) if weight is None else weight
    total = (losses * weight).sum()
    return total if reduction == "sum" else total / weight.sum()


def assert_close(ours, theirs, backend, name, ulps=64):
    theirs = theirs.detach().numpy()
    tolerance = ulps * np.finfo(backend.dtype).eps
    np.testing.assert_allclose(ours, theirs, tolerance, tolerance * abs(theirs).max(), err_msg=name)


# ------------------------------------------------------------------ one pass of a network


def test_the_tables_have_every_activation_and_every_optimizer():
    assert list(TORCH_ACTIVATIONS) == list(ACTIVATIONS)
    assert {cls for cls, *_ in OPTIMIZER_CASES.values()} == set(OPTIMIZERS.values())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("case", CASES)
def test_outputs_loss_and_every_gradient_are_those_of_torch(rng, activation, case):
    cls, arguments, targets, torch_losses = CASES[case]
    x, target = rng.normal(size=(ROWS, INPUTS)), targets(rng, ROWS)
    weights = rng.uniform(0.2, 2, ROWS)
    for backend in (SINGLE, DOUBLE):
        model = network(activation, backend)
        twin = Twin(model, activation)
        tx, tt, tw = (as_tensor(array, backend) for array in (x, target, weights))
        tx.requires_grad_(True)
        for reduction in ("mean", "sum"):
            for weight, torch_weight in ((None, None), (weights, tw)):
                loss = cls(reduction, backend=backend, **arguments)
                z = model.forward(x)
                value = loss.forward(z, target, weight)
                dx = model.backward(loss.backward())
                tz = twin(tx)
                losses = torch_losses(tz, tt)
                their_value = reduced(losses, torch_weight, reduction)
                gradients = torch.autograd.grad(their_value, [tx, *twin.parameters.values()])
                assert_close(z, tz, backend, "outputs")
                assert_close(loss.sample_losses, losses, backend, "sample losses")
                assert_close(value, their_value, backend, "cost or total")
                assert_close(dx, gradients[0], backend, "gradient of the inputs")
                for parameter, gradient in zip(model.parameters, gradients[1:], strict=True):
                    assert_close(parameter.gradient, gradient, backend, parameter.name)


# ----------------------------------------------------------------------------- training

N, BATCH, STEPS, SEED = 50, 16, 20, 5  # four steps an epoch, the last with two rows

EPS = {"eps": 1e-8}
OPTIMIZER_CASES = {  # name -> ours, arguments, torch's, arguments
    "sgd": (SGD, {"lr": 0.1}, "SGD", {}),
    "momentum": (Momentum, {"lr": 0.05, "momentum": 0.8}, "SGD", {"momentum": 0.8}),
    "nesterov": (
        Nesterov,
        {"lr": 0.05, "momentum": 0.8},
        "SGD",
        {"momentum": 0.8, "nesterov": True},
    ),
    "adagrad": (Adagrad, {"lr": 0.05, **EPS}, "Adagrad", EPS),
    "rmsprop": (RMSProp, {"lr": 0.01, "rho": 0.99, **EPS}, "RMSprop", {"alpha": 0.99, **EPS}),
    "adam": (Adam, {"lr": 0.01, **EPS}, "Adam", EPS),
    "adam, other betas": (
        Adam,
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3},
        "Adam",
        {"betas": (0.8, 0.95), "eps": 1e-3},
    ),
    "adamw": (AdamW, {"lr": 0.01, **EPS}, "AdamW", EPS),
}

VARIANTS = {
    "plain": {"weight_decay": 0.0},
    "weight decay": {"weight_decay": 0.1},
    "clipped": {"weight_decay": 0.0, "clip_norm": 0.2},
    "clipped, weight decay": {"weight_decay": 0.1, "clip_norm": 0.2},
    "l1": {"weight_decay": 0.0, "l1": 0.02},
}

every_optimizer = pytest.mark.parametrize("name", OPTIMIZER_CASES)
every_variant = pytest.mark.parametrize("variant", VARIANTS)
both_precisions = pytest.mark.parametrize("backend", [SINGLE, DOUBLE], ids=["fp32", "fp64"])


@cache
def data():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(N, INPUTS))
    return x, (x @ rng.normal(size=(INPUTS, OUTPUTS))).argmax(axis=1)


def batches():
    """Yield the rows of each of the steps: of shuffled epochs, the last batch being small."""
    for epoch in range(STEPS):
        order = permutation(N, SEED, epoch)
        for start in range(0, N, BATCH):
            yield order[start : start + BATCH]


@cache
def torch_training(name, variant, precision, reduction="mean", own_decay=None, max_norm=None):
    """Return torch's loss at each step, and its final parameters.

    `own_decay` and `max_norm` are the second layer's.
    """
    _, ours, cls, arguments = OPTIMIZER_CASES[name]
    decay, clip, l1 = (VARIANTS[variant].get(k) for k in ("weight_decay", "clip_norm", "l1"))
    model = network("tanh", get_backend("cpu", precision))
    twin = Twin(model, "tanh")
    decays = {"0.weight": decay, "1.weight": decay if own_decay is None else own_decay}
    decays |= {"2.weight": decay, "0.bias": 0.0, "2.bias": 0.0}
    groups = [{"params": [p], "weight_decay": decays[key]} for key, p in twin.parameters.items()]
    optimizer = getattr(torch.optim, cls)(groups, lr=ours["lr"], **arguments)
    x, y = data()
    x, y = as_tensor(x, model.backend), torch.tensor(y)
    losses = []
    for _, rows in zip(range(STEPS), batches(), strict=False):
        optimizer.zero_grad()
        loss = F.cross_entropy(twin(x[rows]), y[rows], reduction=reduction)
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(twin.parameters.values(), clip)
        with torch.no_grad():
            for key, p in twin.parameters.items():
                if l1 is not None and key.endswith("weight"):
                    p.grad += l1 * p.sign()
            optimizer.step()
            if max_norm is not None:
                w = twin.parameters["1.weight"]
                w.copy_(torch.renorm(w, 2, 0, max_norm))
        losses.append(loss.item())
    return np.array(losses), {key: p.detach().numpy() for key, p in twin.parameters.items()}


def our_optimizer(name, variant):
    cls, arguments, _, _ = OPTIMIZER_CASES[name]
    return cls(**arguments, **VARIANTS[variant])


def assert_same_training(model, losses, name, variant, **others):
    expected, parameters = torch_training(name, variant, model.backend.dtype.name, **others)
    # torch adds 1e-6 or 1e-7 to a norm before it divides; and rounding errors grow with the steps
    precise = 1e-5 if "clipped" in variant or "max_norm" in others else 1e-9
    tolerance = max(precise, 2000 * float(np.finfo(model.backend.dtype).eps))
    np.testing.assert_allclose(losses, expected, rtol=tolerance)
    for parameter in model.parameters:
        ours, theirs = parameter.value, parameters[parameter.name]
        atol = tolerance * abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, tolerance, atol, err_msg=parameter.name)


class Losses(Callback):
    """Keeps the loss of each step, taken out of the running mean over the epoch."""

    every_steps = 1

    def __init__(self, rows):
        self.losses, self.rows = [], rows

    def on_epoch_begin(self, trainer):
        self.total = self.taken = 0

    def on_step(self, trainer):
        taken = min(self.taken + self.rows, N)
        total = trainer.running_loss * taken
        self.losses.append((total - self.total) / (taken - self.taken))
        self.total, self.taken = total, taken


def train(model, optimizer, *, engine="graph", weight=None, reduction="mean", **arguments):
    watch = Losses(arguments.get("batch_size", BATCH) * arguments.get("accumulate", 1))
    trainer = Trainer(
        model,
        SoftmaxCrossEntropy(reduction, backend=model.backend),
        optimizer,
        seed=SEED,
        engine=engine,
        callbacks=[watch],
        **{"batch_size": BATCH, **arguments},
    )
    trainer.fit(*data(), epochs=STEPS, max_steps=STEPS, sample_weight=weight)
    return watch.losses


@every_optimizer
@every_variant
@both_precisions
@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_an_engine_trains_as_torch_does(name, variant, backend, engine):
    model = network("tanh", backend)
    losses = train(model, our_optimizer(name, variant), engine=engine)
    assert_same_training(model, losses, name, variant)


@every_optimizer
@every_variant
@both_precisions
def test_a_loop_written_out_trains_as_torch_does(name, variant, backend):
    model, optimizer = network("tanh", backend), our_optimizer(name, variant)
    loss, losses = SoftmaxCrossEntropy(backend=backend), []
    x, y = data()
    for _, rows in zip(range(STEPS), batches(), strict=False):
        losses.append(loss.forward(model.forward(x[rows]), y[rows]))
        model.backward(loss.backward())
        optimizer.step(model)
    assert_same_training(model, losses, name, variant)


@every_optimizer
@pytest.mark.parametrize("variant", ["plain", "weight decay"])
@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("own_decay", [0.0, 0.3])
def test_a_layer_with_a_decay_of_its_own_has_that_one(name, variant, engine, own_decay):
    model = network("tanh", DOUBLE, weight_decay=own_decay)
    losses = train(model, our_optimizer(name, variant), engine=engine)
    assert_same_training(model, losses, name, variant, own_decay=own_decay)


@every_optimizer
@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_a_largest_norm_is_kept_after_each_step(name, engine):
    model = network("tanh", DOUBLE, max_norm=0.9)
    losses = train(model, our_optimizer(name, "plain"), engine=engine)
    assert_same_training(model, losses, name, "plain", max_norm=0.9)
    norms = np.linalg.norm(model.parameters[2].value, axis=1)
    assert norms.max() == pytest.approx(0.9, rel=1e-9)


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_reduction_sum_trains_on_the_gradient_of_the_total(engine):
    model = network("tanh", DOUBLE)
    losses = train(model, SGD(0.1), engine=engine, reduction="sum")
    totals, parameters = torch_training("sgd", "plain", "float64", "sum")
    rows = [len(rows) for _, rows in zip(range(STEPS), batches(), strict=False)]
    np.testing.assert_allclose(losses, totals / rows, rtol=1e-8)
    for parameter in model.parameters:
        np.testing.assert_allclose(parameter.value, parameters[parameter.name], rtol=1e-8)


@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_sample_weights_train_as_torchs_weighted_mean_or_sum(rng, engine, reduction):
    weight = rng.uniform(0, 2, N)
    model = network("tanh", DOUBLE)
    twin = Twin(model, "tanh")
    lr = 0.1 if reduction == "mean" else 0.01
    optimizer = torch.optim.SGD(twin.parameters.values(), lr=lr)
    x, y, w = (torch.tensor(array) for array in (*data(), weight))
    for _, rows in zip(range(STEPS), batches(), strict=False):
        optimizer.zero_grad()
        losses = F.cross_entropy(twin(x[rows]), y[rows], reduction="none")
        reduced(losses, w[rows], reduction).backward()
        optimizer.step()
    train(model, SGD(lr), engine=engine, weight=weight, reduction=reduction)
    for parameter in model.parameters:
        theirs = twin.parameters[parameter.name].detach().numpy()
        np.testing.assert_allclose(parameter.value, theirs, rtol=1e-9, err_msg=parameter.name)


@every_optimizer
@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_accumulating_two_batches_is_training_on_the_double_batch(
    rng, name, engine, weighted, rate
):
    weight = rng.uniform(0, 2, N) if weighted else None
    found = []
    for arguments in ({"batch_size": 2 * BATCH}, {"batch_size": BATCH, "accumulate": 2}):
        model = Sequential(
            Dense(INPUTS, 6, "tanh", DOUBLE, dropout=rate), Dense(6, OUTPUTS, backend=DOUBLE)
        )
        losses = train(
            model, our_optimizer(name, "weight decay"), engine=engine, weight=weight, **arguments
        )
        found.append((losses, model.flat.values))
    (whole, values), (parts, accumulated) = found
    if not weighted:  # `Losses` counts rows
        np.testing.assert_allclose(parts, whole, rtol=1e-10)
    np.testing.assert_allclose(accumulated, values, rtol=1e-9, atol=1e-12)
