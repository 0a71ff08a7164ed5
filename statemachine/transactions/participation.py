"""What managers do before the decision: begin, register branches with their row locks, report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from statemachine.commands.transactions import BeginGlobal, RegisterBranch, ReportBranch
from statemachine.outcomes import (
    Applied,
    BranchRegistered,
    BranchReported,
    Outcome,
    Rejected,
    RejectionCode,
    RowLockHolder,
)
from statemachine.positions import Position
from statemachine.tickets import TicketKind
from statemachine.transactions.desk import Desk, answer_of, not_active
from statemachine.transactions.planning import Program
from statemachine.transactions.row_locks import Conflict, RowLock, Wait
from statemachine.transactions.rows import Branch, RetryRule, encode_branch
from statemachine.transactions.statuses import (
    ENDED,
    ROLLBACK_FAMILY,
    BranchStatus,
    GlobalStatus,
    Mode,
)
from statemachine.transactions.transaction import Transaction
from statemachine.transactions.transitions import BranchInput, branch_after

GREATEST_BRANCHES: Final = 1_000
GREATEST_LOCKS: Final = 10_000
"""Of one request."""

_MODES: Final = frozenset(Mode) - {Mode.MESSAGE}

_REPORTS: Final = {
    "PHASE_ONE_DONE": BranchInput.DONE,
    "PHASE_ONE_FAILED": BranchInput.FAILED,
    "PHASE_ONE_READ_ONLY": BranchInput.READ_ONLY,
    "WITHDRAWN": BranchInput.WITHDRAW,
}

_MODE_UNKNOWN: Final = Rejected(
    RejectionCode.INVALID_COMMAND, f"mode is none of {', '.join(sorted(_MODES))}."
)
_TOO_MANY_BRANCHES: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"The transaction has {GREATEST_BRANCHES} branches already, the most there may be.",
)
_TOO_MANY_LOCKS: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"More than {GREATEST_LOCKS} rows are to be locked at once. Register them in parts.",
)
_QUEUE_FULL: Final = Rejected(
    RejectionCode.LOCK_QUEUE_FULL,
    "Too many wait for one of the rows already. Try again later.",
    retryable=True,
)
_REPORT_UNKNOWN: Final = Rejected(
    RejectionCode.INVALID_COMMAND, f"status is none of {', '.join(sorted(_REPORTS))}."
)


def begin(desk: Desk, command: BeginGlobal, place: int) -> Outcome:
    """Begin a transaction that its client decides."""
    opened = desk.open(
        command.xid, command.prefix, command.name, Program.CLIENT, place, submitted=False
    )
    if isinstance(opened, Rejected):
        return opened
    if command.timeout_ms > 0:
        opened.arm_deadline(command.timeout_ms)
    return Applied(answer_of(opened.row))


def register(desk: Desk, command: RegisterBranch, place: int) -> Outcome:
    """Let a branch take part, once it has all its rows; it may wait for them."""
    transaction = desk.find(command.xid)
    if transaction is None:
        return not_found(desk, command.xid)
    if command.mode not in _MODES:
        return _MODE_UNKNOWN
    if not _takes_branches(transaction, command.mode):
        return not_active(transaction.row)
    if transaction.row.branches >= GREATEST_BRANCHES:
        return _TOO_MANY_BRANCHES
    branch = Branch(
        branch_id=0,
        name="",
        mode=Mode(command.mode),
        status=BranchStatus.REGISTERED,
        resource_id=command.resource_id,
        application_id=command.application_id,
        unit_id=command.unit_id,
        session_id=command.session_id,
        application_data=command.application_data,
        calls=command.calls,
        payload=b"",
        depends_on=(),
        timeout_ms=0,
        retry=RetryRule(),
    )
    refused = _locks_unusable(command.locks)
    if refused is not None:
        return refused
    conflict = desk.locks.conflict(command.xid, command.locks)
    if conflict is not None:
        wait = Wait(command.xid, command.locks, 0, encode_branch(branch))
        return _wait_for_rows(desk, transaction, wait, conflict, command.wait_ms, place)
    branch_id = desk.register(transaction, branch, place)
    if command.locks:
        desk.locks.take(command.xid, branch_id, command.locks, desk.state.wall_ms)
    return Applied(BranchRegistered(xid=command.xid, branch_id=branch_id))


def report(desk: Desk, command: ReportBranch, place: int) -> Outcome:
    """Take note of how a branch's phase one ended. The same again changes nothing."""
    transaction = desk.find(command.xid)
    if transaction is None:
        return not_found(desk, command.xid)
    happens = _REPORTS.get(command.status)
    if happens is None:
        return _REPORT_UNKNOWN
    branch = transaction.branch(command.branch_id)
    if branch is None:
        return branch_not_found(command.xid, command.branch_id)
    if branch.status == command.status:
        return Applied(
            BranchReported(xid=command.xid, branch_id=branch.branch_id, status=branch.status)
        )
    if transaction.row.status is not GlobalStatus.BEGIN:
        return not_active(transaction.row)
    if branch_after(branch.status, happens) is None:
        return Rejected(
            RejectionCode.BRANCH_STATUS_FIXED,
            f"Branch {branch.branch_id} is {branch.status} and cannot become {command.status}.",
        )
    data = command.application_data
    branch = transaction.advance_branch(
        branch,
        happens,
        place,
        detail="" if command.failure is None else command.failure.message,
        application_data=branch.application_data if data is None else data,
        failure=command.failure,
    )
    if happens in (BranchInput.WITHDRAW, BranchInput.READ_ONLY):
        # Nothing of it is left to protect.
        desk.release(transaction, branch, place)
    return Applied(
        BranchReported(xid=command.xid, branch_id=branch.branch_id, status=branch.status)
    )


