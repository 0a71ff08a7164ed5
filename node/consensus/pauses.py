"""Whether this process stood still: what was on its way meanwhile is older than it looks."""

from __future__ import annotations


class Pauses:
    def __init__(self, least_s: float, now: float) -> None:
        """A gap of more than `least_s` between two rounds of the loop counts as a pause."""
        self._least_s = least_s
        self._ran_at = now
        self._resumed_at = float("-inf")

    def ran(self, now: float) -> bool:
        """The loop begins a round; whether it was paused before."""
        paused = now - self._ran_at > self._least_s
        if paused:
            self._resumed_at = now
        self._ran_at = now
        return paused

    def came_after(self, instant: float, now: float) -> bool:
        """Whether the process was paused after `instant`, or has just woken up."""
        return self._resumed_at > instant or now - self._ran_at > self._least_s
