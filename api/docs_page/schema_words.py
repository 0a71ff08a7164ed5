"""Schemas in words: what type a value has, and within which limits."""

from __future__ import annotations

import json
from typing import Any, Final

Json = dict[str, Any]

GREATEST_PATTERN: Final = 60
"""Characters of a pattern that is shown; what is longer, a description has to say."""

_PYTHON_END: Final = r"(?!\n)"
"""What patterns need in Python to end where they end elsewhere."""


class Schemas:
    """The schemas of a document, by name."""

    def __init__(self, components: Json) -> None:
        self._components = components

    def resolve(self, schema: Json) -> Json:
        while "$ref" in schema:
            schema = self._components[schema["$ref"].rpartition("/")[2]]
        return schema

    def variants(self, schema: Json) -> list[Json]:
        """Return what a value can be, besides null."""
        schema = self.resolve(schema)
        found = schema.get("anyOf") or schema.get("oneOf")
        if not found:
            return [schema]
        return [one for part in found if part != {"type": "null"} for one in self.variants(part)]

    def kind(self, schema: Json) -> str:
        """Return the type in a few words."""
        whole = self.resolve(schema)
        words = list(dict.fromkeys(self._kind(variant) for variant in self.variants(whole)))
        if {"type": "null"} in [*whole.get("anyOf", ()), *whole.get("oneOf", ())]:
            words.append("null")
        return " or ".join(words)

    def _kind(self, schema: Json) -> str:
        kind = schema.get("type")
        if kind == "array":
            return f"array of {self.kind(schema.get('items', {}))}"
        if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
            return f"object of {self.kind(schema['additionalProperties'])}"
        if kind is None:
            values = [schema["const"]] if "const" in schema else schema.get("enum", [])
            return "string" if values and isinstance(values[0], str) else "any JSON"
        return str(kind)

    def nested(self, schema: Json) -> list[Json]:
        """Return the objects with fields of their own that a value is made of."""
        found: list[Json] = []
        for variant in self.variants(schema):
            if "properties" in variant:
                found.append(variant)
            elif variant.get("type") == "array":
                found += self.nested(variant.get("items", {}))
            elif isinstance(variant.get("additionalProperties"), dict):
                found += self.nested(variant["additionalProperties"])
        return found

    def limits(self, schema: Json) -> list[str]:
        """Return what restricts a value, each in a few words; code in backquotes."""
        whole = self.resolve(schema)
        found: list[str] = []
        for variant in self.variants(whole):
            found += _limits(variant)
        if whole.get("default") not in (None, []):
            found.append(f"default `{json.dumps(whole['default'])}`")
        return list(dict.fromkeys(found))


def _limits(schema: Json) -> list[str]:
    found = [
        _range(schema.get("minimum"), schema.get("maximum"), ""),
        _range(schema.get("minLength"), schema.get("maxLength"), "characters"),
        _range(schema.get("minItems"), schema.get("maxItems"), "items"),
    ]
    if "const" in schema:
        found.append(f"always `{_shown(schema['const'])}`")
    if "enum" in schema:
        values = " or ".join(f"`{_shown(value)}`" for value in schema["enum"])
        found.append(f"always {values}" if len(schema["enum"]) == 1 else values)
    pattern = schema.get("pattern", "").removesuffix(_PYTHON_END)
    if pattern and len(pattern) <= GREATEST_PATTERN:
        found.append(f"matches `{pattern}`")
    items = schema.get("items")
    if isinstance(items, dict):
        found += [f"each {limit}" for limit in _limits(items)]
    return [limit for limit in found if limit]


def _range(least: int | None, greatest: int | None, unit: str) -> str:
    """`maxLength` alone is a limit; `minItems: 1` alone says that it is not empty."""
    match least, greatest:
        case None, None:
            return ""
        case None | 0, _ if unit and greatest is not None:
            words = f"at most {greatest}"
        case None, _:
            words = f"at most {greatest}"
        case _, None:
            words = f"at least {least}"
        case _:
            words = f"{least} to {greatest}" if least != greatest else f"exactly {least}"
    return f"{words} {unit}".rstrip()


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
