"""Each rule of vectors is broken once in a history, and found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from scripts.tidelock_scripts.chaos.checkers import Violation
from scripts.tidelock_scripts.chaos.vector_checks import (
    VectorCall,
    VectorEvent,
    as_vector,
    check_causality,
    check_stored_vectors,
    check_vectors,
    check_vectors_by_search,
    relation_of,
    without_unknown,
)


def rules(violations: Sequence[Violation]) -> set[str]:
    return {violation.rule for violation in violations}


def raised(
    name: str, begun: int, ended: int | None, received: dict[str, int] | None = None, **after: int
) -> VectorCall:
    """A call that counts for its own participant."""
    return VectorCall(
        name,
        begun,
        ended,
        counts=name,
        received=as_vector(received or {}),
        answer=as_vector(after) if ended is not None else None,
    )


def read(name: str, begun: int, ended: int, **entries: int) -> VectorCall:
    return VectorCall(name, begun, ended, is_read=True, answer=as_vector(entries))


def event(event_id: str, participant: str, message_id: str = "", **entries: int) -> VectorEvent:
    return VectorEvent(event_id, participant, as_vector(entries), message_id)


TICKED = raised("a", 0, 10, a=1)
SENT = raised("a", 20, 30, a=2)
RECEIVED = raised("b", 40, 50, {"a": 2}, a=2, b=1)
CALLS = [TICKED, SENT, RECEIVED]
EVENTS = [
    event("e1", "a", a=1),
    event("e2", "a", a=2),
    event("e3", "b", "e2", a=2, b=1),
    event("e4", "c", c=1),
]
BESIDE = raised("c", 40, 50, c=1)


@pytest.mark.parametrize(
    ("first", "second", "relation"),
    [
        ({}, {}, "EQUAL"),
        ({"a": 1}, {"a": 1, "b": 0}, "EQUAL"),
        ({"a": 1}, {"a": 2}, "BEFORE"),
        ({"a": 1, "b": 1}, {"a": 1}, "AFTER"),
        ({"a": 1}, {"b": 1}, "CONCURRENT"),
    ],
)
def test_relations_are_those_of_the_papers(
    first: dict[str, int], second: dict[str, int], relation: str
) -> None:
    assert relation_of(first, second) == relation


def test_a_clean_history_has_no_violation() -> None:
    written = [
        VectorCall("k", 0, 10, counts="a", answer=as_vector({"a": 1})),
        VectorCall(
            "k",
            20,
            30,
            received=as_vector({"b": 4}),
            answer=as_vector({"a": 1, "b": 4}),
            relation="CONCURRENT",
        ),
        read("k", 35, 40, a=1, b=4),
    ]
    calls = [*CALLS, BESIDE, read("a", 12, 15, a=1)]
    assert check_vectors(calls, EVENTS, written) == []


def test_a_stale_read_is_found() -> None:
    assert rules(check_vectors_by_search([TICKED, read("a", 20, 30)])) == {"linearizable by search"}


def test_an_event_that_is_counted_twice_is_found() -> None:
    again = replace(SENT, answer=as_vector({"a": 3}))
    assert rules(check_vectors_by_search([TICKED, again])) == {"linearizable by search"}


def test_a_receipt_that_learns_nothing_is_found() -> None:
    deaf = replace(RECEIVED, answer=as_vector({"b": 1}))
    assert rules(check_vectors_by_search([deaf])) == {"linearizable by search"}


def test_a_wrong_relation_of_a_merge_is_found() -> None:
    merge = VectorCall(
        "k", 0, 10, received=as_vector({"a": 1}), answer=as_vector({"a": 1}), relation="BEFORE"
    )
    assert check_vectors_by_search([merge]) == []
    wrong = replace(merge, relation="CONCURRENT")
    assert rules(check_vectors_by_search([wrong])) == {"linearizable by search"}


def test_a_lost_event_is_found() -> None:
    assert "stored as answered" in rules(check_stored_vectors(CALLS, EVENTS[:2]))


def test_a_gap_in_a_participants_events_is_found() -> None:
    assert "events are counted one by one" in rules(check_stored_vectors([], [EVENTS[1]]))


def test_an_event_that_nobody_asked_for_is_found() -> None:
    assert rules(check_stored_vectors(CALLS, EVENTS)) == {"only what was asked for"}
    unknown = raised("c", 0, None)
    assert check_stored_vectors([*CALLS, unknown], EVENTS) == []


def test_what_was_never_told_is_known_by_what_is_stored() -> None:
    unknown = raised("b", 35, None, {"a": 2})
    calls = without_unknown([TICKED, SENT, unknown, read("b", 60, 70, a=2, b=1)], EVENTS)
    assert check_vectors_by_search(calls) == []
    # It began after it was read.
    late = replace(unknown, begun_ns=100)
    calls = without_unknown([TICKED, SENT, late, read("b", 60, 70, a=2, b=1)], EVENTS)
    assert rules(check_vectors_by_search(calls)) == {"linearizable by search"}


def test_concurrent_events_that_are_reported_ordered_are_found() -> None:
    claimed = event("e4", "c", a=1, c=1)
    assert check_causality(EVENTS) == []
    assert rules(check_causality([*EVENTS[:3], claimed])) == {"vectors tell causes"}


def test_ordered_events_that_are_reported_concurrent_are_found() -> None:
    deaf = event("e3", "b", "e2", b=1)
    assert rules(check_causality([*EVENTS[:2], deaf])) == {"vectors tell causes"}
