"""Frames between nodes: msgpack arrays that begin with their kind.

A frame is checked for its shape where it is decoded, so that the code behind may rely on it. What
a frame *asserts* is judged by the receiver (`dispatch.py`).
"""

from __future__ import annotations

import enum
from typing import Any, Final, NamedTuple

import msgpack

PROTOCOL_VERSION: Final = 1

Frame = tuple[Any, ...]
"""(kind, fields…) as decoded; the table below gives the fields' types."""


class ProtocolError(Exception):
    """A peer sent bytes that are no frame. Its connection is closed."""


class Kind(enum.IntEnum):
    HELLO = 1
    """First frame of a connection: who dials, from which disk, of which cluster."""
    REFUSED = 2
    """Answer to a hello that is not accepted; the connection closes after it."""
    APPEND = 10
    """append_entries: term, sequence, commit index, previous index and term, entries."""
    APPEND_REPLY = 11
    """term, sequence answered, next index, reset, success, last index of the follower."""
    VOTE_REQUEST = 12
    """term, last index, last term, term of the leader that asked for a transfer (0: none)."""
    VOTE = 13
    TERM_HINT = 14
    """A newer term, for a sender that still acts in an older one."""
    PRE_VOTE_REQUEST = 15
    """term to be, last index, last term."""
    PRE_VOTE = 16
    TIMEOUT_NOW = 17
    """term of the leader that hands over."""
    COMMIT = 18
    """term, commit index, term of the entry there: an append without entries that asks for no
    answer."""
    CONFIRM = 20
    """term, round, elapsed ms, ms since a quorum last did, or since the receiver did if that is
    longer: do you still follow me?"""
    CONFIRM_REPLY = 21
    """term, round, applied index, fill ratio in thousandths, wall ms, sync and lag p99 in ms."""
    FORWARD = 30
    """sequence, unit: propose this for me."""
    FORWARD_REFUSED = 31
    """sequence, reason."""
    READ_INDEX = 32
    READ_INDEX_REPLY = 33
    """id, index (0: not the leader)."""
    DRAW = 34
    """id, count: so many timestamps in a row for callers of this node."""
    DRAW_REPLY = 35
    """id, term, first of them (0: not the leader, -1: none are left)."""
    SNAPSHOT_OFFER = 40
    """term, snapshot id, index, term of the entry, size, SHA-256."""
    SNAPSHOT_REQUEST = 41
    """snapshot id, offset."""
    SNAPSHOT_CHUNK = 42
    """snapshot id, offset, data (empty: no longer held)."""
    ALIVE = 25
    """Sent to every peer now and then, so that a connection which carries nothing else shows when
    it is dead."""
    BOOTSTRAP = 50
    """The first configuration of a new cluster."""
    MEMBERSHIP_REQUEST = 51
    """id, operation, node id, disk uuid, peer address, api address."""
    MEMBERSHIP_REPLY = 52
    """id, code (empty: done), detail."""
    DIGEST = 53
    """index, digest of the state after it."""
    DIGEST_REQUEST = 54
    """What is your digest, and at which index?"""
    DIGEST_REPLY = 55
    """index, digest."""

    CHANNEL_CALL = 60
    """number, term of the leader that calls, session, connection, what for, ms to wait, the rest of
    the message: ask the resource manager that has this session at your node."""
    CHANNEL_RESULT = 61
    """number, why there is no answer (empty: there is), status, detail, not found."""


GREATEST_CALL_BYTES: Final = 512 << 10
"""Of what a resource manager is told, and more than it answers."""
GREATEST_WORD: Final = 64
"""Characters of a kind, an outcome or a status."""
GREATEST_DETAIL: Final = 4_000
"""Characters of a result's detail."""


class Hello(NamedTuple):
    """The fields of a HELLO, behind its kind."""

    protocol_version: int
    cluster_id: bytes | None
    """None: the sender knows of no cluster."""
    node_id: str
    disk_uuid: bytes
    session: bytes
    to: str
    """The id of the node that the sender means to reach."""
    peer_address: str
    api_address: str
    state_version: int
    """The newest version of the state machine that it can run."""
    new: bool
    """Its disk was never a member."""


class RefusalReason(enum.StrEnum):
    WRONG_CLUSTER = "WRONG_CLUSTER"
    WRONG_NODE = "WRONG_NODE"
    """The dialled address is not that of the node that was meant."""
    UNKNOWN_NODE = "UNKNOWN_NODE"
    REMOVED = "REMOVED"
    REGRESSED = "REGRESSED"
    """The disk holds less than the node acknowledged earlier: an old image, or lost writes."""
    PROTOCOL_VERSION = "PROTOCOL_VERSION"


