"""Results of topics."""

from __future__ import annotations

from statemachine.outcomes.result import Result


class SubscribersChanged(Result, frozen=True, tag=76):
    """Where a topic stands now."""

    topic: str
    changed: bool
    """False when it had been so before."""
    subscribers: int
