"""Parquet files as tables: the frame that a csv has, one error for what is wrong."""

import datetime
import decimal
import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumlp import train
from gpumlp.config_file import parse_config
from gpumlp.data import parquet_file
from gpumlp.data.csv_file import read_csv
from gpumlp.data.frame import Text
from gpumlp.data.parquet_file import read_arrow, read_parquet
from gpumlp.data.prepare import prepare
from gpumlp.data.sources import load, load_labelled, load_rows
from gpumlp.errors import ConfigError, DataError

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is missing (extra parquet)")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is missing (extra parquet)")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, columns, **options):
    pq.write_table(pyarrow.table(columns), path, **options)


def read(columns, names=None, text=(), **options):
    from pathlib import Path

    write("t.parquet", columns, **options)
    return read_parquet(Path("t.parquet"), "t.parquet", names, text)


def message(columns, *arguments, **options):
    with pytest.raises(DataError) as caught:
        read(columns, *arguments, **options)
    return str(caught.value)


def data(source, **keys):
    return parse_config({"data": {"source": source, **keys}}).data


def texts(column):
    return [column.values[code] if code >= 0 else None for code in column.codes]


# ------------------------------------------------------------------------------ types


@pytest.mark.parametrize(
    "kind", ["int8", "uint8", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]
)
def test_numbers_are_float64_with_nan_for_null(kind):
    values = pyarrow.array(np.array([1, 0, 3], kind), mask=np.array([False, True, False]))
    column = read({"a": values}).columns["a"]
    assert column.dtype == np.float64
    np.testing.assert_array_equal(column, [1, np.nan, 3])


def test_decimals_nulls_and_dictionaries_of_numbers_are_numbers():
    frame = read(
        {
            "price": [decimal.Decimal("1.25"), None, decimal.Decimal(-2)],
            "none": pyarrow.nulls(3),
            "code": pyarrow.array([7, 8, 7]).dictionary_encode(),
        }
    )
    np.testing.assert_array_equal(frame.columns["price"], [1.25, np.nan, -2])
    assert np.isnan(frame.columns["none"]).all()
    assert frame.columns["code"].tolist() == [7, 8, 7]


def test_bools_are_numbers_and_as_a_target_false_and_true():
    frame = read({"b": [True, False, True], "gap": [True, None, False]})
    assert frame.columns["b"].astype(float).tolist() == [1, 0, 1]
    np.testing.assert_array_equal(frame.columns["gap"], [1, np.nan, 0])
    write("t.parquet", {"x": [1.0, 2, 3, 4], "flag": [True, False] * 2, "label": [True, False] * 2})
    prepared = prepare(data("t.parquet"), "binary", 0, np.float32)
    assert prepared.targets.classes == ("False", "True")
    assert prepared.train.y.tolist() == [[1], [0], [1], [0]]
    assert prepared.features.columns == ("x", "flag")


@pytest.mark.parametrize("encode", [False, True])
@pytest.mark.parametrize("kind", ["string", "large_string"])
def test_text_is_text_with_gaps_for_null_and_the_empty_one(kind, encode):
    values = pyarrow.array(["red", None, " blue ", "", "NA", "red"], getattr(pyarrow, kind)())
    column = read({"c": values.dictionary_encode() if encode else values}).columns["c"]
    assert isinstance(column, Text)
    assert texts(column) == ["red", None, "blue", None, "NA", "red"]


def test_numbers_can_be_categories_and_gaps_do_not_change_their_names():
    whole = read({"c": [3, 1, 3]}, None, {"c"}).columns["c"]
    gaps = read({"c": [3.0, None, 1.0]}, None, {"c"}).columns["c"]
    assert (texts(whole), texts(gaps)) == (["3", "1", "3"], ["3", None, "1"])
    assert texts(read({"c": [True, False]}, None, {"c"}).columns["c"]) == ["True", "False"]
    assert texts(read({"c": [1.5]}, None, {"c"}).columns["c"]) == ["1.5"]


