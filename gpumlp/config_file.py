"""Configuration files: find and read TOML, apply --set, report every problem at once, write."""

import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from .config import Config, known_keys
from .config_checks import clashes, quoted
from .errors import ConfigError

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
DOTTED_KEY = re.compile(r"[\w-]+(\[\d+\])*(\.[\w-]+(\[\d+\])*)*", re.ASCII)
PART_OF_KEY = re.compile(r"([\w-]+)|\[(\d+)\]", re.ASCII)
BARE_KEY = re.compile(r"[\w-]+", re.ASCII)
LONGEST_VALUE = 60
ALIKE = 0.63  # of 1; "optimizer.lz" for "optimizer.lr" just passes


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
    mapping = _read_toml(path)
    _make_paths_absolute(mapping, path.parent)
    problems = [problem for text in overrides if (problem := _override(mapping, text))]
    _make_paths_absolute(mapping, Path())
    return _checked(mapping, str(path), problems)


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
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        shipped = shipped_configs()
        near = _did_you_mean("".join(get_close_matches(path.stem, shipped, 1)))
        raise ConfigError(f"{path}: no such file; shipped are {quoted(shipped)}{near}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None


def _find(source: str | Path) -> Path:
    """The file, if there is one, before the shipped configuration of that name."""
    path = Path(source)
    return path if os.path.isfile(path) else shipped_configs().get(str(source), path)


def _read_toml(path: Path) -> dict[str, Any]:
    text = config_text(path)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {_syntax_error(error, text)}") from None


def _syntax_error(error: Exception, text: str) -> str:
    """What `tomllib` says, with the position in front."""
    message, _, position = str(error).partition(" (at ")
    numbers = re.findall(r"\d+", position)
    if not numbers:  # "at end of document"
        lines = text.rstrip("\n").split("\n")
        numbers = [str(len(lines)), str(len(lines[-1]) + 1)]
    return f"line {numbers[0]}, column {numbers[1]}: {message}"


def _make_paths_absolute(mapping: dict[str, Any], folder: Path) -> None:
    data = mapping.get("data")
    if not isinstance(data, dict):
        return
    paths: list[tuple[Any, str]]
    paths = [(data, "source"), (data.get("test"), "path"), (data.get("val"), "path")]
    for table, key in paths:
        path = table.get(key) if isinstance(table, dict) else None
        if isinstance(path, str) and path.endswith(".npz"):
            table[key] = os.path.abspath(folder / os.path.expanduser(path))


def _override(mapping: dict[str, Any], text: str) -> Problem | None:
    """Put one KEY=VALUE into the mapping; what is wrong with it, if anything."""
    key, equals, word = (part.strip() for part in text.partition("="))
    if not equals or not DOTTED_KEY.fullmatch(key):
        return Problem(f"--set {text}", "expected KEY=VALUE, as in optimizer.lr=0.01")
    try:
        parsed = tomllib.loads(f"value = {word}")
        value = parsed["value"] if len(parsed) == 1 else word
    except (ValueError, RecursionError):
        if word.startswith(('"', "'", "[", "{")):
            return Problem(f"--set {text}", "the value is not valid TOML")
        value = word
    parts = [int(index) if index else name for name, index in PART_OF_KEY.findall(key)]
    if not _put(mapping, parts, value):
        return Problem(f"--set {text}", f"the configuration has no place for {key}")
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
    config, found = _validate(mapping)
    problems = sorted({*problems, *found})
    if not problems:
        return config
    width = max(len(problem.key) for problem in problems)
    lines = [f"  {problem.key:<{width}}    {problem.text}" for problem in problems]
    title = f"{where}: {len(lines)} problem{'s' if len(lines) > 1 else ''}"
    raise ConfigError("\n".join([title, *lines]))


def _validate(mapping: Mapping[str, Any]) -> tuple[Config, list[Problem]]:
    """The configuration, made of its valid parts, and what is wrong with the others."""
    given = {"data": {}, **mapping}  # without [data], what is missing is data.source
    try:
        config, errors = Config.model_validate(given), []
    except ValidationError as error:
        errors = error.errors(include_url=False)
        config = Config.model_validate(_valid_part(given, errors))
    wrong = {_dotted(error["loc"][:2]) for error in errors}
    wrong |= {_nearest(_dotted(e["loc"])) for e in errors if e["type"] == "extra_forbidden"}
    problems = [_problem(error) for error in errors]
    for clash in clashes(config):
        if not any(f"{key}.".startswith(f"{w}.") for key in clash.keys for w in wrong):
            problems.append(Problem(clash.keys[0], clash.problem))
    return config, problems


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
        return Problem(key, f"unknown key{_did_you_mean(_nearest(key))}")
    if kind == "missing":
        what = known_keys()[re.sub(r"\[\d+\]", "[0]", key)].description
        return Problem(key, f"must be given: {what}")
    value, hint = error["input"], ""
    if kind == "literal_error":
        choices = re.findall(r"'([^']+)'", limits["expected"])
        allowed = f"must be one of {quoted(choices)}"
        hint = _did_you_mean("".join(get_close_matches(str(value).lower(), choices, 1)))
    elif kind in LIMITS:
        name, sign = LIMITS[kind]
        allowed = f"must be {sign} {limits[name]:g}"
    elif kind == "expected":  # from config.expects
        allowed = error["msg"]
    else:
        allowed = EXPECTED.get(kind, "is not valid")
    return Problem(key, f"{allowed}, got {_shown(value)}{hint}")


def _did_you_mean(what: str) -> str:
    return f'; did you mean "{what}"?' if what else ""


def _nearest(key: str) -> str:
    """The known key most like this one, or nothing; its last part may belong anywhere."""

    def alike(known: str) -> float:
        whole = SequenceMatcher(None, key, known).ratio()
        last = SequenceMatcher(None, key.rpartition(".")[2], known.rpartition(".")[2]).ratio()
        return (whole + 2 * last) / 3

    best = max(known_keys(), key=alike)
    index = re.search(r"\[\d+\]", key)
    shown = best.replace("[0]", index[0]) if index else best
    return shown if alike(best) >= ALIKE else ""


def _dotted(location: Sequence[str | int]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{_toml_key(part)}" for part in location]
    return "".join(parts).removeprefix(".")


def _toml_key(name: str) -> str:
    return name if BARE_KEY.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _shown(value: object) -> str:
    """A value as TOML would write it, cut when long."""
    text = _toml(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_toml_key(str(k))} = {_toml(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return str(value).lower() if isinstance(value, bool) else str(value)
