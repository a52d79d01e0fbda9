"""Which keys of a configuration are not what they are by default, or in another one."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from .config import Config, known_keys


class Difference(NamedTuple):
    """A key, its value, the default, and what it means; a default of None is no value at all."""

    key: str
    value: Any
    default: Any
    meaning: str


def differences(config: Config) -> list[Difference]:
    """Return the keys whose value is not the default, in the order of the configuration.

    >>> from gpumlp.config_file import parse_config
    >>> config = parse_config({"data": {"source": "builtin:digits"}, "optimizer": {"lr": 0.5}})
    >>> [(d.key, d.value, d.default) for d in differences(config)]
    [('data.source', 'builtin:digits', None), ('optimizer.lr', 0.5, 0.001)]
    """
    keys = known_keys()
    found = []
    for key, value in _leaves(config.model_dump(), keys):
        known = keys[_pattern(key)]
        default = _default(known)
        if value != default:
            found.append(Difference(key, value, default, known.description or ""))
    return found


def changes(then: Config, now: Config) -> list[str]:
    """Say which keys have changed, one line for each.

    >>> from gpumlp.config_file import parse_config
    >>> then, now = (
    ...     parse_config({"data": {"source": "builtin:digits"}, "optimizer": {"lr": lr}})
    ...     for lr in (0.5, 0.1)
    ... )
    >>> changes(then, now)
    ['optimizer.lr    was 0.5, is 0.1']
    """
    keys = known_keys()
    before, after = (dict(_leaves(config.model_dump(), keys)) for config in (then, now))
    return [
        f"{key}    was {_shown(before.get(key))}, is {_shown(after.get(key))}"
        for key in before | after
        if before.get(key) != after.get(key)
    ]


def _shown(value: Any) -> str:
    return "not given" if value is None else json.dumps(value, ensure_ascii=False)


def _leaves(
    table: dict[str, Any], keys: dict[str, FieldInfo], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield every key that is no section with its value, lists for tuples."""
    for name, value in table.items():
        key = prefix + name
        inside = any(other.startswith(f"{_pattern(key)}.") for other in keys)
        if isinstance(value, dict) and inside:
            yield from _leaves(value, keys, f"{key}.")
        elif isinstance(value, list | tuple) and all(isinstance(v, dict) for v in value) and value:
            for i, inner in enumerate(value):
                yield from _leaves(inner, keys, f"{key}[{i}].")
        else:
            yield key, list(value) if isinstance(value, tuple) else value


def _pattern(key: str) -> str:
    return re.sub(r"\[\d+\]", "[0]", key)


def _default(known: FieldInfo) -> Any:
    value = known.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return None
    return list(value) if isinstance(value, tuple) else value