def test_batches_are_put_together(monkeypatch):
    monkeypatch.setattr(parquet_file, "BLOCK_ROWS", 7)
    names = [f"n{i % 11}" if i % 5 else None for i in range(100)]
    frame = read({"i": list(range(100)), "s": names}, row_group_size=30)
    assert frame.columns["i"].tolist() == list(range(100))
    assert texts(frame.columns["s"]) == names
    assert "row 93, " in message({"i": [0] * 93 + [2**60] * 7}, row_group_size=30)


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(-1e9, 1e9)),
            st.one_of(st.none(), st.sampled_from(["red", "grün", "a,b", 'say "x"'])),
        ),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from(["none", "snappy", "zstd", "gzip"]),
    st.booleans(),
)
def test_the_frame_is_that_of_the_same_csv(tmp_path_factory, rows, compression, dictionary):
    pandas = pytest.importorskip("pandas", reason="pandas is missing")
    folder = tmp_path_factory.mktemp("same")
    numbers, words = ([row[i] for row in rows] for i in (0, 1))
    table = pandas.DataFrame(
        {"n": np.array(numbers, float), "s": pandas.Series(words, dtype="string")}
    )
    table.to_csv(folder / "t.csv", index=False)
    table.to_parquet(folder / "t.parquet", compression=compression, use_dictionary=dictionary)
    csv = read_csv(folder / "t.csv", "t.csv", None, {"s"})
    frame = read_parquet(folder / "t.parquet", "t.parquet")
    np.testing.assert_array_equal(frame.columns["n"], csv.columns["n"])
    assert texts(frame.columns["s"]) == texts(csv.columns["s"])


# ------------------------------------------------------------------------------ refused


def test_integers_that_would_be_rounded_are_refused_with_row_and_column():
    assert read({"a": [2**53, -(2**53)]}).columns["a"].tolist() == [2**53, -(2**53)]
    for value in (2**53 + 1, -(2**53) - 1):
        assert message({"a": [1, None, value]}) == (
            f't.parquet: row 2, column "a" (counted from 0): {value} is more than float64 can tell '
            "apart (2^53)"
        )
    assert "row 1" in message({"a": pyarrow.array([1, 2**64 - 1], pyarrow.uint64())})
    assert texts(read({"a": [2**60 + 1]}, None, {"a"}).columns["a"]) == [str(2**60 + 1)]


def test_infinite_numbers_are_refused_with_row_and_column():
    found = message({"a": [1.0, np.inf]})
    assert found == 't.parquet: row 1, column "a" (counted from 0): inf is not a finite number'


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([datetime.datetime(2020, 1, 1)], "timestamp"),
        ([datetime.date(2020, 1, 1)], "date32"),
        ([[1, 2]], "list"),
        ([b"abc"], "binary"),
        ([{"x": 1}], "struct"),
    ],
)
def test_other_types_are_refused_by_name_unless_they_are_not_needed(values, kind):
    found = message({"a": [1], "t": values})
    assert found.startswith(f't.parquet: column "t" is of type {kind}')
    assert "data.features" in found
    assert list(read({"a": [1], "t": values}, ["a"]).columns) == ["a"]


def test_texts_that_are_too_long_are_refused_with_row_and_column():
    found = message({"s": ["a", "b" * 201]})
    assert found.startswith('t.parquet: row 1, column "s" (counted from 0): a text of 201 char')


def test_columns_of_one_name_are_refused(here):
    pq.write_table(pyarrow.table([[1], [2]], names=["a", "a"]), "t.parquet")
    with pytest.raises(DataError, match=r't\.parquet: 2 columns are called "a"'):
        read_parquet(here / "t.parquet", "t.parquet")


def test_a_text_with_a_null_character_is_refused_as_in_csv():
    found = message({"a": ["x", "y\0"]})
    assert found == 't.parquet: row 1, column "a" (counted from 0): a text with a NUL character'


def test_a_file_without_rows_or_columns_is_refused():
    assert message({"a": pyarrow.array([], pyarrow.int64())}) == "t.parquet: has no rows"
    assert message({}) == "t.parquet: has no rows"


