"""Commands of locks."""

from __future__ import annotations

from statemachine.commands.command import Command
from statemachine.positions import Position


class AcquireLock(Command, frozen=True, tag=50):
    """Take a lock for a lease, or wait for it, or be told who holds it."""

    name: str
    owner: str
    mode: str
    """EXCLUSIVE or SHARED."""
    ttl_ms: int
    """Length of the lease, in elapsed time from the grant on."""
    wait_ms: int
    """How long to wait in the queue; 0 is not to wait."""


class RenewLock(Command, frozen=True, tag=51):
    """Let the lease begin anew."""

    name: str
    owner: str
    fencing_token: int


class ReleaseLock(Command, frozen=True, tag=52):
    """Give a lock back."""

    name: str
    owner: str
    fencing_token: int


class AbandonLock(Command, frozen=True, tag=53):
    """Undo an AcquireLock whose client has gone without hearing of it.

    Ends its wait. What it was granted goes back, unless the owner has asked again since, and so
    relies on it. Proposed by the node that the client was connected to.
    """

    name: str
    owner: str
    acquire: Position
    """Where the AcquireLock stands, which is also the name of its ticket."""


class AbandonAcquire(Command, frozen=True, tag=54):
    """Undo the AcquireLock that went, or is still to come, under an idempotency key.

    Does what AbandonLock does, by the request's key. When no request with this key was applied yet,
    the key is remembered as abandoned, so that a copy which arrives later is refused.
    """

    name: str
    owner: str
    principal: str
    key: str
    ttl_ms: int
    """How long the key is remembered if nothing came under it, in elapsed time."""
