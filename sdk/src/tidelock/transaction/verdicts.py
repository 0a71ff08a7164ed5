"""What a status means for who asked for a commit or a rollback."""

from __future__ import annotations

from typing import Final

from tidelock.client.answers.statuses import COMMIT_FAMILY, TIMEOUT_FAMILY
from tidelock.errors import ProblemError
from tidelock.transaction.ending import Standing
from tidelock.transaction.errors import (
    CommitFailedError,
    RollbackFailedError,
    TransactionRolledBackError,
    TransactionTimedOutError,
)

_COMMIT_FAILED: Final = frozenset({"COMMIT_FAILED", "COMMIT_RETRY_TIMEOUT"})
_ROLLBACK_FAILED: Final = frozenset(
    {"ROLLBACK_FAILED", "ROLLBACK_RETRY_TIMEOUT", "TIMEOUT_ROLLBACK_FAILED"}
)
_ROLLED_BACK: Final = frozenset(
    {
        "ROLLING_BACK", "ROLLBACK_RETRYING", "ROLLED_BACK", *_ROLLBACK_FAILED, *TIMEOUT_FAMILY,
    }
)  # fmt: skip


def is_committed(status: str) -> bool | None:
    """Tell whether it is decided to commit; None: undecided, or put aside by an operator."""
    if status in COMMIT_FAMILY:
        return True
    return False if status in _ROLLED_BACK else None


def was_rolled_back(refused: ProblemError) -> bool:
    """Say whether the transaction is over, and not only about to be rolled back."""
    standing = refused.transaction
    return standing is not None and standing.status in ("ROLLED_BACK", "TIMEOUT_ROLLED_BACK")


def after_commit(xid: str, standing: Standing) -> None:
    """Return when it is committed: `ASYNC_COMMITTING` and branches that are still told included.

    Raises:
        CommitFailedError, RollbackFailedError, TransactionTimedOutError,
        TransactionRolledBackError
    """
    status, why = standing.status, _why(standing)
    if status in _COMMIT_FAILED:
        raise CommitFailedError(
            f"transaction {xid} is to be committed, and a branch cannot be: {status}{why}; it "
            "stays so until an operator acts",
            xid,
            status,
        ) from standing.problem
    if is_committed(status):
        return
    if status in _ROLLBACK_FAILED:
        raise _not_undone(xid, standing)
    if status in TIMEOUT_FAMILY:
        raise TransactionTimedOutError(
            f"transaction {xid} was not committed within its timeout, and is rolled back: "
            f"{status}{why}",
            xid,
            status,
        ) from standing.problem
    if status == "FINISHED":
        raise CommitFailedError(
            f"transaction {xid} was put aside by an operator: {status}{why}", xid, status
        ) from standing.problem
    raise TransactionRolledBackError(
        f"transaction {xid} is rolled back: {status}{why}", xid, status
    ) from standing.problem


def after_rollback(xid: str, standing: Standing) -> None:
    """Return when it is rolled back, branches that are still told included.

    Raises:
        RollbackFailedError
    """
    if standing.status in _ROLLBACK_FAILED:
        raise _not_undone(xid, standing)
    if is_committed(standing.status):
        raise RollbackFailedError(
            f"transaction {xid} should be rolled back, and was committed by somebody else: "
            f"{standing.status}{_why(standing)}",
            xid,
            standing.status,
        ) from standing.problem


def _not_undone(xid: str, standing: Standing) -> RollbackFailedError:
    error = RollbackFailedError(
        f"transaction {xid} is to be rolled back, and a branch cannot be: "
        f"{standing.status}{_why(standing)}; it stays so until an operator acts",
        xid,
        standing.status,
    )
    error.__cause__ = standing.problem
    return error


def _why(standing: Standing) -> str:
    if standing.problem is not None:
        return f" ({standing.problem.detail})"
    return f" ({standing.reason})" if standing.reason else ""