def test_what_is_no_such_file_is_refused(here):
    for content in (b"", b"PAR1", b"PAR1" + bytes(20) + b"PAR1", b"a,b\n1,2\n"):
        (here / "t.parquet").write_bytes(content)
        with pytest.raises(DataError, match="damaged or no parquet file"):
            read_parquet(here / "t.parquet", "t.parquet")
    with pytest.raises(DataError, match=r"no\.parquet: no such file"):
        read_parquet(here / "no.parquet", "no.parquet")


def test_a_few_bytes_cannot_ask_for_gigabytes(monkeypatch, here):
    many = pyarrow.DictionaryArray.from_arrays(np.zeros(10**6, np.int32), ["x"])
    write("t.parquet", {"s": many}, compression="zstd")
    assert (here / "t.parquet").stat().st_size < 5000
    assert len(read_parquet(here / "t.parquet", "t.parquet")) == 10**6
    monkeypatch.setattr(parquet_file, "FREE_VALUES", 1000)
    monkeypatch.setattr(parquet_file, "MAX_VALUES_PER_BYTE", 10)
    with pytest.raises(DataError, match=r"declares 1000000 values in \d+ bytes: damaged"):
        read_parquet(here / "t.parquet", "t.parquet")
    monkeypatch.setattr(parquet_file, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match=r"1000000 values, 8000000 bytes; the limit is 1000"):
        read_parquet(here / "t.parquet", "t.parquet")


def test_changed_bytes_are_noticed_where_pages_have_checksums(here):
    write("t.parquet", {"a": np.arange(1000.0)}, write_page_checksum=True, compression="none")
    content = bytearray((here / "t.parquet").read_bytes())
    content[3000] ^= 1
    (here / "t.parquet").write_bytes(content)
    with pytest.raises(DataError, match="damaged or no parquet file"):
        read_parquet(here / "t.parquet", "t.parquet")


