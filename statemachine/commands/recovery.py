"""What a new leader records of what it found."""

from __future__ import annotations

from statemachine.commands.command import Command


class RecordRecoveries(Command, frozen=True, tag=67):
    """Record transactions that were unfinished when a leader took over."""

    epoch: int
    """The leader's term."""
    xids: tuple[str, ...]
