"""Was every watcher told the log exactly: each change once, in its order, wherever it asked?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scripts.tidelock_scripts.chaos.checkers import Violation

Message = Mapping[str, Any]
"""What a watcher is told of one position: `id` and `changes`, each of which has a `kind`."""


def position_of(text: str) -> tuple[int, int]:
    """Read `entry.position`."""
    entry, _, place = text.partition(".")
    return int(entry or 0), int(place or 0)


def check_streams(streams: Mapping[str, Sequence[Message]]) -> list[Violation]:
    """Positions rise in each stream, and all streams say the same."""
    (first_name, first), *others = streams.items()
    violations = []
    for name, stream in streams.items():
        last = (-1, -1)
        for message in stream:
            position = position_of(message["id"])
            if position <= last:
                detail = f"{name} was told of {position} after {last}"
                violations.append(Violation("each change once and in order", detail))
                break
            last = position
    for name, stream in others:
        if list(stream) != list(first):
            detail = f"{name} and {first_name}: {_difference(stream, first)}"
            violations.append(Violation("all watchers are told the same", detail))
    return violations


def check_filtered(
    stream: Sequence[Message], whole: Sequence[Message], wanted: Callable[[str], bool]
) -> list[Violation]:
    """Who watches some kinds only is told exactly those."""
    expected = [
        {**message, "changes": changes}
        for message in whole
        if (changes := [change for change in message["changes"] if wanted(change["kind"])])
    ]
    if list(stream) == expected:
        return []
    return [Violation("a filter leaves out the others only", _difference(stream, expected))]


def check_told(what: str, told: Sequence[object], stored: Sequence[object]) -> list[Violation]:
    """Watchers were told of everything that is stored, of each once and in its order."""
    if list(told) == list(stored):
        return []
    return [Violation("watchers are told what is stored", f"{what}: {_difference(told, stored)}")]


def _difference(told: Sequence[object], expected: Sequence[object]) -> str:
    for number, (one, other) in enumerate(zip(told, expected, strict=False)):
        if one != other:
            return f"at {number} there is {one}, not {other}"
    if len(told) < len(expected):
        return f"{expected[len(told)]} and what follows is missing"
    return f"{told[len(expected)]} and what follows is too much" if told != expected else "equal"