def test_without_pyarrow_the_extra_is_named(monkeypatch, here):
    write("t.parquet", {"a": [1]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"t\.parquet: parquet needs pyarrow.*gpumlp\[parquet\]"):
        read_parquet(here / "t.parquet", "t.parquet")


# ------------------------------------------------------------------------------ as a source


def test_an_index_that_pandas_stored_is_no_input_unless_it_is_named(here):
    pandas = pytest.importorskip("pandas", reason="pandas is missing")
    table = pandas.DataFrame({"a": [1.0, 2], "label": [0, 1]}, index=[10, 20])
    table.to_parquet("t.parquet")
    assert list(read_parquet(here / "t.parquet", "t.parquet").columns) == ["a", "label"]
    named = read_parquet(here / "t.parquet", "t.parquet", ["__index_level_0__"])
    assert named.columns["__index_level_0__"].tolist() == [10, 20]


def test_names_with_points_are_names():
    frame = read({"a": [1], "a.b": [2], "s": [{"b": 3}], "s.b": [4]}, ["a.b", "s.b"])
    assert {name: column.tolist() for name, column in frame.columns.items()} == {
        "a.b": [2],
        "s.b": [4],
    }


def test_columns_that_are_missing_are_all_named(here):
    write("t.parquet", {"age": [1], "height": [2]})
    with pytest.raises(DataError) as caught:
        read_parquet(here / "t.parquet", "t.parquet", ["aeg", "age", "zip"])
    found = str(caught.value)
    assert found == ('t.parquet: no columns "aeg" (did you mean "age"?), "zip"; it has age, height')


def test_gaps_are_filled_or_refused_as_in_a_csv():
    write("t.parquet", {"a": [1.0, None, 3, 5], "c": ["x", "y", None, "x"], "label": [0, 1] * 2})
    with pytest.raises(DataError, match=r'row 1, column "a" \(counted from 0\): the cell has no'):
        load(data("t.parquet"))
    filled = prepare(data("t.parquet", missing="mean"), "binary", 0, np.float64)
    assert filled.scaler.fill.tolist() == pytest.approx([3, 2 / 3, 1 / 3])
    write("t.parquet", {"a": [1.0, 2], "label": ["x", None]})
    with pytest.raises(DataError, match=r'row 1, column "label".*: the target has no value'):
        load(data("t.parquet"))


def test_csv_and_parquet_go_together(here):
    (here / "m.csv").write_text("w,colour,label\n" + "1,red,no\n2,blue,yes\n" * 4)
    write("t.parquet", {"label": ["yes", "no"], "more": [1, 2], "colour": ["red"] * 2, "w": [1, 2]})
    settings = data("m.csv", test={"path": "t.parquet"}, scale="none", categorical=["w"])
    prepared = prepare(settings, "binary", 0, np.float64)
    assert prepared.features.columns == ("w=1", "w=2", "colour=blue", "colour=red")
    assert prepared.test.x.tolist() == [[1, 0, 0, 1], [0, 1, 0, 1]]
    assert prepared.test.y.tolist() == [[1], [0]]
    write("t.parquet", {"label": ["yes", "no"], "colour": ["red", "green"], "w": [1, 2]})
    with pytest.raises(DataError, match=r'row 1, column "colour".*: unknown category "green"'):
        prepare(settings, "binary", 0, np.float64)
    x, _ = load_rows("m.csv", settings, prepared.features)
    assert x.shape == (8, 4)


def test_columns_to_copy_keep_their_types(here):
    when = datetime.datetime(2020, 1, 2)
    columns = {
        "id": [2**60 + 1, 5],
        "when": [when, when],
        "s": ["x", None],
        "c": pyarrow.array(["x", "y"]).dictionary_encode(),
        "v": [[1], [2, 3]],
    }
    write("t.parquet", columns | {"other": [1, 2]})
    kept = read_arrow(here / "t.parquet", "t.parquet", list(columns))
    expected = pyarrow.table(columns)
    assert list(kept) == list(columns)
    for name, column in kept.items():
        assert column.type == expected[name].type
        assert column.to_pylist() == expected[name].to_pylist()


def test_a_configuration_takes_the_keys_of_tables_for_parquet_and_mixes_it_with_csv():
    keys = {"categorical": ["w"], "missing": "mean", "sample_weight": "s", "features": ["w", "a"]}
    assert data("t.parquet", test={"path": "t.csv"}, **keys).missing == "mean"
    assert data("t.csv", val={"path": "v.parquet"}, **keys).val.path == "v.parquet"
    with pytest.raises(ConfigError, match="must be a csv or parquet file"):
        data("t.parquet", test={"path": "t.npz"})


def test_training_from_parquet_is_training_from_csv(here, capsys):
    rows = [(i / 7, "red" if i % 3 else "blue", "yes" if i % 4 > 1 else "no") for i in range(60)]
    columns = dict(zip(("size", "colour", "kind"), map(list, zip(*rows, strict=True)), strict=True))
    write("t.parquet", columns, compression="zstd")
    lines = ["size,colour,kind", *(f"{size!r},{colour},{kind}" for size, colour, kind in rows)]
    (here / "t.csv").write_text("\n".join(lines))
    summaries = []
    for name in ("t.csv", "t.parquet"):
        settings = [f"data.source={name}", "data.target=kind", "train.epochs=3", "log.plots=false"]
        more = [part for setting in settings for part in ("--set", setting)]
        assert (
            train.main(["--config", "breast_cancer", *more, "-q", "--run-dir", f"{name}-run"]) == 0
        )
        summaries.append(json.loads((here / f"{name}-run/summary.json").read_text()))
    assert capsys.readouterr().err == ""
    first, second = ({k: s[k] for k in ("train", "val", "test")} for s in summaries)
    assert first == second


def test_columns_that_are_missing_besides_the_target_are_named_with_it(here):
    (here / "m.csv").write_text("w,colour,label\n" + "1,red,no\n2,blue,yes\n" * 4)
    features = load(data("m.csv"))[0].features
    for name in ("new.parquet", "new.csv"):
        write("new.parquet", {"color": ["red"], "size": [1]})
        (here / "new.csv").write_text("color,size\nred,1\n")
        with pytest.raises(DataError) as caught:
            load_labelled(name, data("m.csv"), features)
        assert str(caught.value) == (
            f'{name}: no columns "w", "colour" (did you mean "color"?), "label"; it has color, size'
        )
