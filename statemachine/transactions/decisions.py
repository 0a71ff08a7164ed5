"""The decision: by a client, by time, or by an operator for what cannot end by itself."""

from __future__ import annotations

from typing import Final

from statemachine import keys, timers
from statemachine.commands.operating import SetTransactionRetention
from statemachine.commands.transactions import DecideGlobal, OperateGlobal
from statemachine.outcomes import (
    Applied,
    GlobalAnswered,
    Outcome,
    Rejected,
    RejectionCode,
    TransactionRetentionSet,
)
from statemachine.positions import Position
from statemachine.tickets import TicketKind
from statemachine.timers import TimerKind
from statemachine.transactions import messages
from statemachine.transactions.answers import (
    answer_of,
    decided_otherwise,
    not_active,
    standing_of,
)
from statemachine.transactions.committing import (
    GREATEST_WAITING,
    TIMED_OUT,
    branch_unfinished,
    commit,
)
from statemachine.transactions.desk import Desk
from statemachine.transactions.locking import branch_not_found
from statemachine.transactions.participation import not_found
from statemachine.transactions.planning import Program
from statemachine.transactions.recovery import erase_recoveries
from statemachine.transactions.rows import Global, erase
from statemachine.transactions.state_language.runs import erase_run
from statemachine.transactions.statuses import (
    BRANCH_ENDED,
    COMMIT_FAMILY,
    DRIVEN,
    ENDED,
    FAILED,
    BranchStatus,
    GlobalStatus,
)
from statemachine.transactions.summaries import Summary, erase_summary, get_summary, put_summary
from statemachine.transactions.transaction import Transaction
from statemachine.transactions.transitions import BranchInput, GlobalInput, after

_OPERATIONS: Final = {
    "FORCE_COMMIT": GlobalInput.FORCE_COMMIT,
    "FORCE_ROLLBACK": GlobalInput.FORCE_ROLLBACK,
    "FORGET": GlobalInput.FORGET,
}
_RETRIES: Final = ("RETRY_NOW", "STOP_RETRY", "START_RETRY")
ACTIONS: Final = (*_RETRIES, *_OPERATIONS)
"""What an operator can ask for."""

_ACTION_UNKNOWN: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"action is none of {', '.join(sorted(ACTIONS))}.",
)

_RETENTION_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND, "A retention is negative, or beyond what a timer can hold."
)


def decide(desk: Desk, command: DecideGlobal, place: int) -> Outcome:
    """Commit or roll back, once; then say where the transaction stands, or wait for its end."""
    transaction = desk.find(command.xid)
    if transaction is None:
        return _decided_long_ago(desk, command)
    row = transaction.row
    if command.program not in ("", row.program):
        return _of_another_kind(row.program)
    if row.status is GlobalStatus.BEGIN:
        unknown = _note_done(transaction, command.branches_done, place)
        if unknown is not None:
            return unknown
        answered = (
            commit(desk, transaction, command, place)
            if command.commit
            else _roll_back(desk, transaction, command, place)
        )
        if answered is not None:
            return answered
    elif not _agrees(row.status, to_commit=command.commit):
        return decided_otherwise(standing_of(row))
    elif row.status not in COMMIT_FAMILY and _tells_more(transaction, command.branches_done):
        return not_active(row)
    return await_end(desk, transaction, command.wait_ms, place)


def _note_done(
    transaction: Transaction, branch_ids: tuple[int, ...], place: int
) -> Rejected | None:
    """Take note of reports that come with the decision. What was reported before stands."""
    if transaction.row.program != Program.CLIENT:
        return None
    branches = []
    for branch_id in branch_ids:
        branch = transaction.branch(branch_id)
        if branch is None:
            return branch_not_found(transaction.row.xid, branch_id)
        branches.append(branch)
    for branch in branches:
        if branch.status is BranchStatus.REGISTERED:
            transaction.advance_branch(branch, BranchInput.DONE, place, did_phase_one=True)
    return None


