"""Result of the hybrid clock's commands."""

from __future__ import annotations

from statemachine.outcomes.result import Result


class HybridClockTicked(Result, frozen=True, tag=31):
    """Answer of TickHybridClock and ObserveHybridTime."""

    hlc: int
    """The encoded timestamp that the clock shows from now on."""
