"""Where a saga that follows a definition stands, as it is stored.

Rows, after the prefix in `statemachine.keys`:

    r  xid\\0             -> Run: its machines, the frames that are at work, their variables
    s  xid\\0  number     -> StateRecord: a state that it came to, in that order

A frame is one machine at work in one of its states: the saga's own, and one for each sub-machine
that a state has begun. What calls came to stands in the branches; everything else stands here, so
that any leader goes on from the rows alone.
"""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import keys
from statemachine.store import Reader
from statemachine.transactions.state_language.definitions import Pinned
from statemachine.write_buffer import WriteBuffer

GREATEST_STATES_ENTERED: Final = 1_000
"""States that one saga comes to before it is rolled back as one that does not end."""

_RUN: Final = keys.SAGA_RUN + b"r"
_STATE: Final = keys.SAGA_RUN + b"s"


class StateFailure(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Why a state failed."""

    type: str
    message: str
    definite: bool
    """Nothing was done: it is FA, not UN."""
    state: str = ""
    refused: bool = False
    """Its participant says so."""


class Instance(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One round of a state: the only one, or one of its loop."""

    index: int
    branch_id: int
    """Of the call, 0 when a sub-machine is at work."""
    frame: int = 0
    """The sub-machine's."""
    repetitions: tuple[int, ...] = ()
    """How often each rule of `Retry` has had it called again."""
    refused: bool = False
    """Its participant has said that nothing was done."""


class Frame(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """A machine at work."""

    number: int
    parent: int
    """The frame whose state began it; 0: it is the saga's own."""
    index: int
    """The round of that state that it is."""
    machine: int
    """Its definition's place in `Run.machines`."""
    path: str
    """What comes before the names of its states."""
    state: str
    context: bytes
    """Its variables: a JSON object."""
    overlay: bytes = b""
    """What `CompensateSubMachine` adds to them for its compensations."""
    record: int = 0
    """The record of its state; 0: it is still to be entered."""
    count: int = 0
    """Rounds of its state, begun or not."""
    begun: int = 0
    ended: int = 0
    outputs: tuple[bytes, ...] = ()
    """Of each round of a loop, JSON; empty while there is none."""
    active: tuple[Instance, ...] = ()
    failure: StateFailure | None = None
    """The first one among its rounds: no further one begins."""
    error: StateFailure | None = None
    """What was caught last: `#error`."""


class Run(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """A saga that follows a definition."""

    machines: tuple[Pinned, ...]
    """Its own first, then those that it may call."""
    frames: tuple[Frame, ...]
    last_frame: int
    entered: int = 0
    """States so far; each has a record of that number."""
    payload_bytes: int = 0
    """Of all calls together."""


class StateRecord(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True
):
    """A state that a saga came to."""

    name: str
    """With the states above it, when it is a sub-machine's: `Ship/Pack`."""
    kind: str
    status: str
    """Seata's: RU while it goes on, then SU, FA or UN."""
    began_ms: int
    """In wall time, as the next."""
    ended_ms: int = 0
    branches: tuple[int, ...] = ()
    """The calls that it made."""
    failure: StateFailure | None = None


_encode: Final = msgspec.msgpack.Encoder().encode
_runs: Final = msgspec.msgpack.Decoder(Run)
_records: Final = msgspec.msgpack.Decoder(StateRecord)


def get_run(reader: Reader, xid: str) -> Run | None:
    row = reader.get(_RUN + keys.terminated(xid))
    return None if row is None else _runs.decode(row)


def put_run(writes: WriteBuffer, xid: str, run: Run) -> None:
    writes.put(_RUN + keys.terminated(xid), _encode(run))


def get_record(reader: Reader, xid: str, number: int) -> StateRecord:
    row = reader.get(_STATE + keys.terminated(xid) + keys.pack_number(number))
    assert row is not None, "every state that was entered has a record"
    return _records.decode(row)


def put_record(writes: WriteBuffer, xid: str, number: int, record: StateRecord) -> None:
    writes.put(_STATE + keys.terminated(xid) + keys.pack_number(number), _encode(record))


def get_records(reader: Reader, xid: str) -> list[StateRecord]:
    """Return the states that a saga came to, in order."""
    prefix = _STATE + keys.terminated(xid)
    rows = reader.scan(prefix, prefix[:-1] + b"\x01", limit=GREATEST_STATES_ENTERED + 2)
    return [_records.decode(row) for _, row in rows]


def stop_run(writes: WriteBuffer, xid: str, wall_ms: int) -> None:
    """Leave everything as it is, for good: the saga is rolled back."""
    run = get_run(writes, xid)
    assert run is not None, "a saga that follows a definition has a run"
    for frame in run.frames:
        if frame.record:
            record = get_record(writes, xid, frame.record)
            if record.status == "RU":
                ended = msgspec.structs.replace(record, status="UN", ended_ms=wall_ms)
                put_record(writes, xid, frame.record, ended)


def erase_run(writes: WriteBuffer, xid: str) -> None:
    terminated = keys.terminated(xid)
    writes.delete(_RUN + terminated)
    prefix = _STATE + terminated
    for key, _ in writes.scan(prefix, prefix[:-1] + b"\x01", limit=GREATEST_STATES_ENTERED + 2):
        writes.delete(key)
