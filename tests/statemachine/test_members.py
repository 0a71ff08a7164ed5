"""Participants come, leave, come back and are listed; routing states are recorded."""

from __future__ import annotations

import pytest

from statemachine import members
from statemachine.commands import (
    AnyCommand,
    ChangeRouting,
    JoinParticipant,
    LeaveParticipant,
)
from statemachine.machine import Machine
from statemachine.members import ParticipantStatus, get_participant, list_participants
from statemachine.memory_store import MemoryStore
from statemachine.outcomes import ParticipantChanged, RejectionCode, RoutingChanged
from statemachine.paging import InvalidCursorError
from statemachine.routing import GREATEST_REASON, RoutingState, list_routing
from statemachine.timestamps import clock
from tests.statemachine.building import START_MS, Log, code, record, recorded, result, sync

JOIN = JoinParticipant(node_id="a")
LEAVE = LeaveParticipant(node_id="a")


@pytest.mark.parametrize(
    ("before", "command", "active", "changed"),
    [
        ([], JOIN, True, True),
        ([JOIN], JOIN, True, False),
        ([record("a")], JOIN, True, False),
        ([JOIN, LEAVE], JOIN, True, True),
        ([JOIN], LEAVE, False, True),
        ([record("a")], LEAVE, False, True),
        ([sync("a", 3)], LEAVE, False, True),
        ([JOIN, LEAVE], LEAVE, False, False),
        ([JOIN, LEAVE, record("a")], LEAVE, False, True),
        ([JOIN, LEAVE, sync("a", 3)], JOIN, True, False),
    ],
)
def test_joining_and_leaving(
    before: list[AnyCommand], command: AnyCommand, active: bool, changed: bool
) -> None:
    log = Log()
    for earlier in before:
        log.do(earlier)
    log.wait(10)
    assert result(log.do(command)) == ParticipantChanged(
        node_id="a", active=active, changed=changed
    )
    status = get_participant(log.store, "a")
    assert status is not None
    assert status.active is active
    assert status.since_ms == (START_MS + 10 if changed else START_MS)


@pytest.mark.parametrize("before", [[], [JoinParticipant(node_id="b")], [sync("a", 2**63 - 1)]])
def test_nobody_leaves_who_never_came(before: list[AnyCommand]) -> None:
    log = Log()
    for earlier in before:
        log.do(earlier)
    assert code(log.do(LEAVE)) is RejectionCode.PARTICIPANT_NOT_FOUND
    assert get_participant(log.store, "a") is None


@pytest.mark.parametrize("node_id", ["", "n" * 480])
def test_a_name_that_cannot_be_is_refused(node_id: str) -> None:
    log = Log()
    for command in (
        JoinParticipant(node_id=node_id),
        ChangeRouting(node_id=node_id, state="FAILED", reason=""),
    ):
        assert code(log.do(command)) is RejectionCode.INVALID_COMMAND
    assert not log.rows(b"P") + log.rows(b"R")


def test_the_clock_of_who_left_stands_still_until_the_next_event() -> None:
    log = Log()
    log.send(record("a"), LEAVE, record("b"))
    assert clock(log.store, "a") == 1
    log.do(record("a"))
    assert clock(log.store, "a") == 2


def test_all_within_one_request_see_each_other() -> None:
    log = Log()
    outcomes = log.send(JOIN, LEAVE, record("a"), JOIN).outcomes
    changes = [result(outcomes[place]) for place in (0, 1, 3)]
    assert [each.changed for each in changes if isinstance(each, ParticipantChanged)] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 100])
def test_participants_are_listed_in_order_of_name(limit: int) -> None:
    log = Log()
    names = ["\0", "a", "a\0b", "ab", "名"]
    for name in reversed(names):
        log.do(record(name))
    found: list[ParticipantStatus] = []
    cursor = None
    while True:
        page, cursor = list_participants(log.store, cursor=cursor, limit=limit)
        assert len(page) <= limit
        found += page
        if cursor is None:
            break
    assert [each.node_id for each in found] == names
    assert found[1] == ParticipantStatus(
        node_id="a", lamport_timestamp=1, active=True, since_ms=START_MS
    )


def test_clocks_in_use_stay_in_memory_but_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "GREATEST_CACHED", 3)
    reads: list[bytes] = []

    class CountingStore(MemoryStore):
        def get(self, key: bytes) -> bytes | None:
            reads.append(key)
            return super().get(key)

    log = Log()
    log.store = CountingStore()
    log.machine = Machine(log.store)
    log.send(record("a"), record("b"), record("c"))
    reads.clear()
    log.do(record("a"))
    assert b"Pa\0" not in reads
    log.do(record("d"))
    assert recorded(log.do(record("a"))).lamport_timestamp == 3
    assert reads.count(b"Pa\0") == 1


def test_a_participant_list_refuses_a_cursor_from_elsewhere() -> None:
    with pytest.raises(InvalidCursorError):
        list_participants(Log().store, cursor="?", limit=1)


def test_routing_states_are_recorded_with_reason_and_time() -> None:
    log = Log()

    def change(state: str, reason: str) -> object:
        return result(log.do(ChangeRouting(node_id="n1", state=state, reason=reason)))

    assert change("HEALTHY", "") == RoutingChanged(node_id="n1", state="HEALTHY", changed=True)
    log.wait(10)
    assert change("FAILED", "3 missed") == RoutingChanged(
        node_id="n1", state="FAILED", changed=True
    )
    log.wait(10)
    assert change("FAILED", "more") == RoutingChanged(node_id="n1", state="FAILED", changed=False)
    log.do(ChangeRouting(node_id="n0", state="SUSPECT", reason="r" * 5_000))
    assert list_routing(log.store, limit=10) == [
        RoutingState(
            node_id="n0",
            state="SUSPECT",
            reason="r" * GREATEST_REASON,
            since_ms=START_MS + 20,
        ),
        RoutingState(node_id="n1", state="FAILED", reason="3 missed", since_ms=START_MS + 10),
    ]


@pytest.mark.parametrize("state", ["", "failed", "DOWN", "HEALTHY "])
def test_an_unknown_routing_state_is_refused(state: str) -> None:
    log = Log()
    refused = log.do(ChangeRouting(node_id="n1", state=state, reason=""))
    assert code(refused) is RejectionCode.INVALID_COMMAND
    assert list_routing(log.store, limit=10) == []
