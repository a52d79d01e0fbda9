"""Damaged data files of every format: a clear error or a usable table, and never anything else.

GPUMLP_FUZZ=N tries N files of each kind instead of a few hundred.
"""

import gzip
import io
import os
from importlib.util import find_spec
from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from idx_files import idx_bytes
from mutations import mutations

from gpumlp import cli, train
from gpumlp.config_file import parse_config
from gpumlp.data.prepare import prepare
from gpumlp.errors import DataError, FileError

EXAMPLES = int(os.environ.get("GPUMLP_FUZZ", 200))
X = np.arange(24, dtype=np.float32).reshape(6, 4)
LABEL = np.array([0, 1, 2, 0, 1, 2], np.uint8)
LINES = ["a,b,größe,label", *(f'{i},{i / 7},"x,{i % 3}",{i % 2}' for i in range(9)), ""]


def saved(save, *arrays, **named):
    buffer = io.BytesIO()
    save(buffer, *arrays, **named)
    return buffer.getvalue()


CSV = "\r\n".join(LINES).encode()
FILES = {
    "stored.npz": saved(np.savez, x=X, label=LABEL),
    "compressed.npz": saved(np.savez_compressed, x=X, label=LABEL),
    "x.npy": saved(np.save, X),
    "x.idx": idx_bytes(X),
    "zipped.idx": gzip.compress(idx_bytes(X)),
    "x.csv": CSV,
    "x.csv.gz": gzip.compress(CSV),
}


def parquet_bytes(**options):
    import pyarrow
    from pyarrow.parquet import write_table

    columns = {
        "a": list(range(9)),
        "b": [None if i == 4 else i / 7 for i in range(9)],
        "größe": [f"x,{i % 3}" for i in range(9)],
        "label": [i % 2 for i in range(9)],
    }
    return saved(lambda out: write_table(pyarrow.table(columns), out, **options))


if find_spec("pyarrow"):
    FILES |= {
        "plain.parquet": parquet_bytes(use_dictionary=False, compression="none"),
        "dictionary.parquet": parquet_bytes(compression="none", data_page_version="2.0"),
        "compressed.parquet": parquet_bytes(compression="zstd", write_page_checksum=True),
    }
TABLES = [name for name in FILES if name.endswith((".csv", ".parquet"))]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """One folder for all examples of a property: Hypothesis forbids a fixture per test function."""
    folder = tmp_path_factory.mktemp("fuzz")
    np.save(folder / "y.npy", LABEL)
    return folder


def read(path):
    """Read a file with all that training does, up to the first batch; a table, if any, is whole."""
    target = str(path.parent / "y.npy") if path.suffix in (".npy", ".idx") else "label"
    keys = {"missing": "mean"} if path.suffix == ".parquet" else {}
    config = parse_config({"data": {"source": str(path), "target": target, **keys}})
    began = process_time()
    try:
        part = prepare(config.data, "multiclass", 0, np.float32).train
    except (DataError, FileError):
        return
    finally:
        assert process_time() - began < 1
    assert part.x.ndim == 2
    assert len(part.x) == len(part.y) > 1
    assert np.isfinite(part.x).all()
    assert part.y.min() >= 0


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_good_before_they_are_damaged(scratch, name):
    (scratch / name).write_bytes(FILES[name])
    target = str(scratch / "y.npy") if name.endswith((".npy", ".idx")) else "label"
    keys = {"missing": "mean"} if name.endswith(".parquet") else {}
    config = parse_config({"data": {"source": str(scratch / name), "target": target, **keys}})
    assert len(prepare(config.data, "multiclass", 0, np.float32).train.x) in (6, 9)


@pytest.mark.parametrize("name", FILES)
def test_damaged_bytes_give_an_error_or_a_table(scratch, name):
    @settings(max_examples=EXAMPLES)
    @given(mutations(FILES[name]))
    def try_one(content):
        (scratch / name).write_bytes(content)
        read(scratch / name)

    try_one()


@pytest.mark.parametrize("name", FILES)
def test_any_bytes_give_an_error_or_a_table(scratch, name):
    start = FILES[name][:12]

    @settings(max_examples=EXAMPLES)
    @given(st.binary(max_size=300), st.sampled_from([b"", start]))
    def try_one(content, start):
        (scratch / name).write_bytes(start + content)
        read(scratch / name)

    try_one()


CELLS = st.text(st.sampled_from("ab,;\t\"'\r\n 01.9-+eE\0ü\ufeff%_#/nNaif"), max_size=60)


@settings(max_examples=2 * EXAMPLES)
@given(CELLS, st.booleans())
def test_any_text_as_csv_gives_an_error_or_a_table(scratch, text, head):
    path = scratch / "text.csv"
    path.write_bytes(("a,label\n" * head + text).encode())
    read(path)


@pytest.fixture(scope="module")
def run(scratch):
    """A run that was trained on the table that is then damaged."""
    (scratch / "good.csv").write_bytes(CSV)
    settings = [f"data.source='{scratch / 'good.csv'}'", "data.missing='mean'", "log.plots=false"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    folder = str(scratch / "run")
    assert train.main(["--config", "full_batch", *arguments, "-q", "--run-dir", folder]) == 0
    return folder


@pytest.mark.parametrize("name", TABLES)
def test_commands_end_well_whatever_is_damaged(scratch, run, name):
    path, out = str(scratch / name), str(scratch / "out.csv")

    @settings(max_examples=EXAMPLES // 2)
    @given(mutations(FILES[name]))
    def try_one(content):
        (scratch / name).write_bytes(content)
        assert cli.main(["evaluate", run, "--data", path]) in (0, 3)
        keep = ["--keep", "a", "--keep", "größe", "--overwrite"]
        assert cli.main(["predict", run, "--data", path, "--out", out, *keep]) in (0, 3)

    try_one()
