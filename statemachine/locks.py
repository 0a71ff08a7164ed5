"""Locks: leases with fencing tokens, held alone or shared, handed on in the order of asking.

A lease counts elapsed time from its grant on and is over at its last millisecond, whether its timer
has fired or not: a command that meets it looks first. Every grant has a token greater than that of
every grant before it, of whichever lock; so a resource that remembers the greatest token which it
has seen refuses a holder that was paused beyond its lease (Kleppmann, "How to do distributed
locking", 2016).

Who may have a lock, and when:

- One owner EXCLUSIVE, or up to `GREATEST_SHARED` owners SHARED.
- Nobody overtakes: while others wait, a newcomer waits behind them, though its mode would fit.
  Those at the head of the queue whose modes fit are granted together.
- An owner that asks again for what it has gets the same token and at least the lease that it had.
  What it has EXCLUSIVE serves a request for SHARED and stays EXCLUSIVE. An owner that shares a lock
  and asks for it EXCLUSIVE is refused: two such would wait for each other. It releases first.
- Holds are not counted: one release gives the lock back, however often its owner asked.
- A release that comes twice finds out that it was done, until the lock is granted again, and for
  `RELEASE_KEPT_MS` at most. Afterwards the token is stale.

A lock that is held or waited for never stays without a holder from one command to the next.
"""

from __future__ import annotations

from typing import Final

from statemachine import changes, keys, linked_rows, timers
from statemachine.change_log import ChangeLog
from statemachine.commands import AbandonLock, AcquireLock, ReleaseLock, RenewLock
from statemachine.lock_rows import (
    EXCLUSIVE,
    GREATEST_NAME_BYTES,
    SHARED,
    Hold,
    LockRow,
    Released,
    Waiter,
    decode_lock,
    decode_waiter,
    encode_hold,
    encode_lock,
    encode_waiter,
    hold_with,
    holder_of,
    is_name,
    key_of,
    longest_hold,
    mode_of,
)
from statemachine.outcomes import (
    Applied,
    LockAbandoned,
    LockGranted,
    LockHolder,
    LockReleased,
    Outcome,
    Rejected,
    RejectionCode,
)
from statemachine.positions import Position
from statemachine.state import MachineState
from statemachine.tickets import Ticket, TicketKind, Tickets, packed
from statemachine.timers import TimerKind
from statemachine.write_buffer import WriteBuffer

LEAST_TTL_MS: Final = 10
GREATEST_TTL_MS: Final = 24 * 3_600_000
GREATEST_WAIT_MS: Final = 3_600_000

GREATEST_SHARED: Final = 1_000
"""Who may share a lock at once: all of them may be granted in one entry."""

GREATEST_QUEUE: Final = 100_000
"""Who may wait for one lock."""

GREATEST_WAITS: Final = 1_000_000
"""Who may wait in all queues together."""

GREATEST_LOCKS: Final = 1_000_000
"""Locks that are held, or were released just now."""

RELEASE_KEPT_MS: Final = 10_000
"""How long a release is remembered: longer than most requests are retried."""

_NAME_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"The name of the lock or of its owner is empty or longer than {GREATEST_NAME_BYTES} bytes of "
    "UTF-8. Use a shorter one.",
)

_MODE_UNKNOWN: Final = Rejected(
    RejectionCode.INVALID_COMMAND, f"mode is neither {EXCLUSIVE} nor {SHARED}. Use one of them."
)

_TTL_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"ttlMs is not from {LEAST_TTL_MS} to {GREATEST_TTL_MS}. Take a lease within that, and renew "
    "it when it is to last longer.",
)

_WAIT_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"waitMs is not from 0 to {GREATEST_WAIT_MS}. Wait for less, and ask again.",
)

_TABLE_FULL: Final = Rejected(
    RejectionCode.LOCK_TABLE_FULL,
    f"{GREATEST_LOCKS} locks are held, and no more can be. Retry once some were released.",
)

_QUEUE_FULL: Final = Rejected(
    RejectionCode.LOCK_QUEUE_FULL,
    "As many wait as can, for this lock or for all of them together. Retry later.",
)

_NOW_HELD: Final = (
    "Another owner holds the lock, or has waited longer for it. Wait with waitMs, or retry later."
)

_STILL_HELD: Final = "The wait ended before the lock was free. Ask again to wait at the end."

