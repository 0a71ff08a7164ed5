"""What is shown of global transactions: their status, branches, locks and timelines."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from api.hybrid_clock import Hlc, hlc
from api.row_keys import LockMode
from api.shapes import Answer
from statemachine.state import load_state
from statemachine.store import Reader
from statemachine.transactions.incidents import Incident
from statemachine.transactions.listing import list_rows
from statemachine.transactions.row_locks import Hold, LockRow
from statemachine.transactions.rows import (
    Branch,
    Failure,
    Global,
    Happening,
    get_branches,
    get_timeline,
)
from statemachine.transactions.statuses import BRANCH_ENDED, BranchStatus, GlobalStatus
from statemachine.transactions.summaries import Summary

GREATEST_SHOWN: Final = 1_000
"""How many locked rows the view of one transaction names, and how many holders that of a row."""

NOTHING: Final = Raw(b"null")


class TransactionState(Answer, frozen=True, kw_only=True):
    """Where a transaction stands."""

    xid: str
    status: GlobalStatus
    reason: str
    """Why it was decided so; empty when nobody said."""


class BranchFailure(Answer, frozen=True, kw_only=True):
    type: str
    message: str
    at: int
    """Milliseconds since the epoch."""


class Calls(Answer, frozen=True, kw_only=True):
    """Where a branch is called; empty: nobody is, and it counts as done; null: not over HTTP."""

    forward: str | None
    """The action of a step, a Try, a message's delivery."""
    commit: str | None
    rollback: str | None


class BranchView(Answer, frozen=True, kw_only=True):
    """A branch with all that is known of it."""

    branch_id: int
    name: str
    mode: str
    status: BranchStatus
    resource_id: str
    application_id: str
    unit_id: str
    session_id: int | None
    application_data: Raw
    calls: Calls
    depends_on: list[int]
    """The branches that must have been called before it."""
    attempts: int
    """How often the present call did not succeed."""
    next_attempt_at: int | None
    """Milliseconds since the epoch; null when nothing is to be called, or at once."""
    result: Raw
    """What its forward call answered."""
    error: BranchFailure | None
    """What went wrong last."""
    registered_at: int
    updated_at: int


class RowHolder(Answer, frozen=True, kw_only=True):
    xid: str
    branch_id: int
    lock_mode: LockMode
    since: int
    """Milliseconds since the epoch."""


class LockedRow(Answer, frozen=True, kw_only=True):
    """A row that is locked, or waited for."""

    resource_id: str
    table: str
    key: list[int | str | bool | None]
    holders: list[RowHolder]
    holder_count: int
    queue_length: int
    """How many requests wait for it."""


class TimelineLine(Answer, frozen=True, kw_only=True):
    """Something that happened in a transaction or around it."""

    index: str
    """Position in the log, `entry.place`."""
    hlc: Hlc
    lamport_timestamp: int
    event: str
    """The status that was reached, or what else it was."""
    branch_id: int | None
    """Null: the transaction itself."""
    detail: str


class TransactionSummary(TransactionState, frozen=True, kw_only=True):
    """A transaction in a list."""

    name: str
    mode: str
    """What its client said that its branches mostly are."""
    program: str
    """Who runs it: CLIENT decides by itself; SAGA, TCC and MESSAGE are run by the cluster."""
    submitted: bool
    """The cluster runs it forward."""
    branch_count: int
    begun_at: int
    decided_at: int | None
    ended_at: int | None


class TransactionView(TransactionSummary, frozen=True, kw_only=True):
    """A transaction with everything that is known of it."""

    kept_in_full: bool
    """False when its retention is over: then it has no branches, locks or timeline any more."""
    timeout_at: int | None
    """When it is rolled back unless it is decided; null when it is, or never."""
    paused: bool
    """An operator has stopped its retries."""
    branches: list[BranchView]
    locks: list[LockedRow]
    """The first ones; `GET /api/v1/row-locks?xid=` has all."""
    timeline: list[TimelineLine]


class ExceptionView(Answer, frozen=True, kw_only=True):
    """A failure of a branch."""

    index: str
    xid: str
    branch_id: int
    name: str
    mode: str
    resource_id: str
    application_id: str
    status: str
    """Of the branch, with the failure."""
    error: BranchFailure


def summary_of(row: Global) -> TransactionSummary:
    return TransactionSummary(
        xid=row.xid,
        status=row.status,
        reason=row.reason,
        name=row.name,
        mode=row.mode,
        program=row.program,
        submitted=row.submitted,
        branch_count=row.branches,
        begun_at=row.begun_ms,
        decided_at=row.decided_ms or None,
        ended_at=row.ended_ms or None,
    )