_BYTES_OR_NONE = (bytes, type(None))
_SHAPES: Final[dict[int, tuple[Any, ...]]] = {
    # As in Hello.
    Kind.HELLO: (int, _BYTES_OR_NONE, str, bytes, bytes, str, str, str, int, bool),
    Kind.REFUSED: (str,),
    Kind.APPEND: (int, int, int, int, int, tuple),
    Kind.APPEND_REPLY: (int, int, int, bool, bool, int),
    Kind.VOTE_REQUEST: (int, int, int, int),
    Kind.VOTE: (int,),
    Kind.TERM_HINT: (int,),
    Kind.PRE_VOTE_REQUEST: (int, int, int),
    Kind.PRE_VOTE: (int,),
    Kind.TIMEOUT_NOW: (int,),
    Kind.COMMIT: (int, int, int),
    Kind.CONFIRM: (int, int, int, int),
    Kind.CONFIRM_REPLY: (int, int, int, int, int, int, int),
    Kind.ALIVE: (),
    Kind.FORWARD: (int, bytes),
    Kind.FORWARD_REFUSED: (int, str),
    Kind.READ_INDEX: (int,),
    Kind.READ_INDEX_REPLY: (int, int),
    Kind.DRAW: (int, int),
    Kind.DRAW_REPLY: (int, int, int),
    Kind.SNAPSHOT_OFFER: (int, str, int, int, int, bytes),
    Kind.SNAPSHOT_REQUEST: (str, int),
    Kind.SNAPSHOT_CHUNK: (str, int, bytes),
    Kind.BOOTSTRAP: (bytes,),
    Kind.MEMBERSHIP_REQUEST: (int, str, str, str, str, str),
    Kind.MEMBERSHIP_REPLY: (int, str, str),
    Kind.DIGEST: (int, bytes),
    Kind.DIGEST_REQUEST: (),
    Kind.DIGEST_REPLY: (int, bytes),
    Kind.CHANNEL_CALL: (int, int, int, int, str, int, bytes),
    Kind.CHANNEL_RESULT: (int, str, str, str, bool),
}

_pack = msgpack.Packer().pack


def encode(frame: Frame) -> bytes:
    """Return the frame's bytes without the length prefix of the wire."""
    return bytes(_pack(frame))


def decode(data: bytes | memoryview) -> Frame:
    """Return the frame.

    Raises:
        ProtocolError: the bytes are no frame of a known kind and shape.
    """
    try:
        frame = msgpack.unpackb(data, use_list=False, strict_map_key=True)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(f"undecodable frame: {error}") from error
    if type(frame) is not tuple or not frame or type(frame[0]) is not int:
        raise ProtocolError("a frame is an array that begins with its kind")
    shape = _SHAPES.get(frame[0])
    if shape is None:
        raise ProtocolError(f"unknown kind {frame[0]}")
    if len(frame) != len(shape) + 1:
        raise ProtocolError(f"kind {frame[0]} takes {len(shape)} fields, got {len(frame) - 1}")
    for position, expected in enumerate(shape, start=1):
        if type(frame[position]) is expected:
            continue
        if isinstance(expected, tuple) and isinstance(frame[position], expected):
            continue
        raise ProtocolError(f"field {position} of kind {frame[0]} has the wrong type")
    if frame[0] == Kind.APPEND:
        _check_entries(frame[6], frame[4])
    elif frame[0] == Kind.CHANNEL_CALL:
        _, number, term, session, connection, what, wait_ms, called = frame
        _check_numbers(number, term, session, connection, wait_ms)
        _check_length(what, GREATEST_WORD)
        _check_length(called, GREATEST_CALL_BYTES)
    elif frame[0] == Kind.CHANNEL_RESULT:
        _, number, outcome, status, detail, _ = frame
        _check_numbers(number)
        _check_length(outcome, GREATEST_WORD)
        _check_length(status, GREATEST_WORD)
        _check_length(detail, GREATEST_DETAIL)
    return frame


def _check_numbers(*numbers: int) -> None:
    if not all(0 <= number < 2**63 for number in numbers):
        raise ProtocolError("a number of a channel's frame is out of range")


def _check_length(part: str | bytes, greatest: int) -> None:
    if len(part) > greatest:
        raise ProtocolError(f"a part of a channel's frame has {len(part)}, at most {greatest}")


def _check_entries(entries: Frame, previous_index: int) -> None:
    expected = previous_index
    for entry in entries:
        expected += 1
        if (
            type(entry) is not tuple
            or len(entry) != 3
            or type(entry[0]) is not bytes
            or not entry[0]
            or entry[1] != expected
            or type(entry[2]) is not int
        ):
            raise ProtocolError(f"malformed entry where index {expected} belongs")
