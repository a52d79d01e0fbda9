"""The configuration: what is accepted, what is refused and how, and that writing loses nothing."""

import tomllib
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumlp import config as schema
from gpumlp.config import Config, Layer, known_keys
from gpumlp.config_checks import clashes
from gpumlp.config_file import (
    config_text,
    dump_config,
    load_config,
    parse_config,
    shipped_configs,
)
from gpumlp.errors import ConfigError

DIGITS = {"source": "builtin:digits"}
JSON_SCHEMA = Config.model_json_schema()


def problems_of(mapping: dict[str, Any]) -> dict[str, str]:
    """The problems of a configuration by key; none if it is accepted."""
    try:
        parse_config(mapping, "my.toml")
    except ConfigError as error:
        return listed(error)
    return {}


def listed(error: ConfigError) -> dict[str, str]:
    """The lines of an error by key, after checking what every such text has in common."""
    title, *lines = str(error).splitlines()
    assert error.exit_code == 2
    assert "pydantic" not in str(error)
    assert "https://" not in str(error)
    assert title.endswith(f": {len(lines)} problem{'s' if len(lines) > 1 else ''}")
    pairs = (line.strip().split("    ", 1) for line in lines)
    return {key: text.strip() for key, text in pairs}


def with_data(**sections: Any) -> dict[str, Any]:
    return {"data": DIGITS} | sections


