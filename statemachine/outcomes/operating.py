"""Results of operation."""

from __future__ import annotations

from statemachine.outcomes.result import Result


class TransactionRetentionSet(Result, frozen=True, tag=70):
    retention_ms: int
    summary_retention_ms: int


class ActionRecorded(Result, frozen=True, tag=71):
    number: int
