"""What all answers have in common. Members that are added later are left out, not refused."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")

Vector = dict[str, int]
"""A counter for each participant; a missing one counts 0."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A JSON object with members in camel case."""


class Page(Answer, Generic[T], frozen=True, kw_only=True):
    """A part of a list."""

    items: list[T]
    next_cursor: str | None
    """Where the next part begins; None at the end."""
