"""Tickets: commands that wait for their turn, and what the wait came to.

A command that cannot be done yet leaves a ticket, named by its position, and answers `Pending`.
Whatever ends the wait settles the ticket with the command's outcome, in the same entry. The outcome
stays for as long as a retry may ask for it: a retry with the same idempotency key gets the same
`Pending` and finds the outcome under the same ticket, at any node.

A wait ends at its deadline, in elapsed time, when nothing else ends it: no ticket is left behind.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from statemachine import keys, timers
from statemachine.change_log import ChangeLog
from statemachine.outcomes import Outcome, Pending
from statemachine.positions import Position
from statemachine.state import MachineState
from statemachine.store import Reader
from statemachine.timers import TimerKind
from statemachine.write_buffer import WriteBuffer

GREATEST_WAIT_MS: Final = 24 * 3_600_000
"""A longer wait is cut to this."""

LEAST_KEPT_MS: Final = 60_000
"""How long an outcome stays, at least: nodes that were cut off come back for it."""


class TicketKind(enum.IntEnum):
    """What waits. A number is never reused."""

    LOCK = 1
    """The reference is the terminated name of the lock."""
    PROPOSAL = 2
    """The reference is the terminated id of the proposal."""
    ROW_LOCKS = 3
    """The row locks know by the ticket what it waits for."""
    GLOBAL_END = 4
    """The reference is the xid of the transaction whose end is waited for."""


class Ticket(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A wait."""

    kind: TicketKind
    reference: bytes
    """Where the wait is queued, as its kind understands it."""
    deadline_ms: int
    """In elapsed time. After the end of the wait: until when the outcome is kept."""
    kept_ms: int
    """For how long the outcome will be kept."""
    outcome: Outcome | None = None
    """None while it waits."""


_encode: Final = msgspec.msgpack.Encoder().encode
_rows: Final = msgspec.msgpack.Decoder(Ticket)


class Tickets:
    """The tickets of the state."""

    __slots__ = ("_log", "_state", "_writes", "kept_ms")

    def __init__(self, state: MachineState, writes: WriteBuffer, log: ChangeLog) -> None:
        self._state = state
        self._writes = writes
        self._log = log
        self.kept_ms = LEAST_KEPT_MS
        """For the request that is being applied: how long the outcomes of its waits are kept."""

    def open(self, place: int, kind: TicketKind, reference: bytes, wait_ms: int) -> Pending:
        """Begin the wait of the command at `place`."""
        state = self._state
        position = Position(state.applied_index, place)
        deadline_ms = state.elapsed_ms + max(0, min(wait_ms, GREATEST_WAIT_MS))
        self._put(position, Ticket(kind, reference, deadline_ms, self.kept_ms))
        timers.arm(self._writes, deadline_ms, TimerKind.WAIT_DEADLINE, packed(position))
        return Pending(position)

    def get(self, position: Position) -> Ticket | None:
        """Return the ticket, waiting or not, or None when there is none or no more."""
        return get_ticket(self._writes, position)

    def settle(self, position: Position, outcome: Outcome, place: int) -> None:
        """End the wait, done by the command at `place`.

        The ticket must be there and waiting.
        """
        ticket = self.get(position)
        assert ticket is not None, "only what waits can end"
        assert ticket.outcome is None, "a wait ends once"
        name = packed(position)
        timers.disarm(self._writes, ticket.deadline_ms, TimerKind.WAIT_DEADLINE, name)
        expires_at_ms = self._state.elapsed_ms + ticket.kept_ms
        self._put(position, Ticket(ticket.kind, b"", expires_at_ms, ticket.kept_ms, outcome))
        timers.arm(self._writes, expires_at_ms, TimerKind.TICKET_EXPIRY, name)
        self._log.settle(place, position)

    def forget(self, due_ms: int, name: bytes) -> None:
        """Do what the expiry timer of a settled ticket is for."""
        timers.disarm(self._writes, due_ms, TimerKind.TICKET_EXPIRY, name)
        self._writes.delete(keys.TICKET + name)

    def _put(self, position: Position, ticket: Ticket) -> None:
        self._writes.put(keys.TICKET + packed(position), _encode(ticket))


def packed(position: Position) -> bytes:
    return keys.pack_event(position.entry, position.place)


def get_ticket(reader: Reader, position: Position) -> Ticket | None:
    """Return the ticket, waiting or not, or None when there is none or no more."""
    if not (
        0 <= position.entry <= keys.GREATEST_NUMBER and 0 <= position.place <= keys.GREATEST_PLACE
    ):
        return None
    row = reader.get(keys.TICKET + packed(position))
    return None if row is None else _rows.decode(row)
