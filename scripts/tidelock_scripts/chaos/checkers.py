"""Do a history and the cluster's final state agree with what is promised?

Every event carries its place in its participant's order, the Lamport timestamp, so most of it is
decided exactly and in little time: an order of operations is given, and only has to fit real time.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scripts.tidelock_scripts.chaos.history import (
    ClockRead,
    Draw,
    Ending,
    History,
    StoredEvent,
    Write,
)
from scripts.tidelock_scripts.chaos.linearizability import (
    KeyVerdict,
    Operation,
    Verdict,
    check_history,
)


@dataclass(frozen=True, slots=True)
class Violation:
    rule: str
    detail: str


def check_everything(
    history: History, lists: Mapping[str, Sequence[StoredEvent]]
) -> list[Violation]:
    """Check all rules. `lists` holds, for each node, all events as that node lists them.

    The first list serves as the final state; that the others are equal is a rule as well.
    """
    stored = next(iter(lists.values()))
    return [
        *check_agreement(lists),
        *check_presence(history.writes, stored),
        *check_clock_rule(history.writes, stored),
        *check_real_time(history, stored),
        *check_by_search(history, stored),
        *check_draws(history.draws),
    ]


def check_agreement(lists: Mapping[str, Sequence[StoredEvent]]) -> list[Violation]:
    """All nodes list the same events in the same order."""
    (first_node, first), *others = lists.items()
    violations = []
    for node, events in others:
        if list(events) == list(first):
            continue
        only_first = set(first) - set(events)
        only_other = set(events) - set(first)
        detail = (
            f"{node} lists {len(events)} events, {first_node} lists {len(first)}; "
            f"only {first_node}: {_some(only_first)}; only {node}: {_some(only_other)}"
        )
        violations.append(Violation("nodes agree", detail))
    return violations


def check_presence(writes: Iterable[Write], stored: Sequence[StoredEvent]) -> list[Violation]:
    """Acknowledged once: stored once, as answered. Refused: not stored. Unknown: at most once."""
    violations = []
    by_unique_id: dict[str | None, list[StoredEvent]] = defaultdict(list)
    for event in stored:
        by_unique_id[event.unique_id].append(event)
    for write in writes:
        found = by_unique_id.pop(write.unique_id, [])
        if len(found) > 1:
            violations.append(Violation("no event twice", f"{write} is stored as {found}"))
        elif found and write.ending is Ending.REFUSED:
            violations.append(Violation("refused is not done", f"{write} is stored: {found[0]}"))
        elif not found and write.ending is Ending.ACKNOWLEDGED:
            violations.append(Violation("no acknowledged event lost", f"{write} is not stored"))
        elif found and write.ending is Ending.ACKNOWLEDGED:
            answered = (write.event_id, write.participant, write.lamport)
            kept = (found[0].event_id, found[0].participant, found[0].lamport)
            if answered != kept:
                detail = f"{write} is stored as {found[0]}"
                violations.append(Violation("stored as answered", detail))
    violations.extend(
        Violation("only what was asked for", f"nobody wrote {event}")
        for events in by_unique_id.values()
        for event in events
    )
    return violations


def check_clock_rule(writes: Iterable[Write], stored: Sequence[StoredEvent]) -> list[Violation]:
    """In commit order a participant's clock goes to max(local, received) + 1, no further."""
    violations = []
    repeated = [key for key, n in Counter(event.event_id for event in stored).items() if n > 1]
    if repeated:
        violations.append(Violation("event ids are unique", _some(set(repeated))))
    received = {write.unique_id: write.received_timestamp for write in writes}
    clocks: dict[str, StoredEvent] = {}
    for event in sorted(stored, key=lambda event: event.event_id):
        before = clocks.get(event.participant)
        local = before.lamport if before is not None else 0
        expected = max(local, received.get(event.unique_id or "", 0)) + 1
        if event.lamport != expected:
            detail = f"{event} follows {before} and should have timestamp {expected}"
            violations.append(Violation("Lamport clock", detail))
        clocks[event.participant] = event
    return violations


