"""The routing table as the HTTP layer sees it. A node's failure detector implements it."""

from __future__ import annotations

import enum
from typing import Protocol

import msgspec


class NodeState(enum.StrEnum):
    """What a node's health checks say of another node."""

    HEALTHY = "HEALTHY"
    SUSPECT = "SUSPECT"
    """One check in a row was missed. The node stays in rotation."""
    FAILED = "FAILED"
    """Three checks in a row were missed. The node is out of rotation."""
    RECOVERING = "RECOVERING"
    """It asked to come back; its clocks and digest are being compared. Still out of rotation."""


class RoutingEntry(msgspec.Struct, frozen=True, kw_only=True):
    node_id: str
    in_rotation: bool
    state: NodeState
    reason: str
    """One sentence: why the node is in this state. Empty when it was never otherwise."""
    since_ms: int
    """When it entered this state, milliseconds since the epoch."""


class RoutingTable(msgspec.Struct, frozen=True):
    nodes: tuple[RoutingEntry, ...]
    """Every member once, in order of node id."""


class RejoinRefusedError(Exception):
    """The node may not come back yet. `code` is machine-readable, the message says what to do."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class RoutingView(Protocol):
    """Which nodes are in rotation, and the way back in."""

    def table(self) -> RoutingTable:
        """Return what this node knows now, at once and without reading the state."""

    async def rejoin(self, node_id: str) -> NodeState:
        """Begin to bring a node back into rotation and return the state that it is in now.

        RECOVERING while it is being compared with a healthy node; HEALTHY when nothing was to do.

        Raises:
            LookupError: `node_id` is not a member.
            RejoinRefusedError: the comparison cannot begin.
        """