def end_wait(desk: Desk, ticket: Position, place: int) -> None:
    """End a wait for rows whose turn has not come."""
    wait = desk.locks.withdraw(ticket)
    conflict = desk.locks.conflict(wait.xid, wait.locks)
    outcome = _CONFLICT_GONE if conflict is None else lock_conflict(desk, conflict)
    desk.tickets.settle(ticket, outcome, place)
    desk.grant(desk.locks.names_of(wait), place)


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


def not_found(desk: Desk, xid: str) -> Rejected:
    return Rejected(
        RejectionCode.TRANSACTION_NOT_FOUND,
        "No transaction of this xid is known: it was never begun, or it ended so long ago that it "
        "was forgotten.",
    )


def branch_not_found(xid: str, branch_id: int) -> Rejected:
    return Rejected(RejectionCode.BRANCH_NOT_FOUND, f"Transaction {xid} has no branch {branch_id}.")


def _takes_branches(transaction: Transaction, mode: str) -> bool:
    """Only while it is undecided; what can only be compensated may come later, too."""
    row = transaction.row
    return row.status is GlobalStatus.BEGIN or (mode == Mode.SAGA and row.status not in ENDED)


def _locks_unusable(locks: Sequence[RowLock]) -> Rejected | None:
    return _TOO_MANY_LOCKS if len(locks) > GREATEST_LOCKS else None


def _wait_for_rows(
    desk: Desk,
    transaction: Transaction,
    wait: Wait,
    conflict: Conflict,
    wait_ms: int,
    place: int,
) -> Outcome:
    if wait_ms <= 0:
        return lock_conflict(desk, conflict)
    if desk.locks.queue_is_full(wait.locks):
        return _QUEUE_FULL
    youngest = _youngest(desk, desk.locks.cycle(wait.xid, wait.locks))
    if youngest == wait.xid:
        return _deadlock(conflict)
    pending = desk.tickets.open(place, TicketKind.ROW_LOCKS, b"", wait_ms)
    desk.locks.enqueue(pending.ticket, wait)
    if youngest is not None:
        for ticket in desk.locks.tickets_of(youngest):
            refused = desk.locks.withdraw(ticket)
            desk.tickets.settle(ticket, _deadlock(conflict), place)
            desk.grant(desk.locks.names_of(refused), place)
    return pending


def _youngest(desk: Desk, xids: Sequence[str]) -> str | None:
    """Return the one that began last: least is lost with it."""
    found = [(each.row.begun, xid) for xid in xids if (each := desk.find(xid)) is not None]
    return max(found)[1] if found else None


def _deadlock(conflict: Conflict) -> Rejected:
    lock = conflict.lock
    return Rejected(
        RejectionCode.DEADLOCK,
        "Transactions wait for each other's rows, and this one began last: it would have waited "
        f"for row {list(lock.key)} of {lock.table} in {lock.resource_id}. Roll it back and try "
        "again.",
        retryable=False,
    )
