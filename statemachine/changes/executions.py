"""Changes of executions of the XA and JTA services."""

from __future__ import annotations

from typing import ClassVar

from statemachine.changes.change import Change


class ExecutionChanged(Change, frozen=True, tag=110):
    """It was accepted, got to another status, or ended."""

    kind: ClassVar[str] = "execution.changed"

    transaction_id: str
    service: str
    business_type: str
    status: str
    jta_status: str
    xid: str
    owner: str
    """The cluster node that runs it; empty while none does."""