def _tells_more(transaction: Transaction, branch_ids: tuple[int, ...]) -> bool:
    """Whether a branch is said to be done of which it was not known when this was decided: it was
    perhaps done after all that undoes it.
    """
    if transaction.row.program != Program.CLIENT:
        return False
    branches = [transaction.branch(branch_id) for branch_id in branch_ids]
    return any(branch is None or not branch.did_phase_one for branch in branches)


def _of_another_kind(program: str) -> Rejected:
    return Rejected(
        RejectionCode.TRANSACTION_NOT_FOUND,
        f"The xid is that of a transaction of another kind: {program}.",
        retryable=False,
    )


def _agrees(status: str, *, to_commit: bool) -> bool:
    """Whether a status answers what was asked for. A timeout and an operator answer both."""
    if status.startswith("TIMEOUT_") or status == GlobalStatus.FINISHED:
        return True
    return to_commit == (status in COMMIT_FAMILY)


def _decided_long_ago(desk: Desk, command: DecideGlobal) -> Outcome:
    summary = get_summary(desk.writes, command.xid)
    if summary is None:
        return not_found(desk, command.xid)
    if command.program not in ("", summary.program):
        return _of_another_kind(summary.program)
    if not _agrees(summary.status, to_commit=command.commit):
        return decided_otherwise(summary.standing(command.xid))
    if command.branches_done and summary.status not in COMMIT_FAMILY:
        # Which branches were known to be done is not known any more.
        return not_found(desk, command.xid)
    return Applied(GlobalAnswered(xid=command.xid, status=summary.status, reason=summary.reason))


def _roll_back(
    desk: Desk, transaction: Transaction, command: DecideGlobal, place: int
) -> Rejected | None:
    row = transaction.row
    if row.program == Program.MESSAGE:
        if row.submitted:
            return Rejected(
                RejectionCode.TRANSACTION_DECIDED,
                "The message is submitted and will be delivered.",
                retryable=False,
                transaction=standing_of(row),
            )
        messages.abort(desk, transaction, command.reason, place)
        return None
    desk.decide(transaction, GlobalInput.ROLL_BACK, command.reason, place)
    return None


def await_end(desk: Desk, transaction: Transaction, wait_ms: int, place: int) -> Outcome:
    """Answer where the transaction stands, or leave a ticket that its end will settle."""
    row = transaction.row
    settled = row.status in ENDED | FAILED or row.status is GlobalStatus.ASYNC_COMMITTING
    if settled or wait_ms <= 0 or len(row.waiting) + len(row.committing) >= GREATEST_WAITING:
        return Applied(answer_of(row))
    pending = desk.tickets.open(place, TicketKind.GLOBAL_END, row.xid.encode(), wait_ms)
    transaction.change(waiting=(*row.waiting, pending.ticket))
    return pending


def end_wait(desk: Desk, ticket: Position, xid: str, place: int) -> None:
    """End a wait for the end: the transaction goes on, and the answer says where it stands."""
    transaction = desk.find(xid)
    assert transaction is not None, "what is waited for is not forgotten"
    row = transaction.row
    if ticket in row.waiting:
        transaction.change(waiting=tuple([each for each in row.waiting if each != ticket]))
        desk.tickets.settle(ticket, Applied(answer_of(row)), place)
        return
    others = tuple([each for each in row.committing if each.ticket != ticket])
    transaction.change(committing=others)
    desk.tickets.settle(ticket, branch_unfinished(transaction), place)


# --- time


def time_out(desk: Desk, due_ms: int, xid: str, place: int) -> None:
    """Roll back what nobody has decided in time."""
    timers.disarm(desk.writes, due_ms, TimerKind.GLOBAL_TIMEOUT, xid.encode())
    transaction = desk.find(xid)
    if transaction is not None and transaction.row.status is GlobalStatus.BEGIN:
        desk.decide(transaction, GlobalInput.TIME_OUT, TIMED_OUT, place)


