"""`read_toml`: what it takes, and that its time grows with the length of a text and no faster."""

import time
from contextlib import suppress
from pathlib import Path

import pytest

import gpumlp
from gpumlp.toml_text import DEEPEST, LARGEST, TOO_DEEP, read_toml

LONG = 20_000  # parts of a key; tomllib takes 11 seconds and 1.6 GB for them
PARTS = ".a" * LONG


@pytest.mark.parametrize(
    "text",
    [
        f"a{PARTS} = 1",
        f"a{' . a' * LONG} = 1",
        f"""a{'."a"' * LONG} = 1""",
        f"""a{".'a'" * LONG} = 1""",
        f"[a{PARTS}]",
        f"[[a{PARTS}]]",
        f"x = {{a{PARTS} = 1}}",
        f"x = '#'\na{PARTS} = 1",
        f'x = "\\"#"\na{PARTS} = 1',
        f'x = """ \\""" "" # """""\na{PARTS} = 1',
        f"x = ''' '' # '''''\na{PARTS} = 1",
        f"# '\na{PARTS} = 1",
        "x = " + "[" * LONG,
        "x = " + "{a=" * LONG,
    ],
    ids=lambda text: text[:20],
)
def test_a_text_without_an_end_is_refused_at_once(text):
    start = time.process_time()
    with pytest.raises(ValueError, match=TOO_DEEP):
        read_toml(text)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "start", ['"""\\', "'\"", '"""\\"""', "'''", '"', "a=[1,", "[[a]]\n", "x.a=1\n", "=", "a b "]
)
def test_the_largest_text_is_read_or_refused_in_seconds(start):
    begin = time.process_time()
    with suppress(ValueError):
        read_toml(start * (LARGEST // len(start)))
    assert time.process_time() - begin < 5


def test_dots_in_strings_and_comments_and_numbers_are_no_parts_of_keys():
    many = "." * 100
    text = f'''# {many} "
a = "{many}\\"{many}" # {many}
b = '{many}'
c = """{many}"
{many}"{many}\\"""{many}"""""
d = \'\'\'{many}''{many}\'\'\'
e = [{"1.5, " * 100}]
f = [{"1979-05-27T07:32:00.5, " * 100}]
'''
    found = read_toml(text)
    assert [len(found[key]) for key in "abcdef"] == [201, 100, 408, 202, 100, 100]


def test_a_key_of_as_many_parts_as_are_allowed_is_read():
    assert read_toml(f"a{'.a' * DEEPEST} = 1")["a"]["a"]
    with pytest.raises(ValueError, match=TOO_DEEP):
        read_toml(f"a{'.a' * (DEEPEST + 1)} = 1")


def test_a_text_that_is_too_large_is_refused():
    assert read_toml("#" * LARGEST) == {}
    with pytest.raises(ValueError, match=f"more than {LARGEST} characters"):
        read_toml("#" * (LARGEST + 1))


def test_an_integer_that_python_does_not_read_is_refused_by_name():
    with pytest.raises(ValueError, match="an integer of more than 300 digits"):
        read_toml(f"a = {'9' * 5000}")


def test_toml_is_read_here_and_nowhere_else():
    files = Path(gpumlp.__file__).parent.rglob("*.py")
    found = [path.name for path in files if "tomllib.load" in path.read_text(encoding="utf-8")]
    assert found == ["toml_text.py"]
