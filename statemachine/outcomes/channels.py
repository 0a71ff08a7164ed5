"""Results of resource managers' channels."""

from __future__ import annotations

from statemachine.outcomes.result import Result


class ChannelRegistered(Result, frozen=True, tag=72):
    session_id: int
    resumed: bool
    """It is the session that the resource manager had before."""


class ChannelsChanged(Result, frozen=True, tag=73):
    """Sessions were attached, detached or ended."""

    count: int
    """How many; the others had changed before."""


class CleaningsRecorded(Result, frozen=True, tag=74):
    count: int


class BranchAnswerRecorded(Result, frozen=True, tag=75):
    recorded: bool
    """False when the transaction needs no recovery any more."""
