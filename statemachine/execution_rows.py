"""Executions as they stand in the state, and how they are found.

An execution is named by the position of the command that accepted it, which is that of its
timestamp event too. As text that is `xa-` or `jta-` and the event's id.
"""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import keys
from statemachine.commands import Progress
from statemachine.event_ids import format_event_id, parse_event_id
from statemachine.outcomes import Position
from statemachine.store import Reader

XA: Final = "XA"
JTA: Final = "JTA"
SERVICES: Final = (XA, JTA)

ACCEPTED: Final = "ACCEPTED"
RUNNING: Final = "RUNNING"
SUCCESS: Final = "SUCCESS"
ROLLBACK: Final = "ROLLBACK"
ROLLBACK_FAILED: Final = "ROLLBACK_FAILED"
ENDS: Final = (SUCCESS, ROLLBACK, ROLLBACK_FAILED)

JTA_STATUSES: Final = (
    "ACTIVE",
    "PREPARING",
    "COMMITTING",
    "COMMITTED",
    "ROLLING_BACK",
    "ROLLED_BACK",
    "MARKED_ROLLBACK",
    "UNKNOWN",
)

GREATEST_OPEN: Final = 1_000
"""Executions that have not ended."""

GREATEST_KEPT: Final = 100_000
"""Executions that have ended and are still remembered."""

GREATEST_TIMELINE: Final = 64
"""Steps that are remembered of an execution: the first ones, and the last one."""


class Step(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Something that became of an execution."""

    at_ms: int
    """In wall time, milliseconds since the epoch."""
    status: str
    jta_status: str
    """Empty until it was begun."""
    xid: str
    """Of its transaction."""
    owner: str
    """The cluster node that ran it; empty when none did."""
    epoch: int


class ExecutionRow(msgspec.Struct, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """An execution. Its business data is a row of its own, until it ends."""

    service: str
    business_type: str
    asynchronous: bool
    accepted_by: str
    lamport: int
    created_at_ms: int
    follows: Position | None = None
    owner: str = ""
    epoch: int = 1
    """Grows whenever it goes to another owner, or leaves one."""
    attempts: int = 1
    """How often an owner has taken it."""
    status: str = ACCEPTED
    jta_status: str = ""
    xid: str = ""
    """Of its last attempt that was begun, or else of the first one."""
    progress: Progress | None = None
    result: bytes = b""
    """JSON. Answered if the transaction is committed."""
    error: str = ""
    failures: bytes = b""
    """JSON: each failure, where there are several."""
    timeline: tuple[Step, ...] = ()
    timer_ms: int = 0
    """When its lease, or else its time to be remembered, is over: in elapsed time."""

    @property
    def ended(self) -> bool:
        return self.status in ENDS


encode_execution: Final = msgspec.msgpack.Encoder().encode
_rows: Final = msgspec.msgpack.Decoder(ExecutionRow)


def packed(position: Position) -> bytes:
    return keys.pack_event(position.entry, position.place)


def transaction_id(service: str, position: Position) -> str:
    """Return the name of an execution as clients know it."""
    return f"{service.lower()}-{format_event_id(position.entry, position.place)}"


def xid_of(service: str, position: Position, attempt: int) -> str:
    """Return the xid of the transaction of an attempt, which is known before it begins."""
    return f"{transaction_id(service, position)}.{attempt}"


def parse_transaction_id(text: str) -> tuple[str, Position] | None:
    """Return the service and the position that a name is made of; None when it is none."""
    service, _, event_id = text.partition("-")
    position = parse_event_id(event_id)
    if position is None or service not in ("xa", "jta"):
        return None
    return service.upper(), position


def get_execution(reader: Reader, position: Position) -> ExecutionRow | None:
    """Return an execution, or None when it is not remembered. It is the caller's own copy."""
    if not 0 <= position.entry <= keys.GREATEST_NUMBER or not (
        0 <= position.place <= keys.GREATEST_PLACE
    ):
        return None
    found = reader.get(keys.EXECUTION + packed(position))
    return None if found is None else _rows.decode(found)


def business_data(reader: Reader, position: Position) -> bytes:
    """Return the JSON text that an execution was accepted with; empty once it has ended."""
    return reader.get(keys.EXECUTION_DATA + packed(position)) or b""


def open_executions(reader: Reader) -> list[tuple[Position, ExecutionRow]]:
    """Return all executions that have not ended, the oldest first."""
    start = keys.EXECUTION_DATA
    found = reader.scan(start, keys.stop_of(start), limit=GREATEST_OPEN)
    named = [Position(*keys.unpack_event(key[len(start) :])) for key, _ in found]
    rows = [(position, get_execution(reader, position)) for position in named]
    return [(position, row) for position, row in rows if row is not None]
