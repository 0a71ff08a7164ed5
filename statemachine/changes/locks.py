"""Changes of who holds a lock. Renewing a lease changes nothing that a watcher is told."""

from __future__ import annotations

from typing import ClassVar

from statemachine.changes.change import Change


class LockGranted(Change, frozen=True, tag=50):
    kind: ClassVar[str] = "lock.granted"

    name: str
    owner: str
    mode: str
    fencing_token: int
    expires_at: int
    """In wall time, milliseconds since the epoch."""


class LockReleased(Change, frozen=True, tag=51):
    kind: ClassVar[str] = "lock.released"

    name: str
    owner: str
    mode: str
    fencing_token: int


class LockExpired(Change, frozen=True, tag=52):
    """The lease ended without being renewed."""

    kind: ClassVar[str] = "lock.expired"

    name: str
    owner: str
    mode: str
    fencing_token: int
