"""Vectors as JSON objects: what version vectors, vector clocks and objects have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from api import requests
from api.errors import Problem, refuse_field
from api.settings import GREATEST_NAME_LENGTH
from api.shapes import PRINTABLE, Answer
from statemachine.vector_histories import GREATEST_COUNT, GREATEST_PARTICIPANTS
from tidelock.clocks import Relation

NAME_SCHEMA: Final = {"minLength": 1, "maxLength": GREATEST_NAME_LENGTH, "pattern": PRINTABLE}
"""Of the name of an entry."""

_SCHEMA: Final = {
    "additionalProperties": {"type": "integer", "minimum": 0, "maximum": GREATEST_COUNT},
    "propertyNames": NAME_SCHEMA,
    "maxProperties": GREATEST_PARTICIPANTS,
}

# What the entries are is checked by `entries`, which can name the one that is wrong.
Vector = Annotated[
    dict[str, Any],
    msgspec.Meta(
        description="A counter for each participant; a missing one counts as 0. Counters are "
        "integers below 2^63, written without fraction or exponent.",
        extra_json_schema=_SCHEMA,
    ),
]

VectorAnswer = Annotated[
    dict[str, int],
    msgspec.Meta(
        description="The counters above 0, in the order of the participants' names.",
        extra_json_schema=_SCHEMA,
    ),
]


class Comparison(Answer, frozen=True, kw_only=True):
    """How two vectors stand to each other."""

    relation: Relation
    """Of the first to the second: the first is BEFORE the second."""


def entries(path: str, vector: Mapping[str, Any]) -> dict[str, int]:
    """Return the vector that a client sent as the field at `path`.

    Raises:
        Problem: an entry is none; it is named.
    """
    if len(vector) > GREATEST_PARTICIPANTS:
        refuse_field(path, f"has more than {GREATEST_PARTICIPANTS} entries")
    if _is_plain(vector):
        return dict(vector)
    for name, count in vector.items():
        if type(count) is not int or not 0 <= count <= GREATEST_COUNT:
            _refuse_count(f"{path}.{name[:GREATEST_NAME_LENGTH]}", count)
        requests.name(f"{path}.{name[:GREATEST_NAME_LENGTH]}", name)
    return dict(vector)


def _is_plain(vector: Mapping[str, Any]) -> bool:
    """Tell at once of most vectors that nothing is wrong, without a look at each entry."""
    names, counts = "".join(vector), vector.values()
    return (
        names.isascii()
        and names.isprintable()
        and all(map(len, vector))
        and max(map(len, vector), default=0) <= GREATEST_NAME_LENGTH
        and set(map(type, counts)) <= {int}
        and min(counts, default=0) >= 0
        and max(counts, default=0) <= GREATEST_COUNT
    )


def _refuse_count(path: str, count: Any) -> None:
    if type(count) is int:
        refuse_field(path, f"must be an integer from 0 to {GREATEST_COUNT}")
    kind = {bool: "bool", type(None): "null", dict: "object", list: "array"}.get(type(count))
    refuse_field(path, f"Expected `int`, got `{kind or type(count).__name__}`")


def answer_not_kept() -> Problem:
    return Problem(
        "ANSWER_NOT_KEPT",
        "The request was done, but the event that its answer is made of has been trimmed since.",
    )
