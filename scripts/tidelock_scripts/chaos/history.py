"""What clients did and saw, and what the cluster holds in the end."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Ending(enum.Enum):
    """What a client knows of its request; there is no fourth."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    """Answered with a definite no, or never sent: it must not have happened."""
    UNKNOWN = "unknown"
    """It may have happened, may happen later, or never."""


@dataclass(frozen=True, slots=True)
class Write:
    """A call of `timestamp/event` or `timestamp/sync` under a unique id of the client's."""

    unique_id: str
    participant: str
    via: str
    begun_ns: int
    ended_ns: int
    ending: Ending
    received_timestamp: int = 0
    """The remote clock's value that a sync brought; 0 for a plain event."""
    event_id: str | None = None
    lamport: int | None = None


@dataclass(frozen=True, slots=True)
class ClockRead:
    """An answered linearizable read of a participant's clock."""

    participant: str
    via: str
    begun_ns: int
    ended_ns: int
    lamport: int


@dataclass(frozen=True, slots=True)
class Draw:
    """Timestamps of the oracle that a client was given, both ends included."""

    via: str
    begun_ns: int
    ended_ns: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as the cluster lists it."""

    event_id: str
    participant: str
    lamport: int
    unique_id: str | None
    """None when the event's data carries none: nobody of ours wrote it."""


@dataclass(slots=True)
class History:
    writes: list[Write]
    reads: list[ClockRead]
    draws: list[Draw] = field(default_factory=list)