def refusal(*arguments: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(*arguments)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write_file(content: str | bytes) -> Path:
        path = tmp_path / "my.toml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


# ------------------------------------------------------------------------- the text of problems


def test_all_problems_are_reported_at_once_in_aligned_columns(write):
    path = write(
        """
        [model]
        hidden = [64, "x"]
        activaton = "relu"
        [optimizer]
        lr = -1
        [data]
        source = "builtin:digits"
        """
    )
    assert (
        refusal(path)
        == f"""{path}: 3 problems
  model.activaton    unknown key; did you mean "model.activation"?
  model.hidden[1]    expected a positive integer, got "x"
  optimizer.lr       must be > 0, got -1"""
    )


def test_a_single_problem_is_counted_in_the_singular():
    with pytest.raises(ConfigError) as caught:
        parse_config(with_data(train={"epochs": 0}), "my.toml")
    assert str(caught.value) == (
        "my.toml: 1 problem\n  train.epochs    expected a positive integer, got 0"
    )


@pytest.mark.parametrize(
    ("sections", "key", "text"),
    [
        (
            {"optimizer": {"name": "admm"}},
            "optimizer.name",
            'must be one of "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", '
            'got "admm"; did you mean "adam"?',
        ),
        (
            {"train": {"batch_size": 0}},
            "train.batch_size",
            'expected a positive integer or "full", got 0',
        ),
        (
            {"data": {"source": "x.xls"}},
            "data.source",
            f'expected "builtin:NAME" with one of {", ".join(schema.BUILTIN)}; '
            '"mnist"; or a file: .npz, .npy, .csv, .csv.gz, .parquet or IDX, got "x.xls"',
        ),
        (
            {"data": DIGITS | {"test": 0.2}},
            "data.test",
            "expected a table, got 0.2; did you mean {fraction = 0.2}?",
        ),
        ({"train": {"shuffle": 1}}, "train.shuffle", "expected true or false, got 1"),
        ({"seed": True}, "seed", "expected an integer from 0 to 2^63 - 1, got true"),
        ({"optimizer": {"lr": float("nan")}}, "optimizer.lr", "expected a finite number, got nan"),
        (
            {"optimizer": {"lr": "1e-3"}},
            "optimizer.lr",
            'expected a number, got "1e-3"; did you mean 0.001?',
        ),
        ({"model": {"dropout": 1}}, "model.dropout", "must be < 1, got 1"),
        ({"optimizer": {"l1": -0.5}}, "optimizer.l1", "must be >= 0, got -0.5"),
        ({"schedule": {"gamma": 2}}, "schedule.gamma", "must be <= 1, got 2"),
        (
            {"model": {"hidden": 5}},
            "model.hidden",
            "expected a list, got 5; did you mean [5]?",
        ),
        (
            {"model": {"layers": [{"units": 3}, {"units": 3, "dropout": 2}]}},
            "model.layers[1].dropout",
            "must be < 1, got 2",
        ),
        (
            {"model": {"layers": [{}, {"units": 3}]}},
            "model.layers[0].units",
            "must be given: number of outputs",
        ),
        (
            {"loss": {"class_weight": {"a b": -1}}},
            "loss.class_weight",
            'expected "balanced" or a table of class = weight, each weight >= 0, got {"a b" = -1}',
        ),
        (
            {"name": "x" * 101},
            "name",
            'expected 1 to 100 letters, digits, ".", "_" or "-", the first not ".", '
            f'got "{"x" * 56}...',
        ),
        ({"a\nb": 1}, r'"a\nb"', "unknown key"),
        # keys that do not fit together
        (
            {"loss": {"name": "mse"}},
            "loss.name",
            'must be one of "auto", "cross_entropy" with model.task = "multiclass", got "mse"',
        ),
        (
            {"model": {"task": "multilabel"}, "loss": {"class_weight": "balanced"}},
            "loss.class_weight",
            'cannot be used with model.task = "multilabel"',
        ),
        (
            {"model": {"task": "regression"}, "loss": {"label_smoothing": 0.1}},
            "loss.label_smoothing",
            'cannot be used with model.task = "regression"',
        ),
        (
            {"model": {"task": "regression"}, "train": {"metrics": ["r2", "auc"]}},
            "train.metrics[1]",
            'must be one of "mse", "rmse", "mae", "r2" with model.task = "regression", got "auc"',
        ),
        (
            {"schedule": {"name": "cosine", "patience": 3}},
            "schedule.patience",
            "belongs to plateau, not to cosine",
        ),
        (
            {"schedule": {"gamma": 0.5}},
            "schedule.gamma",
            "belongs to step and exponential, not to constant",
        ),
        (
            {"model": {"hidden": [3], "layers": [{"units": 3}]}},
            "model.hidden",
            "cannot be given together with model.layers",
        ),
        (
            {"data": DIGITS | {"test": {"fraction": 0.1, "path": "a.npz"}}},
            "data.test.fraction",
            "cannot be given together with path",
        ),
        ({"data": DIGITS | {"val": {}}}, "data.val", "needs fraction or path"),
        (
            {"data": DIGITS | {"missing": "mean"}},
            "data.missing",
            "belongs to csv, parquet sources, not to builtin:digits",
        ),
        (
            {"data": DIGITS | {"target": "price"}},
            "data.target",
            "belongs to csv, parquet, npz, npy, idx sources, not to builtin:digits",
        ),
        (
            {"data": {"source": "x.npz", "categorical": ["a"]}},
            "data.categorical",
            "belongs to csv, parquet sources, not to x.npz",
        ),
        (
            {"data": {"source": "x.csv", "path": "here"}},
            "data.path",
            "belongs to mnist sources, not to x.csv",
        ),
        (
            {"data": {"source": "x.npy", "target": "y.npy", "sample_weight": "3"}},
            "data.sample_weight",
            "cannot be given where data.target is a file: there are no columns to name",
        ),
        (
            {"data": {"source": "x.csv", "test": {"path": "t.npz"}}},
            "data.test.path",
            "must be a csv or parquet file if data.source is one, and only then, got t.npz",
        ),
        (
            {"data": DIGITS | {"val": {"path": "v.csv"}}},
            "data.val.path",
            "must be a csv or parquet file if data.source is one, and only then, got v.csv",
        ),
        (
            {"data": {"source": "x.npy", "val": {"path": "v.npy", "target": "w.npy"}}},
            "data.val.target",
            "belongs to path, where data.target is a file too",
        ),
        (
            {"data": DIGITS | {"target_scale": "standard"}},
            "data.target_scale",
            'cannot be used with model.task = "multiclass"',
        ),
        (
            {
                "data": DIGITS | {"target_scale": "standard"},
                "model": {"task": "regression"},
                "loss": {"name": "poisson"},
            },
            "data.target_scale",
            'cannot be used with loss.name = "poisson"',
        ),
        (
            {"early_stopping": {}},
            "early_stopping.monitor",
            'needs [data] val = {fraction = 0.1} or similar, got "val_loss"',
        ),
        (
            {"early_stopping": {"monitor": "val_auc"}},
            "early_stopping.monitor",
            'must be one of "val_loss", "val_accuracy", "loss", "accuracy", got "val_auc"',
        ),
    ],
)
def test_a_problem_names_the_key_what_is_allowed_and_what_was_given(sections, key, text):
    assert problems_of(with_data(**sections)) == {key: text}


def test_a_configuration_without_data_lacks_its_source():
    text = 'must be given: "builtin:digits", "mnist", or the path of a file'
    assert problems_of({}) == {"data.source": text}
    assert problems_of({"data": {}}) == {"data.source": text}


def test_keys_that_do_not_fit_together_are_reported_beside_wrong_values():
    mapping = with_data(loss={"name": "mse"}, optimizer={"lr": 0}, early_stopping={"patience": 0})
    assert list(problems_of(mapping)) == [
        "early_stopping.monitor",
        "early_stopping.patience",
        "loss.name",
        "optimizer.lr",
    ]


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"model": {"task": "regresion"}}, "model.task"),
        ({"model": {"tsk": "regression"}}, "model.tsk"),
        ({"modle": {"task": "regression"}}, "modle"),
    ],
)
def test_a_wrong_key_does_not_bring_problems_of_others_that_depend_on_it(wrong, key):
    assert list(problems_of(with_data(loss={"name": "mse"}, **wrong))) == [key]


