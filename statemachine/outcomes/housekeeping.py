"""Results of what the leader proposes by itself."""

from __future__ import annotations

from statemachine.outcomes.result import Result


class RoutingChanged(Result, frozen=True, tag=3):
    node_id: str
    state: str
    changed: bool


class TimersFired(Result, frozen=True, tag=4):
    fired: int


class VersionActivated(Result, frozen=True, tag=5):
    version: int


class EventsTrimmed(Result, frozen=True, tag=6):
    removed: int
    more: bool
    """True when `limit` was reached before the wall time was."""


class WaitCancelled(Result, frozen=True, tag=7):
    cancelled: bool
    """False when the wait had ended already: its own outcome says how."""


class ChangesTrimmed(Result, frozen=True, tag=8):
    removed: int
    more: bool
    """True when `limit` was reached first."""
