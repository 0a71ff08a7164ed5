"""Changes of resource managers' channels."""

from __future__ import annotations

from typing import ClassVar

from statemachine.changes.change import Change


class ChannelChanged(Change, frozen=True, tag=64):
    """A session of a resource manager was attached, detached, or has ended."""

    kind: ClassVar[str] = "channel.changed"

    session_id: int
    application_id: str
    host: str
    node_id: str
    """Who holds it, or held it last."""
    state: str
    """ATTACHED, DETACHED or ENDED."""
    reason: str
    """Why it ended; else empty."""
