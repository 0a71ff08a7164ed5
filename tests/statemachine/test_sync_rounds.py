"""Synchronisation rounds: what is reported, what becomes the target, and who has taken it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from statemachine import sync_rounds
from statemachine.change_log import read_changes
from statemachine.changes import AnyChange, SyncClosed, SyncSynchronised
from statemachine.commands import (
    AcknowledgeSync,
    CloseSyncRound,
    LeaveParticipant,
    ReportClock,
    SetSyncInterval,
)
from statemachine.members import get_participant
from statemachine.outcomes import (
    ClockReported,
    Outcome,
    Position,
    RejectionCode,
    SyncAcknowledged,
    SyncIntervalSet,
    SyncRoundClosed,
)
from statemachine.sync_rounds import (
    GREATEST_ENTRIES,
    GREATEST_TARGET,
    ROUNDS_KEPT,
    get_report,
    get_round,
    list_rounds,
    open_round,
    read_nodes,
    read_reports,
)
from statemachine.timestamps import clock
from statemachine.vectors import vector_clock
from tests.statemachine.building import START_MS, Log, code, record, result, sync

GREATEST = 2**63 - 1
INTERVAL_MS = 10_000

# The owner's example: three nodes, each ahead in another entry.
EXAMPLE = {
    "node-1": (100, {"n1": 50, "n2": 45, "n3": 40}),
    "node-2": (98, {"n1": 48, "n2": 47, "n3": 41}),
    "node-3": (102, {"n1": 49, "n2": 46, "n3": 43}),
}
TARGET = {"n1": 50, "n2": 47, "n3": 43}


def report(
    node_id: str = "a",
    lamport: int = 0,
    vector: Mapping[str, int] | None = None,
    *,
    own: bool = False,
) -> ReportClock:
    return ReportClock(node_id=node_id, lamport=lamport, vector=dict(vector or {}), own=own)


def run() -> CloseSyncRound:
    return CloseSyncRound(only_if_behind=False)


def close_if_behind() -> CloseSyncRound:
    return CloseSyncRound(only_if_behind=True)


def acknowledge(number: int, node_id: str) -> AcknowledgeSync:
    return AcknowledgeSync(round=number, node_id=node_id)


def reported(outcome: Outcome) -> ClockReported:
    found = result(outcome)
    assert isinstance(found, ClockReported)
    return found


def acknowledged(outcome: Outcome) -> SyncAcknowledged:
    found = result(outcome)
    assert isinstance(found, SyncAcknowledged)
    return found


def report_example(log: Log) -> None:
    for node_id, (lamport, vector) in EXAMPLE.items():
        log.do(report(node_id, lamport, vector))


def told(log: Log) -> list[AnyChange]:
    found = read_changes(log.store, Position(0, 0), limit=500)
    changes = [change for each in found for change in each.changes]
    return [each for each in changes if isinstance(each, SyncClosed | SyncSynchronised)]


# Reports


def test_a_report_is_answered_with_the_target_so_far() -> None:
    log = Log()
    answers = [reported(log.do(report(node_id, *clocks))) for node_id, clocks in EXAMPLE.items()]
    assert [answer.round for answer in answers] == [1, 1, 1]
    assert [answer.target_lamport for answer in answers] == [100, 100, 102]
    assert answers[1].target_vector == {"n1": 50, "n2": 47, "n3": 41}
    assert answers[2].target_vector == TARGET


def test_who_reports_takes_part_and_no_clock_of_the_cluster_has_moved_yet() -> None:
    log = Log()
    log.do(report("a", 9, {"a": 3}))
    participant = get_participant(log.store, "a")
    assert participant is not None
    assert participant.active
    assert clock(log.store, "a") == 0
    assert vector_clock(log.store, "a") == {}


def test_the_last_report_of_a_participant_counts() -> None:
    """One that lost its memory is behind and must be seen to be."""
    log = Log()
    log.do(report("a", 9, {"a": 3}))
    assert reported(log.do(report("a", 2, {"b": 1}))).target_lamport == 2
    assert reported(log.do(report("b", 1))).target_vector == {"b": 1}


def test_entries_of_0_say_nothing_and_names_are_in_order() -> None:
    log = Log()
    answer = reported(log.do(report("a", 0, {"z": 1, "y": 0, "b": 2})))
    assert list(answer.target_vector.items()) == [("b", 2), ("z", 1)]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (report(""), RejectionCode.INVALID_COMMAND),
        (report("x" * 480), RejectionCode.INVALID_COMMAND),
        (report("a", -1), RejectionCode.INVALID_COMMAND),
        (report("a", 0, {"": 1}), RejectionCode.INVALID_COMMAND),
        (report("a", 0, {"b": -1}), RejectionCode.INVALID_COMMAND),
        (report("a", 0, {"b": 2**63}), RejectionCode.INVALID_COMMAND),
        (report("a", GREATEST), RejectionCode.CLOCK_OVERFLOW),
        (report("a", 2**64 - 1), RejectionCode.CLOCK_OVERFLOW),
        (report("a", 0, {"b": GREATEST}), RejectionCode.CLOCK_OVERFLOW),
        (
            report("a", 0, {f"n{at}": 1 for at in range(GREATEST_ENTRIES + 1)}),
            RejectionCode.VECTOR_TOO_LARGE,
        ),
    ],
)
def test_what_cannot_be_reported_is_refused_and_leaves_no_trace(
    command: ReportClock, expected: RejectionCode
) -> None:
    log = Log()
    assert code(log.do(command)) is expected
    assert read_reports(log.store) == {}
    assert get_participant(log.store, "a") is None


def test_all_vectors_together_have_a_bounded_number_of_names() -> None:
    log = Log()
    for first in range(0, GREATEST_TARGET, GREATEST_ENTRIES):
        names = {f"n{at}": 1 for at in range(first, first + GREATEST_ENTRIES)}
        log.do(report(f"p{first}", 0, names))
    assert code(log.do(report("q", 0, {"one more": 1}))) is RejectionCode.VECTOR_TOO_LARGE
    assert reported(log.do(report("q", 0, {"n0": 2}))).target_vector["n0"] == 2
    assert result(log.do(run())) == SyncRoundClosed(round=1, closed=True)
    assert len(vector_clock(log.store, "q")) == GREATEST_TARGET


def test_there_are_not_too_many_reporters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_rounds, "GREATEST_REPORTERS", 2)
    log = Log()
    log.do(report("a"))
    log.do(report("b"))
    assert code(log.do(report("c"))) is RejectionCode.SYNC_REPORTERS_FULL
    assert reported(log.do(report("a", 1))).target_lamport == 1
    log.wait(3 * INTERVAL_MS)
    log.fire_due()
    assert reported(log.do(report("c"))).round == 1


# Silence


def test_a_silent_reporter_expires_after_three_intervals() -> None:
    log = Log()
    log.do(report("a", 9))
    log.wait(INTERVAL_MS)
    log.do(report("b", 5))
    log.wait(2 * INTERVAL_MS - 1)
    log.fire_due()
    assert list(read_reports(log.store)) == ["a", "b"]
    log.wait(1)
    log.fire_due()
    assert list(read_reports(log.store)) == ["b"]
    assert reported(log.do(report("b", 5))).target_lamport == 5


def test_a_report_begins_the_time_anew() -> None:
    log = Log()
    for _ in range(5):
        log.do(report("a", 9))
        log.wait(2 * INTERVAL_MS)
        log.fire_due()
    assert get_report(log.store, "a") is not None
    assert len(log.rows(b"T")) == 2, "one for the report, one for the sender's session"


def test_the_interval_is_the_leaders() -> None:
    log = Log()
    assert result(log.do(SetSyncInterval(interval_ms=100))) == SyncIntervalSet(interval_ms=100)
    log.do(report("a"))
    log.wait(299)
    log.fire_due()
    assert list(read_reports(log.store)) == ["a"]
    log.wait(1)
    log.fire_due()
    assert read_reports(log.store) == {}


@pytest.mark.parametrize("interval_ms", [-1, 0, 9, 24 * 3_600_000 + 1, 2**64 - 1])
def test_an_interval_without_reason_is_refused(interval_ms: int) -> None:
    log = Log()
    assert code(log.do(SetSyncInterval(interval_ms=interval_ms))) is RejectionCode.INVALID_COMMAND
    assert log.machine.sync_interval_ms == INTERVAL_MS


# Rounds


def test_a_closed_round_has_the_maximum_of_each_entry_as_its_target() -> None:
    log = Log()
    report_example(log)
    assert result(log.do(run())) == SyncRoundClosed(round=1, closed=True)
    closed = get_round(log.store, 1)
    assert closed is not None
    assert (closed.target_lamport, closed.target_vector) == (102, TARGET)
    assert (closed.reporters, closed.acknowledged, closed.synchronised_ms) == (3, 0, None)
    assert closed.closed_at == Position(4, 0)
    nodes = read_nodes(log.store, 1)
    assert {name: (node.lamport, node.vector) for name, node in nodes.items()} == EXAMPLE
    assert open_round(log.store) == 2
    assert told(log) == [
        SyncClosed(
            round=1, target_lamport=102, target_vector=TARGET, reporters=tuple(sorted(EXAMPLE))
        )
    ]


def test_the_cluster_s_copies_of_the_reporters_clocks_are_raised_to_it() -> None:
    log = Log()
    log.do(record("bystander"))
    report_example(log)
    log.do(run())
    for node_id in EXAMPLE:
        assert clock(log.store, node_id) == 102
        assert vector_clock(log.store, node_id) == TARGET
    assert (clock(log.store, "bystander"), vector_clock(log.store, "bystander")) == (1, {})


def test_a_clock_never_decreases() -> None:
    log = Log()
    log.do(sync("a", 499))
    log.do(report("a", 3, {"a": 1}))
    log.do(report("b", 7))
    log.do(run())
    assert clock(log.store, "a") == 500
    assert clock(log.store, "b") == 7


def test_an_event_after_the_round_is_above_everything_that_was_reported() -> None:
    log = Log()
    report_example(log)
    log.do(run())
    log.do(record("node-2"))
    assert clock(log.store, "node-2") == 103


def test_who_left_meanwhile_is_raised_and_does_not_return() -> None:
    log = Log()
    log.do(report("a", 5))
    log.do(report("b", 9))
    log.do(LeaveParticipant(node_id="a"))
    log.do(run())
    participant = get_participant(log.store, "a")
    assert participant is not None
    assert (participant.lamport_timestamp, participant.active) == (9, False)


def test_reporters_count_in_the_next_round_as_well() -> None:
    log = Log()
    report_example(log)
    log.do(run())
    log.do(run())
    assert list(read_nodes(log.store, 2)) == sorted(EXAMPLE)


def test_a_round_of_nobody_is_synchronised_at_once() -> None:
    log = Log()
    log.do(run())
    closed = get_round(log.store, 1)
    assert closed is not None
    assert (closed.reporters, closed.synchronised_ms) == (0, START_MS)
    assert told(log)[-1] == SyncSynchronised(round=1)


BEHIND = [
    # reports, whether a round closes by itself
    ([], False),
    ([report("a", 5)], False),
    ([report("a", 5), report("b", 5)], False),
    ([report("a", 5), report("b", 4)], True),
    ([report("a", 5, {"a": 1}), report("b", 5, {"a": 1})], False),
    ([report("a", 5, {"a": 1}), report("b", 5)], True),
    ([report("a", 5, {"a": 2}), report("b", 5, {"a": 1})], True),
]


@pytest.mark.parametrize(("reports", "closes"), BEHIND)
def test_a_round_closes_by_itself_only_when_somebody_is_behind(
    reports: list[ReportClock], closes: bool
) -> None:
    log = Log()
    for each in reports:
        log.do(each)
    assert result(log.do(close_if_behind())) == SyncRoundClosed(round=1, closed=closes)
    assert open_round(log.store) == 1 + closes


def test_a_round_does_not_close_again_without_news() -> None:
    log = Log()
    report_example(log)
    log.do(close_if_behind())
    assert result(log.do(close_if_behind())) == SyncRoundClosed(round=2, closed=False)
    log.do(report("node-1", 100))
    assert result(log.do(close_if_behind())) == SyncRoundClosed(round=2, closed=True)


def test_the_last_rounds_are_kept() -> None:
    log = Log()
    report_example(log)
    for _ in range(ROUNDS_KEPT + 5):
        log.do(run())
    numbers = [number for number, _ in list_rounds(log.store, limit=100)]
    assert numbers == list(range(ROUNDS_KEPT + 5, 5, -1))
    assert read_nodes(log.store, 5) == {}
    assert len(log.rows(b"Bn")) == 3 * ROUNDS_KEPT


# Acknowledgements


def test_a_round_is_synchronised_when_all_its_reporters_acknowledged() -> None:
    log = Log()
    report_example(log)
    log.do(run())
    for node_id in ("node-1", "node-2"):
        assert not acknowledged(log.do(acknowledge(1, node_id))).synchronised
    log.wait(50)
    assert acknowledged(log.do(acknowledge(1, "node-3"))).synchronised
    closed = get_round(log.store, 1)
    assert closed is not None
    assert closed.synchronised_ms == START_MS + 50
    assert told(log)[-1] == SyncSynchronised(round=1)


def test_an_acknowledgement_counts_once() -> None:
    log = Log()
    report_example(log)
    log.do(run())
    for _ in range(3):
        assert not acknowledged(log.do(acknowledge(1, "node-1"))).synchronised
    for node_id in EXAMPLE:
        log.do(acknowledge(1, node_id))
    assert acknowledged(log.do(acknowledge(1, "node-1"))).synchronised
    assert len([each for each in told(log) if isinstance(each, SyncSynchronised)]) == 1


def test_who_acknowledged_is_not_behind_any_more() -> None:
    log = Log()
    report_example(log)
    log.do(run())
    for node_id in EXAMPLE:
        log.do(acknowledge(1, node_id))
    for node_id in EXAMPLE:
        held = get_report(log.store, node_id)
        assert held is not None
        assert (held.lamport, held.vector) == (102, TARGET)
    assert result(log.do(close_if_behind())) == SyncRoundClosed(round=2, closed=False)


def test_an_acknowledgement_is_a_sign_of_life() -> None:
    log = Log()
    log.do(report("a", 1))
    log.do(run())
    log.wait(2 * INTERVAL_MS)
    log.do(acknowledge(1, "a"))
    log.wait(2 * INTERVAL_MS)
    log.fire_due()
    assert list(read_reports(log.store)) == ["a"]


def test_an_acknowledgement_of_an_old_round_takes_nothing_back() -> None:
    log = Log()
    log.do(report("a", 1))
    log.do(run())
    log.do(report("a", 50, {"a": 4}))
    log.do(acknowledge(1, "a"))
    held = get_report(log.store, "a")
    assert held is not None
    assert (held.lamport, held.vector) == (50, {"a": 4})


def test_a_reporter_that_went_silent_leaves_its_round_open_to_see() -> None:
    log = Log()
    log.do(report("a", 1))
    log.do(report("b", 2))
    log.do(run())
    log.do(acknowledge(1, "a"))
    log.wait(3 * INTERVAL_MS)
    log.fire_due()
    closed = get_round(log.store, 1)
    assert closed is not None
    assert closed.synchronised_ms is None
    assert acknowledged(log.do(acknowledge(1, "b"))).synchronised
    assert get_report(log.store, "b") is None


@pytest.mark.parametrize(
    ("number", "node_id", "expected"),
    [
        (2, "a", RejectionCode.SYNC_ROUND_OPEN),
        (3, "a", RejectionCode.SYNC_ROUND_NOT_FOUND),
        (0, "a", RejectionCode.SYNC_ROUND_NOT_FOUND),
        (-1, "a", RejectionCode.SYNC_ROUND_NOT_FOUND),
        (2**64 - 1, "a", RejectionCode.SYNC_ROUND_NOT_FOUND),
        (1, "b", RejectionCode.NOT_A_REPORTER),
        (1, "", RejectionCode.NOT_A_REPORTER),
        (1, "x" * 500, RejectionCode.NOT_A_REPORTER),
    ],
)
def test_what_cannot_be_acknowledged_is_refused(
    number: int, node_id: str, expected: RejectionCode
) -> None:
    log = Log()
    log.do(report("a", 1))
    log.do(run())
    assert code(log.do(acknowledge(number, node_id))) is expected


# Cluster nodes report for themselves


def test_a_node_leaves_its_name_to_others_who_report_under_it() -> None:
    log = Log()
    log.do(report("n1", 7, own=True))
    log.do(report("n1", 3))
    assert reported(log.do(report("n1", 9, own=True))).target_lamport == 3
    held = get_report(log.store, "n1")
    assert held is not None
    assert (held.lamport, held.own) == (3, False)
    log.wait(3 * INTERVAL_MS)
    log.fire_due()
    assert reported(log.do(report("n1", 9, own=True))).target_lamport == 9


def test_a_round_knows_which_nodes_reported_for_themselves() -> None:
    log = Log()
    log.do(report("n1", 7, own=True))
    log.do(report("n2", 7))
    log.do(run())
    assert [node.own for node in read_nodes(log.store, 1).values()] == [True, False]
