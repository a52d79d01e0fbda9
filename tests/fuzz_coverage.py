"""Fuzz one reader of files, guided by the branches that its inputs reach (a script, not collected).

    pip install atheris
    python tests/fuzz_coverage.py csv --seconds 3600 --corpus corpus/csv

An input is a finding if a reader raises anything but an error of gpumlp, takes a second of CPU or
512 MB of memory, ends the process, or accepts what is no whole table, configuration or model. Where
a checksum would refuse every change (npz, model, checkpoint) the inputs are what stands below it,
and the file around them is made anew. Findings are kept in FOLDER/findings; the exit code is 1 if
there are any.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
import zipfile
from collections import deque
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tomli_w
from safetensors.numpy import save

HERE = Path(__file__).resolve().parent
INSTRUMENTED = (
    *("gpumlp.data", "gpumlp.config_file", "gpumlp.saved_model", "gpumlp.tensor_file"),
    *("gpumlp.checkpoints", "gpumlp.training_state", "gpumlp.schedules", "gpumlp.callbacks"),
)
MEMORY = 512 * 2**20
READERS = ("csv", "idx", "npy", "npz", "parquet", "toml", "set", "model", "checkpoint")
MOST_STARTS = 20  # of the fuzzer, where inputs end it
LONGEST = 4096  # bytes of an input
CUT = b"\n---\n"  # between the parts of a model
STATUS = re.compile(r"#(\d+)\s+(\w+)\s+cov: (\d+) ft: (\d+) corp: (\d+)")
WORDS = {
    "csv": ['"', ",", ";", "\t", "\r\n", "NaN", "1e999", "-inf", "label", "\ufeff", "NA"],
    "idx": ["\x00\x00\x08\x02", "\x1f\x8b\x08", "\xff\xff\xff\xff", "\x00\x00\x00\x01"],
    "npy": ["'descr': '", "'|O'", "'<f8'", "'fortran_order': True", "'shape': (", "[('a', '<f8')]"],
    "parquet": ["PAR1"],
    "model": ["null", "true", "[]", "{}", '"target_scaler"', '"class_weight"', '"minmax"', "nan"],
}
WORDS["npz"], WORDS["checkpoint"] = WORDS["npy"], WORDS["model"]
WORDS["toml"] = WORDS["set"] = [
    *("[[", "]]", '"""', "'''", "0x", "inf", "1979-05-27T07:32:00", "{ ", " = ", "\\u00e9"),
    *("data.source", "model.hidden", "model.layers", "optimizer.lr", "loss.class_weight"),
]
MODEL = """\
[data]
source = "builtin:digits"
scale = "standard"
[model]
task = "multiclass"
hidden = [3]
activation = "relu"
"""
ABOUT = {
    "format": 2,
    "scaler": "standard",
    "target_scaler": None,
    "features": {"names": ["a", "b"], "categories": {"b": ["x", "y"]}},
    "targets": {"task": "multiclass", "classes": ["0", "1"], "outputs": 2},
    "class_weight": [1.0, 2.0],
}
TENSORS = """\
net.0.weight float32 3,3 0.5
net.0.bias float32 3 0
net.1.weight float32 2,3 -1
net.1.bias float32 2 0
scaler.offset float64 3 0
scaler.factor float64 3 1"""

ROWS = np.arange(12, dtype=np.float32).reshape(6, 2) / 12


class Finding(Exception):  # noqa: N818
    """What a reader must not do."""


