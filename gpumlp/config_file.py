"""Configuration files: find and read TOML, apply --set, report every problem at once, write."""

import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from .config import Config, known_keys
from .config_checks import clashes, quoted
from .data.sources import is_file
from .errors import ConfigError
from .suggestions import did_you_mean, meant_values, nearest_key, nearest_name, syntax_hint
from .toml_text import DEEPEST, LARGEST, TOO_DEEP, read_toml

EXPECTED = {
    "bool_type": "expected true or false",
    "finite_number": "expected a finite number",
    "float_type": "expected a number",
    "model_type": "expected a table",
    "string_type": "expected a string",
    "tuple_type": "expected a list",
}
LIMITS = {
    "greater_than": ("gt", ">"),
    "greater_than_equal": ("ge", ">="),
    "less_than": ("lt", "<"),
    "less_than_equal": ("le", "<="),
}
DOTTED_KEY = re.compile(r"[\w-]+(\[\d{1,9}\])*(\.[\w-]+(\[\d{1,9}\])*)*", re.ASCII)
PART_OF_KEY = re.compile(r"([\w-]+)|\[(\d+)\]", re.ASCII)
BARE_KEY = re.compile(r"[\w-]+", re.ASCII)
LONGEST_VALUE = 60
LONGEST_NAME = 200  # of a key, or of what --set was given, in a message
LONGEST_LIST = 4  # of shipped configurations, in a message
MOST_PROBLEMS = 20  # in a message
MOST_ENTRIES = 2**16  # of a list; each wrong one is a problem
LARGEST_INTEGER = 2**1023  # Python writes none of more than 4300 digits