def check_real_time(history: History, stored: Sequence[StoredEvent]) -> list[Violation]:
    """What ended before something began stands before it; reads are linearizable.

    A write stands at its timestamp; a read of value v stands behind the write at v and before the
    next one. With every place known, this order is a linearization exactly when no operation ends
    before another one begins that stands before it.
    """
    lamports = {event.unique_id: event.lamport for event in stored if event.unique_id is not None}
    values: dict[str, set[int]] = defaultdict(lambda: {0})
    for event in stored:
        values[event.participant].add(event.lamport)
    placed: dict[str, list[_Placed]] = defaultdict(list)
    for write in history.writes:
        lamport = lamports.get(write.unique_id)
        if lamport is not None:
            ended_ns = write.ended_ns if write.ending is Ending.ACKNOWLEDGED else None
            place = _Placed(write.begun_ns, ended_ns, lamport, write)
            placed[write.participant].append(place)
    violations = []
    for read in history.reads:
        if read.lamport not in values[read.participant]:
            detail = f"{read} is a value that the clock never had"
            violations.append(Violation("reads are linearizable", detail))
        else:
            place = _Placed(read.begun_ns, read.ended_ns, read.lamport, read)
            placed[read.participant].append(place)
    for operations in placed.values():
        violations.extend(_out_of_order(operations))
    return violations


@dataclass(frozen=True, slots=True)
class _Placed:
    begun_ns: int
    ended_ns: int | None
    lamport: int
    operation: Write | ClockRead


def _out_of_order(operations: list[_Placed]) -> list[Violation]:
    """Sweep by time of beginning; remember the furthest of all that had ended by then."""
    violations = []
    running: list[tuple[int, int, _Placed]] = []
    furthest: _Placed | None = None
    for number, later in enumerate(sorted(operations, key=lambda placed: placed.begun_ns)):
        while running and running[0][0] < later.begun_ns:
            ended = heapq.heappop(running)[2]
            if furthest is None or ended.lamport > furthest.lamport:
                furthest = ended
        if furthest is not None:
            is_write = isinstance(later.operation, Write)
            least = furthest.lamport + 1 if is_write else furthest.lamport
            if later.lamport < least:
                rule = "timestamps follow real time" if is_write else "reads are linearizable"
                detail = f"{later.operation} began after {furthest.operation} had ended"
                violations.append(Violation(rule, detail))
        if later.ended_ns is not None:
            heapq.heappush(running, (later.ended_ns, number, later))
    return violations


def check_draws(draws: Sequence[Draw]) -> list[Violation]:
    """No timestamp of the oracle comes twice, and all are above those that came before the call."""
    violations = []
    by_value = sorted(draws, key=lambda draw: draw.first)
    for lower, upper in itertools.pairwise(by_value):
        if upper.first <= lower.last:
            violations.append(Violation("no timestamp twice", f"{lower} and {upper}"))
    ended = sorted(draws, key=lambda draw: draw.ended_ns)
    greatest: Draw | None = None
    position = 0
    for draw in sorted(draws, key=lambda draw: draw.begun_ns):
        while ended[position].ended_ns < draw.begun_ns:
            if greatest is None or ended[position].last > greatest.last:
                greatest = ended[position]
            position += 1
        if greatest is not None and draw.first <= greatest.last:
            detail = f"{draw} began after {greatest} had ended"
            violations.append(Violation("the oracle follows real time", detail))
    return violations


@dataclass(frozen=True, slots=True)
class ClockAction:
    """A tick to `value`, or a read of it."""

    value: int
    is_write: bool
    received_timestamp: int = 0


class LamportClock:
    """The sequential object behind a participant's clock, for the search."""

    initial = 0

    def step(self, state: int, action: ClockAction) -> int | None:
        if action.is_write:
            after = max(state, action.received_timestamp) + 1
            return after if after == action.value else None
        return state if action.value == state else None


def check_by_search(history: History, stored: Sequence[StoredEvent]) -> list[Violation]:
    """A second opinion that relies on no places: search each participant's history.

    What never reached the final state did not happen; what did is known by its timestamp, even
    when its client never learnt it.
    """
    lamports = {event.unique_id: event.lamport for event in stored if event.unique_id is not None}
    operations = [
        Operation(read.participant, read.begun_ns, read.ended_ns, ClockAction(read.lamport, False))
        for read in history.reads
    ]
    for write in history.writes:
        lamport = lamports.get(write.unique_id)
        if lamport is not None:
            ended_ns = write.ended_ns if write.ending is Ending.ACKNOWLEDGED else None
            action = ClockAction(lamport, True, write.received_timestamp)
            operations.append(Operation(write.participant, write.begun_ns, ended_ns, action))
    return [
        _search_violation(found)
        for found in check_history(operations, LamportClock())
        if found.verdict is not Verdict.LINEARIZABLE
    ]


def _search_violation(found: KeyVerdict) -> Violation:
    detail = f"{found.key}, {found.operations} operations, {found.verdict.value}: {found.reason}"
    return Violation("linearizable by search", detail)


def _some(items: Iterable[object], limit: int = 3) -> str:
    shown = sorted(str(item) for item in items)
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more if shown else "nothing"
