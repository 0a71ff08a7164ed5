"""Results of synchronisation rounds."""

from __future__ import annotations

from statemachine.outcomes.result import Result


class ClockReported(Result, frozen=True, tag=40):
    round: int
    """The open round, in which the report counts."""
    target_lamport: int
    """The greatest that was reported so far."""
    target_vector: dict[str, int]


class SyncRoundClosed(Result, frozen=True, tag=41):
    round: int
    closed: bool
    """False when there was no reason to: the round is still open."""


class SyncAcknowledged(Result, frozen=True, tag=42):
    round: int
    node_id: str
    synchronised: bool
    """All reporters of the round have acknowledged it."""


class SyncIntervalSet(Result, frozen=True, tag=45):
    interval_ms: int
