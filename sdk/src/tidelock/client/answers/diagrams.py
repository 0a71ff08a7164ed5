"""Answers about space-time diagrams."""

from __future__ import annotations

import msgspec

from tidelock.client.answers.answer import Answer


class SpaceTimeNode(Answer, frozen=True, kw_only=True):
    """An event of a diagram."""

    event_id: str
    node_id: str
    kind: str
    """As a watch has it: `timestamp.event`, `vector.sent`."""
    label: str
    created_at: int
    lamport_timestamp: int | None = None
    key: str | None = None
    message_id: str | None = None


class SpaceTimeEdge(Answer, frozen=True, kw_only=True):
    """One event, by its id, happened right before another."""

    source: str
    target: str
    kind: str


class SpaceTime(Answer, frozen=True, kw_only=True):
    """Consecutive events of the log, and all that orders them among themselves."""

    nodes: list[SpaceTimeNode]
    """In the order of the log."""
    edges: list[SpaceTimeEdge]
    next_cursor: str | None
    """Of the next diagram, which is complete for itself."""


class ShivizLog(msgspec.Struct, frozen=True, kw_only=True):
    """A diagram as a log that ShiViz opens."""

    text: str
    next_cursor: str | None