def seeds(reader):
    """The inputs to begin with."""
    from test_fuzz_files import CSV, FILES, LABEL, saved

    if reader == "csv":
        return [CSV, b"a;label\n1,5;x\n", b"label\tb\n1\t\n0\t2\n", b'"a\nb",label\n1,0\n2,1\n']
    if reader == "idx":
        return [FILES["x.idx"], b"gzip" + FILES["x.idx"], FILES["zipped.idx"]]
    if reader == "npy":
        return [FILES["x.npy"]]
    if reader == "npz":
        return [FILES["stored.npz"], b"x" + FILES["x.npy"], b"y" + saved(np.save, LABEL)]
    if reader == "parquet":
        return [content for name, content in FILES.items() if name.endswith(".parquet")]
    if reader == "model":
        regression = MODEL.replace("multiclass", "regression")
        other = ABOUT | {
            "target_scaler": "minmax",
            "features": {"names": [], "categories": {}},
            "targets": {"task": "regression", "classes": [], "outputs": 2},
            "class_weight": None,
        }
        scaler = "\ntarget_scaler.offset float64 2 0\ntarget_scaler.factor float64 2 1"
        return [
            CUT.join(part.encode() for part in (MODEL, json.dumps(ABOUT), TENSORS)),
            CUT.join(part.encode() for part in (regression, json.dumps(other), TENSORS + scaler)),
        ]
    if reader == "checkpoint":
        return [broken_off(step) for step in (2, 3, 5, 6)]
    from gpumlp.config_file import shipped_configs

    files = [path.read_bytes() for path in shipped_configs().values()]
    if reader == "toml":
        return files
    lines = b"\n".join(files).splitlines()
    return [b"optimizer." + line.replace(b" ", b"") for line in lines if b" = " in line]


def try_table(reader, content, folder):
    """Read a data file as training does; what it holds is written below its checksums."""
    from test_fuzz_files import FILES, read

    if reader == "npz" and content[:1] in (b"x", b"y"):
        content = npz_bytes(content, FILES["x.npy"], (folder / "y.npy").read_bytes())
    if reader == "idx" and content.startswith(b"gzip"):
        content = gzip.compress(content[4:], 1)
    path = folder / f"x.{reader}"
    path.write_bytes(content)
    read(path)


def npz_bytes(content, x, y):
    """An npz whose x or label is the content, with right checksums."""
    arrays = {"x": x, "label": y}
    arrays["x" if content[:1] == b"x" else "label"] = content[1:]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", array)
    return buffer.getvalue()


def try_config(reader, content, folder):
    """Load a configuration, or a shipped one with --set; what is accepted survives writing."""
    from gpumlp.config_file import dump_config, load_config, parse_config

    if reader == "toml":
        path = folder / "run.toml"
        path.write_bytes(content)
        config = load_config(path)
    else:
        config = load_config("digits", content.decode("utf-8", "replace").split("\n")[:4])
    if parse_config(tomllib.loads(dump_config(config))) != config:
        raise Finding("the configuration changes when it is written and read")


def try_model(content, folder):
    """Load a model whose checksum is right; one that is accepted predicts, and can be saved."""
    from gpumlp.saved_model import load_model

    path = folder / "model.safetensors"
    path.write_bytes(model_bytes(content) if CUT in content else content)
    model = load_model(path)
    check_model(model)
    rows = np.zeros((2, len(model.scaler.offset)), np.float32)
    model.predict(rows)
    if model.targets.task in ("multiclass", "binary"):
        model.classify(rows)
    model.save(path)
    load_model(path)


def small_trainer(*callbacks):
    """A trainer of 3 steps an epoch, all of whose parts remember something."""
    from gpumlp.callbacks import EarlyStopping
    from gpumlp.gradients.norms import GradientNorms
    from gpumlp.losses import MeanSquaredError
    from gpumlp.model import multilayer_perceptron
    from gpumlp.optimizers import Adam
    from gpumlp.schedules import Plateau
    from gpumlp.trainer import Trainer

    watching = [EarlyStopping("loss"), GradientNorms(ROWS, ROWS[:, :1]), *callbacks]
    model, options = multilayer_perceptron([2, 3, 1]), {"schedule": Plateau(), "batch_size": 2}
    options |= {"callbacks": watching, "engine": "eager"}
    return Trainer(model, MeanSquaredError(), Adam(), **options)


