"""What managers are told of a transaction: where it stands, and why it is not what they wanted."""

from __future__ import annotations

from statemachine.outcomes import GlobalAnswered, Rejected, RejectionCode, TransactionStanding
from statemachine.transactions.rows import Branch, Global
from statemachine.transactions.statuses import COMMIT_FAMILY, BranchStatus


def answer_of(row: Global) -> GlobalAnswered:
    return GlobalAnswered(xid=row.xid, status=row.status, reason=row.reason)


def standing_of(row: Global, branch_id: int = 0) -> TransactionStanding:
    """Return where a transaction stands, for who cannot have what was asked of it."""
    return TransactionStanding(
        xid=row.xid,
        status=row.status,
        reason=row.reason,
        ended_ms=row.ended_ms,
        branch_id=branch_id,
    )


def not_active(row: Global) -> Rejected:
    """Return the answer to whoever comes after the decision."""
    return Rejected(
        RejectionCode.TRANSACTION_NOT_ACTIVE,
        f"The transaction is {row.status}, so nothing can be added to it"
        + (f": {row.reason}." if row.reason else "."),
        retryable=False,
        transaction=standing_of(row),
    )


def decided_otherwise(standing: TransactionStanding) -> Rejected:
    """Return the answer to a commit of what is not committed, or a rollback of what is."""
    to_commit = standing.status not in COMMIT_FAMILY
    return Rejected(
        RejectionCode.TRANSACTION_DECIDED,
        f"The transaction is {standing.status} and cannot be "
        + ("committed." if to_commit else "rolled back."),
        retryable=False,
        transaction=standing,
    )


def branch_failed(row: Global, failed: Branch) -> Rejected:
    """Return the answer to a commit that became a rollback."""
    return Rejected(
        RejectionCode.BRANCH_FAILED,
        f"Branch {failed.branch_id} on {failed.resource_id} "
        + (
            "reported that it failed"
            if failed.status is BranchStatus.PHASE_ONE_FAILED
            else "was held by a channel session that has ended"
        )
        + ", so the transaction rolls back.",
        retryable=False,
        transaction=standing_of(row, failed.branch_id),
    )


def takes_no_rows(branch: Branch) -> Rejected:
    """Return the answer to who wants rows for a branch whose work is over."""
    return Rejected(
        RejectionCode.BRANCH_STATUS_FIXED,
        f"Branch {branch.branch_id} is {branch.status}: only one whose work goes on takes rows or "
        "gives them back.",
        retryable=False,
    )
