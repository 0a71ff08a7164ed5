"""A counter for each participant: the arithmetic that vector clocks and version vectors share.

The functions work on any mapping from participant to counter, so that whoever stores plain
dictionaries need not wrap them. They believe what they are given: counters are integers of at least
0. A missing entry counts as 0 everywhere. `Counters` is the checked, immutable value.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final, Self

from tidelock.clocks.errors import ClockOverflowError, ClockValueError, require_integer, shown
from tidelock.clocks.relation import Relation

GREATEST_COUNT: Final = 2**63 - 1
"""The greatest counter; databases, JSON parsers and other languages agree on signed 64 bits."""

GREATEST_PARTICIPANT_BYTES: Final = 512
"""The greatest length of a participant's name in UTF-8."""


def compare(first: Mapping[str, int], second: Mapping[str, int]) -> Relation:
    """Return the relation of `first` to `second`, in one pass over each."""
    if first == second:
        return Relation.EQUAL
    less = greater = False
    counter_of = second.get
    for participant, count in first.items():
        other = counter_of(participant, 0)
        if count > other:
            if less:
                return Relation.CONCURRENT
            greater = True
        elif count < other:
            if greater:
                return Relation.CONCURRENT
            less = True
    if not less:
        less = any(count and participant not in first for participant, count in second.items())
    return Relation.of(greater, less)


def merge(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    """Return the maximum of each entry: the least mapping that covers both."""
    merged = dict(first)
    counter_of = merged.get
    for participant, count in second.items():
        if count > counter_of(participant, 0):
            merged[participant] = count
    return merged


def covers(first: Mapping[str, int], second: Mapping[str, int]) -> bool:
    """Return whether no entry of `second` is above that of `first`."""
    counter_of = first.get
    return all(count <= counter_of(participant, 0) for participant, count in second.items())


def require_participant(participant: str) -> None:
    """Refuse what cannot be a participant's name: 1 to `GREATEST_PARTICIPANT_BYTES` bytes of UTF-8.

    Raises:
        ClockValueError
    """
    if type(participant) is str and 0 < len(participant) <= GREATEST_PARTICIPANT_BYTES:
        if participant.isascii():
            return
        try:
            if len(participant.encode()) <= GREATEST_PARTICIPANT_BYTES:
                return
        except UnicodeEncodeError:  # half of a surrogate pair has no UTF-8
            pass
    raise ClockValueError(
        f"a participant's name must be text of 1 to {GREATEST_PARTICIPANT_BYTES} bytes of UTF-8, "
        f"got {shown(participant)}"
    )


def checked(entries: Mapping[str, int]) -> dict[str, int]:
    """Return the entries above 0, or refuse them.

    Raises:
        ClockValueError: a name or a counter is none.
    """
    if not isinstance(entries, Mapping):
        raise ClockValueError(f"entries must map participants to counters, got {shown(entries)}")
    found = {}
    for participant, count in entries.items():
        require_participant(participant)
        if type(count) is not int or not 0 <= count <= GREATEST_COUNT:
            require_integer(f"the counter of {participant!r}", count, GREATEST_COUNT)
        if count:
            found[participant] = count
    return found


def successor(participant: str, count: int) -> int:
    """Return the counter of the participant's next event.

    Raises:
        ClockOverflowError: `count` is the greatest.
    """
    if count >= GREATEST_COUNT:
        raise ClockOverflowError(f"no event of {participant!r} follows its {GREATEST_COUNT}th")
    return count + 1


class Counters:
    """An immutable mapping from participant to counter, with a partial order and a join.

    The base of `VectorClock` and `VersionVector`, which differ in what their events mean. Values of
    different classes are never equal and are not compared.

    Raises:
        ClockValueError: a name is not 1 to 512 bytes of UTF-8, or a counter is not an integer from
            0 to `GREATEST`. Entries that are 0 are left out.
    """

    GREATEST: ClassVar[int] = GREATEST_COUNT
    """The greatest counter, 2**63 - 1."""

    __slots__ = ("_counters",)
    _counters: dict[str, int]

    def __init__(self, entries: Mapping[str, int] = MappingProxyType({})) -> None:
        object.__setattr__(self, "_counters", checked(entries))

    @classmethod
    def _of(cls, counters: dict[str, int]) -> Self:
        """Take over counters that were checked already."""
        made = object.__new__(cls)
        object.__setattr__(made, "_counters", counters)
        return made

    @property
    def entries(self) -> Mapping[str, int]:
        """The counters above 0, read-only, in no particular order."""
        return MappingProxyType(self._counters)

    def of(self, participant: str) -> int:
        """Return the participant's counter, 0 for one never heard of."""
        return self._counters.get(participant, 0)

    def compare(self, other: Self) -> Relation:
        """Return the relation of this value to the other one. A missing entry counts as 0."""
        return compare(self._counters, self._alike(other)._counters)

    def merge(self, other: Self) -> Self:
        """Return the maximum of each entry: the least value that neither is after."""
        return self._of(merge(self._counters, self._alike(other)._counters))

    def _advanced(self, participant: str) -> Self:
        require_participant(participant)
        counters = dict(self._counters)
        counters[participant] = successor(participant, counters.get(participant, 0))
        return self._of(counters)

    def _alike(self, other: Self) -> Self:
        if type(other) is not type(self):
            raise ClockValueError(
                f"a {type(self).__name__} knows only its own kind, got {shown(other)}"
            )
        return other

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; its steps return the next value")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; its steps return the next value")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._counters == other._counters

    def __hash__(self) -> int:
        return hash((type(self), frozenset(self._counters.items())))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(sorted(self._counters.items()))!r})"

    def __reduce__(self) -> tuple[type[Self], tuple[dict[str, int]]]:
        return type(self), (dict(self._counters),)
