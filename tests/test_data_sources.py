"""Each kind of source as a table: which columns or arrays are what, and what does not fit."""

from pathlib import Path

import numpy as np
import pytest
from idx_files import idx_bytes

from gpumlp.config_file import parse_config
from gpumlp.data.features import Features
from gpumlp.data.prepare import prepare
from gpumlp.data.sources import kind_of, load, load_other, load_rows
from gpumlp.errors import DataError

X = np.arange(24, dtype=np.float32).reshape(6, 4) % 7
LABEL = np.array([0, 1, 2, 0, 1, 2], np.uint8)
CSV = [
    "age,w,colour,label",
    *(f"{i},{i + 1},{'red' if i % 3 else 'blue'},{i % 2}" for i in range(6)),
]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", x=X, label=LABEL, a=X[:, :2])
    np.save("x.npy", X)
    np.save("y.npy", LABEL)
    (tmp_path / "x.idx").write_bytes(idx_bytes(X))
    (tmp_path / "y.idx").write_bytes(idx_bytes(LABEL))
    records = np.zeros(6, [("age", "u1"), ("height", "f4"), ("label", "i8")])
    records["age"], records["height"], records["label"] = LABEL, X[:, 1], LABEL
    np.save("records.npy", records)
    (tmp_path / "x.csv").write_text("\n".join(CSV), encoding="utf-8")
    return tmp_path


def data(source, **keys):
    return parse_config({"data": {"source": source, **keys}}).data


def table(source, **keys):
    return load(data(source, **keys))[0]


def message(source, **keys):
    with pytest.raises(DataError) as caught:
        table(source, **keys)
    return str(caught.value)


# ------------------------------------------------------------------------------ what is what


@pytest.mark.parametrize(("x", "y"), [("x.npy", "y.npy"), ("x.idx", "y.idx"), ("x.npy", "y.idx")])
def test_a_target_can_be_a_file_of_its_own(x, y):
    found = table(x, target=y)
    assert (found.x == X).all()
    assert (found.y == LABEL).all()
    assert found.features == Features()
    assert (found.source, str(found.target_source)) == (x, y)


def test_a_target_file_that_does_not_fit_is_named(here):
    np.save("y.npy", LABEL[:5])
    assert message("x.npy", target="y.npy") == "x.npy: x has 6 rows, y.npy has 5"
    np.save("y.npy", np.array([0, 1, 0, 1, 0, 0.5]))
    with pytest.raises(DataError, match=r"^y\.npy: row 5 .*0\.5 is no class label"):
        prepare(data("x.npy", target="y.npy"), "multiclass", 0, np.float32)
    assert message("x.npy", target="z.npy") == "z.npy: no such file"
    assert message("x.npy", target="x.npz") == "x.npz: is no npy or IDX file"


def test_columns_of_a_matrix_are_called_by_number():
    found = table("x.npy", target="3")
    assert (found.x == X[:, :3]).all()
    assert (found.y == X[:, 3]).all()
    assert found.features.names == ("0", "1", "2")
    some = table("x.idx", target=["3", "0"], features="2", sample_weight="1")
    assert (some.x == X[:, 2:3]).all()
    assert (some.y == X[:, [3, 0]]).all()
    assert (some.sample_weight == X[:, 1]).all()


def test_records_have_their_fields():
    found = table("records.npy")
    assert found.features.names == ("age", "height")
    assert found.x.tolist() == np.stack([LABEL, X[:, 1]], 1).tolist()
    assert found.y.tolist() == LABEL.tolist()


def test_columns_of_a_csv_are_inputs_unless_they_are_something_else():
    found = table("x.csv", sample_weight="w")
    assert found.features.columns == ("age", "colour=blue", "colour=red")
    assert found.x[:2].tolist() == [[0, 1, 0], [1, 0, 1]]
    assert found.y.tolist() == [0, 1, 0, 1, 0, 1]
    assert found.sample_weight.tolist() == [1, 2, 3, 4, 5, 6]
    assert table("x.csv", features=["w", "age"]).features.columns == ("w", "age")
    assert table("x.csv", features="w").x.shape == (6, 1)


def test_columns_of_numbers_can_be_categories():
    found = table("x.csv", features=["age", "w"], categorical=["w"])
    assert found.features.columns == ("age", *(f"w={i}" for i in range(1, 7)))


def test_several_columns_can_be_the_target():
    found = table("x.csv", target=["age", "w"], features="colour")
    assert found.y.tolist() == [[i, i + 1] for i in range(6)]


def test_arrays_of_an_npz_are_named():
    assert (table("x.npz", features="a").x == X[:, :2]).all()


def test_built_in_data_has_no_columns():
    assert table("builtin:xor").features == Features()


