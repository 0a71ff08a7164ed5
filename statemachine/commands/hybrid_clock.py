"""Commands of the cluster's hybrid logical clock."""

from __future__ import annotations

from statemachine.commands.command import Command


class TickHybridClock(Command, frozen=True, tag=31):
    """Let the hybrid clock tick, and answer with what it then shows."""


class ObserveHybridTime(Command, frozen=True, tag=32):
    """Raise the hybrid clock above a received timestamp, and answer with what it then shows."""

    timestamp: int
    """Encoded: 46 bits of milliseconds above 18 of counter."""
    max_skew_ms: int
    """How far ahead of the entry's wall time it may be. It travels with the command, so that nodes
    that are configured differently apply the same."""
