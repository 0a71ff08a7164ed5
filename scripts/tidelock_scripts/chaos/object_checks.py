"""What clients of versioned objects were told, and whether no write was lost and none came back.

A write is known by its dot: its writer and how many writes of that one it made. A state of an
object has the writes whose dots its context covers, whatever came first, and shows those of them
that no other write of it had read. So every answer can be judged by itself, and the answers of one
object lie in one line, each with all writes of those that ended before it began.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scripts.tidelock_scripts.chaos.checkers import Violation

Dot = tuple[str, int]
"""A writer, and its count."""
Context = tuple[tuple[str, int], ...]
"""Counts by writer, in the order of the names."""


@dataclass(frozen=True, slots=True)
class ObjectCall:
    """A write or a read of one object that was answered."""

    key: str
    begun_ns: int
    ended_ns: int
    context: Context
    """Of the answer."""
    siblings: Mapping[Dot, bytes]
    """The values of the answer."""
    writer: str = ""
    """Empty: it is a read."""
    value: bytes = b""
    read: Context = ()
    """What the writer had read."""

    @property
    def dot(self) -> Dot:
        """Of a write: what the answer says of it."""
        return self.writer, dict(self.context)[self.writer]


@dataclass(frozen=True, slots=True)
class StoredWrite:
    """A write as it is stored, whether or not its writer was told."""

    key: str
    dot: Dot
    read: Context
    value: bytes | None
    """None: the store does not say."""


def as_context(counts: Mapping[str, int]) -> Context:
    return tuple(sorted(counts.items()))


def check_objects(
    calls: Sequence[ObjectCall], untold: Sequence[StoredWrite] = ()
) -> list[Violation]:
    """Return what is wrong with the answers, when every write that was made is among them.

    `untold` are writes whose writers were not answered.
    """
    by_key: dict[str, list[ObjectCall]] = defaultdict(list)
    for call in calls:
        by_key[call.key].append(call)
    return [
        found
        for key in sorted(by_key)
        for found in _check_one(key, by_key[key], [each for each in untold if each.key == key])
    ]


def _check_one(key: str, calls: list[ObjectCall], untold: list[StoredWrite]) -> list[Violation]:
    writes = {each.dot: each for each in untold}
    found: list[Violation] = []
    for call in calls:
        if not call.writer:
            continue
        if call.writer not in dict(call.context) or call.siblings.get(call.dot) != call.value:
            return [Violation("a write is in its own answer", f"{key}: {call}")]
        if call.dot in writes:
            detail = f"{key}: {call} and {writes[call.dot]}"
            found.append(Violation("no dot is given twice", detail))
        writes[call.dot] = StoredWrite(key, call.dot, call.read, call.value)
    for call in calls:
        expected = _shown(call.context, writes)
        if not _fits(call.siblings, expected):
            detail = f"{key}: {call} should show {sorted(expected)}"
            found.append(Violation("what nobody had read stays, and nothing else", detail))
    return found + _check_line(key, calls)


def _shown(context: Context, writes: Mapping[Dot, StoredWrite]) -> dict[Dot, bytes | None]:
    """Return the values of a state: those of its writes that no other write of it had read."""
    there = {dot: write for dot, write in writes.items() if _covers(context, dot)}
    return {
        dot: write.value
        for dot, write in there.items()
        if not any(_covers(other.read, dot) for other in there.values())
    }


def _fits(siblings: Mapping[Dot, bytes], expected: Mapping[Dot, bytes | None]) -> bool:
    return siblings.keys() == expected.keys() and all(
        value is None or siblings[dot] == value for dot, value in expected.items()
    )


def _covers(context: Context, dot: Dot) -> bool:
    writer, count = dot
    return dict(context).get(writer, 0) >= count


def _check_line(key: str, calls: list[ObjectCall]) -> list[Violation]:
    """The states that were answered follow each other, in real time, too."""
    found: list[Violation] = []
    ordered = sorted(calls, key=lambda call: sum(count for _, count in call.context))
    for before, after in itertools.pairwise(ordered):
        if not all(_covers(after.context, dot) for dot in before.context):
            found.append(Violation("one state follows another", f"{key}: {before} and {after}"))
    ended = sorted(calls, key=lambda call: call.ended_ns)
    greatest: dict[str, int] = {}
    at = 0
    for call in sorted(calls, key=lambda call: call.begun_ns):
        while at < len(ended) and ended[at].ended_ns < call.begun_ns:
            for writer, count in ended[at].context:
                greatest[writer] = max(greatest.get(writer, 0), count)
            at += 1
        if not all(_covers(call.context, dot) for dot in greatest.items()):
            found.append(Violation("what was answered before is there", f"{key}: {call}"))
    return found
