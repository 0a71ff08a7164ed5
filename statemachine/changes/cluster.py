"""Changes of who takes part."""

from __future__ import annotations

from typing import ClassVar

from statemachine.changes.change import Change


class ParticipantJoined(Change, frozen=True, tag=1):
    kind: ClassVar[str] = "participant.joined"

    node_id: str


class ParticipantLeft(Change, frozen=True, tag=2):
    kind: ClassVar[str] = "participant.left"

    node_id: str


class RoutingChanged(Change, frozen=True, tag=3):
    """A cluster node entered or left the rotation."""

    kind: ClassVar[str] = "routing.changed"

    node_id: str
    state: str
    reason: str
