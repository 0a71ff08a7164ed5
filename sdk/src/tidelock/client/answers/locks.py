"""Answers about locks."""

from __future__ import annotations

from tidelock.client.answers.answer import Answer
from tidelock.errors import Holder


class LockLease(Answer, frozen=True, kw_only=True):
    """A lock that is held."""

    name: str
    owner: str
    mode: str
    fencing_token: int
    expires_at: int
    """Milliseconds since the epoch, for display."""


class LockRelease(Answer, frozen=True, kw_only=True):
    """A lock that was given back; `released` is false when it had been before."""

    name: str
    owner: str
    fencing_token: int
    released: bool


class LockVerdict(Answer, frozen=True, kw_only=True):
    """Whether a token is that of a lease which runs."""

    valid: bool


class Waiter(Answer, frozen=True, kw_only=True):
    """Who waits for a lock."""

    owner: str
    mode: str


class LockSummary(Answer, frozen=True, kw_only=True):
    """A lock, and who has held it longest; no holder when it is free."""

    name: str
    holder: Holder | None
    fencing_token: int | None
    holder_count: int
    queue_length: int


class LockView(LockSummary, frozen=True, kw_only=True):
    """A lock with those who have it, and those who wait in the order of their turns."""

    holders: list[Holder]
    queue: list[Waiter]


class LockAbandonment(Answer, frozen=True, kw_only=True):
    """What there was to undo of a request; both are false when it had not arrived, or had ended."""

    name: str
    owner: str
    cancelled: bool
    """It waited."""
    released: bool
    """It had the lock."""
