"""Answers about Lamport clocks, the hybrid clock, the oracle and sequences."""

from __future__ import annotations

from typing import Any

from tidelock.client.answers.answer import Answer


class Hlc(Answer, frozen=True, kw_only=True):
    """A hybrid timestamp."""

    wall_ms: int
    logical: int


class HybridTime(Answer, frozen=True, kw_only=True):
    """A hybrid timestamp, also as one sortable integer."""

    hlc: Hlc
    encoded: int


class Event(Answer, frozen=True, kw_only=True):
    """A stored event of a participant."""

    event_id: str
    node_id: str
    event_type: str
    event_data: Any  # whatever JSON was recorded
    lamport_timestamp: int
    hlc: Hlc
    created_at: int
    source_node_id: str | None = None
    source_event_id: str | None = None
    source_timestamp: int | None = None


class Synced(Answer, frozen=True, kw_only=True):
    """The event that a received timestamp made."""

    synced_event_id: str
    node_id: str
    lamport_timestamp: int


class LamportTime(Answer, frozen=True, kw_only=True):
    """How far a participant's clock has got; 0 for one never seen."""

    node_id: str
    lamport_timestamp: int


class Membership(Answer, frozen=True, kw_only=True):
    """Whether a participant takes part."""

    node_id: str
    active: bool
    changed: bool


class Participant(Answer, frozen=True, kw_only=True):
    """A participant and its clock."""

    node_id: str
    active: bool
    lamport_timestamp: int
    since: int


class Drawn(Answer, frozen=True, kw_only=True):
    """Timestamps in a row that nobody else has."""

    first: int
    last: int
    count: int


class Taken(Answer, frozen=True, kw_only=True):
    """Numbers of a sequence, both ends included."""

    first: int
    last: int


class SequenceState(Answer, frozen=True, kw_only=True):
    """How far a sequence has got."""

    name: str
    last: int
