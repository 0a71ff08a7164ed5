"""Answers about proposals and synchronisation rounds."""

from __future__ import annotations

from typing import Any

from tidelock.client.answers.answer import Answer, Vector


class Proposal(Answer, frozen=True, kw_only=True):
    """A proposal, its votes, and who has applied it."""

    id: int | str
    key: str
    timestamp: int
    status: str
    index: int | None
    term: int | None
    votes: dict[str, str]
    reasons: dict[str, str]
    applied_by: dict[str, int]
    reason: str = ""
    proposed_by: str | None = None
    proposed_at: int | None = None
    decided_at: int | None = None


class CommittedData(Answer, frozen=True, kw_only=True):
    """What is committed under a key."""

    key: str
    data: Any  # whatever JSON was proposed
    timestamp: int
    index: int
    term: int
    proposal_id: int | str
    committed_at: int


class ClockReport(Answer, frozen=True, kw_only=True):
    """The open round, with a report that was just made."""

    round: int
    target_lamport: int
    target_vector: Vector


class Lag(Answer, frozen=True, kw_only=True):
    """How far reported clocks are behind the target."""

    lamport: int
    vector: Vector


class Reporter(Answer, frozen=True, kw_only=True):
    """A participant and the clocks that it reported."""

    node_id: str
    lamport: int
    vector: Vector
    lag: Lag


class SyncRound(Answer, frozen=True, kw_only=True):
    """A round that was closed just now; it is synchronised when all its nodes acknowledged it."""

    round: int
    target_lamport: int
    target_vector: Vector
    nodes: list[Reporter]
    synchronised: bool


class SyncAcknowledgement(Answer, frozen=True, kw_only=True):
    """A target that was taken; `synchronised` when all reporters of the round have."""

    round: int
    node_id: str
    synchronised: bool


class OpenReporter(Reporter, frozen=True, kw_only=True):
    """A participant of the open round."""

    reported_at: int
    """When it last reported or acknowledged, milliseconds since the epoch."""


class OpenRound(Answer, frozen=True, kw_only=True):
    """The round that gathers reports."""

    round: int
    target_lamport: int
    target_vector: Vector
    nodes: list[OpenReporter]


class ClosedReporter(Reporter, frozen=True, kw_only=True):
    """A participant of a closed round."""

    acknowledged: bool
    acknowledged_at: int | None


class ClosedRound(Answer, frozen=True, kw_only=True):
    """A round that has its target."""

    round: int
    target_lamport: int
    target_vector: Vector
    index: int
    """The log entry that closed it."""
    closed_at: int
    """Milliseconds since the epoch."""
    synchronised: bool
    synchronised_at: int | None
    nodes: list[ClosedReporter]


class SyncStatus(Answer, frozen=True, kw_only=True):
    """The open round and the last closed ones, the newest first."""

    interval_ms: int
    """How often a round closes by itself when somebody is behind."""
    open: OpenRound
    rounds: list[ClosedRound]
