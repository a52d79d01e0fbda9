"""Large files: each reader takes time with their size, and refuses what unpacks to far more.

Sizes are such that a reader whose time grows with their square takes minutes.
"""

import gzip
import io
import zipfile
from pathlib import Path
from time import process_time

import numpy as np
import pytest
from hostile import refused
from idx_files import idx_bytes

from gpumlp.backend.system_memory import SystemMemory
from gpumlp.data.csv_file import read_csv
from gpumlp.data.features import Features
from gpumlp.data.frame import MAX_COLUMNS
from gpumlp.data.idx import read_idx
from gpumlp.data.npy import read_npy
from gpumlp.data.npz import read_npz
from gpumlp.data.parquet_file import read_arrow, read_parquet
from gpumlp.data.reading import FREE_SIZE, check_memory
from gpumlp.data.scaling import Scaler
from gpumlp.errors import DataError

SECONDS = 5  # of the CPU
BITS = np.random.default_rng(0).integers(0, 2, (50_000, 1000), np.uint8)
ZEROS = np.zeros_like(BITS)
TARGET = "target = '0'"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def little_memory(monkeypatch):
    memory = SystemMemory(2**34, 2 * FREE_SIZE, None)
    monkeypatch.setattr("gpumlp.data.reading.system_memory", lambda: memory)


def packed(save, **arrays):
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


