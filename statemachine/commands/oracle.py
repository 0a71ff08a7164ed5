"""Command of the timestamp oracle."""

from __future__ import annotations

from statemachine.commands.command import Command


class ReserveTimestamps(Command, frozen=True, tag=30):
    """Set timestamps aside for the leader of one term, to give out without asking again."""

    term: int
    """Of the leader that proposes it. In an entry of another term nothing is reserved."""
    upto: int
    """The greatest timestamp that it wants."""
