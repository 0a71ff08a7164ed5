"""What new leaders found unfinished is recorded once, and read back until it is forgotten."""

from __future__ import annotations

import pytest

from statemachine import keys
from statemachine.commands import RecordRecoveries, SetTransactionRetention
from statemachine.outcomes import Applied, RecoveriesRecorded, Rejected, RejectionCode
from statemachine.paging import InvalidCursorError, encode_cursor
from statemachine.transactions.recovery import (
    GREATEST_OF_ONE,
    GREATEST_RECOVERIES,
    Decision,
    Found,
    list_recoveries,
)
from statemachine.transactions.rows import Happening, get_timeline
from tests.statemachine.building import Log, code, result
from tests.statemachine.transacting import Transactions, step


class Terms(Transactions):
    """A log in which leaders follow each other."""

    term = 1

    def append(self, payload: bytes):  # type: ignore[no-untyped-def]  # as the log's
        outcomes = self.machine.apply(len(self.entries) + 1, self.term, payload)
        self.entries.append(payload)
        return outcomes

    def recover(self, *xids: str, epoch: int | None = None) -> int:
        outcome = self.do(RecordRecoveries(epoch=epoch or self.term, xids=xids))
        recorded = result(outcome)
        assert isinstance(recorded, RecoveriesRecorded)
        return recorded.recorded

    def records(self, xid: str | None = None, limit: int = 100) -> list[Found]:
        return list_recoveries(self.store, xid=xid, cursor=None, limit=limit)[0]


def test_a_record_says_how_the_transaction_and_its_branches_were_found() -> None:
    log = Terms()
    log.begin()
    for mode in ("XA", "XA"):
        log.branch(mode=mode)
    log.commit()
    log.told(1)
    log.term = 2
    assert log.recover("x") == 1
    log.told(2, term=2)
    (found,) = log.records("x")
    assert (found.xid, found.recovery.term) == ("x", 2)
    assert found.recovery.status == "COMMITTING"
    assert found.recovery.decision is Decision.CONTINUE_COMMIT
    assert found.recovery.branches == ((1, "PHASE_TWO_COMMITTED"), (2, "PHASE_ONE_DONE"))
    done = [line.event for line in get_lines(log)[found.recovery.happenings :]]
    assert done == ["RECOVERED", "PHASE_TWO_COMMITTED", "COMMITTED"]


def get_lines(log: Terms, xid: str = "x") -> list[Happening]:

    return get_timeline(log.store, xid)


def test_what_is_found_is_gone_on_with_whichever_way_it_went() -> None:
    log = Terms()
    log.saga(step("a"), xid="forward")
    log.saga(step("a"), xid="back")
    log.told("a", "FAILED", xid="back")  # it refused, so nothing is left to undo
    log.begin("compensated")
    log.branch(xid="compensated", mode="XA")
    log.roll_back("compensated")
    log.term = 2
    assert log.recover("forward", "back", "compensated", "never") == 2
    decisions = {found.xid: found.recovery.decision for found in log.records()}
    assert decisions == {
        "forward": Decision.CONTINUE_FORWARD,
        "compensated": Decision.CONTINUE_ROLLBACK,
    }


def test_a_leader_records_a_transaction_once_and_the_next_one_again() -> None:
    log = Terms()
    log.saga(step("a"))
    assert (log.recover("x"), log.recover("x")) == (1, 0)
    for _ in range(GREATEST_OF_ONE + 2):
        log.term += 1
        log.recover("x")
    assert [found.recovery.term for found in log.records("x")] == list(
        range(GREATEST_OF_ONE, 0, -1)
    )


def test_records_are_listed_in_pages_the_newest_first() -> None:
    log = Terms()
    names = [f"x{number}" for number in range(5)]
    for name in names:
        log.saga(step("a"), xid=name)
    log.recover(*names)
    seen: list[str] = []
    cursor = None
    while True:
        found, cursor = list_recoveries(log.store, xid=None, cursor=cursor, limit=2)
        seen += [each.xid for each in found]
        if cursor is None:
            break
    assert seen == names[::-1]
    assert log.records("x2")[0].xid == "x2"
    assert log.records("nobody") == []
    assert log.records("x" * 65) == []
    for cursor in (encode_cursor(b"short"), "zz"):
        with pytest.raises(InvalidCursorError):
            list_recoveries(log.store, xid=None, cursor=cursor, limit=2)


def test_only_the_leader_of_the_term_records_and_no_more_than_fits() -> None:
    log = Terms()
    log.term = 3
    old = log.do(RecordRecoveries(epoch=2, xids=()))
    assert code(old) is RejectionCode.EPOCH_STALE
    many = log.do(RecordRecoveries(epoch=3, xids=("x",) * (GREATEST_RECOVERIES + 1)))
    assert isinstance(many, Rejected)


def test_records_are_forgotten_with_their_transaction() -> None:
    log = Terms()
    log.do(SetTransactionRetention(retention_ms=10, summary_retention_ms=10))
    log.saga(step("a"))
    log.recover("x")
    assert isinstance(log.told("a"), Applied)
    assert log.rows(keys.RECOVERED)
    log.wait(10)
    log.fire_due()
    assert log.rows(keys.RECOVERY) == log.rows(keys.RECOVERED) == []


def test_a_log_without_leaders_is_no_place_for_records() -> None:
    assert list_recoveries(Log().store, xid=None, cursor=None, limit=1) == ([], None)
