"""Columns of SQLite, where a value has a type and a column only an inclination.

The five types of values are Python's own. `+` before a column keeps the converters out that an
application may have registered for declared types.
"""

from __future__ import annotations

import math
from typing import Final

from tidelock.sql.columns import Form, Identify, KeyPart
from tidelock.sql.values import Value

_TAGS: Final = ("bytes:", "float:", "text:")

_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def form_of(declared: str, collation: str = "BINARY") -> Form:
    """Return how values of a column travel. `collation` is that of the primary key's index."""
    folds: dict[str, Identify] = {
        "BINARY": _identify,
        "NOCASE": _identify_nocase,
        "RTRIM": _identify_rtrim,
    }
    return Form(
        declared.lower() or "any",
        lambda column: f"+{column}",
        identify=folds.get(collation.upper()),
    )


def _identify(value: Value) -> KeyPart:
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        return f"text:{value}" if value.startswith(_TAGS) else value
    if isinstance(value, float):
        if math.isfinite(value) and value.is_integer() and abs(value) < 2**63:
            return int(value)
        return f"float:{value!r}"
    assert isinstance(value, bytes)
    return f"bytes:{value.hex()}"


def _identify_nocase(value: Value) -> KeyPart:
    """Fold as NOCASE does: the 26 letters of ASCII and no others."""
    return _identify(value.translate(_LOWER) if isinstance(value, str) else value)


def _identify_rtrim(value: Value) -> KeyPart:
    return _identify(value.rstrip(" ") if isinstance(value, str) else value)
