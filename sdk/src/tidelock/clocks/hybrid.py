"""The hybrid logical clock of S. Kulkarni, M. Demirbas, D. Madeppa, B. Avva and M. Leone, "Logical
Physical Clocks", OPODIS 2014 (technical report: "... and Consistent Snapshots in Globally
Distributed Databases").

A timestamp is the pair (l, c): l, here `wall_ms`, is the greatest physical time the event could
know of, and c, here `logical`, orders the events that share it. Like a Lamport clock it respects
causality; unlike one it can be read as a time, since l leaves physical time by no more than the
clocks of the participants differ.

**The overflow rule.** The paper leaves c unbounded; here it has 18 bits. The successor of a
timestamp whose counter is full carries into the milliseconds: (l, 2**18 - 1) is followed by
(l + 1, 0). Order and uniqueness hold, and the wall time runs ahead of physical time by 1 ms for
each 262,144 events that share a millisecond, until physical time has caught up.

With that rule a timestamp behaves as one integer, l * 2**18 + c, and a step of the paper's
algorithm is: the greatest of physical time and the successors of what is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from tidelock.clocks.errors import (
    ClockOverflowError,
    ClockSkewError,
    ClockValueError,
    require_integer,
)

_WALL_BITS: Final = 46
_LOGICAL_BITS: Final = 18
_GREATEST_WALL_MS: Final = 2**_WALL_BITS - 1
_GREATEST_LOGICAL: Final = 2**_LOGICAL_BITS - 1
_GREATEST_ENCODED: Final = 2 ** (_WALL_BITS + _LOGICAL_BITS) - 1


@dataclass(frozen=True, slots=True, order=True)
class HybridTimestamp:
    """A point of hybrid time, ordered by wall time, then by counter.

    Raises:
        ClockValueError: a part is not an integer from 0 to its greatest value.
    """

    GREATEST_WALL_MS: ClassVar[int] = _GREATEST_WALL_MS
    """2**46 - 1 milliseconds after the epoch, in the year 4199."""
    GREATEST_LOGICAL: ClassVar[int] = _GREATEST_LOGICAL
    """2**18 - 1."""

    wall_ms: int = 0
    """Milliseconds since the Unix epoch: l in the paper."""
    logical: int = 0
    """Counts the events within one `wall_ms`, from 0: c in the paper."""

    def __post_init__(self) -> None:
        require_integer("wall_ms", self.wall_ms, _GREATEST_WALL_MS)
        require_integer("logical", self.logical, _GREATEST_LOGICAL)

    def encode(self) -> int:
        """Return 46 bits of milliseconds above 18 of counter, as one unsigned 64-bit integer.

        Encoded timestamps sort as the timestamps do. They stay below 2**63, and so fit a signed
        column, until the year 3084.
        """
        return self.wall_ms << _LOGICAL_BITS | self.logical

    @classmethod
    def decode(cls, encoded: int) -> HybridTimestamp:
        """Return the timestamp whose `encode()` gave `encoded`.

        Raises:
            ClockValueError: `encoded` is not an integer from 0 to 2**64 - 1.
        """
        require_integer("encoded", encoded, _GREATEST_ENCODED)
        return cls(encoded >> _LOGICAL_BITS, encoded & _GREATEST_LOGICAL)


@dataclass(frozen=True, slots=True)
class HybridClock:
    """One process's hybrid clock as a value.

    The caller passes physical time to each step; it may stand still or go back. Only a received
    timestamp is held against it, never the clock's own past.

    Raises:
        ClockValueError: `latest` is not a timestamp, or `max_skew_ms` is not an integer from 0 to
            `HybridTimestamp.GREATEST_WALL_MS`.
    """

    latest: HybridTimestamp = HybridTimestamp()
    """The timestamp of the latest event; zero before the first."""
    max_skew_ms: int = 500
    """How far ahead of physical time a received timestamp may be, in milliseconds."""

    def __post_init__(self) -> None:
        if not isinstance(self.latest, HybridTimestamp):
            raise ClockValueError(f"latest must be a HybridTimestamp, got {self.latest!r}")
        require_integer("max_skew_ms", self.max_skew_ms, _GREATEST_WALL_MS)

    def tick(self, physical_ms: int) -> HybridClock:
        """Return the clock after a local event or a send at `physical_ms`.

        Its `latest` is greater than before, and its wall time is at least `physical_ms`.

        Raises:
            ClockValueError: `physical_ms` is not an integer from 0 to
                `HybridTimestamp.GREATEST_WALL_MS`.
            ClockOverflowError: no later timestamp exists.
        """
        require_integer("physical_ms", physical_ms, _GREATEST_WALL_MS)
        return self._at(max(physical_ms << _LOGICAL_BITS, self.latest.encode() + 1))

    def receive(self, timestamp: HybridTimestamp, physical_ms: int) -> HybridClock:
        """Return the clock after receiving a message stamped `timestamp` at `physical_ms`.

        Its `latest` is greater than before and greater than `timestamp`, and its wall time is at
        least `physical_ms`.

        Raises:
            ClockSkewError: `timestamp` is more than `max_skew_ms` ahead of `physical_ms`.
            ClockValueError: `physical_ms` is not an integer from 0 to
                `HybridTimestamp.GREATEST_WALL_MS`.
            ClockOverflowError: no later timestamp exists.
        """
        require_integer("physical_ms", physical_ms, _GREATEST_WALL_MS)
        ahead_ms = timestamp.wall_ms - physical_ms
        if ahead_ms > self.max_skew_ms:
            raise ClockSkewError(ahead_ms, self.max_skew_ms)
        known = max(self.latest.encode(), timestamp.encode())
        return self._at(max(physical_ms << _LOGICAL_BITS, known + 1))

    def _at(self, encoded: int) -> HybridClock:
        if encoded > _GREATEST_ENCODED:
            raise ClockOverflowError(f"no hybrid timestamp follows {self.latest}")
        return HybridClock(HybridTimestamp.decode(encoded), self.max_skew_ms)