_SHARED_BY_OWNER: Final = (
    "The owner shares the lock already, and nobody can make that exclusive. Release it first."
)

_STALE: Final = (
    "This token is of no lease of the lock that its owner has: the lease ended, or there never was "
    "one. Whatever it protected may be another's now. Acquire the lock again."
)


class _Lock:
    """A lock while a command works on it."""

    __slots__ = ("key", "name", "row", "stored")

    def __init__(self, name: str, key: bytes, stored: bytes | None) -> None:
        self.name = name
        self.key = key
        """The name as it stands in keys."""
        self.row = LockRow() if stored is None else decode_lock(stored)
        self.stored = stored


class Locks:
    """The locks of the state."""

    __slots__ = ("_log", "_state", "_tickets", "_writes")

    def __init__(
        self, state: MachineState, writes: WriteBuffer, log: ChangeLog, tickets: Tickets
    ) -> None:
        self._state = state
        self._writes = writes
        self._log = log
        self._tickets = tickets

    # --- commands

    def acquire(self, command: AcquireLock, place: int) -> Outcome:
        """Grant the lock, let the command wait for it, or say who holds it."""
        if command.mode not in (EXCLUSIVE, SHARED):
            return _MODE_UNKNOWN
        if not LEAST_TTL_MS <= command.ttl_ms <= GREATEST_TTL_MS:
            return _TTL_UNUSABLE
        if not 0 <= command.wait_ms <= GREATEST_WAIT_MS:
            return _WAIT_UNUSABLE
        lock = self._open(command.name, command.owner, place)
        if lock is None:
            return _NAME_UNUSABLE
        waiter = Waiter(command.owner, command.mode == SHARED, command.ttl_ms)
        outcome = self._acquire(lock, waiter, command.wait_ms, place)
        self._close(lock, place)
        return outcome

    def renew(self, command: RenewLock, place: int) -> Outcome:
        """Let a lease begin anew, as long as it was asked for."""
        lock = self._open(command.name, command.owner, place)
        if lock is None:
            return _NAME_UNUSABLE
        hold = self._hold_of(lock, command.owner, place)
        if hold is not None and hold.token == command.fencing_token:
            outcome = self._prolong(lock, hold, hold.ttl_ms)
        else:
            outcome = self._stale(lock)
        self._close(lock, place)
        return outcome

    def release(self, command: ReleaseLock, place: int) -> Outcome:
        """End a lease, and hand the lock on."""
        lock = self._open(command.name, command.owner, place)
        if lock is None:
            return _NAME_UNUSABLE
        owner, token = command.owner, command.fencing_token
        hold = self._hold_of(lock, owner, place)
        outcome: Outcome
        if hold is not None and hold.token == token:
            self._give_back(lock, hold, place)
            self._remember_release(lock, hold)
            outcome = Applied(_released(command, first=True))
        elif self._released_by(lock, owner, token):
            outcome = Applied(_released(command, first=False))
        else:
            outcome = self._stale(lock)
        self._close(lock, place)
        return outcome

    def abandon(self, command: AbandonLock, place: int) -> Outcome:
        """Undo an acquire that nobody has heard of."""
        ticket = self._waiting_ticket(command)
        if ticket is not None:
            self.end_wait(command.acquire, ticket, place)
            return Applied(LockAbandoned(cancelled=True, released=False))
        lock = self._open(command.name, command.owner, place)
        if lock is None:
            return _NAME_UNUSABLE
        hold = self._hold_of(lock, command.owner, place)
        unheard = hold is not None and hold.unheard == command.acquire
        if hold is not None and unheard:
            self._give_back(lock, hold, place)
        self._close(lock, place)
        return Applied(LockAbandoned(cancelled=False, released=unheard))

    def _waiting_ticket(self, command: AbandonLock) -> Ticket | None:
        """Return the ticket of an acquire that waits; None when it, or anybody else, does not."""
        position = command.acquire
        ticket = self._tickets.get(position)
        if ticket is None or ticket.outcome is not None or ticket.kind is not TicketKind.LOCK:
            return None
        if ticket.reference != key_of(command.name):
            return None
        queue = keys.LOCK_QUEUE + ticket.reference
        content = linked_rows.get(self._writes, queue, packed(position))
        assert content is not None, "who waits for a lock stands in its queue"
        return ticket if decode_waiter(content).owner == command.owner else None

    # --- what ends a wait or a lease

    def end_wait(self, position: Position, ticket: Ticket, place: int) -> None:
        """Take a waiter out of its queue: its turn did not come."""
        lock = self._load(keys.name_of(ticket.reference), ticket.reference)
        self._leave_queue(lock, packed(position))
        self._tickets.settle(position, self._held(lock, _STILL_HELD), place)
        self._lapse(lock, place)
        self._close(lock, place)

    def put_off(self, due_ms: int, timer_id: bytes) -> int | None:
        """Move the timer of a lock to the end of what it is for.

        Returns when it is due now, or None when that end has come: then it `expire`s. A timer that
        is moved does nothing else, so that what was due in between is done before.
        """
        lock = self._load(keys.name_of(timer_id), timer_id)
        row = lock.row
        if row.exclusive is not None:
            ends_ms = row.exclusive.expires_ms
        elif row.released is not None:
            ends_ms = row.released.forgotten_ms
        else:
            return None
        if ends_ms <= due_ms:
            return None
        self._disarm(lock)
        self._arm(lock, ends_ms)
        self._writes.put(keys.LOCK + lock.key, encode_lock(row))
        return ends_ms

    def expire(self, timer_id: bytes, place: int) -> None:
        """Do what the timer of a lock is for, which is over."""
        lock = self._load(keys.name_of(timer_id), timer_id)
        self._disarm(lock)
        lock.row.released = None
        if lock.row.exclusive is not None:
            self._end_lease(lock, lock.row.exclusive, place)
        self._close(lock, place)

    def expire_shared(self, timer_id: bytes, place: int) -> None:
        """Do what the timer of a shared lease is for."""
        lock_key, token = timer_id[:-8], timer_id[-8:]
        lock = self._load(keys.name_of(lock_key), lock_key)
        hold = hold_with(self._writes, lock_key, token)
        assert hold is not None, "a lease is there as long as its timer"
        self._end_lease(lock, hold, place)
        self._lapse(lock, place)
        self._close(lock, place)

    # --- acquiring

    def _acquire(self, lock: _Lock, waiter: Waiter, wait_ms: int, place: int) -> Outcome:
        hold = self._hold_of(lock, waiter.owner, place)
        if hold is not None:
            if hold.shared and not waiter.shared:
                return self._held(lock, _SHARED_BY_OWNER, hold)
            return self._prolong(lock, hold, waiter.ttl_ms)
        state, row = self._state, lock.row
        if row.queue.count == 0 and self._fits(lock, waiter):
            if lock.stored is None and state.lock_count >= GREATEST_LOCKS:
                return _TABLE_FULL
            return self._grant(lock, waiter, Position(state.applied_index, place), place)
        if wait_ms == 0:
            return self._held(lock, _NOW_HELD)
        if row.queue.count >= GREATEST_QUEUE or state.lock_wait_count >= GREATEST_WAITS:
            return _QUEUE_FULL
        pending = self._tickets.open(place, TicketKind.LOCK, lock.key, wait_ms)
        queue = keys.LOCK_QUEUE + lock.key
        row.queue = linked_rows.append(
            self._writes, queue, row.queue, packed(pending.ticket), encode_waiter(waiter)
        )
        state.lock_wait_count += 1
        return pending

    def _fits(self, lock: _Lock, waiter: Waiter) -> bool:
        row = lock.row
        if row.exclusive is not None:
            return False
        return row.shared.count < GREATEST_SHARED if waiter.shared else row.shared.count == 0

    def _grant(self, lock: _Lock, waiter: Waiter, acquire: Position, place: int) -> Outcome:
        """Begin a lease, by the command at `place`."""
        state = self._state
        state.fencing_token += 1
        token = state.fencing_token
        hold = Hold(
            owner=waiter.owner,
            shared=waiter.shared,
            token=token,
            ttl_ms=waiter.ttl_ms,
            expires_ms=state.elapsed_ms + waiter.ttl_ms,
            unheard=acquire,
        )
        lock.row.released = None
        if hold.shared:
            name, shared = keys.pack_number(token), keys.LOCK_SHARED + lock.key
            lock.row.shared = linked_rows.append(
                self._writes, shared, lock.row.shared, name, encode_hold(hold)
            )
            self._writes.put(_owner_key(lock, hold), name)
            self._arm_shared(lock, hold)
        else:
            lock.row.exclusive = hold
            self._arm(lock, hold.expires_ms)
        granted = self._granted(lock, hold)
        self._log.note(
            place,
            changes.LockGranted(
                name=lock.name,
                owner=hold.owner,
                mode=mode_of(hold),
                fencing_token=token,
                expires_at=granted.expires_at_ms,
            ),
        )
        return Applied(granted)

    def _prolong(self, lock: _Lock, hold: Hold, ttl_ms: int) -> Outcome:
        """Let a lease begin anew; its owner relies on it from now on."""
        longest_ms = max(hold.ttl_ms, ttl_ms)
        prolonged = Hold(
            owner=hold.owner,
            shared=hold.shared,
            token=hold.token,
            ttl_ms=longest_ms,
            expires_ms=self._state.elapsed_ms + longest_ms,
            unheard=None,
        )
        if hold.shared:
            shared, name = keys.LOCK_SHARED + lock.key, keys.pack_number(hold.token)
            linked_rows.replace(self._writes, shared, name, encode_hold(prolonged))
            self._disarm_shared(lock, hold)
            self._arm_shared(lock, prolonged)
        else:
            lock.row.exclusive = prolonged
            self._arm(lock, prolonged.expires_ms)
        return Applied(self._granted(lock, prolonged))

    def _granted(self, lock: _Lock, hold: Hold) -> LockGranted:
        holder = self._holder(hold)
        return LockGranted(
            name=lock.name,
            owner=holder.owner,
            mode=holder.mode,
            fencing_token=holder.fencing_token,
            expires_at_ms=holder.expires_at_ms,
        )

    # --- the queue

    def _serve(self, lock: _Lock, place: int) -> None:
        """Grant the lock to those whose turn has come."""
        row = lock.row
        while row.queue.count:
            name = row.queue.first
            content = linked_rows.get(self._writes, keys.LOCK_QUEUE + lock.key, name)
            assert content is not None, "a queue names only rows that it has"
            waiter = decode_waiter(content)
            position = Position(*keys.unpack_event(name))
            hold = self._hold_of(lock, waiter.owner, place)
            if hold is not None and (waiter.shared or not hold.shared):
                outcome = self._prolong(lock, hold, waiter.ttl_ms)
            elif self._fits(lock, waiter):
                outcome = self._grant(lock, waiter, position, place)
            else:
                return
            self._leave_queue(lock, name)
            self._tickets.settle(position, outcome, place)

    def _leave_queue(self, lock: _Lock, name: bytes) -> None:
        lock.row.queue = linked_rows.remove(
            self._writes, keys.LOCK_QUEUE + lock.key, lock.row.queue, name
        )
        self._state.lock_wait_count -= 1

    # --- leases that end

    def _lapse(self, lock: _Lock, place: int) -> None:
        """End the leases that are over and stand in the way of others."""
        while (hold := longest_hold(self._writes, lock.key, lock.row)) is not None:
            if hold.expires_ms > self._state.elapsed_ms:
                return
            self._end_lease(lock, hold, place)

    def _hold_of(self, lock: _Lock, owner: str, place: int) -> Hold | None:
        """Return what an owner holds. A lease that is over is ended."""
        hold = lock.row.exclusive
        if hold is not None:
            hold = hold if hold.owner == owner else None
        elif lock.row.shared.count:
            token = self._writes.get(keys.LOCK_OWNER + lock.key + owner.encode())
            hold = None if token is None else hold_with(self._writes, lock.key, token)
        if hold is not None and hold.expires_ms <= self._state.elapsed_ms:
            self._end_lease(lock, hold, place)
            return None
        return hold

    def _end_lease(self, lock: _Lock, hold: Hold, place: int) -> None:
        self._drop(lock, hold)
        self._log.note(
            place,
            changes.LockExpired(
                name=lock.name, owner=hold.owner, mode=mode_of(hold), fencing_token=hold.token
            ),
        )

    def _give_back(self, lock: _Lock, hold: Hold, place: int) -> None:
        self._drop(lock, hold)
        self._log.note(
            place,
            changes.LockReleased(
                name=lock.name, owner=hold.owner, mode=mode_of(hold), fencing_token=hold.token
            ),
        )

    def _drop(self, lock: _Lock, hold: Hold) -> None:
        if not hold.shared:
            lock.row.exclusive = None
            return
        self._disarm_shared(lock, hold)
        shared, name = keys.LOCK_SHARED + lock.key, keys.pack_number(hold.token)
        lock.row.shared = linked_rows.remove(self._writes, shared, lock.row.shared, name)
        self._writes.delete(_owner_key(lock, hold))

    def _released_by(self, lock: _Lock, owner: str, token: int) -> bool:
        """Tell whether this was the last release, and that is remembered."""
        last = lock.row.released
        return (
            last is not None
            and (last.owner, last.token) == (owner, token)
            and last.forgotten_ms > self._state.elapsed_ms
        )

    def _remember_release(self, lock: _Lock, hold: Hold) -> None:
        due_ms = self._state.elapsed_ms + RELEASE_KEPT_MS
        lock.row.released = Released(hold.owner, hold.token, due_ms)
        self._arm(lock, due_ms)

    # --- answers

    def _stale(self, lock: _Lock) -> Rejected:
        hold = longest_hold(self._writes, lock.key, lock.row)
        holder = None if hold is None else self._holder(hold)
        return Rejected(RejectionCode.FENCING_TOKEN_STALE, _STALE, holder, False)

    def _held(self, lock: _Lock, detail: str, by: Hold | None = None) -> Rejected:
        hold = by or longest_hold(self._writes, lock.key, lock.row)
        assert hold is not None, "a lock that is waited for is held"
        code = RejectionCode.LOCK_HELD if by is None else RejectionCode.LOCK_UPGRADE_REFUSED
        return Rejected(code, detail, self._holder(hold), by is None)

    def _holder(self, hold: Hold) -> LockHolder:
        return holder_of(hold, self._state.wall_ms - self._state.elapsed_ms)

    # --- rows

    def _open(self, name: str, owner: str, place: int) -> _Lock | None:
        """Return a lock as it stands now, None when nothing can be called so."""
        lock_key = key_of(name)
        if lock_key is None or not is_name(owner):
            return None
        lock = self._load(name, lock_key)
        self._lapse(lock, place)
        self._serve(lock, place)
        return lock

    def _load(self, name: str, lock_key: bytes) -> _Lock:
        return _Lock(name, lock_key, self._writes.get(keys.LOCK + lock_key))

    def _close(self, lock: _Lock, place: int) -> None:
        """Hand the lock on if it can be, and write its row."""
        self._serve(lock, place)
        row = lock.row
        if not row.held and row.released is None:
            self._disarm(lock)
            if lock.stored is not None:
                self._writes.delete(keys.LOCK + lock.key)
                self._state.lock_count -= 1
            return
        encoded = encode_lock(row)
        if encoded != lock.stored:
            self._writes.put(keys.LOCK + lock.key, encoded)
            self._state.lock_count += lock.stored is None

    # --- timers

    def _arm(self, lock: _Lock, due_ms: int) -> None:
        """See to it that the lock's timer is due by then.

        One that is due before is left where it is: most locks are given back, and taken again,
        before it fires.
        """
        if not 0 < lock.row.timer_ms <= due_ms:
            self._disarm(lock)
            timers.arm(self._writes, due_ms, TimerKind.LOCK_EXPIRY, lock.key)
            lock.row.timer_ms = due_ms

    def _disarm(self, lock: _Lock) -> None:
        if lock.row.timer_ms:
            timers.disarm(self._writes, lock.row.timer_ms, TimerKind.LOCK_EXPIRY, lock.key)
            lock.row.timer_ms = 0

    def _arm_shared(self, lock: _Lock, hold: Hold) -> None:
        name = lock.key + keys.pack_number(hold.token)
        timers.arm(self._writes, hold.expires_ms, TimerKind.SHARED_LOCK_EXPIRY, name)

    def _disarm_shared(self, lock: _Lock, hold: Hold) -> None:
        name = lock.key + keys.pack_number(hold.token)
        timers.disarm(self._writes, hold.expires_ms, TimerKind.SHARED_LOCK_EXPIRY, name)


def _released(command: ReleaseLock, *, first: bool) -> LockReleased:
    return LockReleased(
        name=command.name,
        owner=command.owner,
        fencing_token=command.fencing_token,
        released=first,
    )


def _owner_key(lock: _Lock, hold: Hold) -> bytes:
    return keys.LOCK_OWNER + lock.key + hold.owner.encode()
