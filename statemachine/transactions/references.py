"""Results of steps that feed later ones: `{"$ref": "step.path"}` in a payload stands for a value.

The path leads into the JSON that the step answered, member by member and, in an array, by number;
without one it is the whole answer. Members whose names have a dot in them cannot be reached.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from statemachine.transactions.rows import Branch
from statemachine.transactions.statuses import Mode

GREATEST_REFERENCES: Final = 100
"""In one payload."""

GREATEST_RESOLVED_BYTES: Final = 1 << 20

REFERENCE: Final = "$ref"

_MARK: Final = b'"$ref"'
_ESCAPE: Final = b"\\u"


class FeedError(ValueError):
    """A reference is malformed, or there is nothing where it leads."""


def references_in(payload: bytes) -> list[str]:
    """Return what the references of a payload say, in no order that matters.

    Raises:
        FeedError: one is no text, or stands beside other members, or there are too many.
    """
    if not _may_refer(payload):
        return []
    found: list[str] = []
    for each in _objects(msgspec.json.decode(payload)):
        text = _reference(each)
        if text is not None:
            found.append(text)
    if len(found) > GREATEST_REFERENCES:
        raise FeedError(f"has {len(found)} references, at most {GREATEST_REFERENCES} may be")
    return found


def step_of(reference: str) -> str:
    """Return the name of the step that is referred to."""
    return reference.partition(".")[0]


def resolve(branch: Branch, branches: Sequence[Branch]) -> bytes:
    """Return the payload of a step with the results of earlier ones in it.

    Raises:
        FeedError: there is nothing where a reference leads.
    """
    if branch.mode is not Mode.SAGA or not _may_refer(branch.payload):
        return branch.payload
    results = {each.name: each for each in branches if each is not branch}
    resolved = msgspec.json.encode(_filled(msgspec.json.decode(branch.payload), results))
    if len(resolved) > GREATEST_RESOLVED_BYTES:
        raise FeedError(
            f"the payload of {branch.name} has {len(resolved)} bytes with what it refers to, at "
            f"most {GREATEST_RESOLVED_BYTES} are sent"
        )
    return resolved


def _may_refer(payload: bytes) -> bool:
    return _MARK in payload or _ESCAPE in payload


def _objects(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from _objects(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _objects(value)


def _reference(each: dict[str, Any]) -> str | None:
    text = each.get(REFERENCE)
    if REFERENCE not in each:
        return None
    if len(each) != 1 or not isinstance(text, str):
        raise FeedError(f"{REFERENCE} must be a text and the only member of its object")
    return text


def _filled(tree: Any, results: Mapping[str, Branch]) -> Any:
    if isinstance(tree, list):
        return [_filled(value, results) for value in tree]
    if not isinstance(tree, dict):
        return tree
    text = _reference(tree)
    if text is not None:
        return _value(text, results)
    return {name: _filled(value, results) for name, value in tree.items()}


def _value(reference: str, results: Mapping[str, Branch]) -> Any:
    name, *path = reference.split(".")
    step = results.get(name)
    if step is None:
        raise FeedError(f"{REFERENCE} {reference}: there is no step {name} before this one")
    value = msgspec.json.decode(step.result) if step.result else None
    for at, part in enumerate(path, 1):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            there = ".".join((name, *path[:at]))
            raise FeedError(f"{REFERENCE} {reference}: nothing was answered at {there}")
    return value