@pytest.mark.parametrize(
    ("source", "keys", "words"),
    [
        ("x.npz", {"features": ["x", "a"]}, "x.npz: data.features and data.target name one array"),
        ("x.npz", {"target": ["x", "a"]}, "x.npz: data.features and data.target name one array"),
        ("x.csv", {"target": "y.npy"}, "x.csv: the target of a csv file is one of its columns"),
        ("x.csv", {"target": "labels"}, 'x.csv: no column "labels"; it has age, w, colour, label'),
        (
            "x.csv",
            {"features": ["age", "label"]},
            'x.csv: column "label" is a feature and the target',
        ),
        (
            "x.csv",
            {"features": "w", "sample_weight": "w"},
            'x.csv: column "w" is a feature and the',
        ),
        ("x.csv", {"categorical": ["label"]}, 'x.csv: data.categorical names "label", which is no'),
        (
            "x.csv",
            {"target": ["age", "colour"]},
            'x.csv: line 2, column "colour": the target must be',
        ),
        (
            "x.csv",
            {"sample_weight": "colour"},
            'x.csv: line 2, column "colour": the weight must be',
        ),
        ("x.npy", {}, 'x.npy: no column "label"; it has 0, 1, 2, 3'),
        ("y.npy", {}, "y.npy: has shape (6,), which has no columns to choose a target from"),
        ("no.csv", {}, "no.csv: no such file"),
    ],
)
def test_what_does_not_fit_the_source_is_said(source, keys, words):
    assert message(source, **keys).startswith(words)


def test_a_weight_below_0_is_named_with_line_and_column(here):
    (here / "x.csv").write_text("\n".join([*CSV, "1,-2,red,1"]), encoding="utf-8")
    found = message("x.csv", sample_weight="w")
    assert found == 'x.csv: line 8, column "w": w is -2.0, expected >= 0'


def test_a_source_of_no_known_kind_is_refused():
    with pytest.raises(DataError, match=r"x\.xls: unknown source; allowed: builtin:NAME, mnist"):
        kind_of("x.xls")


# ------------------------------------------------------------------------------ other files


def test_another_file_is_read_as_the_main_one_was(here):
    (here / "t.csv").write_text("label,colour,age,w\n1,red,7,2\n", encoding="utf-8")
    settings = data("x.csv", sample_weight="w")
    other = load_other(settings, "t.csv", None, load(settings)[0].features)
    assert other.x.tolist() == [[7, 0, 1]]
    assert (other.y.tolist(), other.sample_weight.tolist()) == ([1], [2])
    own = load_other(data("x.npy", target="y.npy"), "x.idx", "y.idx", Features())
    assert (own.x == X).all()


def test_files_with_and_without_columns_do_not_go_together():
    columns = table("x.csv").features
    with pytest.raises(DataError, match=r"x\.npz: has no named columns, .*age, w, colour"):
        load_other(data("x.csv"), "x.npz", None, columns)
    with pytest.raises(DataError, match=r"x\.csv: has named columns"):
        load_other(data("x.npz"), "x.csv", None, Features())
    with pytest.raises(DataError, match=r"x\.npz: has no named columns"):
        load_rows("x.npz", data("x.csv"), columns)
    with pytest.raises(DataError, match=r"builtin:xor: has no named columns"):
        load_rows("builtin:xor", data("x.csv"), columns)
    with pytest.raises(DataError, match=r"x\.csv: has named columns"):
        load_rows("x.csv", data("x.npz"), Features())


SOURCES = {
    "x.csv": {},
    "x.npz": {"features": "a"},
    "x.npy": {"target": "y.npy"},
    "x.idx": {"target": "3"},
    "records.npy": {},
    "builtin:xor": {},
}


@pytest.mark.parametrize("source", SOURCES)
def test_rows_of_a_source_are_its_inputs(source):
    settings = data(source, **SOURCES[source])
    main = load(settings)[0]
    x, named = load_rows(source, settings, main.features)
    assert (x == main.x).all()
    assert named == source
    prepared = prepare(settings, "multiclass", 0, np.float64)
    np.testing.assert_array_equal(prepared.scaler.transform(x, np.float64), prepared.train.x)


def test_rows_need_no_target_and_may_lack_values_where_they_are_filled(here):
    (here / "rows.csv").write_text("colour,w,age\nred,1,\n", encoding="utf-8")
    features = table("x.csv").features
    filled, _ = load_rows("rows.csv", data("x.csv", missing="mean"), features)
    np.testing.assert_array_equal(filled, [[np.nan, 1, 0, 1]])
    with pytest.raises(DataError, match=r'^rows\.csv: line 2, column "age": the cell has no value'):
        load_rows("rows.csv", data("x.csv"), features)


def test_rows_that_were_given_from_python_cannot_be_loaded_again():
    data = parse_config({"data": {"source": "arrays", "target": "price"}}).data
    for load_them in (lambda: load(data), lambda: load_rows("arrays", data, Features())):
        with pytest.raises(DataError, match="given from Python and are not here; name a file"):
            load_them()


def csv_targets(labels, **model):
    rows = [f"{i},{label}" for i, label in enumerate(labels)]
    Path("l.csv").write_text("\n".join(["x,label", *rows]), encoding="utf-8")
    return prepare(data("l.csv"), model.get("task", "multiclass"), 0, "float64")


def test_labels_of_a_csv_are_never_merged():
    large = [str(2**53 + i) for i in range(3)]
    assert csv_targets([*large, "7"]).targets.classes == ("7", *large)
    with pytest.raises(
        DataError, match=r'l\.csv: line \d, column "label": the labels "007" and "0?7"'
    ):
        csv_targets(["007", "7", "07", "8"])
    assert csv_targets(["1", "1.0", "2"], task="regression").train.y.tolist() == [[1], [1], [2]]
