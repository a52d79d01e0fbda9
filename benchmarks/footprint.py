"""What a run costs besides its steps: import, start, memory, disk; `benchmarks/footprint.py`.

Every figure comes from fresh processes, one at a time, contenders in turn, round after round:
seconds of the import, seconds from starting Python to the end of the first training step, and the
peak resident memory of an epoch over MNIST (over data of its shape where MNIST is not found),
reading it included. The scripts that are timed stand below, as short as each library lets them be.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution, requires
from importlib.util import find_spec
from pathlib import Path
from re import match
from time import perf_counter

from figure import check_folders
from report import Row, cpu_model, footprint_table, paired_ratio, summary
from rounds import say

from gpumlp import GpumlpError, get_backend
from gpumlp.data.mnist import find_mnist
from gpumlp.environment import describe

PACKAGES = {"gpumlp": "gpumlp", "torch": "torch", "jax": "jax", "sklearn": "scikit-learn"}

IMPORT = {
    "numpy": "import numpy",
    "gpumlp": "import gpumlp",
    "torch": "import torch",
    "jax": "import jax",
    "sklearn": "import sklearn.neural_network",
}

DATA = """
import numpy as np
rng = np.random.default_rng(0)
x, y = rng.random((640, 784), np.float32), rng.integers(0, 10, 640)
"""

FIRST_STEP = {  # 784-128-10, sigmoid, a batch of 64
    "gpumlp": """
from gpumlp import SGD, SoftmaxCrossEntropy, Trainer, multilayer_perceptron
model = multilayer_perceptron([784, 128, 10], "sigmoid", backend=device)
trainer = Trainer(model, SoftmaxCrossEntropy(backend=device), SGD(0.1), batch_size=64)
trainer.fit(x, y, max_steps=1)
""",
    "torch": """
import torch
model = torch.nn.Sequential(
    torch.nn.Linear(784, 128), torch.nn.Sigmoid(), torch.nn.Linear(128, 10)
).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x, y = torch.from_numpy(x[:64]).to(device), torch.from_numpy(y[:64]).to(device)
torch.nn.functional.cross_entropy(model(x), y).backward()
optimizer.step()
""",
    "jax": """
import jax, jax.numpy as jnp
def cost(w, x, y):
    a = jax.nn.sigmoid(x @ w[0] + w[1])
    log_y = jax.nn.log_softmax(a @ w[2] + w[3])
    return -log_y[jnp.arange(64), y].mean()
step = jax.jit(lambda w, x, y: [a - 0.1 * g for a, g in zip(w, jax.grad(cost)(w, x, y))])
sizes = (784, 128), (128,), (128, 10), (10,)
jax.block_until_ready(step([rng.random(s, np.float32) / 28 for s in sizes], x[:64], y[:64]))
""",
    "sklearn": """
from sklearn.neural_network import MLPClassifier
network = MLPClassifier((128,), activation="logistic", solver="sgd", batch_size=64)
network.partial_fit(x[:64], y[:64], classes=np.arange(10))
""",
}

MNIST = """
import sys
import numpy as np
if folder:
    from gpumlp.data.mnist import load_mnist
    (x, y), _ = load_mnist(folder)
else:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60000, 784), np.uint8), rng.integers(0, 10, 60000)
x, y = x.reshape(60000, 784), y.astype(np.int64)
"""

EPOCH = {  # 784-500-500-10, sigmoid, batches of 100, after reading MNIST as bytes
    "gpumlp": """
from gpumlp import SGD, SoftmaxCrossEntropy, Trainer, multilayer_perceptron
x = np.multiply(x, np.float32(1 / 255), dtype=np.float32)
model = multilayer_perceptron([784, 500, 500, 10], "sigmoid", backend=device)
trainer = Trainer(model, SoftmaxCrossEntropy(backend=device), SGD(0.1), batch_size=100)
trainer.fit(x, y, epochs=1)
""",
    "torch": """
import torch
x = torch.from_numpy(x).to(torch.float32).mul_(1 / 255).to(device)
y = torch.from_numpy(y).to(device)
nn = torch.nn
model = nn.Sequential(
    nn.Linear(784, 500), nn.Sigmoid(), nn.Linear(500, 500), nn.Sigmoid(), nn.Linear(500, 10)
).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for rows in torch.randperm(60000, device=device).split(100):
    optimizer.zero_grad(set_to_none=True)
    nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
    optimizer.step()
""",
    "sklearn": """