def view_of(reader: Reader, row: Global) -> TransactionView:
    """Return everything about a transaction that is kept in full."""
    state = load_state(reader)
    wall_minus_elapsed_ms = state.wall_ms - state.elapsed_ms
    undecided = row.status is GlobalStatus.BEGIN
    rows, _ = list_rows(reader, resource_id=None, xid=row.xid, cursor=None, limit=GREATEST_SHOWN)
    summary = summary_of(row)
    return TransactionView(
        xid=summary.xid,
        status=summary.status,
        reason=summary.reason,
        name=summary.name,
        mode=summary.mode,
        program=summary.program,
        submitted=summary.submitted,
        branch_count=summary.branch_count,
        begun_at=summary.begun_at,
        decided_at=summary.decided_at,
        ended_at=summary.ended_at,
        kept_in_full=True,
        timeout_at=row.deadline_ms + wall_minus_elapsed_ms
        if undecided and row.deadline_ms
        else None,
        paused=row.paused,
        branches=[
            _branch(branch, wall_minus_elapsed_ms) for branch in get_branches(reader, row.xid)
        ],
        locks=[row_of(each) for each in rows],
        timeline=[_line(happening) for happening in get_timeline(reader, row.xid)],
    )


def view_of_summary(xid: str, summary: Summary) -> TransactionView:
    """Return what is left to say of a transaction whose retention is over."""
    return TransactionView(
        xid=xid,
        status=GlobalStatus(summary.status),
        reason=summary.reason,
        name=summary.name,
        mode=summary.mode,
        program=summary.program,
        submitted=False,
        branch_count=summary.branches,
        begun_at=summary.begun_ms,
        decided_at=None,
        ended_at=summary.ended_ms,
        kept_in_full=False,
        timeout_at=None,
        paused=False,
        branches=[],
        locks=[],
        timeline=[],
    )


def _branch(branch: Branch, wall_minus_elapsed_ms: int) -> BranchView:
    waits = branch.status not in BRANCH_ENDED and branch.due_ms > 0
    return BranchView(
        branch_id=branch.branch_id,
        name=branch.name,
        mode=branch.mode,
        status=branch.status,
        resource_id=branch.resource_id,
        application_id=branch.application_id,
        unit_id=branch.unit_id,
        session_id=branch.session_id or None,
        application_data=stored_json(branch.application_data),
        calls=Calls(
            forward=branch.calls.forward,
            commit=branch.calls.commit,
            rollback=branch.calls.rollback,
        ),
        depends_on=list(branch.depends_on),
        attempts=branch.attempts,
        next_attempt_at=branch.due_ms + wall_minus_elapsed_ms if waits else None,
        result=stored_json(branch.result),
        error=failure_of(branch.failure),
        registered_at=branch.registered_ms,
        updated_at=branch.updated_ms,
    )


def failure_of(failure: Failure | None) -> BranchFailure | None:
    if failure is None:
        return None
    return BranchFailure(type=failure.type, message=failure.message, at=failure.at_ms)


def stored_json(data: bytes) -> Raw:
    """Return what a client or a participant sent: as it is when it is JSON, else as a text."""
    if not data:
        return NOTHING
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Raw(msgspec.json.encode(data.decode(errors="replace")))
    return Raw(data)


def row_of(row: LockRow) -> LockedRow:
    return LockedRow(
        resource_id=row.resource_id,
        table=row.table,
        key=list(row.key),
        holders=[holder_of(hold) for hold in row.holds[:GREATEST_SHOWN]],
        holder_count=len(row.holds),
        queue_length=row.waiters,
    )


def holder_of(hold: Hold) -> RowHolder:
    return RowHolder(
        xid=hold.xid,
        branch_id=hold.branch_id,
        lock_mode=LockMode.EXCLUSIVE if hold.exclusive else LockMode.SHARED,
        since=hold.since_ms,
    )


def _line(happening: Happening) -> TimelineLine:
    return TimelineLine(
        index=str(happening.index),
        hlc=hlc(happening.hlc),
        lamport_timestamp=happening.lamport,
        event=happening.event,
        branch_id=happening.branch_id or None,
        detail=happening.detail,
    )


def exception_of(incident: Incident) -> ExceptionView:
    failure = incident.failure
    return ExceptionView(
        index=str(incident.index),
        xid=incident.xid,
        branch_id=incident.branch_id,
        name=incident.name,
        mode=incident.mode,
        resource_id=incident.resource_id,
        application_id=incident.application_id,
        status=incident.status,
        error=BranchFailure(type=failure.type, message=failure.message, at=failure.at_ms),
    )
