"""What operators did: a chain of records, each bound to the one before it by its digest.

The digest of a record is SHA-256 over the digest of the record before it, as 64 hexadecimal digits
(of the first: none), a line feed, and the JSON array
`[number, at, principal, action, target, reason, outcome]`, without blanks, in UTF-8. Who keeps the
last digest elsewhere finds out when a record was changed or taken out.

    audit         number                  -> ActionRow
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Final

import msgspec

from statemachine import keys, paging
from statemachine.change_log import ChangeLog
from statemachine.changes import OperatorActed
from statemachine.commands import RecordAction
from statemachine.outcomes import ActionRecorded, Applied, Outcome, Rejected, RejectionCode
from statemachine.state import MachineState
from statemachine.store import Reader
from statemachine.write_buffer import WriteBuffer

DONE: Final = "DONE"
ASKED: Final = "ASKED"
"""The outcome of what is done elsewhere than in the state: all that is certain is that it began."""

GREATEST_TEXT: Final = 1_000
"""Characters of each text of a record."""

_TEXT_TOO_LONG: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"principal, action, target or reason has more than {GREATEST_TEXT} characters.",
)


class ActionRow(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True
):
    """A record."""

    number: int
    """From 1 on, without gaps."""
    at_ms: int
    """In wall time."""
    principal: str
    action: str
    target: str
    reason: str
    outcome: str
    previous: bytes
    """The digest of the record before it; empty in the first."""
    digest: bytes


_encode: Final = msgspec.msgpack.Encoder().encode
_rows: Final = msgspec.msgpack.Decoder(ActionRow)
_to_json: Final = msgspec.json.Encoder().encode


class AuditLog:
    """Records acts."""

    __slots__ = ("_log", "_state", "_writes")

    def __init__(self, state: MachineState, writes: WriteBuffer, log: ChangeLog) -> None:
        self._state = state
        self._writes = writes
        self._log = log

    def record_action(self, command: RecordAction, place: int) -> Outcome:
        """Record an act that is done elsewhere."""
        texts = (command.principal, command.action, command.target, command.reason)
        if any(len(text) > GREATEST_TEXT for text in texts):
            return _TEXT_TOO_LONG
        return Applied(ActionRecorded(number=self.record(*texts, ASKED, place)))

    def record(
        self, principal: str, action: str, target: str, reason: str, outcome: str, place: int
    ) -> int:
        """Add a record; return its number."""
        state = self._state
        state.audit_count += 1
        row = ActionRow(
            number=state.audit_count,
            at_ms=state.wall_ms,
            principal=principal[:GREATEST_TEXT],
            action=action[:GREATEST_TEXT],
            target=target[:GREATEST_TEXT],
            reason=reason[:GREATEST_TEXT],
            outcome=outcome,
            previous=state.audit_digest,
            digest=b"",
        )
        row = msgspec.structs.replace(row, digest=digest_of(row))
        state.audit_digest = row.digest
        self._writes.put(keys.AUDIT + keys.pack_number(row.number), _encode(row))
        self._log.note(
            place,
            OperatorActed(
                number=row.number,
                principal=row.principal,
                action=row.action,
                target=row.target,
                reason=row.reason,
                outcome=outcome,
            ),
        )
        return row.number


def digest_of(row: ActionRow) -> bytes:
    """Return what the digest of a record must be."""
    fields = [
        row.number, row.at_ms, row.principal, row.action, row.target, row.reason, row.outcome,
    ]  # fmt: skip
    return sha256(row.previous.hex().encode() + b"\n" + _to_json(fields)).digest()


def list_actions(
    reader: Reader, *, cursor: str | None, limit: int
) -> tuple[list[ActionRow], str | None]:
    """Return a page, the first record first, and the cursor of the next page.

    Raises:
        InvalidCursorError
    """
    start = keys.AUDIT
    if cursor is not None:
        start += paging.decode_cursor(cursor) + b"\0"
    rows = reader.scan(start, keys.stop_of(keys.AUDIT), limit=limit + 1)
    items = [_rows.decode(value) for _, value in rows[:limit]]
    if len(rows) <= limit:
        return items, None
    return items, paging.encode_cursor(rows[limit - 1][0][len(keys.AUDIT) :])


def record_before(reader: Reader, number: int) -> ActionRow | None:
    """Return the record before one, None before the first."""
    row = reader.get(keys.AUDIT + keys.pack_number(number - 1)) if number > 1 else None
    return None if row is None else _rows.decode(row)


def first_fault(rows: Iterable[ActionRow], before: ActionRow | None) -> int | None:
    """Return the number of the first record that is not what it was, or follows no other.

    `before` is the record before the first of `rows`; None when that is the first of all.
    """
    number, digest = (0, b"") if before is None else (before.number, before.digest)
    for row in rows:
        if row.number != number + 1 or row.previous != digest or row.digest != digest_of(row):
            return row.number
        number, digest = row.number, row.digest
    return None
