"""Answers about executions of the XA and JTA services."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tidelock.client.answers.answer import Answer

ExecutionState = Literal["ACCEPTED", "RUNNING", "SUCCESS", "ROLLBACK", "ROLLBACK_FAILED"]
FinalStatus = Literal[
    "ACTIVE",
    "PREPARING",
    "COMMITTING",
    "COMMITTED",
    "ROLLING_BACK",
    "ROLLED_BACK",
    "MARKED_ROLLBACK",
    "UNKNOWN",
]
"""The statuses of JTA. UNKNOWN: its rollback was not confirmed in time, and goes on."""


class ExecutionFailure(msgspec.Struct, frozen=True):
    """What was wrong with one item of many."""

    path: str
    message: str


class Execution(Answer, frozen=True, kw_only=True):
    """What an execution came to. What was rolled back is an answer like any other."""

    transaction_id: str
    xid: str
    event_id: str
    """Of its timestamp event."""
    status: ExecutionState
    final_status: FinalStatus | None
    """How its transaction ended, as far as is known; None before its end."""
    lamport_timestamp: int
    result: Any = None  # whatever the business returned
    error: str | None = None
    """Why it was not SUCCESS."""
    failures: list[ExecutionFailure] = msgspec.field(default_factory=list)

    @property
    def succeeded(self) -> bool:
        """Whether both databases have it, for ever."""
        return self.status == "SUCCESS"


class AcceptedExecution(Answer, frozen=True, kw_only=True):
    """An execution that nobody waits for."""

    transaction_id: str
    xid: str
    status: Literal["ACCEPTED"]


class ExecutionStep(Answer, frozen=True, kw_only=True):
    """Something that became of an execution."""

    at: int
    """Milliseconds since the epoch."""
    status: ExecutionState
    jta_status: FinalStatus | None
    xid: str
    node_id: str | None
    """Who ran it then; None while nobody did."""
    epoch: int


class ExecutionProgress(msgspec.Struct, frozen=True):
    """How far a migration is, in rows."""

    read: int
    written: int
    total: int
    batch: int


class ExecutionStatus(Execution, frozen=True, kw_only=True):
    """Everything about an execution."""

    business_type: str
    jta_status: FinalStatus | None
    """None until it is begun."""
    attempts: int
    """How often a node has taken it."""
    created_at: int
    """Milliseconds since the epoch."""
    timeline: list[ExecutionStep]
    progress: ExecutionProgress | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is done in it, except by the coordinator."""
        return self.status not in ("ACCEPTED", "RUNNING")


class ExecutionBatch(Answer, frozen=True, kw_only=True):
    """What each of a batch came to, in their order."""

    results: list[Execution]