@pytest.mark.parametrize(
    ("mapping", "key", "meant"),
    [
        ({"lr": 0.1}, "lr", "optimizer.lr"),
        ({"optimiser": {"lr": 0.1}}, "optimiser", "optimizer"),
        ({"schedule": {"lr": 0.1}}, "schedule.lr", "optimizer.lr"),
        ({"batchsize": 3}, "batchsize", "train.batch_size"),
        ({"train": {"dropout": 0.1}}, "train.dropout", "model.dropout"),
        (
            {"model": {"layers": [{"units": 3}, {"units": 3, "unit": 3}]}},
            "model.layers[1].unit",
            "model.layers[1].units",
        ),
    ],
)
def test_an_unknown_key_is_answered_with_the_one_meant(mapping, key, meant):
    assert problems_of(with_data(**mapping)) == {key: f'unknown key; did you mean "{meant}"?'}


def test_an_unknown_key_like_no_other_gets_no_suggestion():
    assert problems_of(with_data(xyzzy=1)) == {"xyzzy": "unknown key"}


# ------------------------------------------------------------ generated from the schema: refusals


def resolved(spec: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema with its reference followed and null, which TOML lacks, left out."""
    while "$ref" in spec:
        spec = JSON_SCHEMA["$defs"][spec["$ref"].rpartition("/")[2]]
    options = [resolved(option) for option in spec.get("anyOf", []) if option != {"type": "null"}]
    return options[0] if len(options) == 1 else {"anyOf": options} if options else spec


def keys_in(spec: dict[str, Any], path: tuple[str | int, ...] = ()) -> Iterator[Any]:
    """Every key below a schema, with its path and its own schema."""
    for name, inner in resolved(spec).get("properties", {}).items():
        inner = resolved(inner)
        yield (*path, name), inner
        yield from keys_in(inner, (*path, name))
        yield from keys_in(inner.get("items", {}), (*path, name, 0))


def dotted(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)[1:]


KEYS = {dotted(path): (path, spec) for path, spec in keys_in(JSON_SCHEMA)}


def wrong_types(spec: dict[str, Any]) -> Iterator[Any]:
    """One value of each TOML type that the key does not take."""
    types = {option["type"] for option in spec.get("anyOf", [spec])}
    types |= {"integer"} if "number" in types else set()
    samples = {"integer": 3, "number": 2.5, "string": "word", "boolean": True}
    samples |= {"array": [[]], "object": {"a": {}}, "date": date(1979, 5, 27)}
    yield from (value for kind, value in samples.items() if kind not in types)


def out_of_range(spec: dict[str, Any]) -> Iterator[Any]:
    """Values of the right type that the key does not take."""
    for option in spec.get("anyOf", [spec]):
        limits = {"minimum": -1, "exclusiveMinimum": 0, "exclusiveMaximum": 0, "maximum": 1}
        yield from (option[limit] + beyond for limit, beyond in limits.items() if limit in option)
        if option.get("type") == "number":
            yield from (float("nan"), float("inf"), -float("inf"))
        if {"enum", "const", "pattern"} & set(option):
            yield "no/such word"
        if "minLength" in option:
            yield ""
        if "minItems" in option:
            yield []
        if "prefixItems" in option:
            yield [0.5] * 3
        for part in option.get("prefixItems", [option["items"]] if "items" in option else []):
            yield from ([value, 0.5] for value in out_of_range(resolved(part)))
        if isinstance(option.get("additionalProperties"), dict):
            yield from ({"a": value} for value in out_of_range(option["additionalProperties"]))


def configured(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """A configuration that is valid but for `value` at `path`."""
    mapping: Any = {"data": DIGITS | {"val": {"fraction": 0.1}}, "model": {}}
    if "layers" in path[:-1]:
        mapping["model"]["layers"] = [{"units": 3}]
    table = mapping
    for part in path[:-1]:
        table = table[part] if isinstance(part, int) else table.setdefault(part, {})
    table[path[-1]] = value
    return mapping


def test_the_schema_walk_finds_every_key():
    assert set(KEYS) == set(known_keys())
    assert {"optimizer.lr", "data.test.fraction", "model.layers[0].units"} < set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_refuses_values_of_another_type(key):
    path, spec = KEYS[key]
    for value in wrong_types(spec):
        found = problems_of(configured(path, value))
        assert len(found) == 1, (value, found)
        assert next(iter(found)).startswith(key), (value, found)


LIMITED = [key for key, (_, spec) in KEYS.items() if any(True for _ in out_of_range(spec))]


@pytest.mark.parametrize("key", LIMITED)
def test_every_key_refuses_values_out_of_its_range(key):
    path, spec = KEYS[key]
    for value in out_of_range(spec):
        found = problems_of(configured(path, value))
        assert len(found) >= 1, value
        assert all(name.startswith(key) for name in found), (value, found)


def test_only_free_text_switches_and_tables_have_no_range():
    free = {"data.path", "data.sample_weight", "data.test.target", "data.val.target"}
    free |= {"early_stopping.monitor"}
    without = {
        key
        for key, (_, spec) in KEYS.items()
        if spec["type" if "type" in spec else "anyOf"] not in ("boolean", "object")
        and key not in LIMITED
    }
    assert without == free | {"model.layers"}


def misspellings(word: str) -> set[str]:
    """Words one edit away: a letter left out, doubled or replaced, or two exchanged."""
    cut = [(word[:i], word[i], word[i + 1 :]) for i in range(len(word))]
    words = {a + b for a, _, b in cut} | {a + c + c + b for a, c, b in cut}
    words |= {a + "z" + b for a, _, b in cut}
    return words | {a + b[0] + c + b[1:] for a, c, b in cut if b}


def test_a_misspelt_key_is_named_and_the_right_one_suggested():
    missed, asked = [], 0
    for key, (path, _) in KEYS.items():
        for i, word in enumerate(sorted(misspellings(str(path[-1])))):
            wrong = (*path[:-1], word)
            if i % 6 or not word or dotted(wrong) in KEYS:  # a sixth of them is plenty
                continue
            found = problems_of(configured(wrong, 1))
            asked += 1
            assert list(found) == [dotted(wrong)]
            if found[dotted(wrong)] != f'unknown key; did you mean "{key}"?':
                missed.append((dotted(wrong), found))
    assert asked > 300
    assert len(missed) <= 0.05 * asked, missed


# ------------------------------------------------------------------ generated: writing and reading


def values(spec: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Any value that a schema allows."""
    spec = resolved(spec)
    if "anyOf" in spec:
        return st.one_of([values(option) for option in spec["anyOf"]])
    if "const" in spec or "enum" in spec:
        return st.sampled_from(spec.get("enum") or [spec["const"]])
    low = spec.get("minimum", spec.get("exclusiveMinimum"))
    high = spec.get("maximum", spec.get("exclusiveMaximum"))
    match spec["type"]:
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(low + ("exclusiveMinimum" in spec), 2**63 - 1)
        case "number":
            ends = {
                f"exclude_{end}": f"exclusive{end.title()}imum" in spec for end in ("min", "max")
            }
            return st.floats(low, high, allow_infinity=False, allow_nan=False, **ends)
        case "string":
            text = st.characters(codec="utf-8")
            if "pattern" in spec:
                return st.from_regex(spec["pattern"], fullmatch=True, alphabet=text)
            return st.text(text, min_size=spec.get("minLength", 0))
        case "array":
            if "prefixItems" in spec:
                return st.tuples(*map(values, spec["prefixItems"])).map(list)
            return st.lists(values(spec["items"]), min_size=spec.get("minItems", 0), max_size=3)
    if "properties" not in spec:
        return st.dictionaries(
            st.text(max_size=3), values(spec["additionalProperties"]), max_size=3
        )
    keys = {name: values(inner) for name, inner in spec["properties"].items()}
    required = {name: keys.pop(name) for name in spec.get("required", [])}
    return st.fixed_dictionaries(required, optional=keys)


def fitted(mapping: dict[str, Any]) -> dict[str, Any]:
    """The mapping without the keys that do not fit the others."""
    while found := next(iter(clashes(Config.model_validate(mapping))), None):
        section, *inner = found.keys[0].split("[")[0].split(".")
        table = mapping[section]
        for part in inner[:-1]:
            table = table[part]
        if inner and inner[-1] in table:
            del table[inner[-1]]
        else:  # a default that does not fit
            del mapping[section]
    return mapping


@settings(max_examples=150, deadline=None)
@given(values(JSON_SCHEMA).map(fitted))
def test_writing_and_reading_gives_the_same_configuration(mapping):
    config = parse_config(mapping)
    assert parse_config(tomllib.loads(dump_config(config))) == config


KINDS_OF_DATA = [
    {"source": "builtin:xor"},
    {"source": "mnist", "path": "folder", "test": {"fraction": 0.1}},
    {"source": "x.npz", "features": "a", "target": "b", "sample_weight": "w"},
    {
        "source": "x.npy",
        "target": "y.npy",
        "test": {"path": "t-ubyte.gz", "target": "u.idx"},
        "val": {"fraction": 0.1, "stratify": False},
    },
    {"source": "x.idx.gz", "target": ["3", "4"], "features": ["1", "2"], "sample_weight": "0"},
    {
        "source": "größe.CSV.gz",
        "target": "preis",
        "features": ["a b", "c"],
        "categorical": ["c"],
        "missing": "mean",
        "val": {"path": "v.csv"},
        "split_seed": 3,
    },
]


@pytest.mark.parametrize("data", KINDS_OF_DATA, ids=lambda data: data["source"])
def test_a_written_file_of_every_kind_of_data_loads_again(write, data):
    config = load_config(write(dump_config(parse_config({"data": data}))))
    assert load_config(write(dump_config(config))) == config
    for key, value in data.items():
        if key not in ("source", "path", "target", "test", "val"):
            written = getattr(config.data, key)
            assert written == (tuple(value) if isinstance(value, list) else value)


def test_a_written_file_has_every_default_in_the_order_of_the_sections(write):
    config = parse_config(with_data(optimizer={"name": "sgd"}, early_stopping={"monitor": "loss"}))
    text = dump_config(config)
    assert load_config(write(text)) == config
    assert tomllib.loads(text)["optimizer"]["lr"] == 0.1
    assert list(tomllib.loads(text)) == list(Config.model_fields)


def test_a_written_file_has_no_key_that_would_be_refused_or_means_nothing():
    mapping = with_data(model={"layers": [{"units": 3}]}, schedule={"name": "cosine"})
    written = tomllib.loads(dump_config(parse_config(mapping)))
    assert "hidden" not in written["model"]
    assert written["model"]["layers"] == [{"units": 3, "bias": True}]
    assert written["schedule"] == {"name": "cosine", "warmup_steps": 0, "floor": 0.0}


# ------------------------------------------------------------------------------- reading files


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("seed = 1\nname = = 3\n", "line 2, column 8: Invalid value"),
        ("seed = 1\nseed = 2\n", "line 2, column 9: Cannot overwrite a value"),
        ("a = [1,\n2", "line 2, column 2: Unclosed array"),
        (b"name = '\xff'", "not UTF-8 text (byte 8)"),
    ],
)
def test_a_file_that_is_not_toml_is_refused_in_one_line(write, content, text):
    path = write(content)
    assert refusal(path) == f"{path}: {text}"


