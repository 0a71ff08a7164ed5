"""The decision to commit: at once, or as soon as every branch has reported."""

from __future__ import annotations

from typing import Final

from statemachine.commands.transactions import DecideGlobal
from statemachine.outcomes import Outcome, Rejected, RejectionCode
from statemachine.tickets import TicketKind
from statemachine.transactions import channel_binding, messages
from statemachine.transactions.answers import branch_failed, standing_of
from statemachine.transactions.desk import Desk
from statemachine.transactions.planning import Program
from statemachine.transactions.rows import DTM, Branch, Committer
from statemachine.transactions.statuses import BRANCH_ENDED, BranchStatus, GlobalStatus, Mode
from statemachine.transactions.transaction import Transaction
from statemachine.transactions.transitions import GlobalInput

GREATEST_WAITING: Final = 100
"""How many may wait for the decision or the end of one transaction."""

TIMED_OUT: Final = "nobody decided before its timeout"

_DECIDES_ITSELF: Final = Rejected(
    RejectionCode.OPERATION_NOT_POSSIBLE,
    "The cluster runs this transaction and commits it by itself. Roll it back to stop it.",
    retryable=False,
)


def commit(
    desk: Desk, transaction: Transaction, command: DecideGlobal, place: int
) -> Outcome | None:
    """Decide an undecided transaction; None when the decision is taken.

    Otherwise it is a refusal, or a wait for the branches that have not reported.
    """
    row = transaction.row
    if row.program == Program.MESSAGE:
        if not row.submitted:
            messages.submit(desk, transaction, place)
        return None
    if row.program != Program.CLIENT:
        return _DECIDES_ITSELF
    if _times_out(desk, transaction, place):
        return None
    failed = _fails(desk, transaction, place)
    if failed is not None:
        return branch_failed(transaction.row, failed)
    # DTM's clients register before they try, and report to nobody but themselves.
    expected = command.reports_expected and row.protocol != DTM
    if expected and _unfinished(transaction) is not None:
        return _await_reports(desk, transaction, command, place)
    _decide(desk, transaction, command.reason, place)
    return None


def take_up(desk: Desk, transaction: Transaction, place: int) -> None:
    """Go on with a commit that waits for reports, now that one has come."""
    row = transaction.row
    if not row.committing or row.status is not GlobalStatus.BEGIN:
        return
    if _times_out(desk, transaction, place) or _fails(desk, transaction, place) is not None:
        return
    if _unfinished(transaction) is None:
        _decide(desk, transaction, row.committing[0].reason, place)


def branch_unfinished(transaction: Transaction) -> Rejected:
    """Return the answer to a commit for which the reports did not come in time."""
    first = _unfinished(transaction)
    assert first is not None, "a commit waits only while a report is missing"
    return Rejected(
        RejectionCode.BRANCH_UNFINISHED,
        f"Branch {first.branch_id} on {first.resource_id} has not reported how its phase one "
        "ended. Commit when it has, or roll back.",
        retryable=True,
        transaction=standing_of(transaction.row, first.branch_id),
    )


def _times_out(desk: Desk, transaction: Transaction, place: int) -> bool:
    """Roll back what is past its timeout; False when it is not."""
    row = transaction.row
    late = 0 < row.deadline_ms <= desk.state.elapsed_ms
    if late:
        desk.decide(transaction, GlobalInput.TIME_OUT, TIMED_OUT, place)
    return late


def _fails(desk: Desk, transaction: Transaction, place: int) -> Branch | None:
    """Roll back when a branch has failed or is lost, and return it."""
    failed = transaction.failed_branch
    if failed is not None:
        reason = f"branch {failed.branch_id} had failed"
        desk.decide(transaction, GlobalInput.ROLL_BACK, reason, place)
        return failed
    lost = channel_binding.first_lost(desk.writes, transaction.branches)
    if lost is not None:
        reason = channel_binding.loss_of(lost)
        desk.decide(transaction, GlobalInput.ROLL_BACK, reason, place)
    return lost


def _unfinished(transaction: Transaction) -> Branch | None:
    """Return the first branch whose manager has still to say how phase one ended.

    A compensation that was registered with its URL stands for itself.
    """
    for branch in transaction.branches:
        stands = branch.mode is Mode.SAGA and branch.calls.rollback is not None
        if branch.status is BranchStatus.REGISTERED and not stands:
            return branch
    return None


def _await_reports(
    desk: Desk, transaction: Transaction, command: DecideGlobal, place: int
) -> Outcome:
    row = transaction.row
    if command.wait_ms <= 0 or len(row.waiting) + len(row.committing) >= GREATEST_WAITING:
        return branch_unfinished(transaction)
    pending = desk.tickets.open(place, TicketKind.GLOBAL_END, row.xid.encode(), command.wait_ms)
    transaction.change(committing=(*row.committing, Committer(pending.ticket, command.reason)))
    return pending


def _decide(desk: Desk, transaction: Transaction, reason: str, place: int) -> None:
    told = [branch for branch in transaction.branches if branch.status not in BRANCH_ENDED]
    cleaning = bool(told) and all(branch.mode is Mode.AT for branch in told)
    happens = GlobalInput.COMMIT_ASYNC if cleaning else GlobalInput.COMMIT
    desk.decide(transaction, happens, reason, place)