class Problem(NamedTuple):
    """What is wrong, and at which key."""

    key: str
    text: str


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file, apply overrides, and check everything.

    Relative paths in the file count from the file's folder, those in overrides from the current
    folder; both become absolute.

    Args:
        source: path of a TOML file, or the name of a shipped configuration.
        overrides: "key.sub=VALUE" as for --set; VALUE is TOML, a bare word is a string.

    Raises ConfigError, with all problems in one text, also when there is no such file.

    >>> load_config("digits", ["optimizer.name=sgd", "optimizer.lr=0.5"]).optimizer.lr
    0.5
    """
    path = _find(source)
    mapping = _read(path)
    _make_paths_absolute(mapping, path.parent)
    problems = [problem for text in overrides if (problem := _override(mapping, text))]
    _make_paths_absolute(mapping, Path())
    config = _checked(mapping, str(path), problems)
    if len(dump_config(config)) > LARGEST:  # which a run and a model keep, and read again
        raise ConfigError(f"{path}: with every default, more than {LARGEST} characters")
    return config


def parse_config(mapping: Mapping[str, Any], where: str = "config") -> Config:
    """Check a configuration given as nested dicts, as `tomllib` reads them.

    Args:
        mapping: sections and keys; relative paths stay as they are.
        where: what the error text calls it.

    Raises ConfigError, with all problems in one text.

    >>> parse_config({"data": {"source": "builtin:digits"}}).model.hidden
    (64,)
    """
    return _checked(mapping, where, [])


def dump_config(config: Config) -> str:
    """A configuration as TOML with every default written out; loading it gives an equal one.

    >>> config = parse_config({"data": {"source": "builtin:digits"}})
    >>> dump_config(config).splitlines()[:2]
    ['name = "run"', 'seed = 0']
    """
    return tomli_w.dumps(config.model_dump())


def shipped_configs() -> dict[str, Path]:
    """The configurations that come with gpumlp, by name."""
    package = Path(__file__).resolve().parent
    installed, checkout = package / "_configs", package.parent / "configs"
    folder = installed if installed.is_dir() else checkout
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def config_text(source: str | Path) -> str:
    """The text of a configuration file as it stands, or of a shipped configuration.

    Raises ConfigError when there is no such file, or it cannot be read or is not UTF-8.

    >>> 'source = "builtin:digits"' in config_text("digits")
    True
    """
    path = _find(source)
    try:
        with path.open("rb") as file:  # which may be a pipe, and without an end
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ConfigError(f"{path}: no configuration: more than {LARGEST} bytes")
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; {_shipped_like(path.stem)}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except ValueError:
        raise ConfigError(f"{path}: no such file: no name of a file has a null byte") from None


def _find(source: str | Path) -> Path:
    """The file, if there is one, before the shipped configuration of that name."""
    path = Path(source)
    return path if os.path.isfile(path) else shipped_configs().get(str(source), path)


def _shipped_like(name: str) -> str:
    """Which configurations are shipped, and which of them is meant."""
    shipped = list(shipped_configs())
    near = nearest_name(name, shipped)
    rest = len(shipped) - LONGEST_LIST
    more = f" and {rest} more (gpumlp config list)" if rest > 0 else ""
    hint = did_you_mean(near and quoted([near]))
    return f"shipped are {quoted(shipped[:LONGEST_LIST])}{more}{hint}"


def _read(path: Path) -> dict[str, Any]:
    text = config_text(path)
    try:
        return read_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {_syntax_error(error, text)}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _syntax_error(error: Exception, text: str) -> str:
    """What `tomllib` says, with the position in front."""
    message, _, position = str(error).partition(" (at ")
    numbers = re.findall(r"\d+", position)
    if not numbers:  # "at end of document"
        lines = text.rstrip("\n").split("\n")
        numbers = [str(len(lines)), str(len(lines[-1]) + 1)]
    line = text.split("\n")[int(numbers[0]) - 1].rstrip("\r")
    # what is said of keys declared twice and the like needs no hint
    hint = "" if message.startswith("Cannot") else syntax_hint(line)
    return f"line {numbers[0]}, column {numbers[1]}: {message}{hint}"


def _make_paths_absolute(mapping: dict[str, Any], folder: Path) -> None:
    data = mapping.get("data")
    if not isinstance(data, dict):
        return
    for table, key in ((data, "source"), (data.get("test"), "path"), (data.get("val"), "path")):
        if not isinstance(table, dict):
            continue
        source = str(table.get(key))
        if is_file(source) and not re.search(r"\.(npz|csv(\.gz)?|parquet)$", source, re.IGNORECASE):
            _make_absolute(table, "target", folder)  # in those it names an array or a column
        _make_absolute(table, key, folder)
    if isinstance(data.get("path"), str):  # of a folder
        data["path"] = os.path.abspath(folder / os.path.expanduser(data["path"]))


def _make_absolute(table: dict[str, Any], key: str, folder: Path) -> None:
    path = table.get(key)
    if isinstance(path, str) and is_file(path):
        table[key] = os.path.abspath(folder / os.path.expanduser(path))


def _override(mapping: dict[str, Any], text: str) -> Problem | None:
    """Put one KEY=VALUE into the mapping; what is wrong with it, if anything."""
    key, equals, word = (part.strip() for part in text.partition("="))
    setting = f"--set {_cut(text, LONGEST_NAME)}"
    if not equals or not DOTTED_KEY.fullmatch(key):
        return Problem(setting, "expected KEY=VALUE, as in optimizer.lr=0.01")
    try:
        parsed = read_toml(f"value = {word}")
        value = parsed["value"] if len(parsed) == 1 else word
    except ValueError as error:
        if word.startswith(('"', "'", "[", "{")):
            syntax = isinstance(error, tomllib.TOMLDecodeError)
            why = f"not valid TOML{syntax_hint(f'value = {word}')}" if syntax else error
            return Problem(setting, f"the value is {why}")
        value = word
    parts = [int(index) if index else name for name, index in PART_OF_KEY.findall(key)]
    if len(parts) > DEEPEST or not _put(mapping, parts, value):
        place = _cut(key, LONGEST_NAME)
        return Problem(setting, f"the configuration has no place for {place}")
    return None


def _put(node: Any, parts: Sequence[str | int], value: object) -> bool:
    """Set a value deep inside, making tables on the way; whether there is such a place."""
    part, *rest = parts
    if isinstance(part, int):
        fits = isinstance(node, list) and part < len(node)
    else:
        fits = isinstance(node, dict)
    if not fits:
        return False
    if not rest:
        node[part] = value
        return True
    if isinstance(node, dict) and isinstance(rest[0], str):
        node.setdefault(part, {})
    return _put(node.get(part) if isinstance(node, dict) else node[part], rest, value)


def _checked(mapping: Mapping[str, Any], where: str, problems: Sequence[Problem]) -> Config:
    _check_extent(mapping, where)
    config, found, left_out = _validate(mapping)
    problems = sorted({*problems, *found})
    if not problems:
        return config
    width = max(len(problem.key) for problem in problems)
    lines = [f"  {problem.key:<{width}}    {problem.text}" for problem in problems]
    count = len(lines) + left_out
    title = f"{where}: {count} problem{'s' if count > 1 else ''}"
    more = [f"  and {left_out} more"] if left_out else []
    raise ConfigError("\n".join([title, *lines, *more]))


def _check_extent(mapping: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError for values nested too deeply, too many, or too large to be written."""
    nodes: list[Any] = [mapping]
    for _ in range(DEEPEST + 1):
        if any(isinstance(node, int) and abs(node) > LARGEST_INTEGER for node in nodes):
            raise ConfigError(f"{where}: an integer of more than 300 digits")
        tables = [node.values() for node in nodes if isinstance(node, Mapping)]
        lists = [node for node in nodes if isinstance(node, list | tuple)]
        if any(len(entries) > MOST_ENTRIES for entries in lists):
            raise ConfigError(f"{where}: a list of more than {MOST_ENTRIES} entries")
        nodes = list(chain.from_iterable([*tables, *lists]))
    if nodes:
        raise ConfigError(f"{where}: {TOO_DEEP}")


