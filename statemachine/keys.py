"""Where each row of the state lives: the one place that knows prefixes and key layouts.

    B r  name\\0                              the clocks that a participant reported
    B c  round                               a closed round
    B n  round  name\\0                       a reporter of it
    M                                        the machine's scalars
    L  lamport  name                      -> entry place   all events in Lamport order
    N  name\\0  lamport                    -> entry place   one participant's events
    P  name\\0                                a participant and its clock
    R  name\\0                                a cluster node's routing state
    S  session                               a submitting session
    U  session  sequence                     the outcomes of a unit
    I  principal\\0  key                      a remembered idempotency key
    T  due  kind  id                         a timer
    Q  name\\0                                a sequence: the last number taken
    W  entry  place                          a ticket: a wait, or what it came to
    K l  name\\0                              a lock
    K s  name\\0  token                       one who shares it
    K o  name\\0  owner                    -> token         the same by its name
    K w  name\\0  entry place                 one who waits for it
    V  c|v  name\\0                           a vector: a participant's clock, a key's versions
    Z  c|v  name\\0  entry place              the same as it was after that event
    Y  key\\0                                 a versioned object
    H  name\\0  message                       a message that a participant has received
    D p  id\\0                                a data proposal and its votes
    D d  id\\0                                its data, until it is decided
    D o  node\\0  entry place              -> id            a ballot that a voter owes
    D s  entry place                       -> proposer, id  votes that suffice for a decision
    D e  decided  proposed                 -> id            decided proposals, in that order
    D c  key\\0                               committed data
    F  list  name\\0  entry place             a stored event, in one of the lists that it is in
    X ?                                      global transactions, their row locks, RM channels, saga
                                             definitions, what is told of them: see
                                             `statemachine.transactions`
    J e  entry place                         an execution of the XA and JTA services
    J d  entry place                         what it was accepted with, until it ends
    c  entry  place                          what a command changed
    e  entry  place                          a stored event

Integers are big-endian and unsigned, so that rows sort as their numbers do. A name that is followed
by something else is *terminated*: it ends in a zero byte, and a zero byte within it is followed by
0xFF, which UTF-8 never contains. So no name is a prefix of another's rows and names sort by code
point.

Events are the greatest rows and the last ones of all: a B+ tree fills its pages only where it grows
at its end, and leaves them half empty where it grows in the middle.

Keys that begin with a zero byte are the node's own; the state machine does not touch them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Final

SYNC_REPORT: Final = b"Br"
SYNC_ROUND: Final = b"Bc"
SYNC_NODE: Final = b"Bn"
META: Final = b"M"
EVENT_BY_LAMPORT: Final = b"L"
EVENT_BY_NODE: Final = b"N"
PARTICIPANT: Final = b"P"
ROUTING: Final = b"R"
SESSION: Final = b"S"
SETTLED_UNIT: Final = b"U"
IDEMPOTENCY: Final = b"I"
TIMER: Final = b"T"
TICKET: Final = b"W"
SEQUENCE: Final = b"Q"
LOCK: Final = b"Kl"
LOCK_SHARED: Final = b"Ks"
LOCK_OWNER: Final = b"Ko"
LOCK_QUEUE: Final = b"Kw"
VECTOR: Final = b"V"
VECTOR_BASE: Final = b"Z"
OBJECT: Final = b"Y"
RECEIVED: Final = b"H"
PROPOSAL: Final = b"Dp"
PROPOSED_DATA: Final = b"Dd"
OWED_BALLOT: Final = b"Do"
DECIDABLE_PROPOSAL: Final = b"Ds"
DECIDED_PROPOSAL: Final = b"De"
COMMITTED_DATA: Final = b"Dc"
EVENT_IN_LIST: Final = b"F"
GLOBAL: Final = b"Xg"
BRANCH: Final = b"Xb"
TIMELINE: Final = b"Xt"
DUE_GLOBAL: Final = b"Xd"
BEGUN: Final = b"Xn"
FENCE: Final = b"Xf"
SUMMARY: Final = b"Xs"
INCIDENT: Final = b"Xi"
AUDIT: Final = b"Xa"
UNDELIVERED: Final = b"Xm"
SUBSCRIBER: Final = b"Xp"
RECOVERY: Final = b"Xh"
RECOVERED: Final = b"Xu"
ROW_LOCK: Final = b"Xl"
ROW_LOCK_OWNER: Final = b"Xo"
ROW_LOCK_QUEUE: Final = b"Xq"
ROW_LOCK_WAIT: Final = b"Xw"
ROW_LOCK_WAITING_XID: Final = b"Xx"
DTM_PROGRESS: Final = b"Xk"
CHANNEL: Final = b"Xe"
CHANNEL_INDEX: Final = b"Xj"
SAGA_DEFINITION: Final = b"Xy"
SAGA_RUN: Final = b"Xz"
EXECUTION: Final = b"Je"
EXECUTION_DATA: Final = b"Jd"
CHANGE: Final = b"c"
EVENT: Final = b"e"

GREATEST_NAME_BYTES: Final = 480
"""The greatest length of a terminated name, and of any other variable part: with what surrounds it,
a key stays within the 500 bytes of a `Store`."""

SESSION_BYTES: Final = 16

GREATEST_NUMBER: Final = 2**63 - 1
"""The greatest integer that a key holds."""

EVENT_BYTES: Final = 12
"""The size of a packed position."""
GREATEST_PLACE: Final = 2**32 - 1
"""The greatest place within an entry that a key holds."""

_EVENT: Final = struct.Struct(">QI")
_TIMER: Final = struct.Struct(">QB")

pack_number: Callable[[int], bytes] = struct.Struct(">Q").pack
pack_event: Callable[[int, int], bytes] = _EVENT.pack
"""The 12 bytes of a position: the entry and the place of a command."""


def stop_of(prefix: bytes) -> bytes:
    """Return the first key after all that begin with `prefix`, which must not end in 0xFF."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


@lru_cache(maxsize=4_096)
def terminated(name: str) -> bytes:
    """Return `name` in the form in which something may follow it."""
    return name.encode().replace(b"\0", b"\0\xff") + b"\0"


def name_of(terminated_name: bytes) -> str:
    """Undo `terminated`."""
    return terminated_name[:-1].replace(b"\0\xff", b"\0").decode()


def stop_of_events(prefix: bytes) -> bytes:
    """Return the first key after all that are `prefix` and a packed position.

    Not `stop_of`: behind a terminated name come those of which it is a prefix.
    """
    return prefix + b"\x80"


def unpack_event(packed: bytes) -> tuple[int, int]:
    """Undo `pack_event`."""
    entry, place = _EVENT.unpack(packed)
    return entry, place


def settled_unit(session: bytes, sequence: int) -> bytes:
    return SETTLED_UNIT + session + pack_number(sequence)


def timer(due_ms: int, kind: int, timer_id: bytes) -> bytes:
    return TIMER + _TIMER.pack(due_ms, kind) + timer_id


def timers_after(due_ms: int) -> bytes:
    """Return the first key after all timers due at or before `due_ms`."""
    return TIMER + pack_number(due_ms + 1)


def timer_of(timer_key: bytes) -> tuple[int, int, bytes]:
    """Undo `timer`."""
    id_start = len(TIMER) + _TIMER.size
    due_ms, kind = _TIMER.unpack(timer_key[len(TIMER) : id_start])
    return due_ms, kind, timer_key[id_start:]
