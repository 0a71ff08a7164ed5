"""The parts of the page at `/docs`: markup that cannot be broken, schemas in words, examples."""

from __future__ import annotations

from typing import Any

import pytest

from api.docs_page.markup import Markup, element, joined, paragraphs, prose
from api.docs_page.schema_words import Schemas
from api.examples import of_schema

COMPONENTS = {
    "Clock": {"type": "object", "properties": {"nodeId": {"type": "string"}, "at": {}}},
    "Left": {"type": "object", "properties": {"left": {"$ref": "#/components/schemas/Left"}}},
}
CLOCK = {"$ref": "#/components/schemas/Clock"}
SCHEMAS = Schemas(COMPONENTS)


def test_text_is_escaped_and_markup_is_not() -> None:
    inner = element("b", "1 < 2 & 3")
    assert inner == "<b>1 &lt; 2 &amp; 3</b>"
    assert element("p", inner, None, ["a", ["'"]]) == "<p><b>1 &lt; 2 &amp; 3</b>a&#x27;</p>"
    assert isinstance(joined("<i>"), Markup)


def test_attributes_are_escaped_and_left_out() -> None:
    made = element("a", class_="x y", aria_label='"><script>', hidden=True, id=None, lang=False)
    assert made == '<a class="x y" aria-label="&quot;&gt;&lt;script&gt;" hidden></a>'
    assert element("meta", name="a") == '<meta name="a">'


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("a `b` c", "a <code>b</code> c"),
        ("`<b>`", "<code>&lt;b&gt;</code>"),
        ("an odd ` one", "an odd  one"),
        ("", ""),
    ],
)
def test_backquotes_surround_code(text: str, markup: str) -> None:
    assert prose(text) == markup


def test_empty_lines_separate_paragraphs() -> None:
    assert paragraphs("a\n\n`b`\nc") == "<p>a</p><p><code>b</code>\nc</p>"


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({}, "any JSON"),
        ({"type": "integer"}, "integer"),
        (CLOCK, "object"),
        ({"type": "array", "items": {"type": "string"}}, "array of string"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string or null"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "string or integer"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "object of integer"),
        ({"enum": ["a", "b"]}, "string"),
    ],
)
def test_a_type_in_words(schema: Any, kind: str) -> None:
    assert SCHEMAS.kind(schema) == kind


@pytest.mark.parametrize(
    ("schema", "limits"),
    [
        ({}, []),
        ({"minimum": 0, "maximum": 9}, ["0 to 9"]),
        ({"minimum": 1}, ["at least 1"]),
        ({"maximum": 9}, ["at most 9"]),
        ({"minLength": 0, "maxLength": 9}, ["at most 9 characters"]),
        ({"minLength": 4, "maxLength": 4}, ["exactly 4 characters"]),
        ({"minItems": 1, "maxItems": 1000}, ["1 to 1000 items"]),
        ({"enum": ["a", "b"]}, ["`a` or `b`"]),
        ({"const": "true"}, ["always `true`"]),
        ({"pattern": "^a$"}, ["matches `^a$`"]),
        ({"pattern": "^a" + "b" * 99}, []),
        ({"type": "integer", "default": 5}, ["default `5`"]),
        (
            {"anyOf": [{"maxLength": 3}, {"type": "null"}], "default": None},
            ["at most 3 characters"],
        ),
    ],
)
def test_limits_in_words(schema: Any, limits: list[str]) -> None:
    assert SCHEMAS.limits(schema) == limits


@pytest.mark.parametrize(
    ("schema", "name", "example"),
    [
        ({"type": "string"}, "nodeId", "orders"),
        ({"type": "string"}, "colour", "colour"),
        ({"type": "string", "minLength": 8}, "colour", "colour--"),
        ({"type": "integer"}, "nodeId", 1),
        ({"type": "integer", "minimum": 7}, "", 7),
        ({"type": "integer", "default": 7}, "", 7),
        ({"type": "boolean"}, "", True),
        ({"enum": ["SHARED"]}, "state", "SHARED"),
        ({"enum": ["FAILED", "HEALTHY"]}, "state", "HEALTHY"),
        ({"type": "string", "examples": ["n4"]}, "nodeId", "n4"),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, "leader", "n1"),
        ({"type": "array", "items": CLOCK, "minItems": 2}, "", [{"nodeId": "orders"}] * 2),
        (
            {"type": "object", "additionalProperties": {"type": "integer"}},
            "",
            {"orders": 1, "payments": 1},
        ),
    ],
)
def test_an_example_follows_from_schema_and_name(schema: Any, name: str, example: Any) -> None:
    assert of_schema(schema, COMPONENTS, name) == example


def test_an_answer_s_example_leaves_nothing_out() -> None:
    assert of_schema(CLOCK, COMPONENTS, whole=True) == {"nodeId": "orders", "at": {}}
