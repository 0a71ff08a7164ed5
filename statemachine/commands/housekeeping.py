"""What the leader proposes by itself, and what ends a wait."""

from __future__ import annotations

from statemachine.commands.command import Command
from statemachine.positions import Position


class ChangeRouting(Command, frozen=True, tag=5):
    """Record that a cluster node entered or left the rotation, seen by the leader."""

    node_id: str
    state: str
    """HEALTHY, SUSPECT, FAILED or RECOVERING."""
    reason: str


class FireTimers(Command, frozen=True, tag=6):
    """Do what is due. Proposed by the leader from its timer index; apply checks each again."""

    timers: tuple[tuple[int, int, bytes], ...]
    """(due in elapsed ms, kind, id), in the order of the index; at most 1,000."""


class ActivateVersion(Command, frozen=True, tag=7):
    """Switch on the commands of a newer version, once every member can decode them."""

    version: int


class TrimEvents(Command, frozen=True, tag=8):
    """Forget stored timestamp events created before a wall time, at most `limit` of them."""

    before_wall_ms: int
    limit: int


class CancelWait(Command, frozen=True, tag=9):
    """End a wait that an earlier command began. Ended already: nothing changes.

    Proposed by the node whose client waits, when the client's deadline has passed or it has gone:
    a node never decides by its own clock what a wait came to.
    """

    ticket: Position


class TrimChanges(Command, frozen=True, tag=10):
    """Forget the oldest changes that were recorded for watchers, at most `limit` of them."""

    before_wall_ms: int
    """Those recorded earlier go."""
    keep: int
    """And those beyond so many."""
    limit: int
