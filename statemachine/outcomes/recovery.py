"""Results of recovery."""

from __future__ import annotations

from statemachine.outcomes.result import Result


class RecoveriesRecorded(Result, frozen=True, tag=64):
    recorded: int
    """The others had ended, or were recorded by this leader or often enough before."""