def broken_off(step):
    """A checkpoint of a small training after so many steps, as JSON and lines of tensors."""
    from gpumlp.checkpoints import Checkpoints
    from gpumlp.events import Callback
    from gpumlp.tensor_file import read_tensors

    class BreakOff(Callback):
        every_steps = step

        def on_step(self, trainer):
            trainer.interrupt("enough")

    with tempfile.TemporaryDirectory() as folder:
        small_trainer(BreakOff(), Checkpoints(folder)).fit(ROWS, ROWS[:, :1], epochs=2)
        tensors, about = read_tensors(Path(folder, "last.safetensors"))
    about["history"] = json.loads(tensors.pop("training/history").tobytes())
    lines = [
        f"{name} {array.dtype} {','.join(map(str, array.shape))} {array.flat[0]}"
        for name, array in tensors.items()
    ]
    return CUT.join(part.encode() for part in ("", json.dumps(about), "\n".join(lines)))


def try_checkpoint(content, folder):
    """Go on with a training from a checkpoint whose checksum is right, and save it again."""
    from gpumlp.checkpoints import Checkpoints, newest_checkpoint
    from gpumlp.errors import DivergedError, StateError

    place = folder / "checkpoints"
    place.mkdir(exist_ok=True)
    (place / "last-1.safetensors").unlink(missing_ok=True)
    path = place / "last.safetensors"
    path.write_bytes(model_bytes(content) if CUT in content else content)
    trainer = small_trainer(Checkpoints(place))
    try:
        trainer.load_state(newest_checkpoint(place).state)
        trainer.fit(ROWS, ROWS[:, :1], epochs=2)
    except (StateError, DivergedError):
        return
    if newest_checkpoint(place).state["step"] != trainer.step:
        raise Finding("what was gone on with is not saved")


def check_model(model):
    """Raise Finding if the parts of a model do not belong together."""
    task, classes, outputs = model.targets.task, model.targets.classes, model.targets.outputs
    wanted = {"binary": 2, "regression": 0}.get(task, outputs)
    scalers = [scaler for scaler in (model.scaler, model.target_scaler) if scaler is not None]
    numbers = [array for scaler in scalers for array in scaler.to_arrays().values()]
    weight = model.class_weight
    checks = {
        "the task is not the configuration's": task == model.config.model.task,
        "the classes are not distinct names": len(classes) == len(set(classes)) == wanted
        and all(isinstance(name, str) for name in classes),
        "the columns are not the scaler's": not model.columns.names
        or len(model.columns.columns) == len(model.scaler.offset),
        "the targets are not their scaler's": model.target_scaler is None
        or len(model.target_scaler.offset) == outputs,
        "a number is not finite": all(np.isfinite(array).all() for array in numbers),
        "a scale is not positive": all((scaler.factor > 0).all() for scaler in scalers),
        "the weights are not one for each class": weight is None
        or (weight.shape == (len(classes),) and (weight >= 0).all()),
    }
    for text, right in checks.items():
        if not right:
            raise Finding(text)


def model_bytes(content):
    """A model file with a right checksum: configuration, JSON and tensors as the content says."""
    config, about, lines = (*content.split(CUT, 2), b"")[:3]
    try:
        about = json.loads(about)
    except (ValueError, RecursionError):
        about = about.decode("utf-8", "replace")
    if isinstance(about, dict):
        about.setdefault("config", config.decode("utf-8", "replace"))
    tensors = dict(map(tensor, lines.decode("utf-8", "replace").splitlines()[:20]))
    if isinstance(about, dict) and "history" in about:  # of a checkpoint: text in a tensor
        history = json.dumps(about.pop("history")).encode()
        tensors["training/history"] = np.frombuffer(history, np.uint8)
    return save(tensors, {"gpumlp": signed(tensors, about)})


ODD = [None, True, 0, -1, 2, 3, 5, 1e308, 1e-320, float("nan"), float("inf"), 2**64, 10**9]
ODD += ["", "a", "0", "none", "minmax", "relu", "mse", "binary", "regression", "fp64", "arrays"]
ODD += [
    [],
    {},
    [3],
    ["a"],
    ["a", "a"],
    [1.0, 2.0],
    {"a": 1},
    {"name": "x"},
    [[[]]],
    ["0", "1", "2"],
]


