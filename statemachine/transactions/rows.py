"""What is stored of a global transaction: itself, its branches, its timeline.

Rows of the state, after the prefixes in `statemachine.keys`:

    global        xid\0                   -> Global
    branch        xid\0  branch id        -> Branch
    timeline      xid\0  number           -> [Happening, …]
    due           elapsed ms  xid         -> nothing: when the driver is to look at it
    begun         entry  place            -> xid: all of them in the order in which they began

What is kept of them elsewhere: row locks (`row_locks`), fences (`fence`), what became of those that
are no longer kept in full (`summaries`), what went wrong (`incidents`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine import keys
from statemachine.positions import Position
from statemachine.store import Reader
from statemachine.transactions.statuses import BranchStatus, GlobalStatus, Mode
from statemachine.write_buffer import WriteBuffer

GREATEST_XID_BYTES: Final = 64

DTM: Final = "DTM"
"""The protocol of transactions that were begun in DTM's."""


class RetryRule(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How a call that did not succeed is repeated."""

    limit: int = -1
    """After so many repetitions it counts as failed; -1: never."""
    interval_ms: int = 500
    """Before the first repetition. It doubles with each."""
    greatest_interval_ms: int = 20_000


class Calls(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a branch is called over HTTP. An empty URL is an instant success.

    None: the client did it (forward), or the resource manager is called over its channel (commit,
    rollback).
    """

    forward: str | None = None
    """The action of a saga's step, a TCC's Try, a message's delivery."""
    commit: str | None = None
    rollback: str | None = None


class Failure(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What went wrong last."""

    type: str
    message: str
    at_ms: int


class Branch(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True
):
    """One branch."""

    branch_id: int
    name: str
    """A step's; empty for others."""
    mode: Mode
    status: BranchStatus
    resource_id: str
    application_id: str
    unit_id: str
    session_id: int
    """The channel session that holds it, 0 when none does."""
    application_data: bytes
    calls: Calls
    payload: bytes
    depends_on: tuple[int, ...]
    """The branches that must have done their forward call first."""
    timeout_ms: int
    """Of one call; 0: the driver's own."""
    retry: RetryRule
    attempts: int = 0
    """Calls of the present operation that did not succeed."""
    due_ms: int = 0
    """In elapsed time: not called before."""
    result: bytes = b""
    failure: Failure | None = None
    registered_ms: int = 0
    """In wall time, as the next."""
    updated_ms: int = 0
    host: str = ""
    """Of the process whose channel session registered it."""
    did_phase_one: bool = False
    """It has reported that its work of phase one is done, whatever became of it since."""
    outcome_unknown: bool = False
    """It failed, and nobody knows whether it has done something: it is undone all the same."""
    compensation: bytes = b""
    """What its compensation is called with; empty: its payload."""


class Committer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One who wants to commit while branches have not reported yet."""

    ticket: Position
    reason: str


class Global(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True
):
    """A global transaction without its branches."""

    xid: str
    name: str
    status: GlobalStatus
    program: str
    """Who goes on with it: CLIENT, SAGA, TCC, MESSAGE or WORKFLOW."""
    submitted: bool
    begun: Position
    begun_ms: int
    """In wall time, as the two below."""
    decided_ms: int = 0
    ended_ms: int = 0
    deadline_ms: int = 0
    """In elapsed time; 0: none. Undecided then, it is rolled back."""
    due_ms: int = -1
    """When the driver is to look at it, in elapsed time; -1: there is nothing to do."""
    branches: int = 0
    """How many were registered."""
    happenings: int = 0
    """How many stand in its timeline."""
    in_order: bool = False
    """Phase two takes one branch after the other."""
    compensates_failed: bool = False
    """A step that refused is compensated, too."""
    recovers_forward: bool = False
    """A step that failed is repeated, not rolled back."""
    paused: bool = False
    """An operator has stopped its retries."""
    reason: str = ""
    """Why it was decided as it was."""
    waiting: tuple[Position, ...] = ()
    """Tickets of whoever waits for its end."""
    options: bytes = b""
    """What a gateway keeps with it."""
    protocol: str = ""
    """How its branches are called: as DTM does, or, when empty, in our own way."""
    recoveries: int = 0
    """How often a new leader found it unfinished."""
    recovered_in: int = 0
    """The term of the last one; 0: none."""
    mode: str = ""
    """What its branches mostly are, as its client said."""
    committing: tuple[Committer, ...] = ()
    """Who wants to commit and waits for branches to report."""
    over_ms: int = 0
    """When it ended, in elapsed time; 0 before."""


class Happening(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One line of a timeline."""

    index: Position
    hlc: int
    lamport: int
    event: str
    branch_id: int
    """0: of the transaction itself."""
    detail: str


_encode: Final = msgspec.msgpack.Encoder().encode
_globals: Final = msgspec.msgpack.Decoder(Global)
_branches: Final = msgspec.msgpack.Decoder(Branch)
_timelines: Final = msgspec.msgpack.Decoder(list[Happening])

_GREATEST_PAGE: Final = 10_000
_LINES_A_ROW: Final = 32


def get_global(reader: Reader, xid: str) -> Global | None:
    if len(xid) > GREATEST_XID_BYTES:
        return None
    row = reader.get(keys.GLOBAL + keys.terminated(xid))
    return None if row is None else _globals.decode(row)


def put_global(writes: WriteBuffer, row: Global) -> None:
    writes.put(keys.GLOBAL + keys.terminated(row.xid), _encode(row))


def get_branch(reader: Reader, xid: str, branch_id: int) -> Branch | None:
    if not 0 < branch_id <= keys.GREATEST_NUMBER or len(xid) > GREATEST_XID_BYTES:
        return None
    row = reader.get(keys.BRANCH + keys.terminated(xid) + keys.pack_number(branch_id))
    return None if row is None else _branches.decode(row)


def put_branch(writes: WriteBuffer, xid: str, row: Branch) -> None:
    writes.put(keys.BRANCH + keys.terminated(xid) + keys.pack_number(row.branch_id), _encode(row))


def encode_branch(row: Branch) -> bytes:
    return _encode(row)


def decode_branch(row: bytes) -> Branch:
    return _branches.decode(row)


def get_branches(reader: Reader, xid: str) -> list[Branch]:
    """Return the branches in the order in which they were registered."""
    prefix = keys.BRANCH + keys.terminated(xid)
    rows = reader.scan(prefix, _after(prefix), limit=_GREATEST_PAGE)
    return [_branches.decode(row) for _, row in rows]


def get_timeline(reader: Reader, xid: str) -> list[Happening]:
    """Return what happened, in order."""
    prefix = keys.TIMELINE + keys.terminated(xid)
    rows = reader.scan(prefix, _after(prefix), limit=_GREATEST_PAGE)
    return [line for _, row in rows for line in _timelines.decode(row)]


def last_happenings(reader: Reader, xid: str, count: int) -> list[Happening]:
    """Return the lines in the last row of a timeline of `count` lines; none when it is full."""
    if count % _LINES_A_ROW == 0:
        return []
    row = reader.get(_timeline_key(xid, count // _LINES_A_ROW))
    assert row is not None, "a timeline has as many lines as its transaction says"
    return _timelines.decode(row)


def append_happenings(
    writes: WriteBuffer, xid: str, count: int, last: list[Happening], lines: list[Happening]
) -> list[Happening]:
    """Add lines to a timeline of `count`, of which `last` are in its last row; return the new last.

    A row holds a few lines, so that most timelines are one row.
    """
    number, rest = count // _LINES_A_ROW, last + lines
    while rest:
        last, rest = rest[:_LINES_A_ROW], rest[_LINES_A_ROW:]
        writes.put(_timeline_key(xid, number), _encode(last))
        number += 1
    return last if len(last) < _LINES_A_ROW else []


def _timeline_key(xid: str, number: int) -> bytes:
    return keys.TIMELINE + keys.terminated(xid) + keys.pack_number(number)


def due_globals(
    reader: Reader, after: tuple[int, str], upto_ms: int, *, limit: int
) -> list[tuple[int, str]]:
    """Return when the driver is to look at which transactions, in that order.

    They come after `after`, which is such a pair, and are due at or before `upto_ms`.
    """
    due_ms, xid = after
    begin = keys.DUE_GLOBAL + keys.pack_number(due_ms) + xid.encode() + b"\0"
    stop = keys.DUE_GLOBAL + keys.pack_number(upto_ms + 1)
    at = len(keys.DUE_GLOBAL)
    return [
        (int.from_bytes(key[at : at + 8], "big"), key[at + 8 :].decode())
        for key, _ in reader.scan(begin, stop, limit=limit)
    ]


def erase(writes: WriteBuffer, row: Global) -> None:
    """Delete a transaction with everything that is kept of it."""
    terminated = keys.terminated(row.xid)
    of_it = (keys.BRANCH, keys.TIMELINE, keys.FENCE, keys.DTM_PROGRESS)
    for prefix in [each + terminated for each in of_it]:
        for key, _ in writes.scan(prefix, _after(prefix), limit=_GREATEST_PAGE):
            writes.delete(key)
    writes.delete(keys.BEGUN + keys.pack_event(row.begun.entry, row.begun.place))
    writes.delete(keys.GLOBAL + terminated)


def _after(prefix: bytes) -> bytes:
    """Return the first key after all that begin with a terminated name."""
    return prefix[:-1] + b"\x01"
