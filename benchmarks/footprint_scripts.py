"""What footprint.py runs: a training loop for each library, as its users write it, and its data."""

import sys
from collections.abc import Sequence
from typing import Any

from gpumlp.data.builtin import shipped_file

Command = Sequence[str]

DONE = "epoch 1"  # begins the line that tells of the first step; our command prints epoch 1/1

IMPORT = """
from time import perf_counter
began = perf_counter()
import {}
print(perf_counter() - began)
"""
MODULES = {"sklearn": "sklearn.neural_network"}  # of the others, the package itself

SYNTHETIC = """
rng = np.random.default_rng(0)
x, y = rng.random((640, 784), np.float32), rng.integers(0, 10, 640)
"""

DIGITS = """
with np.load(path) as file:
    x, y = file["x"].astype(np.float32), file["label"].astype(np.int64)
x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6)
"""

MNIST = {  # test images, too, because gpumlp's loader reads them
    "gpumlp": """
from pathlib import Path
from gpumlp.data.mnist import load_mnist
(x, y), test = load_mnist(Path(files[0]).parent)
""",
    "others": """
import gzip
def read(path, head):
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
        return np.frombuffer(file.read(), np.uint8, offset=head)
x, y, *test = (read(path, head) for path, head in zip(files, (16, 8, 16, 8)))
""",
    "random": """
rng = np.random.default_rng(0)
x, y = rng.integers(0, 256, (images, 784), np.uint8), rng.integers(0, 10, images, np.uint8)
""",
}

PIXELS = {
    "gpumlp": """
x, y = x.reshape(len(y), 784), y.astype(np.int64)  # the bytes are scaled batch by batch
""",
    "others": """
x = np.multiply(x.reshape(len(y), 784), np.float32(1 / 255), dtype=np.float32)
y = y.astype(np.int64)
""",
}

LAYERS = """
rng = np.random.default_rng(0)
layers = [
    (rng.uniform(-0.1, 0.1, (a, b)).astype(np.float32), np.zeros(b, np.float32))
    for a, b in zip(sizes, sizes[1:])
]
order = rng.permutation(len(x))
batches = [order[start : start + batch] for start in range(0, len(x), batch)]
"""

TRAIN = {  # sigmoid hidden layers and softmax; `steps` of an epoch, or all of it
    "numpy": LAYERS
    + """
for rows in batches[:steps]:
    inputs = [x[rows]]
    for w, b in layers[:-1]:
        inputs.append(1 / (1 + np.exp(-(inputs[-1] @ w + b))))
    w, b = layers[-1]
    dz = np.exp(inputs[-1] @ w + b)
    dz /= dz.sum(axis=1, keepdims=True)
    dz[np.arange(len(rows)), y[rows]] -= 1
    dz /= len(rows)
    for (w, b), a in zip(layers[::-1], inputs[::-1]):
        da = dz @ w.T
        w -= lr * (a.T @ dz)
        b -= lr * dz.sum(axis=0)
        dz = da * a * (1 - a)
""",
    "gpumlp": """
from gpumlp import SGD, SoftmaxCrossEntropy, Trainer, multilayer_perceptron
model = multilayer_perceptron(sizes, "sigmoid", backend=device)
loss = SoftmaxCrossEntropy(backend=device)
trainer = Trainer(model, loss, SGD(lr), batch_size=batch, input_scale=scale)
trainer.fit(x, y, epochs=1, max_steps=steps)
""",
    "torch": """
import torch
nn = torch.nn
linear = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]
model = nn.Sequential(*[part for layer in linear for part in (layer, nn.Sigmoid())][:-1])
model = model.to(device)
optimizer = getattr(torch.optim, rule)(model.parameters(), lr=lr)
x, y = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
for rows in torch.randperm(len(x), device=device).split(batch)[:steps]:
    optimizer.zero_grad(set_to_none=True)
    nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
    optimizer.step()
""",
    "jax": LAYERS
    + """
import jax
jax.config.update("jax_platforms", device)
def cost(layers, x, y):
    for w, b in layers[:-1]:
        x = jax.nn.sigmoid(x @ w + b)
    w, b = layers[-1]
    log_y = jax.nn.log_softmax(x @ w + b)
    return -jax.numpy.take_along_axis(log_y, y[:, None], axis=1).mean()
@jax.jit
def step(layers, x, y):
    return jax.tree.map(lambda w, g: w - lr * g, layers, jax.grad(cost)(layers, x, y))
for rows in batches[:steps]:
    layers = step(layers, x[rows], y[rows])
jax.block_until_ready(layers)
""",
    "sklearn": """
from sklearn.neural_network import MLPClassifier
network = MLPClassifier(
    sizes[1:-1], activation="logistic", solver="sgd", batch_size=batch, learning_rate_init=lr
)
rows = slice(steps and steps * batch)
network.partial_fit(x[rows], y[rows], classes=np.arange(sizes[-1]))
""",
}

END = f"\nprint({DONE!r}, flush=True)\n"

PEAK = """
import resource, sys
from pathlib import Path
status = Path("/proc/self/status")
if status.exists():  # ru_maxrss would count the process that started this one, too
    print(1024 * int(status.read_text().split("VmHWM:")[1].split()[0]))
else:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(used if sys.platform == "darwin" else 1024 * used)
"""


def import_of(system: str) -> Command:
    """Return what prints the seconds of an import."""
    return python(IMPORT.format(MODULES.get(system, system)))


def first_step(system: str, device: str) -> Command:
    """Return a first step of 784-128-10@64."""
    return training(system, SYNTHETIC, device, sizes=(784, 128, 10), batch=64, steps=1)


def command(system: str, device: str, folder: str) -> Command:
    """Return a first step on the digits, 64-256-10@32: by our command, or by a script."""
    if system != "gpumlp":
        given = {"path": str(shipped_file("digits")), "rule": "Adam", "lr": 0.01}
        return training(system, DIGITS, device, (64, 256, 10), 32, 1, **given)
    words = "-m gpumlp.train --config digits --set train.max_steps=1 --no-progress --overwrite"
    return [sys.executable, *words.split(), "--device", device, "--run-dir", f"{folder}/run"]


def epoch(system: str, device: str, files: Sequence[str], images: int = 60_000) -> Command:
    """Return an epoch of 784-500-500-10@100, which prints its peak of memory, in bytes.

    `files` are the four of MNIST; without them, so many random images.
    """
    ours = "gpumlp" if system == "gpumlp" else "others"
    data = MNIST[ours if files else "random"] + PIXELS[ours]
    given = {"files": files, "images": images, "scale": 1 / 255}
    code = training(system, data, device, (784, 500, 500, 10), 100, None, **given)[-1]
    return python(code + PEAK)


def training(
    system: str,
    data: str,
    device: str,
    sizes: tuple[int, ...],
    batch: int,
    steps: int | None,
    **given: Any,
) -> Command:
    """Return what trains on some data and then prints DONE."""
    given = {"rule": "SGD", "lr": 0.1, "scale": 1.0, **given, "device": device, "sizes": sizes}
    given |= {"batch": batch, "steps": steps}
    begin = "".join(f"{name} = {value!r}\n" for name, value in given.items())
    return python(begin + "import numpy as np\n" + data + TRAIN[system] + END)


def python(code: str) -> Command:
    return [sys.executable, "-c", code]