def mutate_model(content, size, seed):
    """Change one value of the parts, each as what it is; now and then bytes."""
    import atheris

    from gpumlp.config import known_keys

    draw = random.Random(seed)
    parts = content.split(CUT)
    try:
        which = draw.randrange(0 if parts[0] else 1, 4)  # a checkpoint here has no configuration
        if which == 0:
            config = tomllib.loads(parts[0].decode())
            *sections, key = draw.choice(list(known_keys())).replace("[0]", "").split(".")
            table = config
            for section in sections:
                table = table.setdefault(section, {})
            table[key] = draw.choice(ODD)
            parts[0] = tomli_w.dumps(config).encode()
        elif which == 1:
            about = json.loads(parts[1])
            places = list(inner(about))
            node, key = draw.choice(places)
            node[key] = draw.choice([*ODD, *(other[k] for other, k in places)])
            parts[1] = json.dumps(about).encode()
        elif which == 2:
            lines = [line.split(b" ") for line in parts[2].splitlines()]
            column = draw.randrange(4)
            draw.choice(lines)[column] = (
                draw.choice(lines)[column]
                if draw.random() < 0.5
                else (
                    draw.choice(
                        [b"float64", b"int64", b"2,3", b"3", b"2", b"nan", b"inf", b"-1", b"0"]
                    )
                )
            )
            parts[2] = b"\n".join(b" ".join(line) for line in lines[:20])
        else:
            return atheris.Mutate(content, size)
    except Exception:  # bytes were changed: they are not what they were
        return atheris.Mutate(content, size)
    return CUT.join(parts)[:size]


