"""The recorded routing states of cluster nodes: who is in rotation, as the leader saw it."""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import changes, keys
from statemachine.change_log import ChangeLog
from statemachine.commands import ChangeRouting
from statemachine.outcomes import Applied, Outcome, Rejected, RejectionCode, RoutingChanged
from statemachine.rejections import NAME_UNUSABLE
from statemachine.state import MachineState
from statemachine.store import Reader
from statemachine.write_buffer import WriteBuffer

STATES: Final = ("HEALTHY", "SUSPECT", "FAILED", "RECOVERING")

GREATEST_REASON: Final = 1_000
"""Characters of a reason that are kept."""


class RoutingState(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster node's recorded state as a query returns it."""

    node_id: str
    state: str
    reason: str
    since_ms: int
    """When it entered this state, milliseconds since the epoch."""


class _Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    state: str
    reason: str
    since_ms: int


_encode: Final = msgspec.msgpack.Encoder().encode
_rows: Final = msgspec.msgpack.Decoder(_Row)


def change_routing(
    state: MachineState, writes: WriteBuffer, log: ChangeLog, command: ChangeRouting, place: int
) -> Outcome:
    """Record a node's state. The state it is in already changes nothing, reason included."""
    if command.state not in STATES:
        return Rejected(
            RejectionCode.INVALID_COMMAND, f"state is none of {', '.join(STATES)}. Use one of them."
        )
    name = keys.terminated(command.node_id)
    if not command.node_id or len(name) > keys.GREATEST_NAME_BYTES:
        return NAME_UNUSABLE
    row = writes.get(keys.ROUTING + name)
    changed = row is None or _rows.decode(row).state != command.state
    if changed:
        reason = command.reason[:GREATEST_REASON]
        writes.put(keys.ROUTING + name, _encode(_Row(command.state, reason, state.wall_ms)))
        log.note(
            place,
            changes.RoutingChanged(node_id=command.node_id, state=command.state, reason=reason),
        )
    return Applied(RoutingChanged(node_id=command.node_id, state=command.state, changed=changed))


def list_routing(reader: Reader, *, limit: int) -> list[RoutingState]:
    """Return what is recorded of at most `limit` nodes, in order of node id."""
    rows = reader.scan(keys.ROUTING, keys.stop_of(keys.ROUTING), limit=limit)
    return [_state(keys.name_of(key[len(keys.ROUTING) :]), row) for key, row in rows]


def _state(node_id: str, row: bytes) -> RoutingState:
    found = _rows.decode(row)
    return RoutingState(
        node_id=node_id, state=found.state, reason=found.reason, since_ms=found.since_ms
    )
