"""The clocks of one participant while it runs: values of `tidelock.clocks` that threads share.

A participant is one process (or one part of it that is told apart). Two processes of one name
would count their events with the same counter, and their events could not be told apart: name
each its own, `orders-1` and `orders-2`. A process that comes back under its old name must go on
from the clocks with which it ended; if it cannot know them, it takes a new name.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tidelock.clocks import ClockError, LamportClock, VectorClock
from tidelock.clocks.counters import require_participant

GREATEST_LEAP: Final = 2**40
"""How far a received count may be above one's own. A peer's error, or malice, could otherwise
bring every clock to its end with one message."""

GREATEST_PARTICIPANTS: Final = 4_096
"""Entries of the vector; the cluster's bound for a vector too."""


class ClockRefusedError(ClockError):
    """A received clock is too far ahead to be believed, or names too many participants."""


@dataclass(frozen=True, slots=True)
class ClockReading:
    """The clocks at one event. A clock that is not kept is None."""

    lamport: LamportClock | None
    vector: VectorClock | None


class ParticipantClocks:
    """A Lamport and a vector clock under one participant's name, safe in threads."""

    def __init__(
        self,
        participant: str,
        *,
        lamport: bool = True,
        vector: bool = True,
        start: ClockReading | None = None,
    ) -> None:
        """Keep the clocks that are asked for, from `start` on, else from nothing.

        Raises:
            ClockValueError: `participant` is not 1 to 512 bytes of UTF-8.
        """
        require_participant(participant)
        self.participant: Final = participant
        self._lock = threading.Lock()
        start = ClockReading(None, None) if start is None else start
        self._lamport = (start.lamport or LamportClock()) if lamport else None
        self._vector = (start.vector or VectorClock()) if vector else None

    def read(self) -> ClockReading:
        """Return the clocks as they stand; that is no event."""
        with self._lock:
            return ClockReading(self._lamport, self._vector)

    def tick(self) -> ClockReading:
        """Count an event, sending included, and return its clocks.

        Raises:
            ClockOverflowError: a clock stands at its greatest value.
        """
        with self._lock:
            lamport = None if self._lamport is None else self._lamport.tick()
            vector = None if self._vector is None else self._vector.tick(self.participant)
            self._lamport, self._vector = lamport, vector
            return ClockReading(lamport, vector)

    def receive(self, received: ClockReading) -> ClockReading:
        """Count the receipt of a message that carries these clocks, and return its own.

        Raises:
            ClockRefusedError: they are not believed; no clock changed.
            ClockOverflowError: a clock stands at its greatest value.
        """
        with self._lock:
            lamport, vector = self._lamport, self._vector
            if lamport is not None:
                heard = received.lamport
                if heard is not None:
                    _require_near("the Lamport clock", heard.time, lamport.time)
                lamport = lamport.tick() if heard is None else lamport.receive(heard.time)
            if vector is not None:
                if received.vector is not None:
                    vector = self._joined(vector, received.vector)
                vector = vector.tick(self.participant)
            self._lamport, self._vector = lamport, vector
            return ClockReading(lamport, vector)

    def take(self, lamport: int, vector: Mapping[str, int]) -> ClockReading:
        """Raise the clocks to the target of a synchronisation round; that is no event.

        Raises:
            ClockRefusedError: the target is not believed; no clock changed.
            ClockValueError: it is none.
        """
        with self._lock:
            ours, joined = self._lamport, self._vector
            if ours is not None and lamport > ours.time:
                _require_near("the target", lamport, ours.time)
                ours = LamportClock(lamport)
            if joined is not None:
                joined = self._joined(joined, VectorClock(vector))
            self._lamport, self._vector = ours, joined
            return ClockReading(ours, joined)

    def _joined(self, own: VectorClock, received: VectorClock) -> VectorClock:
        for name, count in received.entries.items():
            _require_near(f"the vector's entry of {name!r}", count, own.of(name))
        joined = own.merge(received)
        if len(joined.entries) > GREATEST_PARTICIPANTS:
            raise ClockRefusedError(
                f"with the received vector there would be {len(joined.entries)} participants, more "
                f"than {GREATEST_PARTICIPANTS}; have departed ones pruned (tidelock.clocks.pruning)"
            )
        return joined


def _require_near(what: str, received: int, own: int) -> None:
    if received - own > GREATEST_LEAP:
        raise ClockRefusedError(
            f"{what} was received as {received}, more than {GREATEST_LEAP} ahead of {own} here"
        )
