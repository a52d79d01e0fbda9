"""`gpumlp config`: what list, show and schema print, and that the schema is right for files."""

import json
import re
import tomllib

import pytest
from test_config import KEYS, LIMITED, configured, out_of_range, wrong_types

from gpumlp import cli
from gpumlp.commands.configs import DRAFT, editor_schema
from gpumlp.config_file import dump_config, load_config, shipped_configs

SCHEMA = editor_schema()
SMALL = '[data]\nsource = "builtin:digits"\n'
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}
TRUE_OF = {
    "enum": lambda value, choices: value in choices,
    "const": lambda value, only: value == only,
    "pattern": lambda value, pattern: re.search(pattern, value) is not None,
    "minLength": lambda value, n: len(value) >= n,
    "minItems": lambda value, n: len(value) >= n,
    "maxItems": lambda value, n: len(value) <= n,
    "minimum": lambda value, limit: value >= limit,
    "maximum": lambda value, limit: value <= limit,
    "exclusiveMinimum": lambda value, limit: value > limit,
    "exclusiveMaximum": lambda value, limit: value < limit,
    "required": lambda value, keys: set(keys) <= set(value),
}
ABOUT = {"$schema", "$defs", "title", "description", "default"}
APPLIED = {"$ref", "type", "anyOf", "properties", "additionalProperties", "items", "prefixItems"}


def fits(value, spec):
    """Whether a value fits a JSON schema; knows every keyword that ours has, and no other."""
    assert set(spec) <= ABOUT | APPLIED | set(TRUE_OF)
    if "$ref" in spec and not fits(value, SCHEMA["$defs"][spec["$ref"].rpartition("/")[2]]):
        return False
    if "type" in spec:
        kind = TYPES[spec["type"]]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            return False
    if "anyOf" in spec and not any(fits(value, option) for option in spec["anyOf"]):
        return False
    if not all(test(value, spec[word]) for word, test in TRUE_OF.items() if word in spec):
        return False
    if isinstance(value, dict):
        known, others = spec.get("properties", {}), spec.get("additionalProperties", {})
        return all(
            fits(inner, known[key]) if key in known else others is not False and fits(inner, others)
            for key, inner in value.items()
        )
    if isinstance(value, list):
        first = spec.get("prefixItems", [])
        rest = [spec.get("items", {})] * (len(value) - len(first))
        return all(map(fits, value, [*first, *rest]))
    return True


@pytest.fixture
def run(capsys):
    def run_command(*arguments):
        code = cli.main(["config", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run_command


def test_list_gives_each_shipped_name_with_the_first_line_of_its_file(run):
    code, out, err = run("list")
    assert (code, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert list(lines) == list(shipped_configs())
    for name, line in lines.items():
        first = shipped_configs()[name].read_text(encoding="utf-8").splitlines()[0]
        assert first == f"# {line}"
        assert len(line) > 10


def test_show_prints_toml_with_every_default(run, tmp_path):
    code, out, err = run("show", "digits")
    assert (code, err) == (0, "")
    assert out == dump_config(load_config("digits"))
    assert tomllib.loads(out)["optimizer"]["betas"] == [0.9, 0.999]
    again = tmp_path / "again.toml"
    again.write_text(out, encoding="utf-8")
    assert run("show", again) == (0, out, "")


def test_show_applies_overrides(run):
    _, out, _ = run("show", "digits", "--set", "optimizer.lr=0.5", "--set", "name=mine")
    assert (tomllib.loads(out)["optimizer"]["lr"], tomllib.loads(out)["name"]) == (0.5, "mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "digitz"], 'did you mean "digits"?'),
        (["show", "digits", "--set", "lr=1"], 'unknown key; did you mean "optimizer.lr"?'),
    ],
)
def test_show_refuses_what_train_refuses(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize("arguments", [[], ["lits"], ["show"]])
def test_a_wrong_action_exits_2_with_the_usage(run, arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert "usage: gpumlp config" in capsys.readouterr().err


def test_schema_prints_what_editors_need(run):
    code, out, err = run("schema")
    assert (code, err) == (0, "")
    schema = json.loads(out)
    assert schema == SCHEMA
    assert schema["$schema"] == DRAFT
    assert schema["title"] == "gpumlp configuration"
    assert schema["required"] == ["data"]


def test_every_key_of_the_schema_is_described():
    described = 0
    for table in (SCHEMA, *SCHEMA["$defs"].values()):
        assert table["description"]
        assert table["additionalProperties"] is False
        for key, spec in table["properties"].items():
            assert spec["description"], key
            described += 1
    assert described > 60


def test_the_schema_has_nothing_that_toml_or_javascript_lacks():
    text = json.dumps(SCHEMA)
    assert "null" not in text
    assert "(?i" not in text
    assert r"\\-" not in text


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_configuration_fits_the_schema(name):
    path = shipped_configs()[name]
    assert fits(tomllib.loads(path.read_text(encoding="utf-8")), SCHEMA)
    assert fits(tomllib.loads(dump_config(load_config(path))), SCHEMA)


def test_the_schema_takes_files_in_capitals_as_the_command_does():
    assert fits({"data": {"source": "MY.NPZ"}}, SCHEMA)
    assert not fits({"data": {"source": "Builtin:Digits"}}, SCHEMA)
    assert not fits({"data": {"source": "my.xls"}}, SCHEMA)


@pytest.mark.parametrize("key", KEYS)
def test_the_schema_refuses_values_of_another_type(key):
    path, spec = KEYS[key]
    for value in wrong_types(spec):
        assert not fits(configured(path, value), SCHEMA), value


@pytest.mark.parametrize("key", LIMITED)
def test_the_schema_refuses_values_out_of_range(key):
    path, spec = KEYS[key]
    for value in out_of_range(spec):
        if not re.search("nan|inf", repr(value)):  # which JSON has not
            assert not fits(configured(path, value), SCHEMA), value


def test_the_schema_refuses_unknown_keys():
    assert fits(tomllib.loads(SMALL), SCHEMA)
    assert not fits(tomllib.loads(SMALL + "target_ = 1\n"), SCHEMA)
    assert not fits(tomllib.loads("epochs = 1\n" + SMALL), SCHEMA)
