"""Who was part of a transaction is told when it is over, until it has said that it knows."""

from __future__ import annotations

from statemachine.commands import (
    CleanedBranch,
    OperateGlobal,
    RecordBranchAnswer,
    RecordCleaned,
)
from statemachine.outcomes import (
    BranchAnswerRecorded,
    CleaningsRecorded,
    Outcome,
    RejectionCode,
)
from statemachine.transactions.channel_rows import Cleaning, due_cleanings, resources_to_clean
from statemachine.transactions.rows import Calls, get_timeline
from tests.statemachine.building import code, result
from tests.statemachine.channels import Channels
from tests.statemachine.test_transactions import URL, step


def cleaned(log: Channels, *cleanings: Cleaning) -> int:
    done = tuple(
        CleanedBranch(each.resource_id, each.ended_ms, each.xid, each.branch_id)
        for each in cleanings
    )
    recorded = result(log.do(RecordCleaned(branches=done)))
    assert isinstance(recorded, CleaningsRecorded)
    return recorded.count


def due(log: Channels, resource_id: str = "db", limit: int = 10) -> list[Cleaning]:
    return due_cleanings(log.store, resource_id, log.elapsed_ms + 1, limit)


def test_every_branch_is_cleaned_once_its_transaction_has_ended() -> None:
    log = Channels()
    session = log.open()
    log.begin()
    first, second = log.held(session, mode="XA"), log.held(session, mode="AT")
    log.commit()
    log.told(first)
    assert due(log) == []
    log.wait(50)
    log.told(second)
    assert due(log) == [
        Cleaning("db", 50, "x", first, "XA", "h"),
        Cleaning("db", 50, "x", second, "AT", "h"),
    ]
    assert cleaned(log, due(log)[0]) == 1
    assert [each.branch_id for each in due(log)] == [second]
    assert cleaned(log, *due(log)) == 1
    assert cleaned(log, Cleaning("db", 50, "x", first, "XA")) == 0
    assert log.rows(b"Xjc") == []


def test_what_ended_lately_is_not_due_yet_and_the_first_come_first() -> None:
    log = Channels()
    session = log.open()
    for xid in ("b", "a"):
        log.begin(xid)
        log.held(session, xid=xid, mode="TCC")
        log.roll_back(xid)
        log.told(log.branches(xid)[0].branch_id, xid=xid)
        log.wait(10)
    assert [each.xid for each in due_cleanings(log.store, "db", 10, 10)] == ["b"]
    assert [each.xid for each in due_cleanings(log.store, "db", 11, 10)] == ["b", "a"]
    assert [each.xid for each in due_cleanings(log.store, "db", 11, 1)] == ["b"]


def test_resources_are_found_one_by_one() -> None:
    log = Channels()
    session = log.open()
    names = ["a", "a\0", "a\0b", "ab", "b"]
    for number, name in enumerate(names):
        xid = f"x{number}"
        log.begin(xid)
        for _ in range(2):
            log.join(session, xid=xid, mode="TCC", resource_id=name)
        log.roll_back(xid)
        for branch in log.branches(xid):
            log.told(branch.branch_id, xid=xid)
    assert resources_to_clean(log.store, "", 10) == names
    assert resources_to_clean(log.store, "a\0", 2) == ["a\0b", "ab"]
    assert [len(due(log, name)) for name in names] == [2] * 5


def test_nothing_is_to_be_cleaned_where_no_manager_keeps_anything() -> None:
    log = Channels()
    log.begin()
    log.join(0, mode="TCC", calls=Calls(commit=URL, rollback=URL))
    log.join(0, mode="TCC", resource_id="")
    log.join(0, mode="TCC", resource_id="r" * 300)
    log.roll_back()
    for branch in log.branches():
        log.told(branch.branch_id)
    assert log.row().status == "ROLLED_BACK"
    log.saga(step("a"), xid="y")
    log.told("a", xid="y")
    assert log.rows(b"Xjc") == []


def test_what_an_operator_puts_aside_is_cleaned_too() -> None:
    log = Channels()
    log.begin()
    branch = log.held(log.open(), mode="AT")
    log.roll_back()
    log.told(branch, "FAILED")
    assert log.row().status == "ROLLBACK_FAILED"
    assert due(log) == []
    log.do(OperateGlobal(xid="x", action="FORGET", reason="", principal=""))
    assert [each.branch_id for each in due(log)] == [branch]


def test_names_that_cannot_be_are_no_harm() -> None:
    log = Channels()
    for unusable in (
        Cleaning("", 0, "x", 1, ""),
        Cleaning("r" * 300, 0, "x", 1, ""),
        Cleaning("r", -1, "x", 1, ""),
        Cleaning("r", 2**63, "x", 1, ""),
        Cleaning("r", 0, "x" * 65, 1, ""),
        Cleaning("r", 0, "", 1, ""),
        Cleaning("r", 0, "x", 0, ""),
        Cleaning("r", 0, "x", 2**63, ""),
    ):
        assert cleaned(log, unusable) == 0
    many = (CleanedBranch("r", 0, "x", 1),) * 1_001
    assert code(log.do(RecordCleaned(branches=many))) is RejectionCode.INVALID_COMMAND


# --- what recovery is told


def asked(log: Channels, branch_id: int, answer: str = "PREPARED", epoch: int = 1) -> Outcome:
    return log.do(RecordBranchAnswer(epoch=epoch, xid="x", branch_id=branch_id, answer=answer))


def test_what_a_branch_answered_stands_in_the_timeline() -> None:
    log = Channels()
    log.begin()
    branch = log.held(log.open(), mode="XA")
    assert result(asked(log, branch)) == BranchAnswerRecorded(recorded=False)
    log.commit()
    assert result(asked(log, branch)) == BranchAnswerRecorded(recorded=True)
    last = get_timeline(log.store, "x")[-1]
    assert (last.event, last.branch_id, last.detail) == ("BRANCH_STATUS", branch, "PREPARED")


def test_answers_of_another_term_or_of_nothing_known_are_refused() -> None:
    log = Channels()
    log.begin()
    branch = log.held(log.open(), mode="XA")
    log.commit()
    assert code(asked(log, branch, epoch=2)) is RejectionCode.EPOCH_STALE
    assert code(asked(log, branch, answer="PERHAPS")) is RejectionCode.INVALID_COMMAND
    assert result(asked(log, branch + 1)) == BranchAnswerRecorded(recorded=False)
    missing = RecordBranchAnswer(epoch=1, xid="none", branch_id=1, answer="PREPARED")
    assert code(log.do(missing)) is RejectionCode.TRANSACTION_NOT_FOUND
