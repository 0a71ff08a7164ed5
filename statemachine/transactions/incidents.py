"""What went wrong in branches, of all transactions: the last failures, whatever became of them.

incident      number                  -> Incident
"""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import keys, paging
from statemachine.positions import Position
from statemachine.state import MachineState
from statemachine.store import Reader
from statemachine.transactions.rows import Branch, Failure
from statemachine.write_buffer import WriteBuffer

GREATEST_INCIDENTS: Final = 10_000
"""How many are kept: the oldest gives way to the newest."""


class Incident(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True
):
    """A failure of a branch."""

    index: Position
    xid: str
    branch_id: int
    name: str
    mode: str
    resource_id: str
    application_id: str
    status: str
    """Of the branch, with the failure."""
    failure: Failure


_encode: Final = msgspec.msgpack.Encoder().encode
_incidents: Final = msgspec.msgpack.Decoder(Incident)


def record_incident(
    state: MachineState, writes: WriteBuffer, xid: str, branch: Branch, place: int
) -> None:
    """Record the failure that a branch has."""
    assert branch.failure is not None, "only what failed is an incident"
    state.incident_count += 1
    number = state.incident_count
    incident = Incident(
        index=Position(state.applied_index, place),
        xid=xid,
        branch_id=branch.branch_id,
        name=branch.name,
        mode=branch.mode,
        resource_id=branch.resource_id,
        application_id=branch.application_id,
        status=branch.status,
        failure=branch.failure,
    )
    writes.put(keys.INCIDENT + keys.pack_number(number), _encode(incident))
    if number > GREATEST_INCIDENTS:
        writes.delete(keys.INCIDENT + keys.pack_number(number - GREATEST_INCIDENTS))


def list_incidents(
    reader: Reader, *, cursor: str | None, limit: int
) -> tuple[list[Incident], str | None]:
    """Return a page, the newest first, and the cursor of the next page.

    Raises:
        InvalidCursorError
    """
    stop = keys.stop_of(keys.INCIDENT)
    if cursor is not None:
        stop = keys.INCIDENT + paging.decode_cursor(cursor)
    rows = reader.scan(keys.INCIDENT, stop, limit=limit + 1, reverse=True)
    items = [_incidents.decode(value) for _, value in rows[:limit]]
    if len(rows) <= limit:
        return items, None
    return items, paging.encode_cursor(rows[limit - 1][0][len(keys.INCIDENT) :])
