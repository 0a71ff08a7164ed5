"""What managers do before the decision: begin, register branches with their row locks, report."""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine.commands.branches import AbandonBranch
from statemachine.commands.transactions import BeginGlobal, RegisterBranch, ReportBranch
from statemachine.outcomes import (
    Applied,
    BranchAbandoned,
    BranchRegistered,
    BranchReported,
    Outcome,
    Rejected,
    RejectionCode,
)
from statemachine.positions import Position
from statemachine.tickets import Ticket, TicketKind
from statemachine.transactions import channel_binding, cleaning
from statemachine.transactions.answers import answer_of, not_active
from statemachine.transactions.committing import take_up
from statemachine.transactions.desk import Desk, takes_branches
from statemachine.transactions.locking import await_rows, branch_not_found, end_wait
from statemachine.transactions.planning import Program
from statemachine.transactions.row_locks import Wait
from statemachine.transactions.rows import Branch, RetryRule, encode_branch, get_timeline
from statemachine.transactions.statuses import BranchStatus, GlobalStatus, Mode
from statemachine.transactions.summaries import get_summary
from statemachine.transactions.transaction import Transaction
from statemachine.transactions.transitions import BranchInput, branch_after

GREATEST_BRANCHES: Final = 1_000

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
_NEVER_SEEN: Final = Rejected(
    RejectionCode.TRANSACTION_NOT_FOUND,
    "No transaction of this xid is known: it was never begun, or it ended so long ago that it was "
    "forgotten.",
    retryable=False,
)
_TOLD_BY_ITS_CALLS: Final = Rejected(
    RejectionCode.BRANCH_STATUS_FIXED,
    "The cluster runs this transaction, and learns from its own calls how a branch ends.",
    retryable=False,
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
    opened.change(mode=command.mode)
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
    if not takes_branches(transaction.row, command.mode):
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
        host=channel_binding.host_of(desk.writes, command.session_id),
    )
    refused = channel_binding.refusal(desk.writes, branch) or cleaning.refusal(
        desk.state, desk.writes, branch
    )
    if refused is not None:
        return refused
    if command.locks:
        kept_from = await_rows(
            desk,
            transaction,
            Wait(command.xid, command.locks, 0, encode_branch(branch)),
            command.wait_ms,
            place,
        )
        if kept_from is not None:
            return kept_from
    return desk.register_with_rows(transaction, branch, command.locks, place)


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
    if transaction.row.program != Program.CLIENT:
        return _TOLD_BY_ITS_CALLS
    if branch_after(branch.status, happens) is None:
        return Rejected(
            RejectionCode.BRANCH_STATUS_FIXED,
            f"Branch {branch.branch_id} is {branch.status} and cannot become {command.status}.",
        )
    data = command.application_data
    failure = command.failure
    if failure is not None:
        failure = msgspec.structs.replace(failure, at_ms=failure.at_ms or desk.state.wall_ms)
    branch = transaction.advance_branch(
        branch,
        happens,
        place,
        detail="" if failure is None else failure.message,
        application_data=branch.application_data if data is None else data,
        did_phase_one=happens is BranchInput.DONE,
        failure=failure,
    )
    if failure is not None:
        desk.record_failure(transaction, branch, place)
    if happens in (BranchInput.WITHDRAW, BranchInput.READ_ONLY):
        # Nothing of it is left to protect.
        desk.release(transaction, branch, place)
    take_up(desk, transaction, place)
    return Applied(
        BranchReported(xid=command.xid, branch_id=branch.branch_id, status=branch.status)
    )


def not_found(desk: Desk, xid: str) -> Rejected:
    """Return the answer to who names a transaction that is not known, or not any more."""
    summary = get_summary(desk.writes, xid)
    if summary is None:
        return _NEVER_SEEN
    return Rejected(
        RejectionCode.TRANSACTION_NOT_FOUND,
        f"The transaction ended as {summary.status} at {summary.ended_ms} ms since the epoch"
        + (f" ({summary.reason})" if summary.reason else "")
        + "; no more is kept of it.",
        retryable=False,
        transaction=summary.standing(xid),
    )


def abandon(desk: Desk, command: AbandonBranch, place: int) -> Outcome:
    """Undo a registration of which nobody was told: end its wait, or withdraw the branch."""
    transaction = desk.find(command.xid)
    if transaction is None:
        return not_found(desk, command.xid)
    ticket = desk.tickets.get(command.registration)
    if ticket is not None and ticket.kind is not TicketKind.ROW_LOCKS:
        return _NOTHING_ABANDONED
    if ticket is not None and ticket.outcome is None:
        end_wait(desk, command.registration, place)
        return Applied(BranchAbandoned(abandoned=True))
    branch = _registered_by(desk, transaction, command.registration, ticket)
    row = transaction.row
    undecided = row.status is GlobalStatus.BEGIN and row.program == Program.CLIENT
    if branch is None or branch.status is not BranchStatus.REGISTERED or not undecided:
        return _NOTHING_ABANDONED
    transaction.advance_branch(branch, BranchInput.WITHDRAW, place, detail="its client has gone")
    desk.release(transaction, branch, place)
    take_up(desk, transaction, place)
    return Applied(BranchAbandoned(abandoned=True))


_NOTHING_ABANDONED: Final = Applied(BranchAbandoned(abandoned=False))


def _registered_by(
    desk: Desk, transaction: Transaction, registration: Position, ticket: Ticket | None
) -> Branch | None:
    if ticket is None:
        found = [
            line.branch_id
            for line in get_timeline(desk.writes, transaction.row.xid)
            if line.index == registration and line.event == BranchStatus.REGISTERED
        ]
        return transaction.branch(found[0]) if found else None
    outcome = ticket.outcome
    if isinstance(outcome, Applied) and isinstance(outcome.result, BranchRegistered):
        same = outcome.result.xid == transaction.row.xid
        return transaction.branch(outcome.result.branch_id) if same else None
    return None
