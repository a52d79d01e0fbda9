"""JSON as other programs read it."""

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any


def to_json(value: Any, indent: int | None = None) -> str:
    """Return JSON; a number that is not finite, which JSON cannot hold, becomes null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value
