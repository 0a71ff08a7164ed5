"""Why a command changed nothing."""

from __future__ import annotations

import enum


class RejectionCode(enum.StrEnum):
    """Why a command changed nothing. The HTTP layer maps each code to one status."""

    REQUEST_EXPIRED = "REQUEST_EXPIRED"
    IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"
    IDEMPOTENCY_TABLE_FULL = "IDEMPOTENCY_TABLE_FULL"
    VERSION_NOT_ACTIVE = "VERSION_NOT_ACTIVE"
    VERSION_UNKNOWN = "VERSION_UNKNOWN"
    CLOCK_OVERFLOW = "CLOCK_OVERFLOW"
    CLOCK_SKEW_TOO_LARGE = "CLOCK_SKEW_TOO_LARGE"
    SEQUENCE_EXHAUSTED = "SEQUENCE_EXHAUSTED"
    PARTICIPANT_NOT_FOUND = "PARTICIPANT_NOT_FOUND"
    STORAGE_FULL = "STORAGE_FULL"
    TICKET_NOT_FOUND = "TICKET_NOT_FOUND"
    LOCK_HELD = "LOCK_HELD"
    LOCK_UPGRADE_REFUSED = "LOCK_UPGRADE_REFUSED"
    LOCK_QUEUE_FULL = "LOCK_QUEUE_FULL"
    LOCK_TABLE_FULL = "LOCK_TABLE_FULL"
    FENCING_TOKEN_STALE = "FENCING_TOKEN_STALE"  # noqa: S105 - no password
    INVALID_COMMAND = "INVALID_COMMAND"
    """A field that the HTTP layer should not have let through."""
    SESSION_WINDOW_EXCEEDED = "SESSION_WINDOW_EXCEEDED"
    """The submitting node has too many units in flight; a client never sees it."""