def forget(desk: Desk, due_ms: int, xid: str) -> None:
    """Forget a transaction whose retention has passed."""
    timers.disarm(desk.writes, due_ms, TimerKind.GLOBAL_RETENTION, xid.encode())
    transaction = desk.find(xid)
    if transaction is not None:
        desk.close(xid)
        row = transaction.row
        erase_recoveries(desk.writes, row)
        erase(desk.writes, row)
        if row.program == Program.STATE_MACHINE:
            erase_run(desk.writes, xid)
        put_summary(
            desk.writes,
            xid,
            Summary(
                status=row.status,
                reason=row.reason,
                name=row.name,
                program=row.program,
                mode=row.mode,
                begun_ms=row.begun_ms,
                ended_ms=row.ended_ms,
                branches=row.branches,
                over_ms=row.over_ms,
            ),
        )
        if desk.state.summary_retention_ms:
            expires_at_ms = desk.state.elapsed_ms + desk.state.summary_retention_ms
            timers.arm(desk.writes, expires_at_ms, TimerKind.GLOBAL_SUMMARY_EXPIRY, xid.encode())


def forget_summary(desk: Desk, due_ms: int, xid: str) -> None:
    """Forget that a transaction ever was."""
    timers.disarm(desk.writes, due_ms, TimerKind.GLOBAL_SUMMARY_EXPIRY, xid.encode())
    erase_summary(desk.writes, xid)


def set_retention(desk: Desk, command: SetTransactionRetention) -> Outcome:
    """Keep what ends from now on for so long."""
    state = desk.state
    asked = (command.retention_ms, command.summary_retention_ms)
    if any(not 0 <= each <= keys.GREATEST_NUMBER // 4 for each in asked):
        return _RETENTION_UNUSABLE
    state.retention_ms, state.summary_retention_ms = asked
    return Applied(
        TransactionRetentionSet(
            retention_ms=state.retention_ms, summary_retention_ms=state.summary_retention_ms
        )
    )


# --- operators


def operate(desk: Desk, command: OperateGlobal, place: int) -> Outcome:
    """Do what an operator wants of a transaction; never reverse its decision."""
    transaction = desk.find(command.xid)
    if transaction is None:
        return not_found(desk, command.xid)
    row = transaction.row
    detail = f"{command.action} by {command.principal}: {command.reason}"
    if command.action in _RETRIES:
        return _retry(desk, transaction, command.action, detail, place)
    happens = _OPERATIONS.get(command.action)
    if happens is None:
        return _ACTION_UNKNOWN
    if after(row.status, happens) is None:
        return _not_possible(row, command.action)
    transaction.happen(place, "OPERATED", detail=detail)
    desk.end_by_operator(transaction, happens, place)
    return Applied(answer_of(transaction.row))


def _retry(desk: Desk, transaction: Transaction, action: str, detail: str, place: int) -> Outcome:
    row = transaction.row
    if not can_be_retried(row):
        return _not_possible(row, action)
    transaction.happen(place, "OPERATED", detail=detail)
    transaction.change(paused=action == "STOP_RETRY")
    if action != "STOP_RETRY":
        for branch in transaction.branches:
            if branch.status not in BRANCH_ENDED:
                transaction.change_branch(branch, due_ms=0, attempts=0)
        if after(row.status, GlobalInput.RESUME) is not None:
            transaction.resume(place)
    desk.advance(transaction, place)
    return Applied(answer_of(transaction.row))


def can_be_retried(row: Global) -> bool:
    """Whether the cluster calls branches of it, or gave up to."""
    runs = row.status is GlobalStatus.BEGIN and row.program != Program.CLIENT
    return runs or row.status in DRIVEN | FAILED


def can_be_forced(status: GlobalStatus, action: str) -> bool:
    """Whether an operator can end it so."""
    return after(status, _OPERATIONS[action]) is not None


def _not_possible(row: Global, action: str) -> Rejected:
    return Rejected(
        RejectionCode.OPERATION_NOT_POSSIBLE,
        f"{action} is not possible while the transaction is {row.status}.",
        retryable=False,
        transaction=standing_of(row),
    )
