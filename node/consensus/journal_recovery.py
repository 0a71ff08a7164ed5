"""Reading a journal back: which segments count, where the tail is cut, what the entries are."""

from __future__ import annotations

from array import array

from node.consensus.disk import Disk
from node.consensus.journal_format import (
    CLEAR,
    ENTRY,
    RECORD_BYTES,
    SEGMENT_HEADER_BYTES,
    TRUNCATE,
    JournalDamagedError,
    Record,
    Segment,
    State,
    parse_segment,
    segment_name,
    segment_number,
)

CONFIGURATION_KIND = 0x04
"""The first byte of a command that holds a membership configuration."""

# The very first segment is written when an empty journal is opened, and holds a STATE and a SEAL
# alone. More bytes than that were written after it was durable, so they cannot be a torn creation.
_FIRST_SEGMENT_BYTES = SEGMENT_HEADER_BYTES + 2 * RECORD_BYTES + 64


class Log:
    """Where each entry lies. Positions count the bytes of all live segments, end to end.

    The arrays hold one element for each entry, the first one being that of index `first`.
    """

    def __init__(self) -> None:
        self.first = 1
        self.positions = array("Q")
        self.lengths = array("I")
        self.terms = array("Q")
        self.configuration_indexes: list[int] = []
        self.segments: list[int] = []
        self.starts: list[int] = []
        self.end = 0
        self.next_sequence = 1
        self.state = State()

    def cut_from(self, index: int) -> None:
        """Forget the entries from `index` on."""
        keep = max(index - self.first, 0)
        del self.positions[keep:], self.lengths[keep:], self.terms[keep:]
        while self.configuration_indexes and self.configuration_indexes[-1] >= index:
            self.configuration_indexes.pop()

    def cut_before(self, index: int) -> None:
        """Forget the entries below `index`."""
        drop = index - self.first
        del self.positions[:drop], self.lengths[:drop], self.terms[:drop]
        self.first = index
        kept = [each for each in self.configuration_indexes if each >= index]
        self.configuration_indexes[:] = kept


def recover(disk: Disk, identity: bytes) -> Log:
    """Read the journal on `disk`, remove what a crash left over, and make the rest durable.

    Raises:
        JournalDamagedError: what was durable does not read back.
        JournalFormatError: unknown format version, or the journal of another disk.
        OSError: the disk failed.
    """
    numbers = sorted(n for n in map(segment_number, disk.names()) if n is not None)
    log = Log()
    if not numbers:
        return log
    number, data, last = _last_segment(disk, numbers, identity)
    if last is None:
        return log
    assert last.state is not None
    oldest = last.state.oldest_segment
    for each in range(oldest, number + 1):
        if each not in numbers:
            raise JournalDamagedError(segment_name(each), 0, "the file is missing")
    for each in numbers:
        if each < oldest:
            disk.remove(segment_name(each))
    sequence: int | None = None
    for each in range(oldest, number):
        whole = disk.read(segment_name(each))
        segment = parse_segment(each, whole, identity, first_sequence=sequence, torn_allowed=False)
        _replay(log, each, whole, segment)
        sequence = segment.next_sequence
    _check_sequence(sequence, number, last)
    _replay(log, number, data, last)
    _settle(log, number, last)
    _make_durable(disk, number, len(data), last)
    return log


def _last_segment(
    disk: Disk, numbers: list[int], identity: bytes
) -> tuple[int, bytes, Segment | None]:
    """Return the last segment that has a complete group; remove a torn one after it.

    The segment is None when the only file is a torn first one: nothing was ever durable.
    """
    number = numbers[-1]
    data = disk.read(segment_name(number))
    segment = parse_segment(number, data, identity, first_sequence=None, torn_allowed=True)
    if segment.state is not None:
        return number, data, segment
    previous = number - 1
    if previous in numbers:
        data = disk.read(segment_name(previous))
        # The file after it was begun only once this one was durable to its end.
        segment = parse_segment(previous, data, identity, first_sequence=None, torn_allowed=False)
        disk.remove(segment_name(number))
        return previous, data, segment
    if number != 1 or len(data) > _FIRST_SEGMENT_BYTES:
        raise JournalDamagedError(segment_name(number), 0, "no readable group in the only segment")
    disk.remove(segment_name(number))
    return number, data, None


def _check_sequence(expected: int | None, number: int, segment: Segment) -> None:
    begins = segment.next_sequence - len(segment.records)
    if expected is not None and begins != expected:
        raise JournalDamagedError(
            segment_name(number), 0, f"begins at record {begins}, not {expected}"
        )


def _replay(log: Log, number: int, data: bytes, segment: Segment) -> None:
    log.segments.append(number)
    log.starts.append(log.end)
    for record in segment.records:
        if record.kind == ENTRY:
            _replay_entry(log, number, data, record)
        elif record.kind == TRUNCATE:
            log.cut_from(record.a)
        elif record.kind == CLEAR:
            log.cut_from(log.first)
    log.end += segment.end


def _replay_entry(log: Log, number: int, data: bytes, record: Record) -> None:
    if not log.positions:
        log.first = record.a
    elif record.a != log.first + len(log.positions):
        raise JournalDamagedError(
            segment_name(number),
            record.offset,
            f"entry {record.a} follows entry {log.first + len(log.positions) - 1}",
        )
    log.positions.append(log.starts[-1] + record.offset)
    log.lengths.append(record.length)
    log.terms.append(record.b)
    if record.length and data[record.offset + RECORD_BYTES] == CONFIGURATION_KIND:
        log.configuration_indexes.append(record.a)


def _settle(log: Log, number: int, last: Segment) -> None:
    """Apply the last state: base, counters, and bounds that follow from each other."""
    state = last.state
    assert state is not None
    base = state.base_index
    name = segment_name(number)
    if base == 0:
        log.cut_from(log.first)
    else:
        if not log.first <= base < log.first + len(log.positions):
            raise JournalDamagedError(name, last.last_group, f"the base entry {base} is missing")
        log.cut_before(base)
    log.state = state
    log.next_sequence = last.next_sequence


def _make_durable(disk: Disk, number: int, length: int, last: Segment) -> None:
    name = segment_name(number)
    if last.end < length:
        disk.truncate(name, last.end)
    disk.rewrite(name, last.last_group)
