"""Submitters' sessions: a unit is applied at most once, however often it arrives.

A session is one boot of a submitting node. It numbers its units and says which of them it has
settled, its watermark. The outcomes of a unit are kept until the watermark has passed it, so that
a repeated unit gets the same answer; below the watermark nobody waits for an answer any more.

An idle session is forgotten, but not while a late copy of one of its requests could still apply.
"""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import keys, timers
from statemachine.commands import Unit
from statemachine.state import MachineState
from statemachine.timers import TimerKind
from statemachine.write_buffer import WriteBuffer

WINDOW: Final = 1_024
"""A session may have units in flight at this many sequences, from its watermark on."""

IDLE_MS: Final = 10 * 60_000
"""A session that was not used for so long, in elapsed time, is forgotten."""

GREATEST_LIFETIME_MS: Final = 60 * 60_000
"""How far ahead a request may expire, since its session is kept until then."""


class Session(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A session's row. All its settled units lie from `watermark` to `greatest`."""

    kept_until_ms: int
    """In elapsed time. The timer may be due earlier: it is moved only when it fires."""
    watermark: int
    greatest: int
    """The greatest sequence that was applied."""


_encode: Final = msgspec.msgpack.Encoder().encode
_rows: Final = msgspec.msgpack.Decoder(Session)


class Sessions:
    """The sessions of the state, those in use kept in memory.

    Few: one for each boot of a node within the last minutes.
    """

    def __init__(self, state: MachineState, writes: WriteBuffer) -> None:
        self._state = state
        self._writes = writes
        self._cached: dict[bytes, Session] = {}
        self._changed: dict[bytes, Session] = {}

    def find(self, session_id: bytes) -> Session | None:
        session = self._cached.get(session_id)
        if session is None:
            row = self._writes.get(keys.SESSION + session_id)
            if row is not None:
                session = self._cached[session_id] = _rows.decode(row)
        return session

    def settled_outcomes(self, session_id: bytes, session: Session, sequence: int) -> bytes | None:
        """Return the encoded outcomes of a unit that was applied already, or None."""
        if sequence > session.greatest:
            return None
        return self._writes.get(keys.settled_unit(session_id, sequence))

    def use(self, unit: Unit, session: Session | None) -> Session:
        """Note that a unit is about to be applied; begin the session when it is unknown."""
        elapsed_ms = self._state.elapsed_ms
        last_expiry_ms = max([request.expires_at_ms for request in unit.requests], default=0)
        kept_until_ms = max(
            elapsed_ms + IDLE_MS,
            # Still there in the millisecond of the expiry. A later expiry than the greatest is
            # that of a request that is rejected for it.
            min(last_expiry_ms, elapsed_ms + GREATEST_LIFETIME_MS) + 1,
        )
        if session is None:
            session = Session(kept_until_ms, unit.watermark, 0)
            self._cached[unit.session] = session
            timers.arm(self._writes, kept_until_ms, TimerKind.SESSION_EXPIRY, unit.session)
        session.kept_until_ms = max(session.kept_until_ms, kept_until_ms)
        self._changed[unit.session] = session
        return session

    def settle(self, unit: Unit, session: Session, outcomes: bytes) -> None:
        """Keep the outcomes of a unit and forget those that its watermark has passed."""
        writes = self._writes
        writes.put(keys.settled_unit(unit.session, unit.sequence), outcomes)
        session.greatest = max(session.greatest, unit.sequence)
        if unit.watermark > session.watermark:
            for sequence in range(session.watermark, min(unit.watermark, session.greatest + 1)):
                writes.delete(keys.settled_unit(unit.session, sequence))
            session.watermark = unit.watermark

    def expire(self, due_ms: int, session_id: bytes) -> None:
        """Do what a session's timer is for: forget it, or look again when it has been used.

        A session that this entry has used is kept, so none that is forgotten waits to be saved.
        """
        timers.disarm(self._writes, due_ms, TimerKind.SESSION_EXPIRY, session_id)
        session = self.find(session_id)
        assert session is not None, "a session lives as long as its timer"
        if session.kept_until_ms > self._state.elapsed_ms:
            timers.arm(self._writes, session.kept_until_ms, TimerKind.SESSION_EXPIRY, session_id)
            return
        self._writes.delete(keys.SESSION + session_id)
        for sequence in range(session.watermark, session.greatest + 1):
            self._writes.delete(keys.settled_unit(session_id, sequence))
        del self._cached[session_id]

    def save(self) -> None:
        """Write the rows that the entry changed."""
        for session_id, session in self._changed.items():
            self._writes.put(keys.SESSION + session_id, _encode(session))
        self._changed.clear()
