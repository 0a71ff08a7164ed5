"""Is this leader much slower than its followers could be?

A leader with a dying disk or a starved processor answers everything, slowly, for ever; no failure
detector finds it. So every node measures how long its syncs take and how late its timer fires, the
followers report theirs with each quorum round, and a leader that is ten times slower than all of
them for two seconds hands over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

WINDOW_S: Final = 2.0
"""How far back a node looks, and how long a leader must have been slow."""

FACTOR: Final = 10
LEAST_SLOW_MS: Final = 20
"""Below this nobody is slow, whatever the others are."""

REST_S: Final = 30.0
"""After it handed over, or tried to, a leader judges itself no more for this long."""

_MOST_SAMPLES: Final = 4096
_LOOK_EVERY_S: Final = 0.25


@dataclass(slots=True)
class _Window:
    samples: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_MOST_SAMPLES))

    def add(self, now: float, value_s: float) -> None:
        self.samples.append((now, value_s))

    def p99_ms(self, now: float) -> int:
        while self.samples and now - self.samples[0][0] > WINDOW_S:
            self.samples.popleft()
        if not self.samples:
            return 0
        ordered = sorted(value for _, value in self.samples)
        return int(ordered[len(ordered) * 99 // 100] * 1000)


class Pace:
    """All values are 99th percentiles in milliseconds over the last two seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._syncs = _Window()
        self._lags = _Window()
        self._own_ms = (0, 0)
        self._own_due_at = 0.0
        self._of_peers: dict[str, tuple[float, int, int]] = {}
        self._slow_since: float | None = None
        self._rests_until = 0.0

    def sync_took(self, duration_s: float) -> None:
        self._syncs.add(self._now(), duration_s)

    def timer_was_late(self, late_s: float) -> None:
        self._lags.add(self._now(), max(0.0, late_s))

    def own_ms(self) -> tuple[int, int]:
        """This node's syncs and timer lag, looked at anew a few times a second."""
        now = self._now()
        if now >= self._own_due_at:
            self._own_due_at = now + _LOOK_EVERY_S
            self._own_ms = (self._syncs.p99_ms(now), self._lags.p99_ms(now))
        return self._own_ms

    def heard(self, peer: str, sync_ms: int, lag_ms: int) -> None:
        self._of_peers[peer] = (self._now(), sync_ms, lag_ms)

    def should_hand_over(self, voters: Iterable[str]) -> bool:
        """Whether this leader has been far slower than every other voter for the whole window."""
        now = self._now()
        known = [self._of_peers[voter] for voter in voters if voter in self._of_peers]
        fresh = [each for each in known if now - each[0] <= WINDOW_S]
        sync_ms, lag_ms = self.own_ms()
        slow = bool(fresh) and (
            _is_slow(sync_ms, [each[1] for each in fresh])
            or _is_slow(lag_ms, [each[2] for each in fresh])
        )
        if not slow or now < self._rests_until:
            self._slow_since = None
            return False
        if self._slow_since is None:
            self._slow_since = now
        if now - self._slow_since < WINDOW_S:
            return False
        self._slow_since = None
        self._rests_until = now + REST_S
        return True


def _is_slow(own_ms: int, others_ms: list[int]) -> bool:
    return own_ms >= LEAST_SLOW_MS and own_ms >= FACTOR * max(1, *others_ms)
