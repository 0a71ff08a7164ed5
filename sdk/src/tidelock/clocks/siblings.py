"""The dotted version vector set: all siblings of one object under one vector.

P. Almeida, C. Baquero, R. Gonçalves, N. Preguiça, V. Fonte, "Scalable and Accurate Causality
Tracking for Eventually Consistent Stores", DAIS 2014. Instead of a version vector for each sibling
there is one for all, and each participant's entry carries the values of its latest writes that are
still current: (a, 5, [x, y]) says that five writes of a are known, that y is the value of the
fourth and x that of the fifth, and that the first three are replaced.

So an entry is a pair of numbers, both of which only grow: how many writes are known, and how many
of them are replaced. Synchronising two sets is the maximum of both; the values follow. That makes
it a join semilattice, whatever was lost, repeated or reordered on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Generic, TypeVar

from tidelock.clocks import counters
from tidelock.clocks.counters import require_participant, successor
from tidelock.clocks.dotted import Dot
from tidelock.clocks.errors import ClockValueError, shown
from tidelock.clocks.relation import Relation
from tidelock.clocks.version import VersionVector

V = TypeVar("V")

_NO_VALUES: Final = ()


class DottedVersionVectorSet(Generic[V]):
    """The current versions of an object at one server, as an immutable value.

    A server answers a read with `values` and `context()`; the client sends the context back with
    its write, and the server does `update`. Servers exchange their sets and `sync` them.

    The values may be of any type; they are carried and never looked at, except by `==` and `repr`.

    Args:
        counts: how many writes of each participant are known.
        values: each participant's current values, that of its latest write first.

    Raises:
        ClockValueError: a participant has more values than writes, or `counts` are none.
    """

    __slots__ = ("_counts", "_values")
    _counts: dict[str, int]
    _values: dict[str, tuple[V, ...]]

    def __init__(
        self,
        counts: Mapping[str, int] | None = None,
        values: Mapping[str, Iterable[V]] | None = None,
    ) -> None:
        checked = counters.checked(counts or {})
        kept = {participant: tuple(own) for participant, own in (values or {}).items()}
        for participant, own in kept.items():
            if len(own) > checked.get(participant, 0):
                raise ClockValueError(
                    f"{shown(participant)} has {len(own)} values of "
                    f"{checked.get(participant, 0)} writes"
                )
        object.__setattr__(self, "_counts", checked)
        object.__setattr__(self, "_values", {name: own for name, own in kept.items() if own})

    @property
    def values(self) -> tuple[V, ...]:
        """The current values, ordered by dot; more than one are siblings."""
        return tuple(value for _, value in self.siblings)

    @property
    def siblings(self) -> tuple[tuple[Dot, V], ...]:
        """The current values, each with the dot of the write that made it, ordered by dot."""
        return tuple(
            (Dot(participant, self._counts[participant] - len(own) + place), value)
            for participant, own in sorted(self._values.items())
            for place, value in enumerate(reversed(own), start=1)
        )

    def values_of(self, participant: str) -> tuple[V, ...]:
        """Return the participant's current values, that of its latest write first."""
        return self._values.get(participant, _NO_VALUES)

    def context(self) -> VersionVector:
        """Return what a reader of this set has read: the papers' *join*."""
        return VersionVector(self._counts)

    def update(
        self, context: VersionVector, value: V, participant: str
    ) -> DottedVersionVectorSet[V]:
        """Return the set after a client wrote `value` through `participant`, having read `context`.

        The value replaces what the client had read and becomes a sibling of all else. Each server
        must write as a participant of its own and begin each write with its latest set.

        Raises:
            ClockValueError: `participant` is not 1 to 512 bytes of UTF-8.
            ClockOverflowError: no later write of `participant` can be counted.
        """
        require_participant(participant)
        read = self.discard(context)
        counts, values = dict(read._counts), dict(read._values)
        counts[participant] = successor(participant, counts.get(participant, 0))
        values[participant] = (value, *values.get(participant, _NO_VALUES))
        return _made(counts, values)

    def discard(self, context: VersionVector) -> DottedVersionVectorSet[V]:
        """Return the set without the values that a reader of `context` has read.

        The context becomes known, also where this set lacks its writes: they are replaced already
        and must not come back by a later `sync`.
        """
        return self.sync(_made(dict(context.entries), {}))

    def sync(self, other: DottedVersionVectorSet[V]) -> DottedVersionVectorSet[V]:
        """Return the set that knows all writes of both and keeps the values that neither replaced.

        Raises:
            ClockValueError: `other` is not a set.
        """
        if not isinstance(other, DottedVersionVectorSet):
            raise ClockValueError(f"a set is synchronised with another set, got {shown(other)}")
        counts = counters.merge(self._counts, other._counts)
        values = {}
        for participant in {**self._values, **other._values}:
            replaced = max(self._replaced(participant), other._replaced(participant))
            source = self if self._counts.get(participant, 0) == counts[participant] else other
            kept = source._values.get(participant, _NO_VALUES)[: counts[participant] - replaced]
            if kept:
                values[participant] = kept
        return _made(counts, values)

    def compare(self, other: DottedVersionVectorSet[Any]) -> Relation:
        """Return the relation of what both sets know to be written and to be replaced.

        BEFORE says that `sync` of both gives `other`.
        """
        known = counters.compare(self._counts, other._counts)
        replaced = counters.compare(
            {participant: self._replaced(participant) for participant in self._counts},
            {participant: other._replaced(participant) for participant in other._counts},
        )
        both = {known, replaced}
        has_more = not both.isdisjoint({Relation.AFTER, Relation.CONCURRENT})
        lacks = not both.isdisjoint({Relation.BEFORE, Relation.CONCURRENT})
        return Relation.of(has_more, lacks)

    def _replaced(self, participant: str) -> int:
        """How many of the participant's writes are replaced; its later ones have their values."""
        return self._counts.get(participant, 0) - len(self._values.get(participant, _NO_VALUES))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a DottedVersionVectorSet is immutable; its steps return the next one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a DottedVersionVectorSet is immutable; its steps return the next one")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DottedVersionVectorSet):
            return NotImplemented
        return self._counts == other._counts and self._values == other._values

    def __hash__(self) -> int:
        return hash((frozenset(self._counts.items()), frozenset(self._values.items())))

    def __repr__(self) -> str:
        counts, values = (dict(sorted(part.items())) for part in (self._counts, self._values))
        return f"DottedVersionVectorSet({counts!r}, {values!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return DottedVersionVectorSet, (dict(self._counts), dict(self._values))


def _made(counts: dict[str, int], values: dict[str, tuple[V, ...]]) -> DottedVersionVectorSet[V]:
    """Take over parts that fit together already."""
    made: DottedVersionVectorSet[V] = object.__new__(DottedVersionVectorSet)
    object.__setattr__(made, "_counts", counts)
    object.__setattr__(made, "_values", values)
    return made
