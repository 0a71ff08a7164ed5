"""Timers are state: rows ordered by when they are due, in elapsed time.

Nothing happens by itself. The leader reads what is due and proposes `FireTimers`; apply looks again
whether each timer still stands and is due, so a list that is late or repeated does no harm.
"""

from __future__ import annotations

import enum
from typing import Final

from statemachine import keys
from statemachine.store import Reader
from statemachine.write_buffer import WriteBuffer

GREATEST_FIRING: Final = 1_000
"""How many timers one command may name."""


class TimerKind(enum.IntEnum):
    """What is due. A number is never reused."""

    IDEMPOTENCY_EXPIRY = 1
    """The id is that of the remembered key's row."""
    SESSION_EXPIRY = 2
    """The id is the session."""
    WAIT_DEADLINE = 3
    """The id is the ticket's packed position."""
    TICKET_EXPIRY = 4
    """The same, of a ticket whose wait has ended."""
    MESSAGE_EXPIRY = 5
    """The id is that of the received message's row."""
    SHARED_LOCK_EXPIRY = 10
    """The id is the lock's terminated name and the packed token of a lease that is shared."""
    LOCK_EXPIRY = 11
    """The id is the lock's terminated name."""
    PROPOSAL_EXPIRY = 20
    """The id is the terminated id of a decided proposal."""
    GLOBAL_TIMEOUT = 30
    """The id is the xid of a transaction that nobody has decided."""
    GLOBAL_RETENTION = 31
    """The id is the xid of a transaction that has ended."""
    GLOBAL_SUMMARY_EXPIRY = 33
    """The id is the xid of a transaction of which no more is known than how it ended."""
    CHANNEL_END = 34
    """The id is the packed id of a channel session that nobody holds."""
    CHANNEL_NODE_LOST = 35
    """The id is the terminated id of a node that has failed while it held channel sessions."""
    EXECUTION_LEASE = 40
    """The id is the packed position of an execution that somebody runs."""
    EXECUTION_RETENTION = 41
    """The same, of one that has ended."""
    SYNC_REPORT_EXPIRY = 21
    """The id is the terminated name of the participant that reported."""


def arm(writes: WriteBuffer, due_ms: int, kind: TimerKind, timer_id: bytes) -> None:
    writes.put(keys.timer(due_ms, kind, timer_id), b"")


def disarm(writes: WriteBuffer, due_ms: int, kind: int, timer_id: bytes) -> None:
    writes.delete(keys.timer(due_ms, kind, timer_id))


def is_armed(reader: Reader, due_ms: int, kind: int, timer_id: bytes) -> bool:
    """Tell whether exactly this timer stands. Any numbers and bytes may be asked for."""
    return (
        0 <= due_ms <= keys.GREATEST_NUMBER
        and kind in tuple(TimerKind)
        and len(timer_id) <= keys.GREATEST_NAME_BYTES
        and reader.get(keys.timer(due_ms, kind, timer_id)) is not None
    )


def due_timers(
    reader: Reader, elapsed_ms: int, limit: int = GREATEST_FIRING
) -> tuple[tuple[int, int, bytes], ...]:
    """Return at most `limit` timers due at or before `elapsed_ms`, the first due first.

    They are what `FireTimers` takes: (due in elapsed ms, kind, id).
    """
    rows = reader.scan(keys.TIMER, keys.timers_after(elapsed_ms), limit=limit)
    return tuple(keys.timer_of(key) for key, _ in rows)


def next_due_ms(reader: Reader) -> int | None:
    """Return when the first timer is due, in elapsed ms, or None when none is armed."""
    rows = reader.scan(keys.TIMER, keys.stop_of(keys.TIMER), limit=1)
    return keys.timer_of(rows[0][0])[0] if rows else None
