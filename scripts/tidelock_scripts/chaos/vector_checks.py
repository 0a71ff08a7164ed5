"""Do vector clocks and version vectors say what happened before what, no more and no less?

Participants and keys are one kind of object here: a vector that calls raise and read. Who caused
whom is found a second time without any vector, from the order of each participant's events and
from the messages between them.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from scripts.tidelock_scripts.chaos.checkers import Violation
from scripts.tidelock_scripts.chaos.linearizability import Operation, Verdict, check_history

Vector = tuple[tuple[str, int], ...]
"""Entries above 0, in the order of the names."""

_ENOUGH = 20
"""One wrong vector is wrong for all that it is compared with."""


def as_vector(entries: Mapping[str, int]) -> Vector:
    return tuple(sorted((name, count) for name, count in entries.items() if count))


@dataclass(frozen=True, slots=True)
class VectorCall:
    """A call that raises a vector, or reads it."""

    name: str
    """The participant, or the key."""
    begun_ns: int
    ended_ns: int | None
    """None when it was never told."""
    counts: str = ""
    """Whose entry rises by one; empty: nobody's."""
    received: Vector = ()
    """What is merged first."""
    is_read: bool = False
    answer: Vector | None = None
    """The vector right after it, or as it was read. None when it was never told."""
    relation: str | None = None
    """Of the vector to the received one before, as answered."""


def relation_of(first: Mapping[str, int], second: Mapping[str, int]) -> str:
    """Compare two vectors, as the papers say: entry by entry, a missing one counts as 0."""
    names = first.keys() | second.keys()
    more = any(first.get(name, 0) > second.get(name, 0) for name in names)
    less = any(first.get(name, 0) < second.get(name, 0) for name in names)
    return {
        (False, False): "EQUAL",
        (True, False): "AFTER",
        (False, True): "BEFORE",
        (True, True): "CONCURRENT",
    }[more, less]


class VectorObject:
    """The sequential object behind a vector."""

    initial: Vector = ()

    def step(self, state: Vector, action: VectorCall) -> Vector | None:
        if action.is_read:
            return state if action.answer == state else None
        entries = dict(state)
        received = dict(action.received)
        if action.relation is not None and relation_of(entries, received) != action.relation:
            return None
        for name, count in received.items():
            entries[name] = max(count, entries.get(name, 0))
        if action.counts:
            entries[action.counts] = entries.get(action.counts, 0) + 1
        after = as_vector(entries)
        return after if action.answer in (None, after) else None


def check_vectors_by_search(calls: Iterable[VectorCall]) -> list[Violation]:
    """Search an order of the calls on each vector that explains every answer."""
    operations = [Operation(call.name, call.begun_ns, call.ended_ns, call) for call in calls]
    return [
        Violation(
            "linearizable by search",
            f"vector {found.key}, {found.operations} operations, {found.verdict.value}: "
            f"{found.reason}",
        )
        for found in check_history(operations, VectorObject())
        if found.verdict is not Verdict.LINEARIZABLE
    ]


@dataclass(frozen=True, slots=True)
class VectorEvent:
    """A vector event as the cluster lists it."""

    event_id: str
    participant: str
    vector: Vector
    message_id: str = ""
    """Of a receipt: the event that sent it."""

    @property
    def count(self) -> int:
        return dict(self.vector).get(self.participant, 0)


def check_stored_vectors(
    calls: Iterable[VectorCall], events: Sequence[VectorEvent]
) -> list[Violation]:
    """What was acknowledged is stored as answered, and each participant's events are 1, 2, 3 …

    Beside them there may be as many events as calls were never told what became of them.
    """
    violations = []
    by_participant: dict[str, list[VectorEvent]] = defaultdict(list)
    for event in events:
        by_participant[event.participant].append(event)
    for name, of_one in by_participant.items():
        counts = [event.count for event in of_one]
        if counts != list(range(1, len(counts) + 1)):
            detail = f"{name} has the events {counts}"
            violations.append(Violation("events are counted one by one", detail))
    stored = Counter((event.participant, event.vector) for event in events)
    unknown: Counter[str] = Counter()
    for call in calls:
        if call.is_read or not call.counts:
            continue
        if call.answer is None:
            unknown[call.name] += 1
        elif stored[call.name, call.answer] == 0:
            violations.append(Violation("stored as answered", f"{call} is not stored so"))
        else:
            stored[call.name, call.answer] -= 1
    left: Counter[str] = Counter()
    for (name, _), count in stored.items():
        left[name] += count
    violations.extend(
        Violation("only what was asked for", f"{name} has {count} events that nobody asked for")
        for name, count in left.items()
        if count > unknown[name]
    )
    return violations


def without_unknown(calls: Iterable[VectorCall], events: Sequence[VectorEvent]) -> list[VectorCall]:
    """Replace calls of participants that were never told by what the list shows of them.

    An event that no answered call explains was that of one that was not answered; it may have
    happened at any time after the first of those began.
    """
    known: list[VectorCall] = []
    begun_ns: dict[str, int] = {}
    for call in calls:
        if call.answer is not None or not call.counts:
            known.append(call)
        else:
            begun_ns[call.name] = min(call.begun_ns, begun_ns.get(call.name, call.begun_ns))
    explained = {(call.name, call.answer) for call in known if not call.is_read}
    sent = {event.event_id: event.vector for event in events}
    return known + [
        VectorCall(
            event.participant,
            begun_ns[event.participant],
            None,
            counts=event.participant,
            received=sent.get(event.message_id, ()),
            answer=event.vector,
        )
        for event in events
        if (event.participant, event.vector) not in explained and event.participant in begun_ns
    ]


@dataclass(slots=True)
class _Past:
    """Everything that happened before an event, as bits, the event itself included."""

    event: VectorEvent
    bits: int = 0
    number: int = field(default=0)


def check_causality(events: Sequence[VectorEvent], limit: int = 400) -> list[Violation]:
    """Vectors order two events exactly when one of them led to the other.

    `events` are in the order of the log. At most the last `limit` are compared with each other, all
    are followed back.
    """
    pasts: list[_Past] = []
    by_id: dict[str, _Past] = {}
    last: dict[str, _Past] = {}
    for number, event in enumerate(events):
        past = _Past(event, 1 << number, number)
        for cause in (last.get(event.participant), by_id.get(event.message_id)):
            if cause is not None:
                past.bits |= cause.bits
        pasts.append(past)
        by_id[event.event_id] = last[event.participant] = past
    vectors = {past.number: dict(past.event.vector) for past in pasts}
    violations = []
    for one, other in itertools.combinations(pasts[-limit:], 2):
        # The earlier one in the log cannot have been caused by the later one.
        led_to = bool(other.bits >> one.number & 1)
        said = relation_of(vectors[one.number], vectors[other.number])
        if said != ("BEFORE" if led_to else "CONCURRENT"):
            truth = "led to it" if led_to else "is concurrent with it"
            detail = f"{one.event} is {said} {other.event}, and {truth}"
            violations.append(Violation("vectors tell causes", detail))
            if len(violations) == _ENOUGH:
                break
    return violations


def check_vectors(
    clocks: Sequence[VectorCall], events: Sequence[VectorEvent], versions: Sequence[VectorCall]
) -> list[Violation]:
    """Check the calls on participants' clocks with all their events, and those on versions."""
    return [
        *check_stored_vectors(clocks, events),
        *check_causality(events),
        *check_vectors_by_search(without_unknown(clocks, events)),
        *check_vectors_by_search(versions),
    ]
