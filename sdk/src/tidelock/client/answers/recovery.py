"""Answers about what new leaders found unfinished."""

from __future__ import annotations

from typing import Literal

from tidelock.client.answers.answer import Answer
from tidelock.client.answers.statuses import BranchStatus, TransactionStatus

RecoveryDecision = Literal["CONTINUE_FORWARD", "CONTINUE_COMMIT", "CONTINUE_ROLLBACK"]


class FoundBranch(Answer, frozen=True, kw_only=True):
    """A branch as it was found."""

    branch_id: int
    status: BranchStatus


class FoundTransaction(Answer, frozen=True, kw_only=True):
    """A transaction as it was found."""

    status: TransactionStatus
    branches: list[FoundBranch]


class RecoveryAction(Answer, frozen=True, kw_only=True):
    """What happened since."""

    index: int
    """The log entry."""
    event: str
    branch_id: int | None
    """None: of the transaction itself."""
    detail: str


class RecoveryRecord(Answer, frozen=True, kw_only=True):
    """One transaction that a leader found unfinished when it took over."""

    term: int
    """The leader's."""
    at: int
    """Milliseconds since the epoch."""
    index: int
    """The log entry that recorded it."""
    xid: str
    found: FoundTransaction
    decision: RecoveryDecision
    actions: list[RecoveryAction]
    finished_at: int | None
    """When the transaction ended, milliseconds since the epoch; None while it is under way."""
