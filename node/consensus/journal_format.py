"""The bytes of the journal: records, segments, and how damage is told from a torn tail.

A segment is a file: a header, then groups, one for each flush. A group is any number of records
closed by a STATE and a SEAL::

    segment  = header group*
    group    = (ENTRY | TRUNCATE | CLEAR)* STATE SEAL
    record   = magic kind length sequence a b body-checksum header-checksum body

Sequence numbers are consecutive through all segments. Both checksums are CRC-32; that of the header
is seeded with the disk's identity, so that bytes of another journal are not taken for records.

STATE repeats everything that is not an entry: base, term, vote, commit index, the oldest segment
still needed, and up to which record the journal was known to be synced. A group counts from its
STATE on, as a whole or not at all.

A crash while a group is written leaves a prefix of it. Hence a record that cannot be read is a torn
tail, and is cut, only when no readable record follows it; otherwise it is damage. The SEAL has no
content: it follows the STATE so that a damaged STATE has a readable record behind it. Any one
damaged place is therefore found, with one exception: damage inside the last group that extends to
the end of the file cannot be told from a tear.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

FORMAT_VERSION = 1
MAGIC = b"\xf5\x4a"

ENTRY = 1
TRUNCATE = 2
CLEAR = 3
STATE = 4
SEAL = 5

# magic, kind, body length, sequence, a, b, body checksum; then the header checksum.
HEAD = struct.Struct("<2sBxIQQQI")
CHECKSUM = struct.Struct("<I")
RECORD_BYTES = HEAD.size + CHECKSUM.size
"""The length of a record without its body."""

MAX_BODY_BYTES = 64 * 1024 * 1024

# File magic, format version, identity, segment number, first sequence number; then a checksum.
# This layout is the same in every format version.
_SEGMENT_HEAD = struct.Struct("<8sI16sQQ")
_SEGMENT_MAGIC = b"TIDEJRNL"
SEGMENT_HEADER_BYTES = _SEGMENT_HEAD.size + CHECKSUM.size

# term, commit index, synced sequence, oldest segment, vote length plus one (0: no vote); the vote.
_STATE = struct.Struct("<QQQQH")
MAX_VOTE_BYTES = 255

_NAME_PREFIX = "journal-"
_NAME_DIGITS = 16


class JournalError(Exception):
    """The journal cannot be used."""


class JournalDamagedError(JournalError):
    """Bytes that were stored do not read back. The node must come back as one with a new disk."""

    def __init__(self, file: str, offset: int, reason: str) -> None:
        super().__init__(f"journal damaged: {file} at byte {offset}: {reason}")
        self.file = file
        self.offset = offset
        self.reason = reason


class JournalFormatError(JournalError):
    """The files are whole, but of an unknown format version or of another disk."""


class State(NamedTuple):
    """What the journal holds besides entries. Index and term 0: the journal has no entry."""

    base_index: int = 0
    base_term: int = 0
    term: int = 0
    vote: str | None = None
    commit_index: int = 0
    synced_sequence: int = 0
    oldest_segment: int = 1


class Record(NamedTuple):
    """One record as found in a segment. `offset` is where its header begins in the file."""

    kind: int
    a: int
    b: int
    offset: int
    length: int


class Segment(NamedTuple):
    """The complete groups of one file."""

    records: list[Record]
    state: State | None
    """The state that the last complete group left behind; None when there is no such group."""
    next_sequence: int
    end: int
    """Where the last complete group ends; what lies behind it is a torn tail."""
    last_group: int
    """Where the last complete group begins."""


def segment_name(number: int) -> str:
    return f"{_NAME_PREFIX}{number:0{_NAME_DIGITS}d}"


def segment_number(name: str) -> int | None:
    """Return the number of the segment with this file name; None when it is not a segment."""
    digits = name.removeprefix(_NAME_PREFIX)
    if name == digits or len(digits) != _NAME_DIGITS or not (digits.isascii() and digits.isdigit()):
        return None
    return int(digits)


def checksum_seed(identity: bytes) -> int:
    return crc32(identity)


def encode_segment_header(number: int, first_sequence: int, identity: bytes) -> bytes:
    head = _SEGMENT_HEAD.pack(_SEGMENT_MAGIC, FORMAT_VERSION, identity, number, first_sequence)
    return head + CHECKSUM.pack(crc32(head))


def encode_record(kind: int, sequence: int, a: int, b: int, body: bytes, *, seed: int) -> bytes:
    head = HEAD.pack(MAGIC, kind, len(body), sequence, a, b, crc32(body))
    return head + CHECKSUM.pack(crc32(head, seed)) + body


def encode_state(state: State, sequence: int, seed: int) -> bytes:
    vote = b"" if state.vote is None else state.vote.encode()
    body = _STATE.pack(
        state.term,
        state.commit_index,
        state.synced_sequence,
        state.oldest_segment,
        0 if state.vote is None else len(vote) + 1,
    )
    return encode_record(STATE, sequence, state.base_index, state.base_term, body + vote, seed=seed)


def decode_state(record: Record, data: bytes) -> State:
    body = record.offset + RECORD_BYTES
    term, commit_index, synced, oldest, vote_length = _STATE.unpack_from(data, body)
    vote = None
    if vote_length:
        start = body + _STATE.size
        vote = data[start : start + vote_length - 1].decode()
    return State(record.a, record.b, term, vote, commit_index, synced, oldest)


def decode_entry(data: bytes, offset: int, seed: int) -> tuple[bytes, int, int] | None:
    """Return (command, index, term) of the ENTRY at `offset`; None when it cannot be read."""
    head = _read_head(data, offset, seed)
    if head is None or head[0] != ENTRY:
        return None
    _, length, _, index, term, checksum = head
    start = offset + RECORD_BYTES
    command = data[start : start + length]
    if len(command) != length or crc32(command) != checksum:
        return None
    return command, index, term


def parse_segment(
    number: int, data: bytes, identity: bytes, *, first_sequence: int | None, torn_allowed: bool
) -> Segment:
    """Read all records of a segment and check them.

    Args:
        number: The number in the file's name.
        data: The whole file.
        identity: The 16 bytes that name this disk.
        first_sequence: The sequence number that must follow the segment before; None: any.
        torn_allowed: Whether this is the last segment, the only one that may have a torn tail.

    Raises:
        JournalDamagedError: a record cannot be read and is not part of a torn tail.
        JournalFormatError: unknown format version, or the journal of another disk.
    """
    name = segment_name(number)
    seed = checksum_seed(identity)
    found = _read_segment_header(name, number, data, identity)
    if found is None:
        if torn_allowed and _find_record(data, 0, seed) is None:
            return Segment([], None, 0, 0, 0)
        raise JournalDamagedError(name, 0, "unreadable segment header")
    if first_sequence is not None and found != first_sequence:
        raise JournalDamagedError(name, 0, f"begins at record {found}, not {first_sequence}")
    segment, bad = _read_groups(name, data, found, seed)
    if segment.end < len(data) and not torn_allowed:
        raise JournalDamagedError(name, bad, "unreadable record in a segment that has a successor")
    return segment


def _read_segment_header(name: str, number: int, data: bytes, identity: bytes) -> int | None:
    """Return the first sequence number; None when the header cannot be read."""
    if len(data) < SEGMENT_HEADER_BYTES:
        return None
    head = data[: _SEGMENT_HEAD.size]
    (checksum,) = CHECKSUM.unpack_from(data, _SEGMENT_HEAD.size)
    magic, version, owner, own_number, first_sequence = _SEGMENT_HEAD.unpack(head)
    if crc32(head) != checksum or magic != _SEGMENT_MAGIC:
        return None
    if version != FORMAT_VERSION:
        raise JournalFormatError(
            f"{name} has format version {version}; this program knows {FORMAT_VERSION} only"
        )
    if owner != identity:
        raise JournalFormatError(
            f"{name} belongs to disk {owner.hex()}, this node's disk is {identity.hex()}"
        )
    if own_number != number:
        raise JournalDamagedError(name, 0, f"the file holds segment {own_number}")
    return int(first_sequence)


def _read_groups(name: str, data: bytes, first_sequence: int, seed: int) -> tuple[Segment, int]:
    """Return the complete groups, and the offset at which reading stopped."""
    records: list[Record] = []
    offset = SEGMENT_HEADER_BYTES
    sequence = first_sequence
    # The last complete group, as: number of records, next sequence, end, begin; and its STATE.
    complete = (0, first_sequence, 0, 0)
    begin = 0
    last_state: Record | None = None
    view = memoryview(data)
    while offset < len(data):
        head = _read_head(data, offset, seed)
        if head is None:
            _refuse_damage(name, data, offset, search_from=offset + 1, sequence=sequence, seed=seed)
            break
        kind, length, own_sequence, a, b, checksum = head
        if own_sequence != sequence:
            raise JournalDamagedError(name, offset, f"record {own_sequence}, expected {sequence}")
        if not ENTRY <= kind <= SEAL:
            raise JournalFormatError(f"{name} at byte {offset}: unknown record kind {kind}")
        start = offset + RECORD_BYTES
        end = start + length
        if end > len(data) or crc32(view[start:end]) != checksum:
            _refuse_damage(name, data, offset, search_from=end, sequence=sequence, seed=seed)
            break
        record = Record(kind, a, b, offset, length)
        records.append(record)
        offset = end
        sequence += 1
        if kind == STATE:
            last_state = record
            complete = (len(records), sequence, end, begin)
            begin = end
        elif kind == SEAL and complete[0] == len(records) - 1:
            complete = (len(records), sequence, end, complete[3])
            begin = end
    count, next_sequence, group_end, group_begin = complete
    del records[count:]
    state = None if last_state is None else decode_state(last_state, data)
    return Segment(records, state, next_sequence, group_end, group_begin), offset


def _read_head(data: bytes, offset: int, seed: int) -> tuple[int, int, int, int, int, int] | None:
    """Return kind, length, sequence, a, b and body checksum; None when they cannot be read."""
    stop = offset + HEAD.size
    if stop + CHECKSUM.size > len(data):
        return None
    magic, kind, length, sequence, a, b, body_checksum = HEAD.unpack_from(data, offset)
    (checksum,) = CHECKSUM.unpack_from(data, stop)
    if magic != MAGIC or crc32(data[offset:stop], seed) != checksum:
        return None
    return kind, length, sequence, a, b, body_checksum


def _find_record(data: bytes, offset: int, seed: int) -> int | None:
    """Return where the first readable record header at or after `offset` is; None without one."""
    while (offset := data.find(MAGIC, offset)) >= 0:
        if _read_head(data, offset, seed) is not None:
            return offset
        offset += 1
    return None


def _refuse_damage(
    name: str, data: bytes, bad: int, *, search_from: int, sequence: int, seed: int
) -> None:
    """Raise when something readable follows the bad record, that is, when it is no torn tail."""
    found = _find_record(data, search_from, seed)
    if found is None:
        return
    reason = f"record {sequence} cannot be read, but the one at byte {found} can"
    synced = _greatest_synced_sequence(data, found, seed)
    if synced >= sequence:
        reason = f"record {sequence} cannot be read, and records up to {synced} were synced"
    raise JournalDamagedError(name, bad, reason)


def _greatest_synced_sequence(data: bytes, offset: int, seed: int) -> int:
    synced = 0
    found: int | None = offset
    while found is not None:
        head = _read_head(data, found, seed)
        assert head is not None
        kind, length, _, a, b, checksum = head
        start = found + RECORD_BYTES
        if kind == STATE and crc32(data[start : start + length]) == checksum:
            state = decode_state(Record(kind, a, b, found, length), data)
            synced = max(synced, state.synced_sequence)
        found = _find_record(data, start, seed)
    return synced
