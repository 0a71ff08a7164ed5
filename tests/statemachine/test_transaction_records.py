"""What can be read back of a transaction, and for how long."""

from __future__ import annotations

from statemachine import keys
from statemachine.change_log import read_changes
from statemachine.changes import GlobalChanged
from statemachine.commands import (
    SetTransactionRetention,
)
from statemachine.outcomes import (
    Position,
    RejectionCode,
)
from statemachine.state import MachineState
from statemachine.timers import TimerKind
from statemachine.transactions.rows import (
    get_timeline,
)
from tests.statemachine.building import code
from tests.statemachine.transacting import Transactions, refused, row, status


def test_a_timeline_tells_in_causal_order_what_happened() -> None:
    log = Transactions()
    log.begin()
    log.branch(mode="XA")
    log.commit()
    log.told(1)
    lines = get_timeline(log.store, "x")
    assert [(line.event, line.branch_id) for line in lines] == [
        ("BEGIN", 0),
        ("REGISTERED", 1),
        ("PHASE_ONE_DONE", 1),
        ("COMMITTING", 0),
        ("PHASE_TWO_COMMITTED", 1),
        ("COMMITTED", 0),
    ]
    for field in ("index", "hlc", "lamport"):
        stamps = [getattr(line, field) for line in lines]
        assert stamps == sorted(stamps)
    assert len({line.hlc for line in lines}) == len(lines)


def test_a_long_timeline_is_kept_whole() -> None:
    log = Transactions()
    log.begin()
    for _ in range(40):
        log.branch(mode="XA")
    lines = get_timeline(log.store, "x")
    assert len(lines) == 81
    assert [line.lamport for line in lines] == list(range(1, 82))


def test_watchers_are_told_of_the_begin_the_decision_and_the_end() -> None:
    log = Transactions()
    log.begin()
    log.branch(mode="XA")
    log.commit()
    log.told(1)
    seen = [
        (change.xid, change.status)
        for recorded in read_changes(log.store, Position(0, 0), limit=100)
        for change in recorded.changes
        if isinstance(change, GlobalChanged)
    ]
    assert seen == [("x", "BEGIN"), ("x", "COMMITTING"), ("x", "COMMITTED")]


def test_an_ended_transaction_is_forgotten_after_its_retention_and_leaves_nothing() -> None:
    log = Transactions()
    log.begin()
    log.branch(row(1), mode="XA")
    log.commit()
    log.told(1)
    log.wait(MachineState().retention_ms - 1)
    log.fire_due()
    assert log.row().status == "COMMITTED"
    log.wait(1)
    log.fire_due()
    assert left_of(log) == [keys.SUMMARY]
    log.wait(MachineState().summary_retention_ms)
    log.fire_due()
    assert left_of(log) == []
    assert status(log.begin()) == "BEGIN"


def left_of(log: Transactions) -> list[bytes]:
    """What is left of transactions: no resource manager, nor what it is still to be told."""
    prefixes = [key[:2] for key, _ in log.rows(b"X")]
    return [each for each in prefixes if each not in (keys.CHANNEL, keys.CHANNEL_INDEX)]


def test_of_what_is_no_longer_kept_it_is_known_how_it_ended() -> None:
    log = Transactions()
    assert "never begun" in refused(log.roll_back())
    log.begin()
    log.roll_back()
    ended_ms = log.wall_ms
    log.wait(MachineState().retention_ms)
    log.fire_due()
    for late in (log.register(), log.report(1)):
        assert code(late) is RejectionCode.TRANSACTION_NOT_FOUND
        assert f"ended as ROLLED_BACK at {ended_ms} ms since the epoch (asked)" in refused(late)
    assert status(log.roll_back()) == "ROLLED_BACK"
    assert code(log.commit()) is RejectionCode.TRANSACTION_DECIDED
    assert code(log.begin()) is RejectionCode.TRANSACTION_EXISTS


def test_leaders_say_how_long_what_ends_from_then_on_is_kept() -> None:
    log = Transactions()
    log.do(SetTransactionRetention(retention_ms=10, summary_retention_ms=0))
    assert log.machine.transaction_retention_ms == (10, 0)
    unusable = SetTransactionRetention(retention_ms=-1, summary_retention_ms=0)
    assert code(log.do(unusable)) is RejectionCode.INVALID_COMMAND
    log.begin()
    log.roll_back()
    log.wait(10)
    log.fire_due()
    assert [key[:2] for key, _ in log.rows(b"X")] == [keys.SUMMARY]
    kinds = [keys.timer_of(key)[1] for key, _ in log.rows(keys.TIMER)]
    assert TimerKind.GLOBAL_SUMMARY_EXPIRY not in kinds
