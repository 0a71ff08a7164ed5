"""What new leaders found unfinished: a record of each, made before anything is done about it.

    recovery      xid\\0  entry place    -> Recovery
    recovered     entry  place          -> xid: the same in the order in which they were made

What was done then stands in the transaction's timeline, behind the lines that it had; and the
records of a transaction are kept as long as it is kept in full.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from statemachine import keys
from statemachine.commands.recovery import RecordRecoveries
from statemachine.outcomes import Applied, Outcome, RecoveriesRecorded, Rejected, RejectionCode
from statemachine.paging import InvalidCursorError, decode_cursor, encode_cursor
from statemachine.positions import Position
from statemachine.store import Reader
from statemachine.transactions.desk import Desk
from statemachine.transactions.rows import GREATEST_XID_BYTES, Global
from statemachine.transactions.statuses import COMMIT_FAMILY, ENDED, GlobalStatus
from statemachine.write_buffer import WriteBuffer

GREATEST_RECOVERIES: Final = 1_000
"""How many transactions one command may name."""

GREATEST_OF_ONE: Final = 10
"""Records of one transaction. Later leaders find it all the same, and say nothing."""


class Decision(enum.StrEnum):
    """What a leader does about what it finds: it goes on, and never decides anew."""

    CONTINUE_FORWARD = "CONTINUE_FORWARD"
    CONTINUE_COMMIT = "CONTINUE_COMMIT"
    CONTINUE_ROLLBACK = "CONTINUE_ROLLBACK"


class Recovery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One transaction as a leader found it."""

    term: int
    at_ms: int
    """In wall time."""
    status: GlobalStatus
    branches: tuple[tuple[int, str], ...]
    """Ids with statuses, in the order of registration."""
    happenings: int
    """How many lines its timeline had."""

    @property
    def decision(self) -> Decision:
        if self.status is GlobalStatus.BEGIN:
            return Decision.CONTINUE_FORWARD
        committed = self.status in COMMIT_FAMILY
        return Decision.CONTINUE_COMMIT if committed else Decision.CONTINUE_ROLLBACK


class Found(msgspec.Struct, frozen=True):
    """A record with where it stands."""

    xid: str
    position: Position
    recovery: Recovery


_encode: Final = msgspec.msgpack.Encoder().encode
_recoveries: Final = msgspec.msgpack.Decoder(Recovery)

_EPOCH_OLD: Final = Rejected(
    RejectionCode.EPOCH_STALE, "Another node leads now; it records what it finds itself."
)
_TOO_MANY: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"More than {GREATEST_RECOVERIES} transactions are named. Record fewer at once.",
)


def record(desk: Desk, command: RecordRecoveries, place: int) -> Outcome:
    """Record each transaction that is unfinished, as it stands now."""
    state = desk.state
    if command.epoch != state.applied_term:
        return _EPOCH_OLD
    if len(command.xids) > GREATEST_RECOVERIES:
        return _TOO_MANY
    recorded = 0
    for xid in command.xids:
        transaction = desk.find(xid)
        if transaction is None or transaction.row.status in ENDED:
            continue
        row = transaction.row
        if row.recoveries >= GREATEST_OF_ONE or row.recovered_in == state.applied_term:
            continue
        branches = tuple((b.branch_id, b.status.value) for b in transaction.branches)
        recovery = Recovery(
            state.applied_term, state.wall_ms, row.status, branches, transaction.happened
        )
        # Several of one command are told apart by their numbers.
        position = (state.applied_index, (place << 10) + recorded)
        packed = keys.pack_event(*position)
        desk.writes.put(keys.RECOVERY + keys.terminated(xid) + packed, _encode(recovery))
        desk.writes.put(keys.RECOVERED + packed, xid.encode())
        transaction.change(recoveries=row.recoveries + 1, recovered_in=state.applied_term)
        transaction.happen(place, "RECOVERED", detail=recovery.decision)
        recorded += 1
    return Applied(RecoveriesRecorded(recorded=recorded))


def erase_recoveries(writes: WriteBuffer, row: Global) -> None:
    """Delete the records of a transaction that is no longer kept in full."""
    if not row.recoveries:
        return
    prefix = keys.RECOVERY + keys.terminated(row.xid)
    stop = keys.stop_of_events(prefix)
    for key, _ in writes.scan(prefix, stop, limit=GREATEST_OF_ONE):
        writes.delete(key)
        writes.delete(keys.RECOVERED + key[-keys.EVENT_BYTES :])


def list_recoveries(
    reader: Reader, *, xid: str | None, cursor: str | None, limit: int
) -> tuple[list[Found], str | None]:
    """Return records, the newest first, and the cursor behind them; of one transaction or of all.

    Raises:
        InvalidCursorError
    """
    if xid is not None and not 0 < len(xid) <= GREATEST_XID_BYTES:
        return [], None
    start = keys.RECOVERED if xid is None else keys.RECOVERY + keys.terminated(xid)
    stop = keys.stop_of_events(start)
    if cursor is not None:
        behind = decode_cursor(cursor)
        if len(behind) != keys.EVENT_BYTES:
            raise InvalidCursorError("cursor is not one that this list gave out")
        stop = start + behind
    rows = reader.scan(start, stop, limit=limit + 1, reverse=True)
    found = [_found(reader, key, value, xid) for key, value in rows[:limit]]
    more = len(rows) > limit
    next_cursor = encode_cursor(rows[limit - 1][0][-keys.EVENT_BYTES :]) if more else None
    return found, next_cursor


def _found(reader: Reader, key: bytes, value: bytes, xid: str | None) -> Found:
    packed = key[-keys.EVENT_BYTES :]
    row: bytes | None = value
    if xid is None:
        xid = value.decode()
        row = reader.get(keys.RECOVERY + keys.terminated(xid) + packed)
        assert row is not None, "both rows of a record are written and deleted together"
    assert row is not None
    return Found(xid, Position(*keys.unpack_event(packed)), _recoveries.decode(row))