def inner(node):
    """Every place in a JSON value, as what holds it and its key there."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from inner(node[key])


def signed(tensors, about):
    """The text that describes a model, with the checksum over it and the tensors."""
    from gpumlp.tensor_file import _digest

    if isinstance(about, dict):
        about["sha256"] = _digest(tensors, {k: v for k, v in about.items() if k != "sha256"})
    return about if isinstance(about, str) else json.dumps(about)


def tensor(line):
    """A tensor from "NAME TYPE SHAPE VALUE"; what makes no sense there is replaced."""
    name, kind, shape, value = (*line.split(" "), "", "", "", "")[:4]
    kind = kind if kind in ("float16", "float32", "float64", "int64", "uint8", "bool") else "int8"
    sizes = [int(size) for size in shape.split(",") if re.fullmatch("[0-9]{1,3}", size)]
    try:
        number = float(value)
    except ValueError:
        number = 1.0
    with np.errstate(all="ignore"):
        return name, np.full(sizes[:3] if len(sizes) < 3 else [2, 2, 2], number).astype(kind)


def fuzz(reader, folder, arguments):
    """The child: instrument, then hand libFuzzer the function that tries one input."""
    import atheris

    package = HERE.parent / "gpumlp"
    files = [file.relative_to(package.parent).with_suffix("") for file in package.rglob("*.py")]
    names = {".".join(file.parts).removesuffix(".__init__") for file in files}
    others = {n for n in names if not any(f"{n}.".startswith(f"{i}.") for i in INSTRUMENTED)}
    with atheris.instrument_imports(include=["gpumlp"], exclude=others):
        import gpumlp.checkpoints
        import gpumlp.config_file
        import gpumlp.data.prepare
        import gpumlp.saved_model  # noqa: F401
    from test_fuzz_files import LABEL

    from gpumlp.errors import ConfigError, DataError, FileError

    scratch = Path(tempfile.mkdtemp(dir=folder))
    np.save(scratch / "y.npy", LABEL)

    def try_one(content):
        began = time.process_time()
        try:
            if reader in ("toml", "set"):
                try_config(reader, content, scratch)
            elif reader == "model":
                try_model(content, scratch)
            elif reader == "checkpoint":
                try_checkpoint(content, scratch)
            else:
                try_table(reader, content, scratch)
        except (ConfigError, DataError, FileError) as error:
            if re.search(r"MemoryError|into memory|Unable to allocate", str(error)):
                report(folder, content, f"memory: {error}", error)
        except Exception as error:
            report(folder, content, f"{type(error).__name__}: {error}", error)
        used = time.process_time() - began
        if used >= 1:
            report(folder, content, f"slow: {used:.1f} s of CPU")

    for content in seeds(reader):
        try_one(content)  # what is imported late is imported now
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    mutator = {"custom_mutator": mutate_model} if reader in ("model", "checkpoint") else {}
    atheris.Setup([sys.argv[0], *arguments], try_one, **mutator)
    atheris.Fuzz()


def report(folder, content, text, error=None):
    """Keep an input that is a finding, one for each place in the code."""
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    ours = [frame for frame in frames if frame.filename.startswith(str(HERE.parent))]
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    kind = text if isinstance(error, Finding) else text.partition(":")[0]
    name = hashlib.sha256(f"{kind} {where}".encode()).hexdigest()[:12]
    path = folder / "findings" / name
    if not path.exists():
        path.write_bytes(content)
        path.with_suffix(".txt").write_text(f"{where} {text[:1000]}\n")


def run(reader, seconds, runs, seed, folder):
    """The parent: start the fuzzer, again where an input ends it; return what libFuzzer counted."""
    corpus, findings = folder / "corpus", folder / "findings"
    for made in (corpus, findings):
        made.mkdir(parents=True, exist_ok=True)
    for content in seeds(reader):
        (corpus / hashlib.sha1(content).hexdigest()).write_bytes(content)
    words = folder / "words.txt"
    escaped = ("".join(f"\\x{byte:02x}" for byte in word.encode()) for word in WORDS[reader])
    words.write_text("".join(f'"{word}"\n' for word in escaped))
    done, last, began = 0, None, time.monotonic()
    for start in range(MOST_STARTS):
        left = int(seconds - (time.monotonic() - began))
        if left <= 0 or (runs and done >= runs):
            break
        options = [f"-max_total_time={left}", f"-seed={seed + start}", f"-runs={runs or -1}"]
        options += ["-timeout=30", f"-max_len={LONGEST}", "-rss_limit_mb=0", f"-dict={words}"]
        options += [f"-artifact_prefix={findings}/", "-print_final_stats=1", str(corpus)]
        command = [sys.executable, __file__, reader, "--corpus", str(folder), "--child", *options]
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, errors="replace"
        ) as child:
            tail = deque(maxlen=40)
            for line in child.stderr:
                tail.append(line)
                if found := STATUS.search(line):
                    last = found
        done += int(last[1]) if last else 0
        if child.returncode:
            name = f"end-{start}-{child.returncode}.txt"
            (findings / name).write_text("".join(tail))
    return done, last, time.monotonic() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=0, help="inputs to try; 0 for no limit")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="the folder of inputs and findings, kept")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if find_spec("atheris") is None:
        parser.error("atheris is missing: pip install atheris")
    if args.child is not None:
        fuzz(args.reader, args.corpus, args.child)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.corpus or Path(temporary)).resolve()
        done, last, seconds = run(args.reader, args.seconds, args.runs, args.seed, folder)
        cov, features, corpus = last.groups()[2:] if last else (0, 0, 0)
        print(
            f"{args.reader}: {done:,} inputs in {seconds:.0f} s, {cov} branches, {features} "
            f"features, {corpus} inputs in the corpus"
        )
        found = sorted((folder / "findings").glob("*.txt"))
        for path in found:
            print(f"finding {path.stem}: {path.read_text().strip()[:300]}")
        print(f"{len(found)} findings")
    return 1 if found or not done else 0


if __name__ == "__main__":
    sys.exit(main())
