"""Answers about global transactions, their branches and the rows that these lock."""

from __future__ import annotations

from typing import Any

from tidelock.client.answers.answer import Answer
from tidelock.client.answers.row_locks import LockedRow
from tidelock.client.answers.statuses import (
    COMMIT_FAMILY,
    ENDED,
    FAILED,
    TIMEOUT_FAMILY,
    AnyMode,
    BranchStatus,
    Program,
    TransactionMode,
    TransactionStatus,
)
from tidelock.client.answers.timestamps import Hlc


class BegunTransaction(Answer, frozen=True, kw_only=True):
    """A transaction that was begun."""

    xid: str
    status: TransactionStatus
    name: str
    timeout_ms: int


class TransactionState(Answer, frozen=True, kw_only=True):
    """Where a transaction stands."""

    xid: str
    status: TransactionStatus
    reason: str
    """Why it was decided so; empty when nobody said."""

    @property
    def is_to_commit(self) -> bool:
        """Whether it was decided to commit; what that left to do may still be done."""
        return self.status in COMMIT_FAMILY

    @property
    def timed_out(self) -> bool:
        """Whether it is rolled back because nobody decided in time."""
        return self.status in TIMEOUT_FAMILY

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to do."""
        return self.status in ENDED

    @property
    def has_failed(self) -> bool:
        """Whether something is left undone until an operator acts."""
        return self.status in FAILED


class TransactionSummary(TransactionState, frozen=True, kw_only=True):
    """A transaction in a list."""

    name: str
    mode: TransactionMode
    program: Program
    submitted: bool
    """The cluster runs it forward."""
    branch_count: int
    begun_at: int
    """Milliseconds since the epoch, as the next."""
    decided_at: int | None
    ended_at: int | None


class BranchFailure(Answer, frozen=True, kw_only=True):
    """What went wrong in a branch."""

    type: str
    message: str
    at: int
    """Milliseconds since the epoch."""


class BranchCalls(Answer, frozen=True, kw_only=True):
    """Where a branch is called; empty: nobody is, and it counts as done; None: not over HTTP."""

    forward: str | None
    commit: str | None
    rollback: str | None


class Branch(Answer, frozen=True, kw_only=True):
    """A branch with all that is known of it."""

    branch_id: int
    name: str
    mode: AnyMode
    status: BranchStatus
    resource_id: str
    application_id: str
    unit_id: str
    session_id: int | None
    application_data: Any  # whatever JSON was given
    calls: BranchCalls
    depends_on: list[int]
    """The branches that must have been called before it."""
    attempts: int
    """How often the present call did not succeed."""
    next_attempt_at: int | None
    """Milliseconds since the epoch; None when nothing is to be called, or at once."""
    result: Any  # whatever its forward call answered
    error: BranchFailure | None
    """What went wrong last."""
    registered_at: int
    updated_at: int


class TimelineLine(Answer, frozen=True, kw_only=True):
    """Something that happened in a transaction or around it."""

    index: str
    """Position in the log, `entry.place`."""
    hlc: Hlc
    lamport_timestamp: int
    event: str
    """The status that was reached, or what else it was."""
    branch_id: int | None
    """None: the transaction itself."""
    detail: str


class Transaction(TransactionSummary, frozen=True, kw_only=True):
    """A transaction with everything that is known of it."""

    kept_in_full: bool
    """False when its retention is over: then it has no branches, locks or timeline any more."""
    timeout_at: int | None
    """When it is rolled back unless it is decided; None when it is, or never."""
    paused: bool
    """An operator has stopped its retries."""
    branches: list[Branch]
    locks: list[LockedRow]
    """The first 1,000; `Client.row_locks` has all."""
    timeline: list[TimelineLine]


class TransactionException(Answer, frozen=True, kw_only=True):
    """A failure of a branch."""

    index: str
    xid: str
    branch_id: int
    name: str
    mode: AnyMode
    resource_id: str
    application_id: str
    status: BranchStatus
    """Of the branch, with the failure."""
    error: BranchFailure
