"""The journal: every Raft entry, the term, the vote and the commit index, durable on this node.

PySyncObj uses it as its log (`pysyncobj.journal.Journal`). Nothing reaches the disk by itself:
what is added is buffered until the owner calls `flush`, and counts as durable when that reports
back. See `journal_format` for the bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias, overload
from zlib import crc32

from pysyncobj.journal import Journal

from node.consensus.disk import Disk
from node.consensus.journal_format import (
    CHECKSUM,
    CLEAR,
    ENTRY,
    HEAD,
    MAGIC,
    MAX_BODY_BYTES,
    MAX_VOTE_BYTES,
    RECORD_BYTES,
    SEAL,
    TRUNCATE,
    JournalDamagedError,
    State,
    checksum_seed,
    decode_entry,
    encode_record,
    encode_segment_header,
    encode_state,
    segment_name,
)
from node.consensus.journal_recovery import CONFIGURATION_KIND, recover

Entry: TypeAlias = tuple[bytes, int, int]
"""Command, index, term. The first index is 1."""

OnDurable: TypeAlias = Callable[[OSError | None], None]

NO_OP = b"\x01"
_CONFIGURATION = bytes([CONFIGURATION_KIND])
# What an entry in memory costs besides its command: the tuple, its numbers, the bytes object.
_ENTRY_OVERHEAD_BYTES = 200
# More than this takes any disk a while.
_QUICK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class JournalSettings:
    segment_bytes: int = 16 * 1024 * 1024
    """A flush that would begin at or past this length begins a new file instead."""
    cache_bytes: int = 8 * 1024 * 1024
    """Newest entries kept in memory. Entries that are not durable yet are kept beyond it."""
    max_slice_bytes: int = 4 * 1024 * 1024
    """Most bytes that one slice returns, unless its first entries alone are longer."""
    max_slice_entries: int = 16_384
    """Most entries that one slice returns."""


class _Group(NamedTuple):
    """One flush as handed to the disk."""

    name: str
    data: bytes
    last_sequence: int
    oldest_segment: int


class SegmentedJournal(Journal):
    """A log in segmented append-only files.

    All methods belong to one thread. The entry at the base, `journal[0]`, always exists unless the
    journal is empty: the library needs its index and term.

    Attributes:
        on_append: Called as (command, index, term) after each entry that is added.
        on_truncate: Called with the first removed index after entries at the end are removed.
        configuration_indexes: Indexes of the entries whose command begins with 0x04, ascending.
        durable_index: Every entry up to here is durable; 0 when none is.
    """

    def __init__(
        self, disk: Disk, identity: bytes, settings: JournalSettings | None = None
    ) -> None:
        """Read what is on `disk`; afterwards all of it is durable.

        Args:
            disk: The journal's directory.
            identity: 16 bytes that name this disk for ever; a journal of another is refused.
            settings: Sizes; defaults suit a production node.

        Raises:
            JournalDamagedError: what was durable does not read back.
            JournalFormatError: unknown format version, or the journal of another disk.
            OSError: the disk failed.
            ValueError: `identity` is not 16 bytes long.
        """
        if len(identity) != 16:
            raise ValueError(f"identity is {len(identity)} bytes long, it must be 16")
        self.on_append: Callable[[bytes, int, int], None] | None = None
        self.on_truncate: Callable[[int], None] | None = None
        self._disk = disk
        self._identity = identity
        self._seed = checksum_seed(identity)
        self._settings = settings or JournalSettings()
        self._log = recover(disk, identity)
        self.configuration_indexes = self._log.configuration_indexes
        state = self._log.state
        self._term = state.term
        self._vote = state.vote
        self._commit_index = state.commit_index
        self._base: Entry | None = None
        self._sequence = self._log.next_sequence
        self._durable_sequence = self._sequence - 1
        # The newest entries, the last one always among them; the first has index _recent_first.
        self._recent: list[Entry] = []
        self._recent_bytes = 0
        self._recent_first = self._log.first + len(self._log.positions)
        self.durable_index = self._recent_first - 1 if self._log.positions else 0
        # The group that is being gathered.
        self._pieces: list[bytes] = []
        self._state_changed = False
        self._in_flight = False
        self._flight_last = 0
        self._failure: OSError | None = None
        if self._log.positions:
            self._base = self._load(0, 1)[0]
            self._keep_last()
            self._commit_index = min(max(self._commit_index, self._base[1]), self.last()[0])
        if not self._log.segments:
            self._write_now()

    # The library's interface.

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry.

        Raises:
            ValueError: the index does not follow the last one, the term is below the last one's,
                or the command is longer than 64 MiB. Nothing was changed.
        """
        size = len(command)
        if self._recent:
            _, last_index, last_term = self._recent[-1]
            if idx != last_index + 1 or term < last_term:
                raise ValueError(
                    f"entry {idx} of term {term} cannot follow {last_index} of term {last_term}"
                )
        if size > MAX_BODY_BYTES:
            raise ValueError(f"command is {size} bytes long, the limit is {MAX_BODY_BYTES}")
        if not self._pieces:
            self._begin_group()
        log = self._log
        head = HEAD.pack(MAGIC, ENTRY, size, self._sequence, idx, term, crc32(command))
        self._pieces += (head, CHECKSUM.pack(crc32(head, self._seed)), command)
        self._sequence += 1
        log.positions.append(log.end)
        log.lengths.append(size)
        log.terms.append(term)
        log.end += RECORD_BYTES + size
        entry = (command, idx, term)
        if self._base is None:
            self._base = entry
            log.first = self._recent_first = idx
        self._recent.append(entry)
        self._recent_bytes += size + _ENTRY_OVERHEAD_BYTES
        if command[:1] == _CONFIGURATION:
            self.configuration_indexes.append(idx)
        if self.on_append is not None:
            self.on_append(command, idx, term)

    def clear(self) -> None:
        """Remove every entry; the next one may have any index."""
        if self._base is None:
            return
        first = self._base[1]
        self._put(CLEAR, 0)
        self._log.cut_from(first)
        self._forget_from(first)
        self._base = None
        self.durable_index = self._flight_last = 0
        if self.on_truncate is not None:
            self.on_truncate(first)

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Remove the entries from position `entryFrom` on; 0 is the base entry."""
        if entryFrom >= len(self):
            return
        if entryFrom <= 0:
            self.clear()
            return
        index = self._log.first + entryFrom
        self._put(TRUNCATE, index)
        self._log.cut_from(index)
        self._forget_from(index)
        self._keep_last()
        self.durable_index = min(self.durable_index, index - 1)
        self._flight_last = min(self._flight_last, index - 1)
        if self.on_truncate is not None:
            self.on_truncate(index)

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Make the entry at position `entryTo` the base entry."""
        self.compact_to(self._log.first + entryTo)

    @overload
    def __getitem__(self, item: int) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...
    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        """Return the entry at a position, or those of a slice without step.

        A slice is bounded by `max_slice_bytes` and `max_slice_entries` and may thus return fewer
        entries than it names, yet never none when it names some, and without an end never fewer
        than two when there are two.

        Raises:
            IndexError: there is no entry at this position.
            JournalDamagedError: an entry read from its file does not match its checksum.
        """
        if item == -1 and self._recent:
            # The library asks for the last entry a dozen times a tick.
            return self._recent[-1]
        count = len(self._log.positions)
        if isinstance(item, slice):
            start, stop, step = item.indices(count)
            if step != 1:
                raise ValueError("slices of a journal have no step")
            if stop - start == 1:
                return [self[start]]
            return self._load(start, self._bound(start, stop, 2 if item.stop is None else 1))
        position = item + count if item < 0 else item
        if not 0 <= position < count:
            raise IndexError(f"position {item} in a journal of {count} entries")
        recent = self._log.first + position - self._recent_first
        if recent >= 0:
            return self._recent[recent]
        if position == 0 and self._base is not None:
            return self._base
        return self._load(position, position + 1)[0]

    def __len__(self) -> int:
        return len(self._log.positions)

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Remember the commit index; it is stored by the next flush, whatever causes that."""
        self._commit_index = raftCommitIndex

    def getRaftCommitIndex(self) -> int:
        return max(self._commit_index, 1)

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Buffer term and vote.

        Raises:
            ValueError: the vote is longer than 255 bytes of UTF-8.
        """
        length = len((votedForNodeId or "").encode())
        if length > MAX_VOTE_BYTES:
            raise ValueError(f"vote is {length} bytes long, the limit is {MAX_VOTE_BYTES}")
        if (term, votedForNodeId) != (self._term, self._vote):
            self._term = term
            self._vote = votedForNodeId
            self._state_changed = True

    def getCurrentTerm(self) -> int:
        return self._term

    def getVotedForNodeId(self) -> str | None:
        return self._vote

    def _destroy(self) -> None:
        if self._failure is None:
            self.flush_now()

    # The engine's interface.

    def term_at(self, index: int) -> int | None:
        """Return the term of the entry at `index`; None when the journal does not hold it."""
        position = index - self._log.first
        if 0 <= position < len(self._log.terms):
            return self._log.terms[position]
        return None

    def last(self) -> tuple[int, int]:
        """Return index and term of the last entry; (0, 0) when the journal is empty."""
        return self._recent[-1][1:] if self._recent else (0, 0)

    def base(self) -> tuple[int, int]:
        """Return index and term of the first entry; (0, 0) when the journal is empty."""
        return (0, 0) if self._base is None else self._base[1:]

    @property
    def dirty(self) -> bool:
        """Whether something waits for `flush`. What is in flight does not count."""
        return bool(self._pieces) or self._state_changed

    @property
    def quick(self) -> bool:
        """Whether `flush_now` would most likely be done before `flush` could report it."""
        return (
            not self._in_flight and self._disk.quick and sum(map(len, self._pieces)) <= _QUICK_BYTES
        )

    @property
    def flushing(self) -> bool:
        """Whether a flush is in flight."""
        return self._in_flight

    @property
    def size_bytes(self) -> int:
        """Bytes from the base entry to the end: what replaying, or compacting, is about."""
        positions = self._log.positions
        return self._log.end - positions[0] if positions else 0

    @property
    def disk_bytes(self) -> int:
        """Bytes of all segment files, with what is not yet written."""
        return self._log.end - self._log.starts[0]

    def flush(self, on_durable: OnDurable) -> None:
        """Hand everything buffered to the disk at once.

        `on_durable` is called later, with None when it is durable, else with the error, upon which
        the owner must stop the process. What is added meanwhile waits for the next flush.

        Raises:
            RuntimeError: a flush is in flight.
        """
        if self._in_flight:
            raise RuntimeError("a flush is in flight")
        group = self._close_group()
        self._in_flight = True
        self._flight_last = self.last()[0]
        self._disk.append(group.name, group.data, partial(self._landed, group, on_durable))

    def flush_now(self) -> None:
        """Return when all that was added, flushes in flight included, is durable.

        Raises:
            OSError: the disk failed, now or before.
        """
        if self._failure is not None:
            raise self._failure
        if self.dirty or self._in_flight or self._commit_index != self._log.state.commit_index:
            self._write_now()

    def compact_to(self, index: int) -> None:
        """Make the entry at `index` the base; the ones below are gone.

        Files that hold nothing else are removed once a flush has made the new base durable.

        Raises:
            ValueError: the journal does not hold this entry.
        """
        position = index - self._log.first
        if not 0 <= position < len(self):
            raise ValueError(f"no entry {index} in a journal from {self.base()} to {self.last()}")
        if position == 0:
            return
        self._base = self[position]
        self._log.cut_before(index)
        below = index - self._recent_first
        if below > 0:
            self._drop_recent(below)
        self._state_changed = True

    def reset_to(self, index: int, term: int) -> None:
        """Replace all entries by one placeholder at `index`, durably, and mark it committed.

        For use after a snapshot was installed. The placeholder goes into a new file; the old files
        are removed when that is durable, so a crash leaves either the old journal or the new one.

        Raises:
            OSError: the disk failed.
        """
        self.flush_now()
        self._begin_segment()
        self.clear()
        self.add(NO_OP, index, term)
        self._commit_index = index
        self._write_now()

    # Writing.

    def _begin_group(self) -> None:
        log = self._log
        if not log.segments or log.end - log.starts[-1] >= self._settings.segment_bytes:
            self._begin_segment()

    def _begin_segment(self) -> None:
        log = self._log
        number = log.segments[-1] + 1 if log.segments else 1
        log.segments.append(number)
        log.starts.append(log.end)
        header = encode_segment_header(number, self._sequence, self._identity)
        self._pieces.append(header)
        log.end += len(header)

    def _put(self, kind: int, a: int) -> None:
        if not self._pieces:
            self._begin_group()
        self._push(encode_record(kind, self._sequence, a, 0, b"", seed=self._seed))

    def _push(self, record: bytes) -> None:
        self._pieces.append(record)
        self._sequence += 1
        self._log.end += len(record)

    def _close_group(self) -> _Group:
        if not self._pieces:
            self._begin_group()
        log = self._log
        position = log.positions[0] if log.positions else log.end
        state = State(
            *self.base(),
            self._term,
            self._vote,
            self._commit_index,
            self._durable_sequence,
            log.segments[bisect_right(log.starts, position) - 1],
        )
        self._push(encode_state(state, self._sequence, self._seed))
        self._put(SEAL, 0)
        log.state = state
        group = _Group(
            segment_name(log.segments[-1]),
            b"".join(self._pieces),
            self._sequence - 1,
            state.oldest_segment,
        )
        self._pieces.clear()
        self._state_changed = False
        return group

    def _landed(self, group: _Group, on_durable: OnDurable, error: OSError | None) -> None:
        self._in_flight = False
        if error is None:
            self._settle(group, self._flight_last)
        else:
            self._failure = error
        on_durable(error)

    def _write_now(self) -> None:
        group = self._close_group()
        try:
            self._disk.append_now(group.name, group.data)
        except OSError as error:
            self._failure = error
            raise
        self._settle(group, self.last()[0])

    def _settle(self, group: _Group, last_index: int) -> None:
        """Note that `group`, and thus everything before it, is durable."""
        self._durable_sequence = max(self._durable_sequence, group.last_sequence)
        self.durable_index = max(self.durable_index, last_index)
        log = self._log
        while log.segments[0] < group.oldest_segment:
            self._disk.remove(segment_name(log.segments.pop(0)))
            log.starts.pop(0)
        self._evict()

    # Entries in memory and in files.

    def _evict(self) -> None:
        """Drop the oldest entries from memory that are durable, to three quarters of the bound."""
        limit = self._settings.cache_bytes
        if self._recent_bytes <= limit:
            return
        goal = self._recent_bytes - limit * 3 // 4
        most = min(self.durable_index + 1 - self._recent_first, len(self._recent) - 1)
        count = freed = 0
        while count < most and freed < goal:
            freed += len(self._recent[count][0]) + _ENTRY_OVERHEAD_BYTES
            count += 1
        if count:
            self._drop_recent(count)

    def _drop_recent(self, count: int) -> None:
        for entry in self._recent[:count]:
            self._recent_bytes -= len(entry[0]) + _ENTRY_OVERHEAD_BYTES
        del self._recent[:count]
        self._recent_first += count

    def _forget_from(self, index: int) -> None:
        keep = max(index - self._recent_first, 0)
        for entry in self._recent[keep:]:
            self._recent_bytes -= len(entry[0]) + _ENTRY_OVERHEAD_BYTES
        del self._recent[keep:]
        self._recent_first = min(self._recent_first, index)

    def _keep_last(self) -> None:
        """Bring the last entry into memory."""
        if not self._recent:
            count = len(self)
            self._recent = self._load(count - 1, count)
            self._recent_first = self._recent[0][1]
            self._recent_bytes = len(self._recent[0][0]) + _ENTRY_OVERHEAD_BYTES

    def _bound(self, start: int, stop: int, least: int) -> int:
        """Return where a slice from `start` must stop at the latest."""
        settings = self._settings
        positions = self._log.positions
        bounded = min(stop, start + settings.max_slice_entries)
        if bounded <= start:
            return start
        limit = positions[start] + settings.max_slice_bytes
        end = positions[bounded] if bounded < len(positions) else self._log.end
        if end > limit:
            # The element before the first that begins past the limit may end past it.
            bounded = bisect_right(positions, limit, start, bounded) - 1
        return min(max(bounded, start + least), stop)

    def _load(self, start: int, stop: int) -> list[Entry]:
        """Return the entries at positions `start` to `stop`, from memory and from files."""
        first = self._log.first
        split = min(max(self._recent_first - first, start), stop)
        entries: list[Entry] = []
        while start < split:
            start = self._read_file(start, split, entries)
        offset = first - self._recent_first
        entries += self._recent[start + offset : stop + offset]
        return entries

    def _read_file(self, start: int, stop: int, entries: list[Entry]) -> int:
        """Read entries from the one file that holds the first; return the position after them."""
        log = self._log
        segment = bisect_right(log.starts, log.positions[start]) - 1
        if segment + 1 < len(log.starts):
            stop = bisect_right(log.positions, log.starts[segment + 1] - 1, start, stop)
        name = segment_name(log.segments[segment])
        begin = log.positions[start]
        length = log.positions[stop - 1] + RECORD_BYTES + log.lengths[stop - 1] - begin
        data = self._disk.read_at(name, begin - log.starts[segment], length)
        for position in range(start, stop):
            offset = log.positions[position] - begin
            entry = decode_entry(data, offset, self._seed)
            if entry is None or entry[1:] != (log.first + position, log.terms[position]):
                raise JournalDamagedError(
                    name,
                    log.positions[position] - log.starts[segment],
                    f"entry {log.first + position} cannot be read back",
                )
            entries.append(entry)
        return stop
