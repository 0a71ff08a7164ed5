"""Row locks for branches: with their registration, statement by statement, and waiting for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from statemachine.commands.branches import LockRows, UnlockRows
from statemachine.outcomes import (
    Applied,
    Outcome,
    Rejected,
    RejectionCode,
    RowLockHolder,
    RowsUnlocked,
)
from statemachine.positions import Position
from statemachine.tickets import TicketKind
from statemachine.transactions.answers import not_active, takes_no_rows
from statemachine.transactions.deadlocks import TOO_MANY_WAIT, deadlock
from statemachine.transactions.desk import Desk
from statemachine.transactions.planning import Program
from statemachine.transactions.row_locks import Conflict, RowLock, Wait
from statemachine.transactions.rows import Branch
from statemachine.transactions.statuses import ROLLBACK_FAMILY, BranchStatus, GlobalStatus
from statemachine.transactions.transaction import Transaction

GREATEST_LOCKS: Final = 10_000
"""Of one request."""

GREATEST_WAITS: Final = 100
"""How many requests of one transaction may wait for rows at once."""

_TOO_MANY_LOCKS: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"More than {GREATEST_LOCKS} rows are to be locked at once. Register them in parts.",
)
_QUEUE_FULL: Final = Rejected(
    RejectionCode.LOCK_QUEUE_FULL,
    "Too many wait for one of the rows already. Try again later.",
    retryable=True,
)
_ROWS_OF_NOBODY: Final = Rejected(
    RejectionCode.BRANCH_STATUS_FIXED,
    "The cluster runs this transaction; only branches that an application registers lock rows.",
    retryable=False,
)
_WAITS_ENOUGH: Final = Rejected(
    RejectionCode.LOCK_QUEUE_FULL,
    f"The transaction waits for rows {GREATEST_WAITS} times already, the most there may be.",
    retryable=True,
)


def lock_rows(desk: Desk, transaction: Transaction, command: LockRows, place: int) -> Outcome:
    """Lock more rows for a branch, or wait for them."""
    branch = _working(transaction, command.branch_id)
    if not isinstance(branch, Branch):
        return branch
    locks = _of_resource(branch.resource_id, command.locks)
    wait = Wait(command.xid, locks, branch.branch_id)
    kept_from = await_rows(desk, transaction, wait, command.wait_ms, place)
    return desk.lock(transaction, branch, locks, place) if kept_from is None else kept_from


def unlock_rows(desk: Desk, transaction: Transaction, command: UnlockRows, place: int) -> Outcome:
    """Undo what locked rows for a branch: it went back to a savepoint."""
    branch = _working(transaction, command.branch_id)
    if not isinstance(branch, Branch):
        return branch
    if len(command.locks) > GREATEST_LOCKS:
        return _TOO_MANY_LOCKS
    locks = _of_resource(branch.resource_id, command.locks)
    given_back = desk.locks.give_back(command.xid, branch.branch_id, locks)
    if given_back:
        transaction.tell(place, "UNLOCKED", branch.branch_id, f"{len(given_back)} rows")
        desk.grants.free(given_back, place)
        desk.grants.look_at(command.xid, place)
    return Applied(
        RowsUnlocked(xid=command.xid, branch_id=branch.branch_id, unlocked=len(given_back))
    )


def _working(transaction: Transaction, branch_id: int) -> Branch | Rejected:
    """Return a branch whose work goes on, or why it cannot have other rows."""
    row = transaction.row
    if row.status is not GlobalStatus.BEGIN:
        return not_active(row)
    if row.program != Program.CLIENT:
        return _ROWS_OF_NOBODY
    branch = transaction.branch(branch_id)
    if branch is None:
        return branch_not_found(row.xid, branch_id)
    return branch if branch.status is BranchStatus.REGISTERED else takes_no_rows(branch)


def _of_resource(resource_id: str, locks: Sequence[RowLock]) -> tuple[RowLock, ...]:
    return tuple([msgspec.structs.replace(lock, resource_id=resource_id) for lock in locks])


def branch_not_found(xid: str, branch_id: int) -> Rejected:
    return Rejected(RejectionCode.BRANCH_NOT_FOUND, f"Transaction {xid} has no branch {branch_id}.")


def await_rows(
    desk: Desk, transaction: Transaction, wait: Wait, wait_ms: int, place: int
) -> Outcome | None:
    """Return why a request does not get its rows now, or its wait for them; None when they are
    free.
    """
    if len(wait.locks) > GREATEST_LOCKS:
        return _TOO_MANY_LOCKS
    full = desk.locks.refusal(wait.xid, wait.branch_id, wait.locks)
    if full is not None:
        return Rejected(RejectionCode.LOCK_TABLE_FULL, full, retryable=True)
    conflict = desk.locks.conflict(wait.xid, wait.locks)
    if conflict is None:
        return None
    if wait_ms <= 0:
        return lock_conflict(desk, conflict)
    if desk.locks.queue_is_full(wait.locks):
        return _QUEUE_FULL
    if len(desk.locks.tickets_of(wait.xid)) >= GREATEST_WAITS:
        return _WAITS_ENOUGH
    while (circle := desk.deadlocks.circle(wait.xid, wait.locks)) != []:
        if circle is None:
            return TOO_MANY_WAIT
        youngest = desk.youngest(circle)
        if youngest == wait.xid:
            return deadlock(conflict.lock)
        desk.grants.refuse(youngest, place)
    if desk.locks.conflict(wait.xid, wait.locks) is None:
        # Nobody but who waits no more stood before it.
        return None
    pending = desk.tickets.open(place, TicketKind.ROW_LOCKS, b"", wait_ms)
    desk.locks.enqueue(pending.ticket, wait)
    return pending


def end_wait(desk: Desk, ticket: Position, place: int) -> None:
    """End a wait for rows whose turn has not come."""
    wait = desk.locks.withdraw(ticket)
    conflict = desk.locks.conflict(wait.xid, wait.locks)
    outcome = _CONFLICT_GONE if conflict is None else lock_conflict(desk, conflict)
    desk.tickets.settle(ticket, outcome, place)
    desk.grants.free(desk.locks.names_of(wait), place)
    desk.grants.look_at(wait.xid, place)


def lock_conflict(desk: Desk, conflict: Conflict) -> Rejected:
    """Return the answer to whoever cannot have a row, with who has it."""
    lock, hold = conflict.lock, conflict.hold
    row = f"row {list(lock.key)} of {lock.table} in {lock.resource_id}"
    if hold is None:
        return Rejected(
            RejectionCode.LOCK_CONFLICT,
            f"Another transaction waits for {row} and comes first. Wait, or try again later.",
            retryable=True,
        )
    holder = desk.find(hold.xid)
    rolls_back = holder is not None and holder.row.status in ROLLBACK_FAMILY
    return Rejected(
        RejectionCode.LOCK_CONFLICT,
        f"The {row} is locked by {hold.xid}"
        + (", which is rolling back." if rolls_back else ". Wait, or try again later."),
        RowLockHolder(
            xid=hold.xid,
            branch_id=hold.branch_id,
            resource_id=lock.resource_id,
            table=lock.table,
            key=lock.key,
            since_ms=hold.since_ms,
        ),
        not rolls_back,
    )


_CONFLICT_GONE: Final = Rejected(
    RejectionCode.LOCK_CONFLICT, "The rows were not free in time. Try again.", retryable=True
)
