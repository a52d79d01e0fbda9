from dataclasses import dataclass

import numpy as np
import pytest

from gpumlp.data.builtin import shipped_file
from gpumlp.data.prepare import prepare
from gpumlp.data.sources import load
from gpumlp.errors import DataError


@dataclass(frozen=True)
class HeldOut:
    path: str | None = None
    fraction: float | None = None
    stratify: bool = True
    shuffle: bool = True
    target: str | None = None


@dataclass(frozen=True)
class Settings:
    source: str = "builtin:digits"
    path: str | None = None
    features: str | tuple[str, ...] | None = None
    target: str | tuple[str, ...] = "label"
    sample_weight: str | None = None
    categorical: tuple[str, ...] = ()
    missing: str = "error"
    scale: str = "standard"
    target_scale: str = "none"
    split_seed: int | None = None
    test: HeldOut | None = None
    val: HeldOut | None = None


def save(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def regression_file(path, rows=50, **changes):
    draw = np.random.default_rng(rows)
    arrays = {"x": draw.normal(size=(rows, 3)), "label": draw.normal(size=rows), **changes}
    return save(path, **arrays)


def digits_in_three(**changes):
    thirds = {"test": HeldOut(fraction=0.2), "val": HeldOut(fraction=0.1)}
    return prepare(Settings(**{**thirds, **changes}), "multiclass", 0, np.float32)


def test_the_parts_hold_every_row_once_and_in_proportion():
    parts = digits_in_three()
    sizes = [len(part.x) for part in (parts.train, parts.val, parts.test)]
    assert sizes == [1294, 144, 359]
    rows = np.concatenate([part.rows for part in (parts.train, parts.val, parts.test)])
    assert np.array_equal(np.sort(rows), np.arange(1797))
    labels = load(Settings())[0].y
    for part in (parts.train, parts.val, parts.test):
        assert (part.y == labels[part.rows]).all()
        share = np.bincount(labels) * len(part.y) / 1797
        assert (abs(np.bincount(part.y) - share) < 2).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_part_holds_its_own_rows_scaled_in_the_dtype_asked_for(dtype):
    parts = prepare(Settings(test=HeldOut(fraction=0.2)), "multiclass", 0, dtype)
    raw = load(Settings())[0].x.astype(np.float64)
    for part in (parts.train, parts.test):
        expected = (raw[part.rows] - parts.scaler.offset) * parts.scaler.factor
        assert part.x.dtype == dtype
        assert part.x.flags.c_contiguous
        assert (part.x == expected.astype(dtype)).all()
        assert part.y.dtype == np.int64
        assert part.sample_weight is None
    assert parts.val is None


@pytest.mark.parametrize("scale", ["standard", "minmax"])
def test_scaling_uses_no_test_and_no_validation_rows(tmp_path, scale):
    with np.load(shipped_file("digits")) as digits:
        x, label = digits["x"].astype(np.float32), digits["label"]
    held = {"test": HeldOut(fraction=0.2), "val": HeldOut(fraction=0.1), "scale": scale}

    def scaler():
        settings = Settings(source=save(tmp_path / "d.npz", x=x, label=label), **held)
        parts = prepare(settings, "multiclass", 0, np.float32)
        return parts, parts.scaler.offset.tobytes() + parts.scaler.factor.tobytes()

    parts, before = scaler()
    x[parts.test.rows] += 1000
    x[parts.val.rows] -= 1000
    assert scaler()[1] == before
    x[parts.train.rows[0]] += 1000
    assert scaler()[1] != before


def test_split_seed_takes_the_place_of_seed():
    def test_rows(seed, split_seed):
        settings = Settings(test=HeldOut(fraction=0.2), split_seed=split_seed)
        return prepare(settings, "multiclass", seed, np.float32).test.rows.tolist()

    assert test_rows(1, None) == test_rows(2, 1)
    assert test_rows(1, None) != test_rows(2, None)
    assert test_rows(5, 0) == test_rows(0, None)


def test_test_and_validation_are_separate_draws():
    """With one draw for both, asking for validation rows would be asking for the test again."""
    without_val = digits_in_three(val=None)
    assert digits_in_three().test.rows.tolist() == without_val.test.rows.tolist()
    only_val = digits_in_three(test=None, val=HeldOut(fraction=0.2))
    assert only_val.val.rows.tolist() != without_val.test.rows.tolist()


def test_an_unshuffled_unstratified_test_part_is_the_last_rows():
    parts = digits_in_three(test=HeldOut(fraction=0.2, stratify=False, shuffle=False))
    assert parts.test.rows.tolist() == list(range(1797 - 359, 1797))


def test_binary_labels_are_stratified(tmp_path):
    label = np.repeat(["no", "yes"], [90, 10])
    source = save(tmp_path / "b.npz", x=np.zeros((100, 1)), label=label)
    for seed in range(5):
        settings = Settings(source=source, test=HeldOut(fraction=0.3))
        parts = prepare(settings, "binary", seed, np.float32)
        assert parts.test.y.dtype == np.float32
        assert parts.test.y.shape == (30, 1)
        assert parts.test.y.sum() == 3


@pytest.mark.parametrize(
    ("task", "label"),
    [
        ("regression", np.linspace(0, 1, 50)),
        ("multilabel", np.tile([[0, 1], [1, 1]], (25, 1))),
        ("multiclass", np.tile([[0.5, 0.5], [0, 1]], (25, 1))),
    ],
)
def test_targets_without_classes_are_split_and_cast(tmp_path, task, label):
    source = regression_file(tmp_path / "r.npz", label=label)
    settings = Settings(source=source, test=HeldOut(fraction=0.2), val=HeldOut(fraction=0.25))
    parts = prepare(settings, task, 0, np.float32)
    assert [len(part.y) for part in (parts.train, parts.val, parts.test)] == [30, 10, 10]
    for part in (parts.train, parts.val, parts.test):
        assert part.y.dtype == np.float32
        expected = label.reshape(50, -1)[part.rows].astype(np.float32)
        assert (part.y == expected).all()


def test_weights_go_with_their_rows(tmp_path):
    source = regression_file(tmp_path / "w.npz", w=np.arange(1, 51))
    settings = Settings(source=source, sample_weight="w", test=HeldOut(fraction=0.2))
    parts = prepare(settings, "regression", 0, np.float32)
    for part in (parts.train, parts.test):
        assert part.sample_weight.dtype == np.float32
        assert (part.sample_weight == part.rows + 1).all()


def test_a_part_whose_weights_are_all_0_is_refused(tmp_path):
    source = regression_file(tmp_path / "w.npz", w=np.arange(50) < 40)
    last = HeldOut(fraction=0.2, shuffle=False)
    settings = Settings(source=source, sample_weight="w", test=last)
    with pytest.raises(DataError, match="every row of the test part has weight 0"):
        prepare(settings, "regression", 0, np.float32)


def test_a_test_file_is_scaled_and_encoded_as_the_training_data(tmp_path):
    main = save(tmp_path / "main.npz", x=np.array([[0.0], [10], [20]]), label=np.array(list("bca")))
    test = save(tmp_path / "test.npz", x=np.array([[5.0], [40]]), label=np.array(["c", "b"]))
    settings = Settings(source=main, scale="minmax", test=HeldOut(path=test))
    parts = prepare(settings, "multiclass", 0, np.float64)
    assert parts.test.x.tolist() == [[0.25], [2]]
    assert parts.test.y.tolist() == [2, 1]
    assert parts.test.rows is None
    assert parts.train.rows.tolist() == [0, 1, 2]


def test_an_unseen_label_in_a_test_file_names_file_and_row(tmp_path):
    test = save(tmp_path / "test.npz", x=np.zeros((3, 64)), label=np.array([1, 2, 10]))
    with pytest.raises(DataError, match=r'test\.npz: row 2 .*: unknown label "10"'):
        digits_in_three(test=HeldOut(path=test))


def test_a_test_file_of_another_width_is_refused(tmp_path):
    test = save(tmp_path / "test.npz", x=np.zeros((3, 63)), label=np.array([1, 2, 3]))
    with pytest.raises(DataError, match=r"test\.npz: 63 columns, the training data has 64"):
        digits_in_three(test=HeldOut(path=test))


@pytest.mark.parametrize("array", ["x", "label", "w"])
def test_a_number_out_of_range_for_float32_is_named_with_its_row(tmp_path, array):
    arrays = {"x": np.ones((50, 3)), "label": np.ones(50), "w": np.ones(50)}
    arrays[array][7] = 1e300
    settings = Settings(
        source=save(tmp_path / "big.npz", **arrays),
        sample_weight="w",
        scale="none",
        test=HeldOut(fraction=0.5),
    )
    with pytest.raises(DataError, match=r"big\.npz: row 7.*: .*float32 is inf"):
        prepare(settings, "regression", 0, np.float32)
    assert prepare(settings, "regression", 0, np.float64).train.x.dtype == np.float64


@pytest.mark.parametrize("name", ["test", "val"])
def test_a_part_that_would_be_empty_is_named(tmp_path, name):
    source = regression_file(tmp_path / "small.npz", rows=4)
    settings = Settings(source=source, **{name: HeldOut(fraction=0.01)})
    with pytest.raises(DataError, match=rf"small\.npz: {name}: a fraction of 0\.01 of 4 rows"):
        prepare(settings, "regression", 0, np.float32)
    settings = Settings(source=source, **{name: HeldOut()})
    with pytest.raises(DataError, match=rf"small\.npz: {name} needs a fraction or a path"):
        prepare(settings, "regression", 0, np.float32)


def test_the_fingerprint_changes_with_any_raw_byte_and_with_nothing_else(tmp_path):
    paths = {"source": "a.npz", "test": "t.npz", "val": "v.npz"}

    def fingerprint(changed="source", seed=0, dtype=np.float32, scale="none", **changes):
        for rows, (key, name) in enumerate(paths.items(), start=10):
            arrays = {"w": np.ones(rows), **(changes if key == changed else {})}
            regression_file(tmp_path / name, rows, **arrays)
        held = {key: HeldOut(path=str(tmp_path / paths[key])) for key in ("test", "val")}
        source = str(tmp_path / "a.npz")
        settings = Settings(source=source, sample_weight="w", scale=scale, **held)
        return prepare(settings, "regression", seed, dtype).fingerprint

    same = {fingerprint(), fingerprint(seed=1), fingerprint(dtype=np.float64)}
    assert same == {fingerprint(scale="minmax")}
    weights = np.ones(10)
    weights[9] = np.nextafter(1, 2)
    others = [
        fingerprint(w=weights),
        fingerprint(w=np.ones(10, np.float32)),
        fingerprint(label=np.zeros(10)),
        fingerprint(x=np.zeros((10, 3))),
        fingerprint(x=np.zeros((10, 3), np.int64)),
        fingerprint("test", label=np.zeros(11)),
        fingerprint("val", label=np.zeros(12)),
    ]
    assert len({*same, *others}) == 1 + len(others)
    assert all(len(text) == 64 and set(text) <= set("0123456789abcdef") for text in others)


# ------------------------------------------------------------------------------ csv and targets


def csv_file(path, rows, head="age,colour,label"):
    path.write_text("\n".join([head, *rows, ""]), encoding="utf-8")
    return str(path)


def test_missing_cells_are_filled_with_the_mean_of_the_training_rows_only(tmp_path):
    draw = np.random.default_rng(5)
    age = draw.normal(40, 9, 60).round(2)
    gone, colours = draw.random(60) < 0.3, draw.choice(["red", "blue", ""], 60)
    cells = ["" if g else f"{a}" for a, g in zip(age, gone, strict=True)]

    def prepared(cells):
        rows = [f"{c},{k},{i % 2}" for i, (c, k) in enumerate(zip(cells, colours, strict=True))]
        held = {"test": HeldOut(fraction=0.3), "val": HeldOut(fraction=0.2)}
        source = csv_file(tmp_path / "main.csv", rows)
        settings = Settings(source=source, missing="mean", scale="none", **held)
        return prepare(settings, "multiclass", 0, np.float64)

    parts = prepared(cells)
    train = parts.train.rows
    assert parts.features.columns == ("age", "colour=blue", "colour=red")
    given = train[colours[train] != ""]
    means = [
        age[train][~gone[train]].mean(),
        *(np.mean(colours[given] == c) for c in ("blue", "red")),
    ]
    np.testing.assert_allclose(parts.scaler.fill, means)
    for part in (parts.train, parts.val, parts.test):
        expected = np.where(gone, means[0], age)[part.rows]
        np.testing.assert_allclose(part.x[:, 0], expected)
        empty = colours[part.rows] == ""
        np.testing.assert_allclose(part.x[empty, 1:], np.tile(means[1:], (empty.sum(), 1)))
    for row in (*parts.test.rows, *parts.val.rows):
        cells[row] = "99999"
    assert prepared(cells).scaler.fill[0] == parts.scaler.fill[0]


def test_a_test_file_may_have_its_columns_in_any_order(tmp_path):
    rows = [f"{i},{'red' if i % 3 else 'blue'},{'yes' if i % 2 else 'no'}" for i in range(12)]
    swapped = [",".join(["x", *reversed(row.split(","))]) for row in rows]
    main = csv_file(tmp_path / "main.csv", rows)
    other = csv_file(tmp_path / "other.csv", swapped, "more,label,colour,age")
    parts = prepare(Settings(source=main, test=HeldOut(path=other)), "binary", 0, np.float64)
    np.testing.assert_array_equal(parts.test.x, parts.train.x)
    np.testing.assert_array_equal(parts.test.y, parts.train.y)


def test_unknown_labels_and_categories_of_a_test_file_are_named_with_their_line(tmp_path):
    main = csv_file(tmp_path / "main.csv", ["1,red,no", "2,blue,yes"])
    for row, words in (
        ("1,red,maybe", 'line 4, column "label": unknown label "maybe"; known: no, yes'),
        ("1,pink,no", 'line 4, column "colour": unknown category "pink"; known: blue, red'),
        ("1,red,", 'line 4, column "label": the target has no value; 1 such cell'),
    ):
        other = csv_file(tmp_path / "other.csv", ["1,red,no", "", row])
        with pytest.raises(DataError) as caught:
            prepare(Settings(source=main, test=HeldOut(path=other)), "binary", 0, np.float32)
        assert str(caught.value) == f"{other}: {words}"


def test_numbers_out_of_range_in_a_csv_are_named_with_line_and_column(tmp_path):
    rows = ["1,red,1", "2,blue,2", "1e300,red,3"]
    source = csv_file(tmp_path / "main.csv", rows)
    with pytest.raises(DataError, match=r'main\.csv: line 4, column "age": scaled x as float32'):
        prepare(Settings(source=source, scale="none"), "regression", 0, np.float32)
    source = csv_file(tmp_path / "main.csv", ["1,red,1", "2,blue,1e200"])
    with pytest.raises(
        DataError, match=r'main\.csv: line 3, column "label": the target as float32'
    ):
        prepare(Settings(source=source), "regression", 0, np.float32)


def test_scaled_targets_have_mean_0_and_variance_1_in_the_training_part(tmp_path):
    label = np.random.default_rng(6).normal(1000, 50, (50, 2))
    source = regression_file(tmp_path / "r.npz", label=label)
    held = {"test": HeldOut(fraction=0.2), "val": HeldOut(fraction=0.2)}
    settings = Settings(source=source, target_scale="standard", **held)
    parts = prepare(settings, "regression", 0, np.float64)
    np.testing.assert_allclose(parts.train.y.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(parts.train.y.var(axis=0), 1)
    for part in (parts.train, parts.val, parts.test):
        np.testing.assert_allclose(parts.target_scaler.inverse(part.y), label[part.rows])
    assert prepare(Settings(source=source), "regression", 0, np.float64).target_scaler is None


def test_the_fingerprint_knows_the_names_of_columns_and_categories(tmp_path):
    rows = ["1,red,1", "2,blue,2"]

    def fingerprint(rows, head="age,colour,label"):
        source = csv_file(tmp_path / "main.csv", rows, head)
        return prepare(Settings(source=source), "regression", 0, np.float64).fingerprint

    others = [
        fingerprint(rows, "years,colour,label"),
        fingerprint(["1,pink,1", "2,blue,2"]),
        fingerprint(["1,red,1", "2.5,blue,2"]),
    ]
    assert fingerprint(rows) == fingerprint([rows[0].replace("1,red", "1.0,red"), rows[1]])
    assert len({fingerprint(rows), *others}) == 4
