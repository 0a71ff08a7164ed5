"""Bugs that are put back on purpose: each must be found, and be called what it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

import node.voting
import statemachine.machine
import tests.simulation.locking
from api.cluster import ChangePage
from node.change_feed import ChangeFeed
from node.delivery.calls import Answer as CallAnswer
from node.delivery.calls import Verdict
from node.delivery.due_work import DueWork
from node.delivery.managers import ManagerCall
from node.delivery.relay import ManagerReply
from node.delivery.relay import Outcome as WayOutcome
from statemachine import changes, sequences
from statemachine.change_log import ChangeLog
from statemachine.commands import AdvanceSequence
from statemachine.linked_rows import EMPTY
from statemachine.lock_rows import Waiter
from statemachine.locks import Locks
from statemachine.machine import Machine
from statemachine.outcomes import Applied, Outcome, Position, SequenceAdvanced
from statemachine.positions import Position as LogPosition
from statemachine.timers import TimerKind
from statemachine.transactions import channel_binding, desk, held_branches, planning
from statemachine.transactions.row_locks import RowLocks
from statemachine.transactions.rows import Global
from statemachine.transactions.state_language.judging import Judge, Judgement
from statemachine.vector_histories import History
from statemachine.vectors import VectorClocks
from statemachine.write_buffer import WriteBuffer
from tests.simulation.run import run_seed
from tidelock.clocks import DottedVersionVectorSet

SEEDS = range(4)
FAULTS_S = 12.0


def found(*mix: str, seeds: range = SEEDS) -> str:
    """Run seeds until one finds something; return what."""
    for seed in seeds:
        violation = run_seed(seed, FAULTS_S, mix).violation
        if violation is not None:
            return violation
    return ""


@pytest.mark.parametrize(
    "mix",
    [
        "locks",
        "sequences",
        "vectors",
        "proposals",
        "watch",
        "transactions",
        "bank",
        "managers",
        "definitions",
        "objects",
    ],
)
def test_without_a_bug_nothing_is_found(mix: str) -> None:
    assert found(mix, seeds=SEEDS[:2]) == ""


def test_a_lease_that_ends_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    grant = Locks._grant

    def half(self: Locks, lock: Any, waiter: Waiter, acquire: Position, place: int) -> Outcome:
        shorter = Waiter(waiter.owner, waiter.shared, waiter.ttl_ms // 2)
        return grant(self, lock, shorter, acquire, place)

    monkeypatch.setattr(Locks, "_grant", half)
    assert found("locks").startswith(("one holder at a time", "a lease lasts"))


def test_a_reader_beside_a_writer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = Locks._fits
    monkeypatch.setattr(
        Locks, "_fits", lambda self, lock, waiter: waiter.shared or fits(self, lock, waiter)
    )
    assert found("locks").startswith("one holder at a time")


def test_a_token_that_is_given_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    grant = Locks._grant

    def again(self: Locks, lock: Any, waiter: Waiter, acquire: Position, place: int) -> Outcome:
        if not waiter.shared and self._state.fencing_token % 10 == 9:
            self._state.fencing_token -= 1
        return grant(self, lock, waiter, acquire, place)

    monkeypatch.setattr(Locks, "_grant", again)
    assert found("locks").startswith(("no token twice", "tokens follow real time"))


def test_who_overtakes_a_queue_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    acquire = Locks._acquire

    def overtake(self: Locks, lock: Any, waiter: Waiter, wait_ms: int, place: int) -> Outcome:
        queue = lock.row.queue
        if not queue.count or not self._fits(lock, waiter):
            return acquire(self, lock, waiter, wait_ms, place)
        lock.row.queue = EMPTY
        outcome = acquire(self, lock, waiter, wait_ms, place)
        lock.row.queue = queue
        return outcome

    monkeypatch.setattr(Locks, "_acquire", overtake)
    assert found("locks").startswith("turns in the order of asking")


def test_a_stale_token_that_verifies_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tests.simulation.locking, "is_current", lambda _reader, _name, _token: True)
    assert found("locks").startswith("no stale token is accepted")


def test_a_wait_whose_end_a_node_does_not_tell_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChangeLog, "settle", lambda _self, _place, _ticket: None)
    assert "never told the caller" in found("locks")


def test_leases_that_never_end_by_themselves_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    fire = Machine._fire

    def forget(self: Machine, due_ms: int, kind: TimerKind, timer_id: bytes, place: int) -> None:
        if kind not in (TimerKind.LOCK_EXPIRY, TimerKind.SHARED_LOCK_EXPIRY):
            fire(self, due_ms, kind, timer_id, place)

    monkeypatch.setattr(Machine, "_fire", forget)
    assert "LockClients rest" in found("locks")


@pytest.mark.parametrize(("by", "what"), [(1, "violated"), (-1, "no number twice")])
def test_a_number_that_is_left_out_or_given_twice_is_found(
    monkeypatch: pytest.MonkeyPatch, by: int, what: str
) -> None:
    advance = sequences.advance

    def wrong(writes: WriteBuffer, command: AdvanceSequence) -> Outcome:
        outcome = advance(writes, command)
        if isinstance(outcome, Applied) and isinstance(outcome.result, SequenceAdvanced):
            last = outcome.result.last
            if last % 13 == 0:
                writes.put(sequences._key(command.name), (last + by).to_bytes(8, "big"))
        return outcome

    monkeypatch.setattr(statemachine.machine, "advance", wrong)
    assert what in found("sequences")


def test_a_receipt_that_learns_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(History, "rises", lambda _self, _received: {})
    assert found("vectors").startswith(("vectors tell causes", "linearizable by search"))


def test_an_order_that_is_claimed_for_concurrent_events_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    follow = VectorClocks._next

    def knowing(
        self: VectorClocks, history: History, node_id: str, received: Mapping[str, int]
    ) -> Any:
        known = self._find("a")
        assert known is not None
        return follow(self, history, node_id, {**received, "a": known.entries.get("a", 0)})

    monkeypatch.setattr(VectorClocks, "_next", knowing)
    assert found("vectors").startswith("vectors tell causes")


def test_a_write_that_takes_the_place_of_what_nobody_had_read_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    update = DottedVersionVectorSet.update

    def last_wins(
        self: DottedVersionVectorSet[bytes], _context: object, value: bytes, participant: str
    ) -> DottedVersionVectorSet[bytes]:
        return update(self, self.context(), value, participant)

    monkeypatch.setattr(DottedVersionVectorSet, "update", last_wins)
    assert found("objects").startswith("what nobody had read stays")


def test_a_vote_against_the_rule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node.voting, "objection", lambda _row: "")
    assert "voted against the rule" in found("proposals")


def test_a_change_that_is_not_noted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    note = ChangeLog.note

    def leave_out(self: ChangeLog, place: int, change: changes.AnyChange) -> None:
        if not (isinstance(change, changes.LockGranted) and change.fencing_token % 10 == 0):
            note(self, place, change)

    monkeypatch.setattr(ChangeLog, "note", leave_out)
    # A token is missing, or the end of a lease that nobody has seen begin.
    assert found("locks").startswith(
        ("tokens rise by one from grant to grant", "a lease ends once")
    )


def test_a_change_that_a_watcher_is_not_told_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    read = ChangeFeed.read

    def leave_out(self: ChangeFeed, after: Position) -> ChangePage:
        page = read(self, after)
        return ChangePage(page.changes[:7], page.upto)

    monkeypatch.setattr(ChangeFeed, "read", leave_out)
    assert found("watch").startswith("watchers are told what is stored")


def test_a_change_that_a_watcher_is_told_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    read = ChangeFeed.read

    def repeat(self: ChangeFeed, after: LogPosition) -> ChangePage:
        return read(self, LogPosition(after.entry, max(0, after.place - 1)))

    monkeypatch.setattr(ChangeFeed, "read", repeat)
    assert found("watch").startswith("watchers are told what is stored")


def test_rows_that_two_transactions_lock_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowLocks, "conflict", lambda _self, _xid, _locks, _ticket=None: None)
    monkeypatch.setattr(RowLocks, "take", lambda _self, _xid, _branch, _locks, _since: None)
    assert found("bank").startswith("somebody wrote what")


def test_a_step_that_is_not_undone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "may_have_begun", lambda _branch, _branches: False)
    # It stands, and whatever it stands on is undone under it.
    what = found("transactions")
    assert " did " in what or "was undone before" in what


def test_steps_that_are_undone_in_the_wrong_order_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planning.Plan, "_stand_on", lambda _plan, _branch, _one: None)
    assert "was undone before" in found("transactions")


def test_a_leader_that_does_not_go_on_with_what_it_finds_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DueWork, "_read", lambda _self, _elapsed_ms: None)
    assert found("transactions").startswith("not within")


def test_a_commit_without_the_work_of_a_lost_session_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An open connection that died with its process cannot be committed any more."""

    def forget(_reader: object, _branches: object) -> None:
        return None

    def done(_desk: object, _session_id: int, _place: int) -> bool:
        return False

    gone = ManagerCall._unreached

    def committed(self: ManagerCall) -> CallAnswer:
        return CallAnswer(Verdict.DONE) if self._owner_gone else gone(self)

    monkeypatch.setattr(channel_binding, "first_lost", forget)
    monkeypatch.setattr(held_branches, "lose", done)
    monkeypatch.setattr(ManagerCall, "_unreached", committed)
    assert "is COMMITTED and" in found("managers", seeds=range(5, 9))


