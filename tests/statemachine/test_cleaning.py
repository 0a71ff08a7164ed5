"""Who was part of a transaction is told when it is over, until it has said that it knows."""

from __future__ import annotations

import pytest

from statemachine.commands import (
    CleanedBranch,
    OperateGlobal,
    RecordBranchAnswer,
    RecordCleaned,
    RecordSwept,
    SetTransactionRetention,
)
from statemachine.outcomes import (
    BranchAnswerRecorded,
    CleaningsRecorded,
    Outcome,
    RejectionCode,
)
from statemachine.state import load_state
from statemachine.transactions import cleaning
from statemachine.transactions.cleaning_rows import (
    AT_ONCE,
    Cleaning,
    due_cleanings,
    resources_to_clean,
    sweeps,
)
from statemachine.transactions.fates import fate_of
from statemachine.transactions.rows import Calls, get_timeline
from tests.statemachine.building import code, result
from tests.statemachine.channels import GRACE_MS, Channels
from tests.statemachine.transacting import URL, step


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
        Cleaning("db", AT_ONCE, "x", first, "XA", "h"),
        Cleaning("db", AT_ONCE, "x", second, "AT", "h"),
    ]
    assert cleaned(log, due(log)[0]) == 1
    assert [each.branch_id for each in due(log)] == [second]
    assert cleaned(log, *due(log)) == 1
    assert cleaned(log, Cleaning("db", AT_ONCE, "x", first, "XA")) == 0
    assert log.rows(b"Xjc") == []


def test_what_ended_lately_is_not_due_yet_and_the_first_come_first() -> None:
    log = Channels()
    session = log.open()
    for xid in ("b", "a"):
        log.begin(xid)
        log.join(session, xid=xid, mode="TCC")
        log.roll_back(xid)
        log.told(log.branches(xid)[0].branch_id, xid=xid)
        log.wait(10)
    assert [each.xid for each in due_cleanings(log.store, "db", 10, 10)] == ["b"]
    assert [each.xid for each in due_cleanings(log.store, "db", 11, 10)] == ["b", "a"]
    assert [each.xid for each in due_cleanings(log.store, "db", 11, 1)] == ["b"]


def test_what_has_reported_is_due_at_once_and_what_may_still_come_later_is_not() -> None:
    log = Channels()
    session = log.open()
    log.begin()
    reported = log.held(session, mode="AT")
    log.wait(10)
    result(log.join(session, mode="AT"))
    log.roll_back()
    for branch in reversed(log.branches()):
        log.told(branch.branch_id)
    late = log.branches()[-1].branch_id
    assert [each.branch_id for each in due_cleanings(log.store, "db", -50, 10)] == [reported]
    assert [each.branch_id for each in due_cleanings(log.store, "db", 10, 10)] == [reported]
    assert [each.branch_id for each in due_cleanings(log.store, "db", 11, 10)] == [reported, late]
    assert cleaned(log, *due(log)) == 2
    assert log.rows(b"Xjc") == []


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
    # Who puts it aside may be about to look at it.
    assert [(each.branch_id, each.ended_ms) for each in due(log)] == [(branch, log.elapsed_ms)]


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


# --- when nobody comes to clean


def ended(log: Channels, count: int, *, resource_id: str = "db", mode: str = "TCC") -> list[int]:
    """Let branches end, each with a transaction of its own; return their ids."""
    session = log.open(resources=(resource_id,))
    ids = []
    for _ in range(count):
        xid = f"{resource_id}{mode}{log.machine.applied_index}"
        log.begin(xid)
        log.join(session, xid=xid, mode=mode, resource_id=resource_id)
        log.roll_back(xid)
        (branch,) = log.branches(xid)
        log.told(branch.branch_id, xid=xid)
        log.wait(10)
        ids.append(branch.branch_id)
    return ids


def left_out(log: Channels) -> list[tuple[str, str, str, int]]:
    return [
        (each.resource_id, each.host, each.mode, each.left_out.count)
        for _, each in sweeps(log.store, b"", 10)
    ]


def swept(log: Channels, upto_ms: int, *, host: str = "", mode: str = "TCC") -> int:
    resource_id = "sqlite:f" if host else "db"
    recorded = result(
        log.do(RecordSwept(resource_id=resource_id, host=host, mode=mode, upto_ms=upto_ms))
    )
    assert isinstance(recorded, CleaningsRecorded)
    return recorded.count


def test_of_what_is_not_noted_it_is_known_that_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaning, "GREATEST_NOTED", 2)
    log = Channels()
    ids = ended(log, 5)
    assert [each.branch_id for each in due(log)] == ids[:2]
    assert left_out(log) == [("db", "", "TCC", 3)]
    ended(log, 1, mode="AT")
    assert left_out(log) == [("db", "", "AT", 1), ("db", "", "TCC", 3)]
    assert cleaned(log, due(log)[0]) == 1
    (later,) = ended(log, 1)
    assert [each.branch_id for each in due(log)] == [ids[1], later]
    assert log.machine.cleaning_count == 2


def test_all_notes_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaning, "GREATEST_ALL_NOTED", 1)
    log = Channels()
    ended(log, 1)
    ended(log, 1, resource_id="other")
    assert due(log, "other") == []
    assert left_out(log) == [("other", "", "TCC", 1)]


