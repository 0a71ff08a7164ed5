"""What transactions have left behind in the cluster."""

from __future__ import annotations

from typing import Final

from statemachine import keys
from statemachine.machine import Machine
from statemachine.positions import Position
from statemachine.store import Reader
from statemachine.tickets import get_ticket
from statemachine.transactions.channel_rows import list_sessions
from statemachine.transactions.cleaning_rows import due_cleanings, resources_to_clean, sweeps
from statemachine.transactions.listing import Wanted, list_globals, list_rows
from statemachine.transactions.statuses import GlobalStatus

_AT_MOST: Final = 100
"""Of each kind; who has left more behind knows enough."""

_ENDED: Final = frozenset(
    {
        GlobalStatus.COMMITTED,
        GlobalStatus.ROLLED_BACK,
        GlobalStatus.TIMEOUT_ROLLED_BACK,
        GlobalStatus.FINISHED,
    }
)


def leftovers(machine: Machine, reader: Reader, *, sessions: bool, guards: bool) -> list[str]:
    """Return a line for each transaction that has not ended, row lock, wait, guard and session."""
    found: list[str] = []
    cursor: str | None = None
    while len(found) < _AT_MOST and machine.global_count:
        rows, cursor = list_globals(reader, Wanted(), cursor=cursor, limit=_AT_MOST)
        found += [
            f"transaction {row.xid} {row.name!r} is {row.status.value}"
            for row in rows
            if row.status not in _ENDED
        ]
        if cursor is None:
            break
    if machine.row_lock_count:
        locked, _ = list_rows(reader, resource_id=None, xid=None, cursor=None, limit=_AT_MOST)
        found += [
            f"row {row.table} {list(row.key)} of {row.resource_id} is locked by "
            f"{', '.join(hold.xid for hold in row.holds) or 'nobody, and waited for'}"
            for row in locked
        ]
    found += _waits(reader)
    if guards:
        found += _guards(reader)
    if sessions:
        found += [
            f"session {each.session_id} of {each.application_id} on {each.host} has not ended"
            for each in list_sessions(reader, 0, _AT_MOST)
        ]
    return found


def _waits(reader: Reader) -> list[str]:
    rows = reader.scan(keys.TICKET, keys.stop_of(keys.TICKET), limit=1_000)
    found: list[str] = []
    for key, _ in rows:
        position = Position(*keys.unpack_event(key[len(keys.TICKET) :]))
        ticket = get_ticket(reader, position)
        if ticket is not None and ticket.outcome is None:
            found.append(f"a request waits ({ticket.kind.name})")
    return found


def _guards(reader: Reader) -> list[str]:
    """Branches of which no resource manager has been told yet that they are over."""
    return [
        f"branch {each.branch_id} of {each.xid} on {resource_id} was not cleaned"
        for resource_id in resources_to_clean(reader, "", _AT_MOST)
        for each in due_cleanings(reader, resource_id, keys.GREATEST_NUMBER, _AT_MOST)
    ] + [
        f"{each.mode} on {each.resource_id} was not swept ({each.left_out.count} branches known)"
        for _, each in sweeps(reader, b"", _AT_MOST)
    ]
