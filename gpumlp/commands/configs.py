"""`gpumlp config`: list the shipped configurations, show one resolved, or print a JSON schema."""

import argparse
import json
import re
from typing import Any

from ..config import FILE, Config
from ..config_file import config_text, dump_config, load_config, shipped_configs
from ..console import show

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `list`, `show` and `schema` with their options to a parser."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|schema")
    for name, help_text in (
        ("list", "name and first line of each shipped configuration"),
        ("show", "a configuration as TOML with every default written out"),
        (
            "schema",
            "a JSON schema for editors: save it, and let a TOML file begin with #:schema FILE",
        ),
    ):
        action = actions.add_parser(name, help=help_text, description=help_text, allow_abbrev=False)
        if name == "show":
            action.add_argument("config", metavar="NAME|PATH", help="a TOML file or a shipped one")
            action.add_argument(
                "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key"
            )


def run(options: argparse.Namespace) -> int:
    """Print what is asked for and return 0; raises ConfigError as `load_config`."""
    match options.action:
        case "list":
            show(listing())
        case "show":
            show(dump_config(load_config(options.config, options.set)).rstrip("\n"))
        case "schema":
            show(json.dumps(editor_schema(), indent=2, ensure_ascii=False))
    return 0


def listing() -> str:
    """Return name and first comment line of each shipped configuration, one a line.

    >>> [line.split()[0] for line in listing().splitlines()] == list(shipped_configs())
    True
    """
    shipped = shipped_configs()
    width = max(map(len, shipped), default=0)
    first_lines = {name: config_text(path).partition("\n")[0] for name, path in shipped.items()}
    return "\n".join(f"{name:<{width}}  {line.lstrip('# ')}" for name, line in first_lines.items())


def editor_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a configuration file, every key described.

    It knows names, types, ranges and choices; which keys go together only `gpumlp` itself checks.

    >>> editor_schema()["$defs"]["Model"]["properties"]["task"]["enum"]
    ['multiclass', 'binary', 'multilabel', 'regression']
    """
    schema: dict[str, Any] = _for_editors(Config.model_json_schema())
    about = "A training run; gpumlp config show NAME prints a complete example."
    return {"$schema": DRAFT, "title": "gpumlp configuration"} | schema | {"description": about}


def _for_editors(spec: Any) -> Any:
    """A schema without what TOML lacks (null), what editors do not read, and what only repeats."""
    if isinstance(spec, list):
        return [_for_editors(part) for part in spec if part != {"type": "null"}]
    if not isinstance(spec, dict):
        return spec
    cleaned = {
        key: _for_editors(value)
        for key, value in spec.items()
        if key != "title" and (key, value) != ("default", None)
    }
    if len(cleaned.get("anyOf", ())) == 1:
        cleaned |= cleaned.pop("anyOf")[0]
    if isinstance(cleaned.get("pattern"), str):
        cleaned["pattern"] = _without_flags(cleaned["pattern"])
    return cleaned


def _without_flags(pattern: str) -> str:
    """A regular expression with [aA] for what (?i:a) says, which JavaScript cannot read."""
    plain = FILE.replace("(?i:", "(?:").replace(r"\-", "-")
    both = re.sub(r"[a-z]", lambda letter: f"[{letter[0]}{letter[0].upper()}]", plain)
    return pattern.replace(FILE, both)
