"""JSON as other programs read it."""

import json
import re
from collections.abc import Mapping
from math import isfinite
from typing import Any

SURROGATE = re.compile("[\ud800-\udfff]")


def to_json(value: Any, indent: int | None = None) -> str:
    r"""Return JSON; a number that is not finite, which JSON cannot hold, becomes null.

    What UTF-8 cannot hold, as in the path of a file whose name is not UTF-8, is escaped.

    >>> to_json({"loss": float("nan"), "path": chr(0xDCE9)})
    '{"loss": null, "path": "\\udce9"}'
    """
    text = json.dumps(_finite(value), indent=indent, allow_nan=False, ensure_ascii=False)
    return SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value
