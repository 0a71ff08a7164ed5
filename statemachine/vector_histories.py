"""Vectors and how they came about: version vectors of keys, vector clocks of participants.

A vector may have thousands of entries of which an event changes one or two. So a stored event holds
the entries that it changed, with what they were, and the whole vector is kept only where it stands
now and at a *base* every few events. The vector after an event is that of the next base, or else
the present one, with the changes in between taken back.

Taking back, and not adding up: the newest events are asked for most, and the oldest ones can be
trimmed without a thought for those that follow.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import msgspec

from statemachine import keys
from statemachine.outcomes import Rejected, RejectionCode
from statemachine.store import DamagedStateError, Reader
from statemachine.stored_events import Changes, EventRow, ObjectWritten, decode_event
from statemachine.write_buffer import WriteBuffer

GREATEST_PARTICIPANTS: Final = 4_096
"""Entries of one vector."""

GREATEST_COUNT: Final = 2**63 - 1
"""The greatest counter, as that of the clocks of the SDK."""

GREATEST_ANSWERED: Final = 100_000
"""How many entries the vectors have that one request is answered, together."""

GREATEST_STEPS: Final = 64
"""How many events are taken back at most, to make a vector again."""

_LEAST_STEPS: Final = 8
_GREATEST_CACHED_ENTRIES: Final = 200_000
_OVERHEAD: Final = 8
"""What a vector costs in memory beside its entries, in entries."""

VECTOR_UNUSABLE: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    f"The vector has an entry below 0 or above 2**63 - 1, or one whose name is empty or longer "
    f"than {keys.GREATEST_NAME_BYTES - 1} bytes of UTF-8. Send it as you received it.",
)

VECTOR_TOO_LARGE: Final = Rejected(
    RejectionCode.VECTOR_TOO_LARGE,
    f"The vector would have more than {GREATEST_PARTICIPANTS} participants. Use one name for each "
    "participant that writes, not for each request or session.",
)

COUNT_OVERFLOW: Final = Rejected(
    RejectionCode.CLOCK_OVERFLOW,
    "The participant's entry would reach 2**63, beyond what a vector can hold. Check the vectors "
    "that are sent to it.",
)

ANSWER_TOO_LARGE: Final = Rejected(
    RejectionCode.ANSWER_TOO_LARGE,
    f"The vectors that this request is answered have more than {GREATEST_ANSWERED} entries "
    "together; nothing was done from here on. Send fewer operations at once.",
)


class Space(enum.Enum):
    """Whose vectors: each has names of its own."""

    CLOCKS = b"c"
    """The vector clocks of participants."""
    VERSIONS = b"v"
    """The version vectors of keys."""


class _Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    entries: dict[str, int]
    """Above 0, in the order of the names."""
    unrecorded: dict[str, int]
    """Those that rose since the last event, with what they were after it."""
    steps: int
    """Events since the last base."""
    changed: int
    """Entries that they changed."""


_encode: Final = msgspec.msgpack.Encoder().encode
_rows: Final = msgspec.msgpack.Decoder(_Row)
_bases: Final = msgspec.msgpack.Decoder(dict[str, int])


class History:
    """A vector in memory, with the parts of keys that its rows need."""

    __slots__ = ("base_prefix", "changed", "entries", "events", "row_key", "steps", "unrecorded")

    def __init__(self, space: Space, terminated_name: bytes, row: bytes | None) -> None:
        owner = space.value + terminated_name
        self.row_key = keys.VECTOR + owner
        self.base_prefix = keys.VECTOR_BASE + owner
        self.events = keys.EVENT_IN_LIST + owner
        found = _Row({}, {}, 0, 0) if row is None else _rows.decode(row)
        self.entries = found.entries
        self.unrecorded = found.unrecorded
        self.steps = found.steps
        self.changed = found.changed

    def rises(self, received: Mapping[str, int]) -> dict[str, int]:
        """Return the entries of a received vector that are above those of this one."""
        count_of = self.entries.get
        return {name: count for name, count in received.items() if count > count_of(name, 0)}

    def has_room(self, rises: Mapping[str, int]) -> bool:
        """Tell whether the vector can hold entries that are above its own."""
        entries = self.entries
        if len(entries) + len(rises) <= GREATEST_PARTICIPANTS:
            return True
        return len(entries.keys() | rises.keys()) <= GREATEST_PARTICIPANTS


class Histories:
    """The vectors of the state, those in use kept in memory."""

    def __init__(self, writes: WriteBuffer) -> None:
        self._writes = writes
        self._cached: dict[tuple[Space, str], History] = {}
        self._changed: dict[bytes, History] = {}
        self._cached_entries = 0
        self._answered = 0

    def begin_request(self) -> None:
        """From here on, count what a request is answered."""
        self._answered = 0

    def find(self, space: Space, name: str) -> History | None:
        """Return the vector of a key or a participant, or None when it cannot have this name."""
        history = self._cached.get((space, name))
        if history is None:
            terminated = keys.terminated(name)
            if not name or len(terminated) > keys.GREATEST_NAME_BYTES:
                return None
            row = self._writes.get(keys.VECTOR + space.value + terminated)
            history = self._cached[space, name] = History(space, terminated, row)
            self._cached_entries += len(history.entries) + _OVERHEAD
        return history

    def may_answer(self, history: History) -> bool:
        """Tell whether the request may be answered this vector too. A first one always may."""
        answered, self._answered = self._answered, self._answered + len(history.entries)
        return answered == 0 or self._answered <= GREATEST_ANSWERED

    def raise_entries(self, history: History, rises: Mapping[str, int]) -> None:
        """Raise entries. The next event tells."""
        entries, unrecorded = history.entries, history.unrecorded
        size = len(entries)
        for name, count in rises.items():
            unrecorded.setdefault(name, entries.get(name, 0))
            entries[name] = count
        if len(entries) > size:
            self._cached_entries += len(entries) - size
            history.entries = dict(sorted(entries.items()))
        self._changed[history.row_key] = history

    def record(self, history: History, rises: Mapping[str, int], event: bytes) -> Changes:
        """Raise entries by the event with this packed position; return what it has to hold."""
        self.raise_entries(history, rises)
        entries = history.entries
        changes = tuple(
            [(name, before, entries[name]) for name, before in sorted(history.unrecorded.items())]
        )
        history.unrecorded = {}
        history.steps += 1
        history.changed += len(changes)
        size = len(entries)
        if history.steps >= min(GREATEST_STEPS, _LEAST_STEPS + size // 16) or (
            history.changed >= max(GREATEST_STEPS, size)
        ):
            self._writes.put(history.base_prefix + event, _encode(entries))
            history.steps = history.changed = 0
        return changes

    @staticmethod
    def forget(writes: WriteBuffer, space: Space, name: str, event: bytes) -> None:
        """Delete what is kept of the vector with the event, the oldest one that it has."""
        writes.delete(keys.VECTOR_BASE + space.value + keys.terminated(name) + event)

    def save(self) -> None:
        """Write the rows that the entry changed."""
        for row_key, history in self._changed.items():
            row = _Row(history.entries, history.unrecorded, history.steps, history.changed)
            self._writes.put(row_key, _encode(row))
        self._changed.clear()
        if self._cached_entries > _GREATEST_CACHED_ENTRIES:
            self._cached.clear()
            self._cached_entries = 0


def checked(vector: Mapping[str, int]) -> Rejected | None:
    """Return why a received vector cannot be taken, or None when it can."""
    if len(vector) > GREATEST_PARTICIPANTS:
        return VECTOR_TOO_LARGE
    for name, count in vector.items():
        if not (0 <= count <= GREATEST_COUNT and 0 < len(name) < keys.GREATEST_NAME_BYTES) or (
            not name.isascii() and len(name.encode()) >= keys.GREATEST_NAME_BYTES
        ):
            return VECTOR_UNUSABLE
    return None


def current_vector(reader: Reader, space: Space, name: str) -> dict[str, int]:
    """Return the vector of a key or a participant, empty for one never seen."""
    row = _present(reader, space, name)
    return {} if row is None else row.entries


def vector_after(reader: Reader, space: Space, name: str, event: bytes) -> dict[str, int]:
    """Return the vector as it was right after the event of its own with this packed position.

    Raises:
        DamagedStateError: a row that must be there is missing.
    """
    owner = space.value + keys.terminated(name)
    bases = keys.VECTOR_BASE + owner
    later = reader.scan(bases + event, keys.stop_of_events(bases), limit=1)
    events = keys.EVENT_IN_LIST + owner
    if later:
        base_key, base = later[0]
        entries = _bases.decode(base)
        stop = events + base_key[len(bases) :] + b"\0"
    else:
        present = _present(reader, space, name)
        if present is None:
            raise DamagedStateError(f"the vector of {name!r} is missing")
        entries = present.entries
        _take_back(entries, present.unrecorded)
        stop = keys.stop_of_events(events)
    taken_back = reader.scan(events + event + b"\0", stop, limit=GREATEST_STEPS + 1)
    for key, _ in reversed(taken_back):
        _take_back(entries, _before(reader, key[len(events) :]))
    return entries


class Succession:
    """Makes the vectors after events that are read one after the other.

    `gapless` says that no event of a vector is left out between two that are read.
    """

    def __init__(self, reader: Reader, space: Space, *, gapless: bool) -> None:
        self._reader = reader
        self._space = space
        self._gapless = gapless
        self._latest: dict[str, dict[str, int]] = {}

    def vector_after(self, name: str, event: bytes, changes: Changes) -> dict[str, int]:
        """Return the vector as it was right after its event, which made these changes.

        Raises:
            DamagedStateError
        """
        before = self._latest.get(name) if self._gapless else None
        if before is None:
            after = vector_after(self._reader, self._space, name, event)
        else:
            after = {**before, **{participant: count for participant, _, count in changes}}
            if len(after) > len(before):
                after = dict(sorted(after.items()))
        self._latest[name] = after
        return after


def _present(reader: Reader, space: Space, name: str) -> _Row | None:
    terminated = keys.terminated(name)
    if len(terminated) > keys.GREATEST_NAME_BYTES:
        return None
    row = reader.get(keys.VECTOR + space.value + terminated)
    return None if row is None else _rows.decode(row)


def _before(reader: Reader, event: bytes) -> dict[str, int]:
    found = reader.get(keys.EVENT + event)
    row = None if found is None else decode_event(found)
    if row is None or isinstance(row, EventRow | ObjectWritten):
        raise DamagedStateError(f"the event {event.hex()} of a vector is missing")
    return {name: before for name, before, _ in row.changes}


def _take_back(entries: dict[str, int], before: Mapping[str, int]) -> None:
    for name, count in before.items():
        if count:
            entries[name] = count
        else:
            entries.pop(name, None)
