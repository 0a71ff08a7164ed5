"""Versioned objects: concurrent writes stay, and a write replaces what its writer had read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine import objects
from statemachine.commands import AnyCommand
from statemachine.objects import GREATEST_SIBLING_BYTES, GREATEST_SIBLINGS, get_object
from statemachine.outcomes import ObjectWritten, Outcome, RejectionCode, Sibling
from statemachine.stored_events import ObjectWritten as ObjectWrittenRow
from statemachine.vector_histories import GREATEST_PARTICIPANTS
from statemachine.versions import list_events, version_vector
from tests.statemachine.building import START_MS, Log, code, increment, result, write
from tidelock.clocks import DottedVersionVectorSet, VersionVector

GREATEST = 2**63 - 1


def written(outcome: Outcome) -> ObjectWritten:
    found = result(outcome)
    assert isinstance(found, ObjectWritten)
    return found


def values(log: Log, key: str = "k") -> list[bytes]:
    return [sibling.value for sibling in get_object(log.store, key).siblings]


@pytest.mark.parametrize(
    ("steps", "siblings", "context"),
    [
        ([write(b"1")], [("a", 1, b"1")], {"a": 1}),
        # Two writers that had read nothing, through one participant and through two.
        ([write(b"1"), write(b"2")], [("a", 1, b"1"), ("a", 2, b"2")], {"a": 2}),
        (
            [write(b"1"), write(b"2", node_id="b")],
            [("a", 1, b"1"), ("b", 1, b"2")],
            {"a": 1, "b": 1},
        ),
        # A writer that had read what is there.
        ([write(b"1"), write(b"2", {"a": 1})], [("a", 2, b"2")], {"a": 2}),
        # One that had read the first of two siblings.
        (
            [write(b"1"), write(b"2"), write(b"3", {"a": 1}, node_id="b")],
            [("a", 2, b"2"), ("b", 1, b"3")],
            {"a": 2, "b": 1},
        ),
        # One that resolves all of them.
        (
            [write(b"1"), write(b"2", node_id="b"), write(b"3", {"a": 1, "b": 1}, node_id="b")],
            [("b", 2, b"3")],
            {"a": 1, "b": 2},
        ),
        # A context from the future, after a restored backup: what it covers is replaced.
        ([write(b"1"), write(b"2", {"a": 5, "c": 0})], [("a", 6, b"2")], {"a": 6}),
        # Another key is another object.
        ([write(b"1"), write(b"2", key="other")], [("a", 1, b"1")], {"a": 1}),
        # Equal values of concurrent writers are two versions all the same.
        ([write(b"1"), write(b"1")], [("a", 1, b"1"), ("a", 2, b"1")], {"a": 2}),
    ],
)
def test_what_is_current_after_writes(
    steps: list[AnyCommand], siblings: list[tuple[str, int, bytes]], context: dict[str, int]
) -> None:
    log = Log()
    outcomes = [log.do(step) for step in steps]
    found = get_object(log.store, "k")
    assert found.siblings == tuple(Sibling(*sibling) for sibling in siblings)
    assert found.context == context
    if steps[-1].key == "k":  # type: ignore[union-attr]
        assert written(outcomes[-1]) == ObjectWritten(
            key="k", context=found.context, siblings=found.siblings
        )


def test_an_object_never_written_has_no_value() -> None:
    for key in ("k", "", "k" * 10_000):
        found = get_object(Log().store, key)
        assert (found.siblings, found.context) == ((), {})


def test_objects_and_version_vectors_of_one_key_are_two_things() -> None:
    log = Log()
    log.send(increment(), write(b"1", node_id="b"))
    assert version_vector(log.store, "k") == {"a": 1}
    assert get_object(log.store, "k").context == {"b": 1}


def test_a_write_is_stored_as_an_event_without_its_value() -> None:
    log = Log()
    log.send(write(b"1", node_id="b"), write(b"22", {"b": 1, "a": 0}))
    (event,) = list_events(log.store, node_id="a", limit=10)[0]
    assert isinstance(event.row, ObjectWrittenRow)
    assert (event.row.key, event.row.count, event.row.siblings) == ("k", 1, 1)
    assert event.vector == event.row.context == {"b": 1}
    assert event.row.created_at_ms == START_MS
    assert b"22" not in log.rows(b"e")[-1][1]


@pytest.mark.parametrize(
    ("before", "command", "expected"),
    [
        ([], write(b"1", key=""), RejectionCode.INVALID_COMMAND),
        ([], write(b"1", key="k" * 480), RejectionCode.INVALID_COMMAND),
        ([], write(b"1", node_id=""), RejectionCode.INVALID_COMMAND),
        ([], write(b"1", {"": 1}), RejectionCode.INVALID_COMMAND),
        ([], write(b"1", {"a": -1}), RejectionCode.INVALID_COMMAND),
        ([], write(b"1", {"a": GREATEST}), RejectionCode.CLOCK_OVERFLOW),
        ([write(b"1", {"a": GREATEST - 1})], write(b"1"), RejectionCode.CLOCK_OVERFLOW),
        (
            [],
            write(b"1", {f"p{number}": 1 for number in range(GREATEST_PARTICIPANTS)}),
            RejectionCode.VECTOR_TOO_LARGE,
        ),
        ([write(b"1")] * GREATEST_SIBLINGS, write(b"1"), RejectionCode.TOO_MANY_SIBLINGS),
        (
            [write(b"1" * (GREATEST_SIBLING_BYTES // 2))] * 2,
            write(b"1"),
            RejectionCode.TOO_MANY_SIBLINGS,
        ),
    ],
)
def test_what_is_refused_leaves_no_trace(
    before: list[AnyCommand], command: AnyCommand, expected: RejectionCode
) -> None:
    log = Log()
    for earlier in before:
        log.do(earlier)
    rows = [row for row in log.store.items() if row[0][:1] in b"eFYP"]
    assert code(log.do(command)) is expected
    assert [row for row in log.store.items() if row[0][:1] in b"eFYP"] == rows


def test_an_object_that_is_full_of_siblings_takes_the_write_that_resolves_them() -> None:
    log = Log()
    for _ in range(GREATEST_SIBLINGS):
        log.do(write(b"1"))
    log.do(write(b"2", get_object(log.store, "k").context))
    assert values(log) == [b"2"]


names = st.sampled_from(["a", "b", "a\0"])


@settings(max_examples=80)
@given(st.lists(st.tuples(names, st.integers(0, 5)), max_size=25))
def test_objects_are_the_sets_of_the_sdk(history: list[tuple[str, int]]) -> None:
    """Each writer has read the object as it was some writes ago, or never."""
    log = Log()
    model: DottedVersionVectorSet[bytes] = DottedVersionVectorSet()
    contexts = [VersionVector()]
    for number, (node_id, ago) in enumerate(history):
        context = contexts[max(0, len(contexts) - 1 - ago)]
        value = b"%d" % number
        model = model.update(context, value, node_id)
        contexts.append(model.context())
        answer = written(log.do(write(value, dict(context.entries), node_id=node_id)))
        assert [sibling.value for sibling in answer.siblings] == list(model.values)
        assert answer.context == dict(sorted(model.context().entries.items()))
        assert objects.get_object(log.store, "k").siblings == answer.siblings