from sklearn.neural_network import MLPClassifier
x = np.multiply(x, np.float32(1 / 255), dtype=np.float32)
network = MLPClassifier((500, 500), activation="logistic", solver="sgd", batch_size=100)
network.partial_fit(x, y, classes=np.arange(10))
""",
}

PEAK = """
import resource
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak * (1 if sys.platform == "darwin" else 1024))
"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; exits 2 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--quick", action="store_true", help="within a minute: two rounds, no epoch"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the results here")
    parser.add_argument("--peers", help="of torch,jax,sklearn, or none; default: those installed")
    parser.add_argument("--rounds", type=int, help="default: 7, or 2 with --quick")
    options = parser.parse_args(arguments)
    modules = {"torch": "torch", "jax": "jax", "sklearn": "sklearn"}
    there = [peer for peer, module in modules.items() if find_spec(module)]
    try:
        check_folders(options.out)
        if options.peers is None:
            options.peers = there
        else:
            options.peers = [] if options.peers == "none" else options.peers.split(",")
        for peer in options.peers:
            if peer not in there:
                raise ValueError(f"peer {peer!r} is unknown or not installed; there are: {there}")
        options.rounds = (2 if options.quick else 7) if options.rounds is None else options.rounds
        if options.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {options.rounds}")
    except ValueError as error:
        parser.error(str(error))
    return options


def fresh(code: str) -> tuple[float, str]:
    """Run code in a fresh Python; return seconds, the start of Python included, and its output."""
    began = perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{code}\n{done.stderr}")
    return perf_counter() - began, done.stdout


def in_turn(what: str, scripts: dict[str, str], rounds: int, memory: bool) -> list[Row]:
    """Run each system's script in every round; return a row for each."""
    found: dict[str, list[float]] = {system: [] for system in scripts}
    for system, code in scripts.items():
        say(f"{what}: first run of {system}")
        fresh(code)  # files are in the system's cache from now on
    for _ in range(rounds):
        for system, code in scripts.items():
            seconds, output = fresh(code)
            found[system].append(float(output.split()[-1]) if memory else seconds)
    unit = "bytes" if memory else "seconds"
    return [
        {"what": what, "system": system, unit: summary(own)}
        | {"ratio": paired_ratio(own, found["gpumlp"])}
        for system, own in found.items()
    ]


def imports(systems: Sequence[str], rounds: int) -> list[Row]:
    """Return seconds of `import`, those of starting Python taken off."""
    scripts = {"python": "pass"} | {name: IMPORT[name] for name in ("numpy", *systems)}
    rows = {row["system"]: row for row in in_turn("import", scripts, rounds, memory=False)}
    bare = rows.pop("python")["seconds"]["median"]
    for row in rows.values():
        row["seconds"] = {k: v if k == "n" else v - bare for k, v in row["seconds"].items()}
    ours = rows["gpumlp"]["seconds"]["median"]
    for row in rows.values():
        row["ratio"] = row["seconds"]["median"] / ours
    return [*rows.values()]


def installed_size(name: str, seen: set[str]) -> int:
    """Return the bytes of a distribution's files and of those it requires, each once."""
    if name.lower() in seen:
        return 0
    seen.add(name.lower())
    try:
        files, needed = distribution(name).files or [], requires(name) or []
    except PackageNotFoundError:
        return 0
    paths = (path.locate() for path in files)
    total = sum(Path(str(path)).stat().st_size for path in paths if Path(str(path)).is_file())
    for requirement in needed:
        found = match(r"[\w.-]+", requirement)
        if found and "extra ==" not in requirement:
            total += installed_size(found[0], seen)
    return total


def sizes(systems: Sequence[str]) -> list[Row]:
    """Return what each system takes on the disk with all that it requires."""
    own = {system: installed_size(PACKAGES[system], set()) for system in systems}
    return [
        {"what": "disk", "system": system, "bytes": summary([total])}
        | {"ratio": total / max(own["gpumlp"], 1)}
        for system, total in own.items()
    ]


def run(options: argparse.Namespace) -> None:
    """Measure, write JSON, print the table."""
    backend = get_backend(options.device)
    systems = ["gpumlp", *options.peers]
    rows = imports(systems, options.rounds)
    begin = f"device = {options.device!r}\n"
    steps = {system: begin + DATA + FIRST_STEP[system] for system in systems}
    rows += in_turn("first step", steps, options.rounds, memory=False)
    if not options.quick:
        try:
            folder = str(find_mnist(None))
        except GpumlpError:
            folder = ""
            say("MNIST is not found: random data of its shape instead")
        begin += f"folder = {folder!r}\n"
        epochs = {
            system: begin + MNIST + EPOCH[system] + PEAK for system in systems if system in EPOCH
        }
        rows += in_turn("epoch", epochs, max(1, options.rounds // 2), memory=True)
    rows += sizes(systems)
    environment = describe(backend) | {"cpu": cpu_model(), "rounds": options.rounds}
    if options.out:
        text = json.dumps({"environment": environment, "rows": rows}, indent=1)
        options.out.write_text(text + "\n")
    print(footprint_table(rows))
    seconds = {r["system"]: r["seconds"]["median"] for r in rows if r["what"] == "import"}
    print(f"\nimport of gpumlp - import of numpy: {seconds['gpumlp'] - seconds['numpy']:.3f} s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 1 a script failed, 5 no device, 6 no file."""
    options = parse(arguments)
    try:
        run(options)
    except (RuntimeError, GpumlpError, OSError) as error:
        say(str(error))
        return getattr(error, "exit_code", 1 if isinstance(error, RuntimeError) else 6)
    return 0


if __name__ == "__main__":
    sys.exit(main())
