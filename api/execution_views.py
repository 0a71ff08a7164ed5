"""Executions as clients see them: as they were finished, or as the coordinator has got since."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from api.shapes import Answer
from statemachine.event_ids import format_event_id
from statemachine.execution_rows import ENDS, ExecutionRow, transaction_id
from statemachine.outcomes import Position
from statemachine.store import Reader
from statemachine.transactions.rows import get_global
from statemachine.transactions.summaries import get_summary

_ROLLED_BACK: Final = frozenset({"ROLLED_BACK", "TIMEOUT_ROLLED_BACK"})

Status = Literal["ACCEPTED", "RUNNING", "SUCCESS", "ROLLBACK", "ROLLBACK_FAILED"]
JtaStatus = Literal[
    "ACTIVE",
    "PREPARING",
    "COMMITTING",
    "COMMITTED",
    "ROLLING_BACK",
    "ROLLED_BACK",
    "MARKED_ROLLBACK",
    "UNKNOWN",
]


class Failure(msgspec.Struct, frozen=True):
    """What was wrong with one of many."""

    path: str
    message: str


class ExecutionAnswer(Answer, frozen=True, kw_only=True):
    """What an execution came to."""

    transaction_id: str
    xid: str
    """Of its global transaction."""
    event_id: str
    """Of its timestamp event."""
    status: Status
    final_status: JtaStatus | None
    """How its transaction ended, as far as is known; null before its end."""
    lamport_timestamp: int
    result: Raw | UnsetType = UNSET
    """What the business returned."""
    error: str | UnsetType = UNSET
    failures: list[Failure] | UnsetType = UNSET


class Accepted(Answer, frozen=True, kw_only=True):
    """An execution that nobody waits for."""

    transaction_id: str
    xid: str
    status: Literal["ACCEPTED"]


class TimelineStep(Answer, frozen=True, kw_only=True):
    """Something that became of an execution."""

    at: int
    """Milliseconds since the epoch."""
    status: Status
    jta_status: JtaStatus | None
    xid: str
    node_id: str | None
    """Who ran it then; null while nobody did."""
    epoch: int


class ProgressAnswer(msgspec.Struct, frozen=True):
    """How far a migration is, in rows."""

    read: int
    written: int
    total: int
    batch: int


class ExecutionStatus(ExecutionAnswer, frozen=True, kw_only=True):
    """Everything about an execution."""

    business_type: str
    jta_status: JtaStatus | None
    """Null until it is begun."""
    attempts: int
    """How often a node has taken it."""
    created_at: int
    """Milliseconds since the epoch."""
    timeline: list[TimelineStep]
    progress: ProgressAnswer | UnsetType = UNSET


class BatchAnswer(msgspec.Struct, frozen=True):
    """What each of a batch came to, in their order."""

    results: list[ExecutionAnswer]


def answer(reader: Reader, position: Position, row: ExecutionRow) -> ExecutionAnswer:
    """Return what became of an execution."""
    return ExecutionAnswer(**_answered(reader, position, row))


def status_of(reader: Reader, position: Position, row: ExecutionRow) -> ExecutionStatus:
    """Return everything about an execution."""
    answered = _answered(reader, position, row)
    progress = row.progress
    return ExecutionStatus(
        **answered,
        business_type=row.business_type,
        jta_status=answered["final_status"] or _jta_status(row.jta_status),
        attempts=row.attempts,
        created_at=row.created_at_ms,
        timeline=[
            TimelineStep(
                at=step.at_ms,
                status=_status(step.status),
                jta_status=_jta_status(step.jta_status),
                xid=step.xid,
                node_id=step.owner or None,
                epoch=step.epoch,
            )
            for step in row.timeline
        ],
        progress=UNSET
        if progress is None
        else ProgressAnswer(progress.read, progress.written, progress.total, progress.batch),
    )


def _answered(reader: Reader, position: Position, row: ExecutionRow) -> dict[str, Any]:
    status, final = _as_it_is_now(reader, row)
    return {
        "transaction_id": transaction_id(row.service, position),
        "xid": row.xid,
        "event_id": format_event_id(position.entry, position.place),
        "status": status,
        "final_status": final,
        "lamport_timestamp": row.lamport,
        "result": Raw(row.result) if status == "SUCCESS" and row.result else UNSET,
        "error": row.error or UNSET,
        "failures": msgspec.json.decode(row.failures, type=list[Failure])
        if row.failures
        else UNSET,
    }


def _as_it_is_now(reader: Reader, row: ExecutionRow) -> tuple[str, str | None]:
    """Return the status, and how the transaction ended.

    An answer is given before the coordinator has come to the end of what it was given up for, or of
    a commit that is decided: what became of it is asked of the coordinator's own rows.
    """
    if row.status not in ENDS:
        return row.status, None
    if row.jta_status not in ("UNKNOWN", "COMMITTING"):
        return row.status, row.jta_status
    kept = get_global(reader, row.xid) or get_summary(reader, row.xid)
    if kept is None:
        return row.status, row.jta_status
    found = kept.status
    if row.jta_status == "COMMITTING":
        return row.status, "COMMITTED" if found == "COMMITTED" else "COMMITTING"
    return ("ROLLBACK", "ROLLED_BACK") if found in _ROLLED_BACK else (row.status, "UNKNOWN")


def _status(status: str) -> Status:
    known: Status = msgspec.convert(status, Status)
    return known


def _jta_status(status: str) -> JtaStatus | None:
    known: JtaStatus | None = msgspec.convert(status, JtaStatus) if status else None
    return known
