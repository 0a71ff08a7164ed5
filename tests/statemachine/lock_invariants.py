"""What is so of the rows of locks, whatever was applied."""

from __future__ import annotations

from statemachine import keys, linked_rows
from statemachine.linked_rows import Ends
from statemachine.lock_rows import (
    Hold,
    Waiter,
    decode_hold,
    decode_lock,
    decode_waiter,
)
from statemachine.memory_store import MemoryStore
from statemachine.positions import Position
from statemachine.state import load_state
from statemachine.tickets import TicketKind, get_ticket
from statemachine.timers import TimerKind

EVERYTHING = 1_000_000

Timer = tuple[int, int, bytes]


def assert_locks_intact(store: MemoryStore) -> list[Timer]:
    """Check every row of every lock; return the timers that must stand for them."""
    state = load_state(store)
    locks = rows(store, keys.LOCK)
    waiting = 0
    owners: dict[bytes, bytes] = {}
    timers: list[Timer] = []
    tokens: list[int] = []
    for lock_key, value in locks.items():
        row = decode_lock(value)
        holds = shared_holds(store, lock_key, row.shared)
        owners |= {lock_key + hold.owner.encode(): keys.pack_number(hold.token) for hold in holds}
        if row.exclusive is not None:
            assert not holds
            holds = [row.exclusive]
        assert row.held == bool(holds)
        assert row.held or row.released
        assert row.held or not row.queue.count
        timers += [
            (hold.expires_ms, TimerKind.SHARED_LOCK_EXPIRY, lock_key + keys.pack_number(hold.token))
            for hold in holds
            if hold.shared
        ]
        if row.exclusive is not None:
            assert 0 < row.timer_ms <= row.exclusive.expires_ms
        if row.released is not None:
            assert 0 < row.timer_ms <= row.released.forgotten_ms
        if row.timer_ms:
            timers.append((row.timer_ms, TimerKind.LOCK_EXPIRY, lock_key))
        tokens += [hold.token for hold in holds]
        waiting += len(waiters(store, lock_key, row.queue))
    assert len(set(tokens)) == len(tokens)
    assert all(1 <= token <= state.fencing_token for token in tokens)
    assert rows(store, keys.LOCK_OWNER) == owners
    assert state.lock_count == len(locks)
    assert state.lock_wait_count == waiting == len(rows(store, keys.LOCK_QUEUE))
    return timers


def rows(store: MemoryStore, prefix: bytes) -> dict[bytes, bytes]:
    return {key[len(prefix) :]: value for key, value in store.items() if key.startswith(prefix)}


def shared_holds(store: MemoryStore, lock_key: bytes, ends: Ends) -> list[Hold]:
    found = linked_rows.scan(store, keys.LOCK_SHARED + lock_key, limit=EVERYTHING)
    holds = [decode_hold(content) for _, content in found]
    assert [name for name, _ in found] == [keys.pack_number(hold.token) for hold in holds]
    assert len(holds) == ends.count
    assert all(hold.shared for hold in holds)
    assert len({hold.owner for hold in holds}) == len(holds)
    return holds


def waiters(store: MemoryStore, lock_key: bytes, ends: Ends) -> list[Waiter]:
    """Return who waits, each of whom must have a ticket that says so."""
    found = linked_rows.scan(store, keys.LOCK_QUEUE + lock_key, limit=EVERYTHING)
    assert len(found) == ends.count
    for name, _ in found:
        ticket = get_ticket(store, Position(*keys.unpack_event(name)))
        assert ticket is not None
        assert ticket.kind is TicketKind.LOCK
        assert ticket.outcome is None
        assert ticket.reference == lock_key
    return [decode_waiter(content) for _, content in found]
