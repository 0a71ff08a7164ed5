"""Results of locks."""

from __future__ import annotations

from statemachine.outcomes.result import Result


class LockGranted(Result, frozen=True, tag=50):
    """Answer of AcquireLock and RenewLock: who holds the lock now, and until when."""

    name: str
    owner: str
    mode: str
    fencing_token: int
    """Greater than that of every earlier grant of any lock; the same while it is held."""
    expires_at_ms: int
    """In wall time, milliseconds since the epoch: for display, the lease counts elapsed time."""


class LockReleased(Result, frozen=True, tag=51):
    name: str
    owner: str
    fencing_token: int
    released: bool
    """False when it had been released before."""


class LockAbandoned(Result, frozen=True, tag=52):
    cancelled: bool
    """It waited still."""
    released: bool
    """It held the lock."""
