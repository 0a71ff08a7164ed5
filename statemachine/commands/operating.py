"""Commands of operation: how long what has ended is kept, and what operators did."""

from __future__ import annotations

from statemachine.commands.command import Command


class SetTransactionRetention(Command, frozen=True, tag=74):
    """Keep transactions that end from now on for so long; leaders propose their settings."""

    retention_ms: int
    """In full."""
    summary_retention_ms: int
    """After that, what became of them; 0: for ever."""


class RecordAction(Command, frozen=True, tag=75):
    """Record an act of an operator that is done elsewhere than in the state."""

    principal: str
    action: str
    target: str
    """Of what: a node, for example."""
    reason: str