def test_a_file_is_another_place_on_each_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaning, "GREATEST_NOTED", 1)
    log = Channels()
    for host in ("h1", "h1", "h2"):
        session = log.open(host=host, resources=("sqlite:f",))
        xid = f"{host}-{session}"
        log.begin(xid)
        log.join(session, xid=xid, mode="TCC", resource_id="sqlite:f")
        log.roll_back(xid)
        log.told(log.branches(xid)[0].branch_id, xid=xid)
    assert [each.host for each in due(log, "sqlite:f")] == ["h1", "h2"]
    assert left_out(log) == [("sqlite:f", "h1", "TCC", 1)]
    assert swept(log, log.elapsed_ms, host="h2") == 0
    assert swept(log, log.elapsed_ms, host="h1") == 1
    assert left_out(log) == []


def test_a_sweep_counts_for_what_had_ended_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaning, "GREATEST_NOTED", 0)
    log = Channels()
    ended(log, 2)
    last_ms = log.elapsed_ms - 10
    assert swept(log, last_ms - 1) == 0
    assert swept(log, last_ms, mode="AT") == 0
    assert swept(log, last_ms) == 2
    assert swept(log, last_ms) == 0
    assert log.rows(b"Xjs") == log.rows(b"Xjk") == []


def test_guards_of_a_process_that_was_lost_are_looked_through_and_of_one_that_left_are_not() -> (
    None
):
    log = Channels()
    resources = ("db", "sqlite:f")
    lost = log.open(resources=resources, modes_of=(("AT", "XA"), ("SAGA", "LCN")))
    left = log.open(resources=("other",))
    log.leave(left)
    log.detach((lost, 1))
    log.let_pass(GRACE_MS)
    assert left_out(log) == [("db", "", "AT", 0), ("sqlite:f", "h", "SAGA", 0)]
    assert swept(log, log.elapsed_ms, mode="AT") == 0
    assert swept(log, log.elapsed_ms, host="h", mode="SAGA") == 0
    assert left_out(log) == []
    assert load_state(log.store).cleaning_place_count == 0


def test_a_lost_process_forgets_no_count_and_takes_at_most_half_of_the_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cleaning, "GREATEST_NOTED", 0)
    monkeypatch.setattr(cleaning, "GREATEST_PLACES", 4)
    log = Channels()
    ended(log, 2)
    lost = log.open(resources=("db", "second", "third"), modes=("TCC",))
    log.detach((lost, 1))
    log.let_pass(GRACE_MS)
    assert left_out(log) == [("db", "", "TCC", 2), ("second", "", "TCC", 0)]
    assert load_state(log.store).cleaning_place_count == 2


def test_beyond_so_many_places_branches_on_others_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cleaning, "GREATEST_PLACES", 2)
    log = Channels()
    ended(log, 2)
    ended(log, 1, resource_id="other")
    log.begin("z")
    known, unknown = log.open(), log.open(resources=("third",))
    result(log.join(known, xid="z", mode="TCC"))
    refused = log.join(unknown, xid="z", mode="TCC", resource_id="third")
    assert code(refused) is RejectionCode.TOO_MANY_RESOURCES
    called = Calls(commit=URL, rollback=URL)
    result(log.join(unknown, xid="z", mode="TCC", resource_id="third", calls=called))
    cleaned(log, *due(log, "other"))
    result(log.join(unknown, xid="z", mode="TCC", resource_id="third"))


def test_names_of_places_that_cannot_be_are_no_harm() -> None:
    log = Channels()
    for place in (
        ("", "", "TCC"),
        ("r" * 300, "", "TCC"),
        ("r", "h" * 500, ""),
        ("r", "", "m" * 99),
    ):
        resource_id, host, mode = place
        recorded = log.do(RecordSwept(resource_id=resource_id, host=host, mode=mode, upto_ms=0))
        assert result(recorded) == CleaningsRecorded(count=0)


# --- what a manager may ask


def fate(log: Channels, xid: str, branch_id: int, clean_after_ms: int = 0) -> tuple[str, bool]:
    found = fate_of(load_state(log.store), log.store, xid, branch_id, clean_after_ms)
    return found.status, found.may_clean


def test_what_is_over_may_be_cleaned_after_a_while() -> None:
    log = Channels()
    log.begin()
    branch = log.held(log.open(), mode="TCC")
    assert fate(log, "x", branch) == ("BEGIN", False)
    log.roll_back()
    assert fate(log, "x", branch) == ("ROLLING_BACK", False)
    log.told(branch)
    assert fate(log, "x", branch, 100) == ("ROLLED_BACK", False)
    log.wait(99)
    log.tick()
    assert fate(log, "x", branch, 100) == ("ROLLED_BACK", False)
    log.wait(1)
    log.tick()
    assert fate(log, "x", branch, 100) == ("ROLLED_BACK", True)


def test_what_failed_is_not_over() -> None:
    log = Channels()
    log.begin()
    branch = log.held(log.open(), mode="AT")
    log.roll_back()
    log.told(branch, "FAILED")
    assert fate(log, "x", branch) == ("ROLLBACK_FAILED", False)


def test_what_is_forgotten_is_over_and_what_never_was_is_not() -> None:
    log = Channels()
    log.do(SetTransactionRetention(retention_ms=10, summary_retention_ms=10))
    (branch,) = ended(log, 1)
    xid = due(log)[0].xid
    log.wait(10)
    log.fire_due()
    assert fate(log, xid, branch, 20) == ("ROLLED_BACK", True)
    assert fate(log, xid, branch, 21) == ("ROLLED_BACK", False)
    log.wait(10)
    log.fire_due()
    assert fate(log, xid, branch) == ("FORGOTTEN", True)
    assert fate(log, xid, branch + 1) == ("UNKNOWN", False)
    assert fate(log, xid, 0) == ("UNKNOWN", False)


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
