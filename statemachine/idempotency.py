"""Remembered idempotency keys: what became of a client's request, for as long as it may retry.

Every remembered key has a row and a timer. A key is forgotten when its timer fires and never
earlier: when the table is full, new keys are refused.
"""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import keys, timers
from statemachine.commands import AcquireLock, IdempotencyKey, Request
from statemachine.outcomes import (
    Outcome,
    Position,
    Rejected,
    RejectionCode,
    RequestOutcome,
)
from statemachine.state import MachineState
from statemachine.timers import TimerKind
from statemachine.write_buffer import WriteBuffer

GREATEST_COUNT: Final = 1_000_000
"""How many keys are remembered. All nodes must agree on it, so it is not configured."""

GREATEST_TTL_MS: Final = 30 * 24 * 3_600_000
"""A longer time to live is cut to this."""

KEY_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"The principal and the idempotency key exceed {keys.GREATEST_NAME_BYTES} bytes of UTF-8 "
    "together. Use a shorter key.",
)

KEY_REUSED: Final = Rejected(
    RejectionCode.IDEMPOTENCY_KEY_REUSED,
    "This idempotency key belongs to a request with another content. Use a new key for it.",
)

ABANDONED: Final = Rejected(
    RejectionCode.REQUEST_ABANDONED,
    "The request was abandoned by its client before it arrived; nothing was done. Ask again under "
    "another key.",
)

OWN_KEY: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    "A request cannot abandon what goes under its own idempotency key. Send it without a key.",
)

TABLE_FULL: Final = Rejected(
    RejectionCode.IDEMPOTENCY_TABLE_FULL,
    "No further idempotency key can be remembered now. Retry later, or send the request without.",
)


class Remembered(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a key's row holds."""

    digest: bytes
    """Empty when the key was abandoned before anything came under it."""
    expires_at_ms: int
    """In elapsed time; when the key's timer is due."""
    position: Position
    outcomes: tuple[Outcome, ...]


_encode: Final = msgspec.msgpack.Encoder().encode
_rows: Final = msgspec.msgpack.Decoder(Remembered)


def row_id(key: IdempotencyKey) -> bytes | None:
    """Return what identifies the key: principal, then key. None when it is too long to be kept."""
    identity = keys.terminated(key.principal) + key.key.encode()
    return identity if len(identity) <= keys.GREATEST_NAME_BYTES else None


def refusal(remembered: Remembered, request: Request) -> Rejected:
    """Return the answer to a request whose key belongs to something else."""
    acquires = all(isinstance(command, AcquireLock) for command in request.commands)
    return ABANDONED if acquires and not remembered.digest else KEY_REUSED


class IdempotencyTable:
    """The remembered keys of the state."""

    __slots__ = ("_state", "_writes", "applying")

    def __init__(self, state: MachineState, writes: WriteBuffer) -> None:
        self._state = state
        self._writes = writes
        self.applying: bytes | None = None
        """The key of the request that is being applied; it is remembered afterwards."""

    @property
    def full(self) -> bool:
        return self._state.idempotency_count >= GREATEST_COUNT

    def refuse(self, identity: bytes, key: IdempotencyKey, position: Position) -> None:
        """Remember that what comes under a key, which must be new, is not to be done."""
        refused = RequestOutcome(position, False, (ABANDONED,))
        self.remember(identity, key, self._state.elapsed_ms, refused)

    def recall(self, identity: bytes) -> Remembered | None:
        row = self._writes.get(keys.IDEMPOTENCY + identity)
        return None if row is None else _rows.decode(row)

    def remember(
        self, identity: bytes, key: IdempotencyKey, expires_at_ms: int, outcome: RequestOutcome
    ) -> None:
        """Keep the outcome of a request under its key, which must not be remembered already.

        A copy of the request may apply until `expires_at_ms`, so the key is kept at least as long.
        """
        elapsed_ms = self._state.elapsed_ms
        ttl_ms = max(0, min(key.ttl_ms, GREATEST_TTL_MS))
        due_ms = max(elapsed_ms + ttl_ms, expires_at_ms + 1)
        row = Remembered(key.digest, due_ms, outcome.position, outcome.outcomes)
        self._writes.put(keys.IDEMPOTENCY + identity, _encode(row))
        timers.arm(self._writes, due_ms, TimerKind.IDEMPOTENCY_EXPIRY, identity)
        self._state.idempotency_count += 1

    def forget(self, due_ms: int, identity: bytes) -> None:
        """Do what the timer of a remembered key is for."""
        timers.disarm(self._writes, due_ms, TimerKind.IDEMPOTENCY_EXPIRY, identity)
        self._writes.delete(keys.IDEMPOTENCY + identity)
        self._state.idempotency_count -= 1
