"""The machine's scalars: one row, rewritten with every entry."""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import keys
from statemachine.positions import Position
from statemachine.store import Reader

LAYOUT: Final = 1
"""The layout of all rows. A program that knows another one must not touch this state."""


class UnsupportedStateError(Exception):
    """The state was written by a newer version of this program."""


class MachineState(msgspec.Struct, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """What apply carries from entry to entry beside the rows. All of it is in the digest."""

    layout: int = LAYOUT
    applied_index: int = 0
    """The entry that is being applied, or else the last one applied; 0 when there was none."""
    applied_term: int = 0
    last_entry: int = 0
    """Entry and place of the last command; entries without commands do not move them."""
    last_place: int = 0
    wall_ms: int = 0
    elapsed_ms: int = 0
    hlc: int = 0
    """The last hybrid timestamp given: 46 bits of milliseconds, 18 of counter."""
    reserved_upto: int = 0
    """The greatest timestamp of the oracle that a leader may have given out, encoded likewise."""
    active_version: int = 1
    event_count: int = 0
    """Stored events."""
    idempotency_count: int = 0
    """Remembered idempotency keys."""
    sync_round: int = 1
    """The round that gathers reports."""
    sync_interval_ms: int = 10_000
    """The leaders' `sync.interval_ms`."""
    undecided_proposals: int = 0
    decided_proposals: int = 0
    """Those that are still kept."""
    committed_keys: int = 0
    """Keys with committed data."""
    change_count: int = 0
    """Rows of the change log."""
    compacted: Position = Position(0, 0)
    """The greatest position of which a change or a stored event was trimmed."""
    fencing_token: int = 0
    """The last one given, of all locks."""
    lock_count: int = 0
    """Rows of locks."""
    lock_wait_count: int = 0
    """Who waits for a lock, in all queues together."""
    global_count: int = 0
    """Global transactions that have not ended."""
    last_global: int = 0
    """The number in the last xid that was made here."""
    last_branch: int = 0
    """The id of the last branch registered."""
    row_lock_count: int = 0
    """Rows that branches hold, each counted for each branch that shares it."""
    row_lock_wait_count: int = 0
    """Requests that wait for rows."""
    retention_ms: int = 24 * 3_600_000
    """How long an ended transaction is kept in full, in elapsed time."""
    summary_retention_ms: int = 30 * 24 * 3_600_000
    """How long it is remembered after that that it ended, and how; 0: for ever."""
    incident_count: int = 0
    """The number of the last failure that a branch told of."""
    audit_count: int = 0
    """The number of the last act of an operator that was recorded."""
    audit_digest: bytes = b""
    """The digest of that record."""
    coordinator_lamport: int = 0
    """The coordinator's own Lamport clock, which ticks with everything in a timeline."""
    channel_count: int = 0
    """Channel sessions that have not ended."""
    last_channel: int = 0
    """The id of the last channel session that began."""
    cleaning_count: int = 0
    """Notes of branches that resource managers are to clean."""
    cleaning_place_count: int = 0
    """Places with such notes, and modes of places with branches of which there is none."""
    subscriber_count: int = 0
    """Subscribers of all topics together."""
    saga_definition_count: int = 0
    """Names of saga definitions, those deleted included that sagas still follow."""
    open_executions: int = 0
    """Executions of the XA and JTA services that have not ended."""
    kept_executions: int = 0
    """Those that have, and are remembered."""
    checkpoint_index: int = 0
    """The entry whose digest nodes compare; 0 before the first."""
    checkpoint_digest: bytes = b""
    digest: bytes = b""
    """Over everything that was ever written, in order; empty in an empty state."""


_encode: Final = msgspec.msgpack.Encoder().encode
_states: Final = msgspec.msgpack.Decoder(MachineState)
_layouts: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])


def load_state(reader: Reader) -> MachineState:
    """Return the scalars of a state, those of genesis when it is empty.

    Raises:
        UnsupportedStateError: the rows have a layout that this program does not know.
    """
    row = reader.get(keys.META)
    if row is None:
        return MachineState()
    layout = msgspec.msgpack.decode(_layouts.decode(row)[0], type=int)
    if layout != LAYOUT:
        raise UnsupportedStateError(
            f"the state has layout {layout}, this program reads {LAYOUT}; start the newer program "
            "that wrote it"
        )
    return _states.decode(row)


def encode_state(state: MachineState) -> bytes:
    return _encode(state)