def test_a_manager_that_did_not_answer_and_is_taken_for_done_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge = ManagerCall._of

    def believe(self: ManagerCall, reply: ManagerReply) -> CallAnswer:
        if reply.outcome is WayOutcome.TIMEOUT:
            return CallAnswer(Verdict.DONE)
        return judge(self, reply)

    monkeypatch.setattr(ManagerCall, "_of", believe)
    assert re.search(r"is to be forgotten and stands open|is [A-Z_]+ and", found("managers"))


def test_a_call_that_nobody_knows_of_and_that_is_not_undone_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing_was_done(
        _self: Judge, failure_type: str, message: str, *, refused: bool
    ) -> Judgement:
        return Judgement("FA", failure_type, message, refused)

    monkeypatch.setattr(Judge, "failed", nothing_was_done)
    assert "ROLLED_BACK and there are" in found("definitions")


def test_calls_of_a_definition_that_are_undone_in_the_wrong_order_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    roll_back = planning._rollback_of

    def forward(row: Global) -> planning._Phase:
        phase = roll_back(row)
        if row.program != planning.Program.STATE_MACHINE:
            return phase
        return phase._replace(pick=planning._Pick.FIRST)

    monkeypatch.setattr(planning, "_rollback_of", forward)
    assert "was undone before" in found("definitions")
