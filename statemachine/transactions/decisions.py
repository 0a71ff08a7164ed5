"""The decision: by a client, by time, or by an operator for what cannot end by itself."""

from __future__ import annotations

from typing import Final

from statemachine import timers
from statemachine.commands.transactions import DecideGlobal, OperateGlobal
from statemachine.outcomes import Applied, Outcome, Rejected, RejectionCode
from statemachine.positions import Position
from statemachine.tickets import TicketKind
from statemachine.timers import TimerKind
from statemachine.transactions.desk import Desk, answer_of
from statemachine.transactions.participation import not_found
from statemachine.transactions.planning import Program
from statemachine.transactions.rows import Branch, Global, erase
from statemachine.transactions.statuses import (
    BRANCH_ENDED,
    COMMIT_FAMILY,
    DRIVEN,
    ENDED,
    FAILED,
    BranchStatus,
    GlobalStatus,
    Mode,
)
from statemachine.transactions.transaction import Transaction
from statemachine.transactions.transitions import GlobalInput, after

GREATEST_WAITING: Final = 100
"""How many may wait for the end of one transaction."""

TIMED_OUT: Final = "nobody decided before its timeout"

_OPERATIONS: Final = {
    "FORCE_COMMIT": GlobalInput.FORCE_COMMIT,
    "FORCE_ROLLBACK": GlobalInput.FORCE_ROLLBACK,
    "FORGET": GlobalInput.FORGET,
}
_RETRIES: Final = ("RETRY_NOW", "STOP_RETRY", "START_RETRY")

_ACTION_UNKNOWN: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"action is none of {', '.join(sorted((*_RETRIES, *_OPERATIONS)))}.",
)


def decide(desk: Desk, command: DecideGlobal, place: int) -> Outcome:
    """Commit or roll back, once; then say where the transaction stands, or wait for its end."""
    transaction = desk.find(command.xid)
    if transaction is None:
        return not_found(desk, command.xid)
    row = transaction.row
    if row.status is GlobalStatus.BEGIN:
        refused = (
            _commit(desk, transaction, command, place)
            if command.commit
            else _roll_back(desk, transaction, command, place)
        )
        if refused is not None:
            return refused
    elif command.commit != (row.status in COMMIT_FAMILY) and not row.status.startswith("TIMEOUT_"):
        return Rejected(
            RejectionCode.TRANSACTION_DECIDED,
            f"The transaction is {row.status} and cannot be "
            + ("committed." if command.commit else "rolled back."),
            retryable=False,
        )
    return await_end(desk, transaction, command.wait_ms, place)


def _commit(
    desk: Desk, transaction: Transaction, command: DecideGlobal, place: int
) -> Rejected | None:
    row, branches = transaction.row, transaction.branches
    if row.deadline_ms and row.deadline_ms <= desk.state.elapsed_ms:
        desk.decide(transaction, GlobalInput.TIME_OUT, TIMED_OUT, place)
        return None
    failed = transaction.failed_branch
    if failed is not None:
        reason = f"branch {failed.branch_id} had failed"
        desk.decide(transaction, GlobalInput.ROLL_BACK, reason, place)
        return Rejected(
            RejectionCode.BRANCH_FAILED,
            f"Branch {failed.branch_id} on {failed.resource_id} reported that it failed, so the "
            "transaction rolls back.",
            retryable=False,
        )
    unfinished = [b for b in branches if b.status is BranchStatus.REGISTERED and _reports(b)]
    if command.reports_expected and unfinished:
        first = unfinished[0]
        return Rejected(
            RejectionCode.BRANCH_UNFINISHED,
            f"Branch {first.branch_id} on {first.resource_id} has not reported how its phase one "
            "ended. Commit when it has, or roll back.",
            retryable=True,
        )
    told = [branch for branch in branches if branch.status not in BRANCH_ENDED]
    cleaning = bool(told) and all(branch.mode is Mode.AT for branch in told)
    happens = GlobalInput.COMMIT_ASYNC if cleaning else GlobalInput.COMMIT
    desk.decide(transaction, happens, command.reason, place)
    return None


def _reports(branch: Branch) -> bool:
    """Whether its manager says how phase one ended. A registered compensation stands for itself."""
    return branch.mode is not Mode.SAGA


def _roll_back(
    desk: Desk, transaction: Transaction, command: DecideGlobal, place: int
) -> Rejected | None:
    row = transaction.row
    if row.program == Program.MESSAGE and row.submitted:
        return Rejected(
            RejectionCode.TRANSACTION_DECIDED,
            "The message is submitted and will be delivered.",
            retryable=False,
        )
    desk.decide(transaction, GlobalInput.ROLL_BACK, command.reason, place)
    return None


def await_end(desk: Desk, transaction: Transaction, wait_ms: int, place: int) -> Outcome:
    """Answer where the transaction stands, or leave a ticket that its end will settle."""
    row = transaction.row
    settled = row.status in ENDED | FAILED or row.status is GlobalStatus.ASYNC_COMMITTING
    if settled or wait_ms <= 0 or len(row.waiting) >= GREATEST_WAITING:
        return Applied(answer_of(row))
    pending = desk.tickets.open(place, TicketKind.GLOBAL_END, row.xid.encode(), wait_ms)
    transaction.change(waiting=(*row.waiting, pending.ticket))
    return pending


def end_wait(desk: Desk, ticket: Position, xid: str, place: int) -> None:
    """End a wait for the end: the transaction goes on, and the answer says where it stands."""
    transaction = desk.find(xid)
    assert transaction is not None, "what is waited for is not forgotten"
    row = transaction.row
    transaction.change(waiting=tuple(each for each in row.waiting if each != ticket))
    desk.tickets.settle(ticket, Applied(answer_of(row)), place)


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
        erase(desk.writes, transaction.row)


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
    if row.status not in DRIVEN | FAILED and not row.submitted:
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


def _not_possible(row: Global, action: str) -> Rejected:
    return Rejected(
        RejectionCode.OPERATION_NOT_POSSIBLE,
        f"{action} is not possible while the transaction is {row.status}.",
        retryable=False,
    )
