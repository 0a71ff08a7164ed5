"""Command of sequences."""

from __future__ import annotations

from statemachine.commands.command import Command


class AdvanceSequence(Command, frozen=True, tag=33):
    """Take the next numbers of a sequence, which begins at 1 with its first use."""

    name: str
    count: int