def test_deeply_nested_values_are_refused_and_not_a_crash(write):
    assert "\n" not in refusal(write("a = " + "[" * 5000))


def test_a_file_that_begins_with_a_byte_order_mark_is_read(write):
    assert load_config(write(b'\xef\xbb\xbf[data]\r\nsource = "builtin:digits"\r\n')).seed == 0


def test_a_missing_file_is_answered_with_the_shipped_names():
    text = refusal("configs/digit.toml")
    assert text.startswith('configs/digit.toml: no such file; shipped are "')
    assert text.endswith('; did you mean "digits"?')


def test_a_folder_is_refused(tmp_path):
    assert refusal(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"


def test_a_shipped_configuration_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config("digits")
    assert config.name == "digits"
    assert config.data.source == "builtin:digits"
    assert config.data.val is not None


def test_the_text_of_a_configuration_is_returned_with_its_comments(write):
    text = '# mine\n[data]\nsource = "builtin:digits"\n'
    assert config_text(write(text)) == text
    assert config_text("digits") == shipped_configs()["digits"].read_text(encoding="utf-8")


def test_a_folder_of_the_same_name_does_not_hide_a_shipped_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert load_config("digits").name == "digits"


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_configuration_is_valid(name):
    assert parse_config(tomllib.loads(dump_config(load_config(name)))) == load_config(name)


def test_relative_paths_count_from_the_file_and_those_of_overrides_from_the_current_folder(
    write, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = write('[data]\nsource = "../a.npz"\ntest = {path = "b.npz"}\nval = {path = "/c.npz"}\n')
    data = load_config(path, ["data.val.path=d.npz"]).data
    assert data.source == str(tmp_path.parent / "a.npz")
    assert data.test.path == str(tmp_path / "b.npz")
    assert data.val.path == str(tmp_path / "here" / "d.npz")
    assert load_config(path).data.val.path == "/c.npz"


@pytest.mark.parametrize(
    "kind", [".npz", ".npy", ".csv", ".CSV.gz", ".parquet", ".idx", "-ubyte.gz"]
)
def test_files_of_every_kind_count_from_the_configuration(write, tmp_path, kind):
    data = load_config(write(f'[data]\nsource = "a{kind}"\ntest = {{path = "b{kind}"}}\n')).data
    assert data.source == str(tmp_path / f"a{kind}")
    assert data.test.path == str(tmp_path / f"b{kind}")


def test_folders_and_files_of_targets_count_from_the_configuration_and_names_stay(write, tmp_path):
    mnist = load_config(write('[data]\nsource = "mnist"\npath = "here"\n')).data
    assert mnist.path == str(tmp_path / "here")
    for source in ("x.npz", "x.csv", "x.parquet"):
        path = write(f'[data]\nsource = "{source}"\ntarget = "y.npy"\n')
        assert load_config(path).data.target == "y.npy"
    split = 'test = {path = "tx.npy", target = "ty.npy"}'
    data = load_config(write(f'[data]\nsource = "x.npy"\ntarget = "y.npy"\n{split}\n')).data
    assert data.target == str(tmp_path / "y.npy")
    assert data.test.target == str(tmp_path / "ty.npy")


# ---------------------------------------------------------------------------------- overrides


def test_overrides_are_toml_and_a_bare_word_is_a_string():
    config = load_config(
        "digits",
        [
            "optimizer.name=sgd",
            "model.hidden=[64, 32]",
            "train.batch_size=full",
            "name = v1.2",
            "data.test={fraction=0.3}",
            "data.test.shuffle=false",
            "optimizer.clip_norm=1",
            "early_stopping.monitor='loss'",
        ],
    )
    assert (config.optimizer.name, config.optimizer.clip_norm) == ("sgd", 1.0)
    assert config.model.hidden == (64, 32)
    assert config.train.batch_size == "full"
    assert config.name == "v1.2"
    assert (config.data.test.fraction, config.data.test.shuffle) == (0.3, False)
    assert config.early_stopping.monitor == "loss"


def test_an_override_reaches_into_lists(write):
    path = write('[data]\nsource = "builtin:digits"\n[[model.layers]]\nunits = 3\n')
    assert load_config(path, ["model.layers[0].units=5"]).model.layers[0].units == 5


def test_problems_of_overrides_and_of_the_file_come_in_one_list(write):
    path = write('seed = -1\n[data]\nsource = "builtin:digits"\n')
    overrides = ["foo", "name='", "model[0]=1", "model.layers[0].units=1", "seed.x=1", "lr=1"]
    with pytest.raises(ConfigError) as caught:
        load_config(path, [*overrides, "train.epochs=ten"])
    assert listed(caught.value) == {
        "--set foo": "expected KEY=VALUE, as in optimizer.lr=0.01",
        "--set name='": "the value is not valid TOML",
        "--set model[0]=1": "the configuration has no place for model[0]",
        "--set model.layers[0].units=1": "the configuration has no place for model.layers[0].units",
        "--set seed.x=1": "the configuration has no place for seed.x",
        "lr": 'unknown key; did you mean "optimizer.lr"?',
        "seed": "expected an integer from 0 to 2^63 - 1, got -1",
        "train.epochs": 'expected a positive integer, got "ten"',
    }


def test_an_override_cannot_smuggle_in_a_second_key():
    assert refusal("digits", ["seed=1\nname='x'"]).endswith(r'got "1\nname=' + "'x'\"")


# ------------------------------------------------------------------------------------- values


def test_hidden_layers_take_what_they_leave_out_from_the_model():
    model = {
        "activation": "relu",
        "max_norm": 2,
        "dropout": 0.5,
        "init": "he_normal",
        "init_gain": 2,
    }
    layers = [
        {"units": 4},
        {"units": 3, "activation": "tanh", "dropout": 0, "init_gain": 1, "weight_decay": 0.1},
    ]
    config = parse_config(with_data(model=model | {"layers": layers}))
    assert config.model.hidden_layers == (
        Layer(4, "relu", 0.5, "he_normal", 2.0, bias=True, weight_decay=None, max_norm=2.0),
        Layer(3, "tanh", 0.0, "he_normal", 1.0, bias=True, weight_decay=0.1, max_norm=2.0),
    )
    same = parse_config(with_data(model=model | {"hidden": [4]}))
    assert same.model.hidden_layers == config.model.hidden_layers[:1]
    assert parse_config(with_data(model={"hidden": []})).model.hidden_layers == ()


def test_auto_loss_and_default_metrics_follow_the_task():
    config = parse_config(with_data(model={"task": "regression"}))
    assert config.loss_name == "mse"
    assert config.metrics == ("rmse", "mae", "r2")
    named = parse_config(with_data(loss={"name": "cross_entropy"}, train={"metrics": ["auc"]}))
    assert named.loss_name == "cross_entropy"
    assert named.metrics == ("auc",)


def test_a_configuration_cannot_be_changed():
    config = parse_config(with_data())
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1


def test_every_key_is_described():
    assert [key for key, field in known_keys().items() if not field.description] == []


def test_the_choices_are_those_of_the_modules_that_do_the_work():
    from gpumlp.backend.activations import ACTIVATIONS
    from gpumlp.initializers import INITIALIZERS
    from gpumlp.losses import LOSSES
    from gpumlp.metrics import DEFAULT_METRICS, METRICS
    from gpumlp.optimizers import OPTIMIZERS

    assert set(get_args(schema.Activation)) == set(ACTIVATIONS)
    assert set(get_args(schema.Init)) == set(INITIALIZERS)
    assert set(get_args(schema.LossName)) == set(LOSSES)
    assert set(get_args(schema.OptimizerName)) == set(OPTIMIZERS) == set(schema.DEFAULT_LR)
    assert schema.DEFAULT_METRICS == DEFAULT_METRICS
    assert {name: list(m.tasks) for name, m in METRICS.items()} == {
        name: [t for t in schema.TASK_METRICS if name in schema.TASK_METRICS[t]]
        for name in get_args(schema.Metric)
    }


def test_adamw_decays_by_default():
    data = {"source": "builtin:digits"}
    for name, decay in (("adamw", 0.01), ("adam", 0.0)):
        config = parse_config({"data": data, "optimizer": {"name": name}})
        assert config.optimizer.weight_decay == decay
