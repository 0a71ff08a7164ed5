"""The timestamps that a leader has reserved and not given out yet.

Timestamps are integers as encoded hybrid ones are: milliseconds above a counter that carries into
them. Those that are given out follow physical time where they can, and never fall behind it.
"""

from __future__ import annotations

from typing import Final

from statemachine.hybrid_clock import GREATEST_ENCODED, LOGICAL_BITS
from statemachine.machine import GREATEST_TIME_MS

LEAST_SPAN: Final = 50 << LOGICAL_BITS
"""What a reservation holds when earlier ones reach beyond physical time already: 13 million. It is
short, so that leaders that follow each other quickly do not drive the timestamps further ahead."""

GREATEST_WANTED: Final = 1 << 28
"""What a reservation holds more than that, at most, for those who wait."""


class TimestampWindow:
    def __init__(self, length_ms: int) -> None:
        """Reservations reach `length_ms` beyond physical time."""
        self._length = length_ms << LOGICAL_BITS
        self.clear()

    def clear(self) -> None:
        """Forget what was reserved: another term, another window."""
        self._next = 0
        self._upto = -1

    def grant(self, after: int, upto: int) -> None:
        """What lies above `after`, up to `upto`, is this leader's too."""
        if after != self._upto:
            # The first grant of a term, or one that follows another which never became known here.
            self._next = max(self._next, after + 1)
        self._upto = upto

    def holds(self, count: int, wall_ms: int) -> bool:
        """Whether `take` would give so many."""
        return self._first(wall_ms) + count - 1 <= self._upto

    def take(self, count: int, wall_ms: int) -> int | None:
        """Give out `count` timestamps in a row and return the first; None when too few are left."""
        first = self._first(wall_ms)
        if first + count - 1 > self._upto:
            return None
        self._next = first + count
        return first

    def is_low(self, wall_ms: int) -> bool:
        """Whether less than half is left of what a new reservation would hold."""
        first = self._first(wall_ms)
        return 2 * (self._upto + 1 - first) < self._wanted(first, wall_ms, 0) - first

    def wanted_upto(self, wall_ms: int, waiting: int, reserved_upto: int) -> int:
        """Return how far to reserve, for `waiting` timestamps that are asked for already.

        `reserved_upto` is where the last reservation ends, whosever it is.
        """
        first = self._first(wall_ms)
        if reserved_upto != self._upto:
            first = max(first, reserved_upto + 1)
        return self._wanted(first, wall_ms, waiting)

    def _wanted(self, first: int, wall_ms: int, waiting: int) -> int:
        least = first + LEAST_SPAN + min(waiting, GREATEST_WANTED)
        return min(max(_physical(wall_ms) + self._length, least), GREATEST_ENCODED)

    def _first(self, wall_ms: int) -> int:
        return max(self._next, _physical(wall_ms))


def _physical(wall_ms: int) -> int:
    """The first timestamp of a time; a time that no entry would carry counts as none."""
    return wall_ms << LOGICAL_BITS if 0 <= wall_ms <= GREATEST_TIME_MS else 0
