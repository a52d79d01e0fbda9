"""Any text as a configuration or as --set: a configuration, or one clear ConfigError, and soon.

GPUMLP_FUZZ=N tries N texts of each kind instead of a few hundred.
"""

import os
import tomllib
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import mutations
from test_config import KEYS

from gpumlp.config_file import dump_config, load_config, parse_config, shipped_configs
from gpumlp.errors import ConfigError

EXAMPLES = int(os.environ.get("GPUMLP_FUZZ", 200))
LONGEST_MESSAGE = 20_000
SHIPPED = {name: path.read_bytes() for name, path in shipped_configs().items()}
DATA = '[data]\nsource = "builtin:digits"\n'


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """One file for all examples of a property: Hypothesis forbids a fixture per test function."""
    return tmp_path_factory.mktemp("fuzz") / "run.toml"


def load(source, overrides=()):
    """Load a configuration; what it is refused with, if it is."""
    config, problem, began = None, "", process_time()
    try:
        config = load_config(source, overrides)
    except ConfigError as error:
        problem = str(error)
    assert process_time() - began < 1
    assert len(problem) < LONGEST_MESSAGE
    assert config is None or parse_config(tomllib.loads(dump_config(config))) == config
    return problem


VALUES = st.recursive(
    st.sampled_from(
        ["1", "-1", "0.5", "inf", "nan", "1e400", "true", '""', '"relu"', "0x" + "f" * 20]
    )
    | st.sampled_from(["1979-05-27", "'a.csv'", '"builtin:digits"', "'''x\n'''", "9" * 30])
    | st.integers().map(str)
    | st.text(st.sampled_from("ab\"'\\[]{}=,.#\n 01ü\0_-+e:"), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]")
        | st.lists(inner, max_size=3).map(
            lambda parts: "{" + ", ".join(f"a{i} = {part}" for i, part in enumerate(parts)) + "}"
        )
    ),
    max_leaves=6,
)
NAMES = st.sampled_from([key.replace("[0]", "") for key in KEYS]) | st.text(
    st.sampled_from("abdlo._-[]0123\"' ü"), max_size=12
)
LINES = st.tuples(NAMES, VALUES).map(" = ".join) | st.sampled_from(
    ["[data]", "[model]", "[[model.layers]]", "[optimizer.lr]", "[data.test]", "[[data]]", ""]
)


@settings(max_examples=EXAMPLES)
@given(st.lists(LINES, max_size=6).map("\n".join), st.booleans())
def test_any_lines_are_a_configuration_or_an_error(path, text, head):
    path.write_text(DATA * head + text, encoding="utf-8")
    load(path)


@settings(max_examples=EXAMPLES)
@given(st.binary(max_size=300), st.sampled_from([b"", b"\xef\xbb\xbf", DATA.encode()]))
def test_any_bytes_are_a_configuration_or_an_error(path, content, start):
    path.write_bytes(start + content)
    load(path)


@pytest.mark.parametrize("name", ["digits", "deep"])
def test_a_damaged_configuration_is_one_or_an_error(path, name):
    @settings(max_examples=EXAMPLES)
    @given(mutations(SHIPPED[name]))
    def try_one(damaged):
        path.write_bytes(damaged)
        load(path)

    try_one()


@settings(max_examples=EXAMPLES)
@given(st.lists(st.tuples(NAMES, VALUES).map("=".join) | st.text(max_size=20), max_size=3))
def test_any_settings_are_a_configuration_or_an_error(overrides):
    load("digits", overrides)


# ------------------------------------------------------------------------- without an end


DEEP = 5000
NESTED = {
    "keys": f"[optimizer]\nlr{'.a' * DEEP} = 1\n",
    "tables": f"[optimizer.lr{'.a' * DEEP}]\nx = 1\n",
    "lists": f"[optimizer]\nlr = {'[' * DEEP}{']' * DEEP}\n",
    "shallow lists": f"[optimizer]\nlr = {'[' * 100}{']' * 100}\n",
    "inline tables": f"[optimizer]\nlr = {'{a=' * DEEP}1{'}' * DEEP}\n",
}


