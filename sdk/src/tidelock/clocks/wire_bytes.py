"""Clocks as bytes: how each kind is written and read. The layout is in `tidelock.clocks.wire`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias, TypeVar

from tidelock.clocks.dotted import Dot, DottedVersionVector
from tidelock.clocks.errors import ClockValueError, WireFormatError, shown
from tidelock.clocks.hybrid import HybridClock, HybridTimestamp
from tidelock.clocks.interval_events import EventTree
from tidelock.clocks.interval_ids import GREATEST_DEPTH, IdTree
from tidelock.clocks.interval_tree import IntervalTreeClock
from tidelock.clocks.lamport import LamportClock
from tidelock.clocks.pruning import FINGERPRINT_BYTES, Floor, Pruned, Retirements
from tidelock.clocks.siblings import DottedVersionVectorSet
from tidelock.clocks.vector import VectorClock
from tidelock.clocks.version import VersionVector

GREATEST_BYTES: Final = 2**20
"""The greatest length of an encoded clock."""

GREATEST_ITEMS: Final = 2**16
"""How many entries, values and nodes of trees an encoded clock may have together."""

Value: TypeAlias = bytes | str
"""What a value of a dotted version vector set may be on the wire."""

C = TypeVar("C", VectorClock, VersionVector)

_GREATEST_NUMBER: Final = 2**64 - 1
_TIMESTAMP_BYTES: Final = 8
_PAIR: Final = 2


class Writer:
    """Appends to the bytes of one clock.

    Raises:
        ClockValueError: the clock has more than `GREATEST_ITEMS`, or a value that is none.
    """

    __slots__ = ("_items", "data")

    def __init__(self) -> None:
        self.data = bytearray()
        self._items = 0

    def item(self) -> None:
        self._items += 1
        if self._items > GREATEST_ITEMS:
            raise ClockValueError(f"a clock on the wire has at most {GREATEST_ITEMS} items")

    def number(self, value: int) -> None:
        while value > 0x7F:
            self.data.append(value & 0x7F | 0x80)
            value >>= 7
        self.data.append(value)

    def name(self, participant: str) -> None:
        encoded = participant.encode()
        self.number(len(encoded))
        self.data += encoded

    def counters(self, entries: Mapping[str, int]) -> None:
        self.number(len(entries))
        for participant, count in sorted(entries.items()):
            self.item()
            self.name(participant)
            self.number(count)

    def value(self, value: object) -> None:
        self.item()
        if isinstance(value, str):
            try:
                encoded = value.encode()
            except UnicodeEncodeError as error:
                raise ClockValueError(f"the value {shown(value)} has no UTF-8") from error
            self.number(len(encoded) * 2 + 1)
        elif isinstance(value, bytes):
            encoded = value
            self.number(len(encoded) * 2)
        else:
            raise ClockValueError(f"a value on the wire is bytes or str, got {shown(value)}")
        self.data += encoded

    def identity(self, identity: IdTree) -> None:
        self.item()
        if isinstance(identity, int):
            self.number(identity)
            return
        self.number(_PAIR)
        self.identity(identity[0])
        self.identity(identity[1])

    def events(self, events: EventTree) -> None:
        self.item()
        if isinstance(events, int):
            self.number(events * 2)
            return
        self.number(events[0] * 2 + 1)
        self.events(events[1])
        self.events(events[2])


class Reader:
    """Reads the bytes of one clock from the front; nothing but what `Writer` writes.

    Raises:
        WireFormatError: at whatever is anything else, with its place.
    """

    __slots__ = ("_data", "_items", "_place")

    def __init__(self, data: bytes, place: int) -> None:
        self._data = data
        self._place = place
        self._items = 0

    def wrong(self, what: str) -> WireFormatError:
        return WireFormatError(f"{what}, before byte {self._place} of {len(self._data)}")

    def end(self) -> None:
        if self._place != len(self._data):
            raise self.wrong("the clock ends before the bytes do")

    def item(self) -> None:
        self._items += 1
        if self._items > GREATEST_ITEMS:
            raise self.wrong(f"the clock has more than {GREATEST_ITEMS} items")

    def take(self, length: int) -> bytes:
        if length > len(self._data) - self._place:
            raise self.wrong(f"the bytes end where {length} more are due")
        self._place += length
        return self._data[self._place - length : self._place]

    def number(self) -> int:
        value = shift = 0
        while True:
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift >= 70:
                raise self.wrong("a number is longer than 10 bytes")
        if value > _GREATEST_NUMBER or (byte == 0 and shift > 7):
            raise self.wrong("a number is beyond 64 bits, or longer than it needs to be")
        return value

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise self.wrong("a text is not UTF-8") from error

    def name(self) -> str:
        return self.text(self.number())

    def names(self) -> Iterable[str]:
        """Read the number of entries, then the name of each; the caller reads what follows it."""
        last = ""
        for _ in range(self.number()):
            self.item()
            name = self.name()
            if name <= last:
                raise self.wrong("participants are not in order, or one is empty or twice there")
            yield name
            last = name

    def counters(self) -> dict[str, int]:
        entries = {name: self.number() for name in self.names()}
        if 0 in entries.values():
            raise self.wrong("an entry is 0")
        return entries

    def value(self) -> Value:
        self.item()
        head = self.number()
        return self.text(head >> 1) if head & 1 else self.take(head >> 1)

    def identity(self, depth: int = 0) -> IdTree:
        self.item()
        kind = self.number()
        if kind < _PAIR:
            return kind
        if kind > _PAIR or depth >= GREATEST_DEPTH:
            raise self.wrong("an identity is neither 0 nor 1 nor a pair, or too deep")
        left = self.identity(depth + 1)
        return left, self.identity(depth + 1)

    def events(self, depth: int = 0) -> EventTree:
        self.item()
        head = self.number()
        if not head & 1:
            return head >> 1
        if depth >= GREATEST_DEPTH:
            raise self.wrong("an event tree is too deep")
        left = self.events(depth + 1)
        return head >> 1, left, self.events(depth + 1)


def write_lamport(to: Writer, clock: LamportClock) -> None:
    to.number(clock.time)


def read_lamport(source: Reader) -> LamportClock:
    return LamportClock(source.number())


def write_timestamp(to: Writer, timestamp: HybridTimestamp) -> None:
    to.data += timestamp.encode().to_bytes(_TIMESTAMP_BYTES, "big")


def read_timestamp(source: Reader) -> HybridTimestamp:
    return HybridTimestamp.decode(int.from_bytes(source.take(_TIMESTAMP_BYTES), "big"))


def write_hybrid(to: Writer, clock: HybridClock) -> None:
    write_timestamp(to, clock.latest)
    to.number(clock.max_skew_ms)


def read_hybrid(source: Reader) -> HybridClock:
    return HybridClock(read_timestamp(source), source.number())


def write_counters(to: Writer, clock: VectorClock | VersionVector) -> None:
    to.counters(clock.entries)


def read_vector(source: Reader) -> VectorClock:
    return VectorClock(source.counters())


def read_version(source: Reader) -> VersionVector:
    return VersionVector(source.counters())


def write_dotted(to: Writer, version: DottedVersionVector) -> None:
    to.name(version.dot.participant)
    to.number(version.dot.count)
    to.counters(version.past.entries)


def read_dotted(source: Reader) -> DottedVersionVector:
    dot = Dot(source.name(), source.number())
    return DottedVersionVector(dot, read_version(source))


def write_siblings(to: Writer, siblings: DottedVersionVectorSet[Value]) -> None:
    counts = siblings.context().entries
    to.number(len(counts))
    for participant, count in sorted(counts.items()):
        to.item()
        to.name(participant)
        to.number(count)
        values = siblings.values_of(participant)
        to.number(len(values))
        for value in values:
            to.value(value)


def read_siblings(source: Reader) -> DottedVersionVectorSet[Value]:
    counts, values = {}, {}
    for name in source.names():
        counts[name] = source.number()
        if not counts[name]:
            raise source.wrong("an entry is 0")
        values[name] = [source.value() for _ in range(source.number())]
    return DottedVersionVectorSet(counts, values)


def write_interval_tree(to: Writer, stamp: IntervalTreeClock) -> None:
    to.identity(stamp.identity)
    to.events(stamp.events)


def read_interval_tree(source: Reader) -> IntervalTreeClock:
    identity, events = source.identity(), source.events()
    stamp = IntervalTreeClock(identity, events)
    if (stamp.identity, stamp.events) != (identity, events):
        raise source.wrong("a tree is not in normal form")
    return stamp


def write_pruned(to: Writer, pruned: Pruned[C]) -> None:
    to.number(pruned.floor.number)
    to.data += pruned.floor.fingerprint
    to.counters(pruned.rest.entries)


def read_pruned_vector(source: Reader) -> Pruned[VectorClock]:
    return Pruned(_read_floor(source), read_vector(source))


def read_pruned_version(source: Reader) -> Pruned[VersionVector]:
    return Pruned(_read_floor(source), read_version(source))


def _read_floor(source: Reader) -> Floor:
    return Floor(source.number(), source.take(FINGERPRINT_BYTES))


def write_retirements(to: Writer, retirements: Retirements) -> None:
    to.number(len(retirements.each))
    for counts in retirements.each:
        to.counters(counts)


def read_retirements(source: Reader) -> Retirements:
    # Each has an entry, which is an item, or is refused; so the number of items bounds both.
    return Retirements(source.counters() for _ in range(source.number()))