def zipped(content):
    """As np.savez_compressed does, but soon."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("x.npy", content)
    return stream.getvalue()


def written(content, name):
    Path(name).write_bytes(content)
    return Path(name)


def parquet_bytes(columns, **options):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is missing")
    from pyarrow import parquet

    stream = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), stream, **options)
    return stream.getvalue()


READERS = {
    "x.idx": lambda path: read_idx(path, "x"),
    "x.idx.gz": lambda path: read_idx(path, "x"),
    "x.npy": lambda path: read_npy(path, "x"),
    "x.npz": lambda path: read_npz(path, ["x"], "x")[0],
}
WRITERS = {
    "x.idx": idx_bytes,
    "x.idx.gz": lambda x: gzip.compress(idx_bytes(x), 1),
    "x.npy": lambda x: packed(np.save, arr=x),
    "x.npz": lambda x: zipped(packed(np.save, arr=x)),
}


@pytest.mark.parametrize("name", READERS)
def test_a_large_array_is_read_in_seconds(name):
    path = written(WRITERS[name](BITS), name)
    began = process_time()
    assert (READERS[name](path) == BITS).all()
    assert process_time() - began < SECONDS


@pytest.mark.parametrize(
    ("name", "way_out"), [("x.idx.gz", "unpack it first"), ("x.npz", "save it with np.savez")]
)
def test_what_unpacks_to_a_thousand_times_its_size_is_refused_with_the_way_out(name, way_out):
    path = written(WRITERS[name](ZEROS), name)
    with pytest.raises(DataError, match=f"^x.*unpacks to more than 100 times.*{way_out}"):
        READERS[name](path)
    few = ZEROS[: FREE_SIZE // 1001]
    assert READERS[name](written(WRITERS[name](few), name)).shape == few.shape


def test_zeros_that_np_savez_wrote_are_read():
    assert READERS["x.npz"](written(packed(np.savez, x=ZEROS), "x.npz")).shape == ZEROS.shape


@pytest.mark.parametrize("cells", ["{i},{i}", ",{i}", "{i},", "a{i},1", '"a",{i}', "{i}.5,b"])
def test_a_long_csv_is_read_or_refused_in_seconds(cells):
    rows = "\n".join(cells.format(i=i) for i in range(200_000))
    path = written(f"a,b\n{rows}\n".encode(), "x.csv")
    began = process_time()
    assert len(read_csv(path, "x")) == 200_000
    assert process_time() - began < SECONDS


@pytest.mark.parametrize("line", ["a," * 2**22, '"a', '"' * 2**22, "a" * 2**23, "a,\n" * 2**20])
def test_a_csv_of_a_few_megabytes_of_anything_is_refused_in_seconds(line):
    path = written(line.encode(), "x.csv")
    began = process_time()
    with pytest.raises(DataError):
        read_csv(path, "x")
    assert process_time() - began < SECONDS


def test_a_long_parquet_file_is_read_in_seconds():
    columns = {"x": np.arange(1_000_000), "t": [f"a{i % 1000}" for i in range(1_000_000)]}
    path = written(parquet_bytes(columns), "x.parquet")
    began = process_time()
    assert len(read_parquet(path, "x")) == 1_000_000
    assert process_time() - began < SECONDS


@pytest.mark.parametrize("name", ["t", "l"])
def test_a_parquet_file_that_unpacks_to_much_is_refused_and_its_other_columns_are_read(name):
    content = parquet_bytes(
        {"t": ["a" * 2 * FREE_SIZE], "l": [np.zeros(2 * FREE_SIZE // 8)], "x": [1.0]},
        compression="zstd",
        use_dictionary=False,
    )
    path = written(content, "x.parquet")
    assert len(content) < 100_000
    with pytest.raises(DataError, match=r"^x: unpacks to more .* save it without compression"):
        read_arrow(path, "x", [name])
    assert read_parquet(path, "x", ["x"]).columns["x"].tolist() == [1]


def test_text_to_keep_that_is_short_only_as_a_dictionary_is_refused():
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is missing")
    codes = pyarrow.array(np.zeros(100_000, np.int32))
    columns = {"t": pyarrow.DictionaryArray.from_arrays(codes, ["a" * 1000])}
    path = written(parquet_bytes(columns, store_schema=False), "x.parquet")
    with pytest.raises(DataError, match=r"^x: unpacks to more than 100 times its size"):
        read_arrow(path, "x", ["t"])


@pytest.mark.parametrize(
    "column", [[b"abc"], [["a"]], [{"a": 1}], [[[1]]]], ids=["binary", "texts", "table", "lists"]
)
def test_of_what_may_unpack_to_anything_nothing_is_kept(column):
    path = written(parquet_bytes({"c": column}), "x.parquet")
    with pytest.raises(DataError, match=r'^x: column "c" is of type .*, expected numbers or text$'):
        read_arrow(path, "x", ["c"])


def test_a_matrix_of_millions_of_columns_is_no_table(capsys):
    wide = packed(np.save, arr=np.zeros((2, 3_000_000), np.uint8))
    refused(capsys, "x.npy", ["3000000 columns to choose from"], {"x.npy": wide}, [TARGET])
    header = ",".join(f"c{i}" for i in range(MAX_COLUMNS + 1)).encode()
    refused(
        capsys,
        "x.csv",
        [f"{MAX_COLUMNS + 1} columns"],
        {"x.csv": header + b"\n"},
        ["target = 'c0'"],
    )


def test_memory_that_is_not_free_is_not_asked_for(little_memory):
    check_memory(2 * FREE_SIZE, "x")
    with pytest.raises(DataError, match=r"^x needs 67 MB of memory, and 67 MB are free; give few"):
        check_memory(2 * FREE_SIZE + 1, "x")


def test_categories_are_not_spread_over_more_memory_than_is_free(little_memory):
    names = [f"t{i}" for i in range(20)]
    rows = (",".join(f"v{(i * 7 + j) % 900}" for j in range(20)) for i in range(2000))
    frame = read_csv(written("\n".join([",".join(names), *rows]).encode(), "x.csv"), "x.csv")
    features = Features.fit(frame, names)
    with pytest.raises(DataError, match=r"^x\.csv: x of shape \(2000, 18000\) needs 288 MB"):
        features.encode(frame)


def test_rows_are_not_scaled_into_more_memory_than_is_free(little_memory):
    scaler = Scaler.fit("none", BITS)
    with pytest.raises(DataError, match=r"^x: x of shape \(50000, 1000\), scaled, needs 200 MB"):
        scaler.transform(BITS, np.float32, source="x")


@pytest.mark.parametrize("name", READERS)
def test_an_array_is_not_read_into_more_memory_than_is_free(name, little_memory):
    large = np.concatenate([BITS, BITS])
    with pytest.raises(DataError, match=r"^x.* needs 100 MB of memory"):
        READERS[name](written(WRITERS[name](large), name))
