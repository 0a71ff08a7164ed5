"""Results of executions."""

from __future__ import annotations

from statemachine.outcomes.result import Result


class ExecutionAccepted(Result, frozen=True, tag=110):
    lamport_timestamp: int
    """Of the event, whose id is that of the command's position."""
    hlc: int
    created_at_ms: int


class ExecutionMoved(Result, frozen=True, tag=111):
    epoch: int
    """Under which its owner goes on."""


class ExecutionsRenewed(Result, frozen=True, tag=112):
    lost: tuple[int, ...]
    """Which of those named, counted from 0, are not the owner's any more."""
