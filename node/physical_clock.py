"""The wall clock that a leader stamps entries with: held near the cluster's median, never back.

A clock that was set wrong would drag every timestamp of the cluster along, because timestamps never
decrease. So each node compares its clock with its peers' and, when it stands further than a bound
from the median of all, stamps at the bound instead.

Peers' clocks are kept relative to this machine's monotonic clock. A step of the own wall clock
therefore shows up at once as skew; it does not have to wait for new samples.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

SAMPLES_PER_PEER: Final = 8

SAMPLE_LIFETIME_MS: Final = 60_000
"""Older samples say nothing: clocks drift, and the peer may have been set meanwhile."""

GREATEST_PEERS: Final = 64

_MS: Final = 1_000_000


def system_wall_ms() -> int:
    return time.time_ns() // _MS


def system_monotonic_ms() -> int:
    return time.monotonic_ns() // _MS


@dataclass(frozen=True, slots=True)
class _Sample:
    taken_ms: int
    """When, on the monotonic clock."""
    lead_ms: int
    """How far the peer's wall clock stands above this machine's monotonic clock."""
    round_trip_ms: int


class PhysicalClock:
    """Wall time in milliseconds since the epoch, bounded by the median of the cluster's clocks.

    Not thread-safe: it belongs to the node's loop.
    """

    def __init__(
        self,
        *,
        max_skew_ms: int,
        wall_ms: Callable[[], int] = system_wall_ms,
        monotonic_ms: Callable[[], int] = system_monotonic_ms,
    ) -> None:
        self._max_skew_ms = max_skew_ms
        self._wall_ms = wall_ms
        self._monotonic_ms = monotonic_ms
        self._samples: dict[str, deque[_Sample]] = {}
        self._last_ms = 0

    def wall_ms(self) -> int:
        """Return what the machine's clock says, unbounded."""
        return self._wall_ms()

    def observe(self, peer_id: str, *, offset_ms: int, round_trip_ms: int) -> None:
        """Take a comparison with a peer: its wall clock minus ours, measured just now.

        The offset is uncertain by half the round trip. One that is less certain than the bound is
        dropped, for it cannot tell whether the bound was passed.
        """
        if not 0 <= round_trip_ms <= 2 * self._max_skew_ms:
            return
        if peer_id not in self._samples and len(self._samples) >= GREATEST_PEERS:
            return
        now_ms = self._monotonic_ms()
        lead_ms = self._wall_ms() + offset_ms - now_ms
        samples = self._samples.setdefault(peer_id, deque(maxlen=SAMPLES_PER_PEER))
        if samples and abs(samples[-1].lead_ms - lead_ms) > self._max_skew_ms:
            samples.clear()  # the peer's clock was set: what it said before is no longer true
        samples.append(_Sample(now_ms, lead_ms, round_trip_ms))

    def forget(self, peer_id: str) -> None:
        """Drop what is known of a peer that left the cluster."""
        self._samples.pop(peer_id, None)

    def skew_ms(self) -> int:
        """Return how far the own clock is ahead of the median; negative when it is behind.

        0 when no peer was heard lately.
        """
        return self._skew_ms(self._wall_ms(), self._monotonic_ms())

    def bounded_wall_ms(self) -> int:
        """Return the time to stamp with: within the bound of the median, never less than before."""
        wall_ms = self._wall_ms()
        skew_ms = self._skew_ms(wall_ms, self._monotonic_ms())
        excess_ms = skew_ms - max(-self._max_skew_ms, min(self._max_skew_ms, skew_ms))
        self._last_ms = max(self._last_ms, wall_ms - excess_ms)
        return self._last_ms

    def _skew_ms(self, wall_ms: int, now_ms: int) -> int:
        """The own clock less the median of all, its own included."""
        if not self._samples:
            return 0
        ahead = [0]
        for samples in self._samples.values():
            best = _most_certain(samples, now_ms)
            if best is not None:
                ahead.append(wall_ms - (best.lead_ms + now_ms))
        ahead.sort()
        upper, lower = ahead[len(ahead) // 2], ahead[(len(ahead) - 1) // 2]
        # Of an even number, the middle one nearer to the own clock: of two clocks, neither can be
        # said to be wrong.
        return upper if abs(upper) < abs(lower) else lower


def _most_certain(samples: deque[_Sample], now_ms: int) -> _Sample | None:
    """The live sample with the shortest round trip, as in NTP's clock filter (RFC 5905, 10)."""
    best: _Sample | None = None
    for sample in reversed(samples):
        if now_ms - sample.taken_ms > SAMPLE_LIFETIME_MS:
            break
        if best is None or sample.round_trip_ms < best.round_trip_ms:
            best = sample
    return best