def _validate(mapping: Mapping[str, Any]) -> tuple[Config, list[Problem], int]:
    """The configuration, made of its valid parts, what is wrong with the others, how many more."""
    given = {"data": {}, **mapping}  # without [data], what is missing is data.source
    try:
        config, errors = Config.model_validate(given), []
    except ValidationError as error:
        errors = error.errors(include_url=False)
        config = Config.model_validate(_valid_part(given, errors))
    wrong = {_dotted(error["loc"][:2]) for error in errors}
    errors, left_out = errors[:MOST_PROBLEMS], len(errors[MOST_PROBLEMS:])
    wrong |= {nearest_key(_dotted(e["loc"])) for e in errors if e["type"] == "extra_forbidden"}
    problems = [_problem(error) for error in errors]
    for clash in clashes(config):
        if not any(f"{key}.".startswith(f"{w}.") for key in clash.keys for w in wrong):
            problems.append(Problem(clash.keys[0], clash.problem))
    return config, problems, left_out


def _valid_part(given: Mapping[str, Any], errors: Sequence[ErrorDetails]) -> dict[str, Any]:
    """What was given, less every key in which something is wrong; defaults stand in for it."""
    valid: dict[Any, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in given.items()}
    for error in errors:
        first, *others = error["loc"]
        section = valid.get(first)
        if others and isinstance(section, dict):
            section.pop(others[0], None)
        else:
            valid.pop(first, None)
    valid.setdefault("data", {}).setdefault("source", "builtin:digits")
    return valid


def _problem(error: ErrorDetails) -> Problem:
    """A pydantic error in our words."""
    key, kind, limits = _dotted(error["loc"]), error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        near = nearest_key(key)
        return Problem(key, f"unknown key{did_you_mean(near and quoted([near]))}")
    if kind == "missing":
        what = known_keys()[re.sub(r"\[\d+\]", "[0]", key)].description
        return Problem(key, f"must be given: {what}")
    value, near = error["input"], ""
    if kind == "literal_error":
        choices = re.findall(r"'([^']+)'", limits["expected"])
        allowed = f"must be one of {quoted(choices)}"
        near = quoted(filter(None, [nearest_name(str(value), choices)]))
    elif kind in LIMITS:
        name, sign = LIMITS[kind]
        allowed = f"must be {sign} {limits[name]:g}"
    else:  # "expected" is from config.expects
        allowed = error["msg"] if kind == "expected" else EXPECTED.get(kind, "is not valid")
        near = _meant(value, error["loc"])
    return Problem(key, f"{allowed}, got {_shown(value)}{did_you_mean(near)}")


def _meant(value: object, location: Sequence[str | int]) -> str:
    """The value as it could have been meant, if the configuration would take it there."""
    place = tuple(0 if isinstance(part, int) else part for part in location)
    for candidate in meant_values(value):
        alone: Any = candidate
        for part in reversed(place):
            alone = {part: alone} if isinstance(part, str) else [alone]
        try:
            Config.model_validate(alone)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False, include_input=False)
            if any(e["loc"][: len(place)] == place for e in errors):
                continue
        return _shown(candidate)
    return ""


def _dotted(location: Sequence[str | int]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{_toml_key(part)}" for part in location]
    return "".join(parts).removeprefix(".")


def _toml_key(name: str) -> str:
    key = name if BARE_KEY.fullmatch(name) else json.dumps(name, ensure_ascii=False)
    return _cut(key, LONGEST_NAME)


def _shown(value: object) -> str:
    """A value as TOML would write it, cut when long."""
    return _cut(_toml(value), LONGEST_VALUE)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_toml_key(str(k))} = {_toml(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return str(value).lower() if isinstance(value, bool) else str(value)
