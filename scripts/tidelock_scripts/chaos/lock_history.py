"""What clients did with locks and saw of them; times are nanoseconds of one clock.

Every acquire has an owner of its own, unless `again` says that the owner asks for what it has.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from scripts.tidelock_scripts.chaos.history import Ending


class LockAction(enum.Enum):
    ACQUIRE = "acquire"
    RENEW = "renew"
    RELEASE = "release"
    VERIFY = "verify"


@dataclass(frozen=True, slots=True)
class LockCall:
    """A call on one lock."""

    action: LockAction
    lock: str
    owner: str
    begun_ns: int
    ended_ns: int
    ending: Ending
    """REFUSED: the lock is held or the wait ended, or the token is stale. Of a verify, always
    ACKNOWLEDGED."""
    shared: bool = False
    ttl_ms: int = 0
    """Of an acquire and of a renewal: the lease that it asks for."""
    token: int | None = None
    """That an acquire was granted, or that the call names."""
    valid: bool | None = None
    """What a verify was answered."""
    position: tuple[int, int] | None = None
    """Where the acquire stands in the log, when its client knows."""
    again: bool = False

    @property
    def acknowledged(self) -> bool:
        return self.ending is Ending.ACKNOWLEDGED


@dataclass(frozen=True, slots=True)
class QueueSeen:
    """Who waited for a lock, in the order of their turns, as a linearizable read showed it."""

    lock: str
    owners: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LockChange:
    """A change of who holds a lock, as watchers are told: `granted`, `released`, `expired`."""

    what: str
    lock: str
    owner: str
    shared: bool
    token: int


@dataclass(slots=True)
class LockHistory:
    calls: list[LockCall] = field(default_factory=list)
    queues: list[QueueSeen] = field(default_factory=list)