@pytest.mark.parametrize("text", NESTED.values(), ids=NESTED)
def test_what_is_nested_without_an_end_is_refused(path, text):
    path.write_text(DATA + text)
    assert load(path) == f"{path}: tables or lists nested more than 20 deep"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (f"optimizer.lr{'.a' * DEEP}=1", "has no place for optimizer.lr.a"),
        (f"a{'.a' * DEEP}=1", "has no place for a.a"),
        (f"name={{b{'.a' * DEEP}=1}}", "nested more than 20 deep"),
        (f"optimizer.lr={'[' * DEEP}{']' * DEEP}", "nested more than 20 deep"),
        (f"optimizer={{{'a' + '.a' * 60_000}=1}}", "nested more than 20 deep"),
        (f"seed=0x{'f' * DEEP}", "an integer of more than 300 digits"),
        (f"model.hidden[{'9' * DEEP}]=3", "expected KEY=VALUE"),
        ("model.hidden[999999999]=3", "has no place for model.hidden[999999999]"),
        (f"{'a' * DEEP}=3", "unknown key"),
    ],
    ids=lambda text: text[:30],
)
def test_a_setting_without_an_end_is_refused(override, words):
    assert words in load("digits", [override])


LARGE = 2**20 - 200


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f'seed = "{"1" * LARGE}x"\n{DATA}', "expected an integer"),
        (f'seed = "{"1_" * (LARGE // 2)}x"\n{DATA}', "expected an integer"),
        (DATA + "[model]\nhidden = [" + '"a",' * 65_536 + "]", "65536 problems"),
        (DATA + f"[model]\nhidden = [{'0,' * (LARGE // 2)}]", "list of more than 65536 entries"),
        (DATA + "[[model.layers]]\nunits=0\n" * (LARGE // 30), "units     expected a positive"),
        ("".join(f"kqz{i} = 1\n" for i in range(LARGE // 13)) + DATA, "unknown key"),
        (f"precision = '{'a' * LARGE}'\n{DATA}", "must be one of"),
        (f"a{'.a' * (LARGE // 2)} = 1\n{DATA}", "nested more than 20 deep"),
        (
            "[data]\nsource = 'a.csv'\nfeatures = [" + "'name_of_one'," * 65_536 + "]",
            "with every default, more than 1048576 characters",
        ),
    ],
    ids=["digits", "underscores", "texts", "zeros", "layers", "keys", "word", "parts", "names"],
)
def test_the_largest_file_is_refused_within_seconds(path, text, words):
    path.write_text(text)
    began = process_time()
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert words in str(error.value)
    assert process_time() - began < 5


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (f"seed={'1' * LARGE}x", "expected an integer"),
        ("model.hidden=[" + '"a",' * 65_536 + "]", "65536 problems"),
        (f"model.hidden=[{'0,' * (LARGE // 2)}]", "list of more than 65536 entries"),
        ("model.hidden=[" + "'\"" * (LARGE // 2), "the value is not valid TOML"),
        (f"model.hidden=[{',a' * (LARGE // 2)}!", "the value is not valid TOML"),
        (f"a{'.a' * (LARGE // 2)}=1", "has no place for a.a"),
        (f"name={'.' * LARGE}", "1 to 100 letters"),
    ],
    ids=["digits", "texts", "zeros", "quotes", "words", "parts", "dots"],
)
def test_the_largest_setting_is_refused_within_seconds(override, words):
    began = process_time()
    with pytest.raises(ConfigError, match=words):
        load_config("digits", [override])
    assert process_time() - began < 5


@pytest.mark.parametrize("word", ["1__0", "1_", "_1", "1_.5", "१", "1" * 10_000 + "x"])
def test_a_text_that_nearly_is_a_number_is_refused(path, word):
    path.write_text(f'seed = "{word}"\n{DATA}', encoding="utf-8")
    assert "expected an integer" in load(path)


def test_a_deep_dictionary_from_python_is_refused():
    deep = {}
    for _ in range(DEEP):
        deep = {"a": deep}
    with pytest.raises(ConfigError, match="config: tables or lists nested more than 20 deep"):
        parse_config({"data": {"source": "builtin:digits", "test": deep}})


def test_of_many_problems_the_first_are_shown_and_all_counted(path):
    path.write_text(DATA + "".join(f"k{i:03} = 1\n" for i in range(500)))
    title, *lines, more = load(path).splitlines()
    assert title == f"{path}: 500 problems"
    assert [line.split()[0] for line in lines] == [f"data.k{i:03}" for i in range(20)]
    assert more == "  and 480 more"


def test_a_file_without_an_end_is_refused():
    if not os.path.exists("/dev/zero"):
        pytest.skip("this system has no /dev/zero")
    assert load("/dev/zero") == "/dev/zero: no configuration: more than 1048576 bytes"


def test_a_null_byte_in_the_name_of_a_file_is_refused():
    assert "no such file" in load("my\0.toml")
