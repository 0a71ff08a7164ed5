"""Taking departed participants out of vector clocks and version vectors, without a wrong answer.

**Why it is not enough to drop entries.** Let d have made five events and left. Its last one,
{d: 5}, and {b: 1, d: 3} are concurrent, since b never heard of it. With d's entry dropped from the
first, or from both, {} looks BEFORE. A missing entry says "none of its events", and where d is
dropped it would have to say "all of them".

**What is done.** The participants agree on a list of *retirements*, each with the counts that some
participants have left at. The list only grows, and is the same for all as far as they know it, as
when a replicated log keeps it. Its first k retirements together are floor k: a vector F(k), the
greatest count given for each participant, with F(0) = 0 and F(k) at most F(k + 1). A clock that has
heard of all of F(k) is written as the number k and only those entries that are above F(k).

**Why it is safe.** Let C be a clock that covers F(k), so C[p] >= F(k)[p] for each p. It is written
as (k, R), where R[p] = C[p] if C[p] > F(k)[p], and no entry otherwise.

1. Nothing is lost: C[p] is R[p] if there is one, else F(k)[p]; else C[p] would be above it.
   `restore` does that, so what is compared after restoring are the clocks themselves.
2. Two clocks of the same floor can be compared, and merged, as they are. Take any p. If both have
   an entry, these are the true counts. If one has, it is above F(k)[p], which is the other's count,
   as it is above 0, which the missing entry counts as. If none has, the counts are equal, as 0 and
   0. So each entry compares as in the unpruned clocks, and so do the clocks.
3. Clocks of different floors are restored with the list and then compared; by 1 that is exact. Who
   lacks the list, or that part of it, gets `UndecidedError` and never a guess.
4. If lists differ after all (two clusters, a restored backup), the same number may mean different
   vectors. A floor therefore carries a fingerprint of its retirements, 64 bits, chained from the
   first. Floors are taken for the same only if number and fingerprint are.

No step used that the participants are gone for good. Who makes another event after its retirement
simply has an entry again, above F(k). What must hold is what holds for unpruned clocks too: counts
are never used twice, so who returns goes on counting from its last one or takes another name.

**What limits it.** A clock can be pruned only when it has heard of all that the retired ones did,
directly or through others; until then it keeps their entries. Retire participants at their own
latest counts. A count that no clock ever reaches is no danger, but nothing is pruned from there on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Generic, TypeVar

from tidelock.clocks import counters
from tidelock.clocks.counters import GREATEST_COUNT, covers, merge, successor
from tidelock.clocks.errors import ClockValueError, UndecidedError, require_integer, shown
from tidelock.clocks.relation import Relation
from tidelock.clocks.vector import VectorClock
from tidelock.clocks.version import VersionVector

C = TypeVar("C", VectorClock, VersionVector)

FINGERPRINT_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Floor:
    """A place in a list of retirements: after how many, and which they were.

    Raises:
        ClockValueError: `number` is not an integer from 0 to 2**63 - 1, or `fingerprint` is not 8
            bytes, or not zero for floor 0.
    """

    number: int = 0
    fingerprint: bytes = bytes(FINGERPRINT_BYTES)
    """8 bytes that depend on all retirements so far; zero when there were none.

    BLAKE2b over the fingerprint before, then for each participant of the retirement, in the order
    of their names: length of the name (2 bytes), name, count (8 bytes, big-endian as the length).
    """

    def __post_init__(self) -> None:
        require_integer("the number of a floor", self.number, GREATEST_COUNT)
        if type(self.fingerprint) is not bytes or len(self.fingerprint) != FINGERPRINT_BYTES:
            raise ClockValueError(
                f"a fingerprint is {FINGERPRINT_BYTES} bytes, got {shown(self.fingerprint)}"
            )
        if self.number == 0 and any(self.fingerprint):
            raise ClockValueError("the fingerprint of floor 0 is zero, as nothing was retired yet")

    def __str__(self) -> str:
        return f"{self.number} ({self.fingerprint.hex()})"


@dataclass(frozen=True, slots=True)
class Pruned(Generic[C]):
    """A clock without what its floor says already.

    `Retirements.prune` makes it and `Retirements.restore` gives the clock back.

    Raises:
        ClockValueError: `floor` is no floor, or `rest` no vector clock or version vector.
    """

    floor: Floor
    rest: C
    """The entries above those of the floor."""

    def __post_init__(self) -> None:
        if type(self.floor) is not Floor or type(self.rest) not in (VectorClock, VersionVector):
            raise ClockValueError(
                "a pruned clock is a Floor and a VectorClock or VersionVector, "
                f"got {shown(self.floor)}, {shown(self.rest)}"
            )

    def compare(self, other: Pruned[C], retirements: Retirements | None = None) -> Relation:
        """Return the relation of the unpruned clocks.

        Clocks of one floor need no `retirements`.

        Raises:
            UndecidedError: the floors differ and `retirements` does not hold them.
        """
        if self.floor == other.floor:
            return self.rest.compare(other.rest)
        return _restored(self, retirements).compare(_restored(other, retirements))

    def merge(self, other: Pruned[C], retirements: Retirements | None = None) -> Pruned[C]:
        """Return the unpruned clocks' maximum of each entry, pruned.

        Raises:
            UndecidedError: the floors differ and `retirements` does not hold them.
        """
        if self.floor == other.floor:
            return Pruned(self.floor, self.rest.merge(other.rest))
        merged = _restored(self, retirements).merge(_restored(other, retirements))
        assert retirements is not None
        return retirements.prune(merged)

    def advance(self, participant: str, retirements: Retirements) -> Pruned[C]:
        """Return the clock after an event of `participant`: its unpruned entry + 1.

        Raises:
            ClockValueError: `participant` is not 1 to 512 bytes of UTF-8.
            ClockOverflowError: the participant's entry is the greatest.
            UndecidedError: `retirements` does not hold the floor, and the participant has no entry.
        """
        counters.require_participant(participant)
        entries = dict(self.rest.entries)
        known = entries.get(participant) or retirements.count(self.floor, participant)
        entries[participant] = successor(participant, known)
        return Pruned(self.floor, type(self.rest)(entries))


class Retirements:
    """The list that all participants agree on: who has left, and at which count. Immutable.

    Args:
        each: the retirements in their order, as `retire` takes them.
    """

    __slots__ = ("_each", "_floors")
    _each: tuple[dict[str, int], ...]
    _floors: tuple[Floor, ...]
    """From 0 to the latest, one more than retirements."""

    def __init__(self, each: Iterable[Mapping[str, int]] = ()) -> None:
        found: list[dict[str, int]] = []
        floors = [Floor()]
        latest: dict[str, int] = {}
        for counts in each:
            retired = _checked(counts, latest)
            latest.update(retired)
            found.append(retired)
            floors.append(_next_floor(floors[-1], retired))
        self._set(tuple(found), tuple(floors))

    def _set(self, each: tuple[dict[str, int], ...], floors: tuple[Floor, ...]) -> None:
        object.__setattr__(self, "_each", each)
        object.__setattr__(self, "_floors", floors)

    @property
    def each(self) -> tuple[dict[str, int], ...]:
        """The retirements in their order."""
        return tuple(dict(counts) for counts in self._each)

    @property
    def floor(self) -> Floor:
        """The latest floor."""
        return self._floors[-1]

    def retire(self, counts: Mapping[str, int]) -> Retirements:
        """Return the list with one more retirement: participants, and the counts they left at.

        A participant that came back may be retired again at a greater count.

        Raises:
            ClockValueError: nobody is named, or a count is not above an earlier one of the same
                participant, or is not an integer up to 2**63 - 1.
        """
        latest: dict[str, int] = {}
        for earlier in self._each:
            latest.update(earlier)
        retired = _checked(counts, latest)
        longer = object.__new__(Retirements)
        longer._set((*self._each, retired), (*self._floors, _next_floor(self.floor, retired)))
        return longer

    def count(self, floor: Floor, participant: str) -> int:
        """Return the count that the floor says of the participant, 0 for one not retired by then.

        Raises:
            UndecidedError: the list does not hold the floor.
        """
        return max((each.get(participant, 0) for each in self._until(floor)), default=0)

    def prune(self, clock: C) -> Pruned[C]:
        """Return the clock at the latest floor of which it has heard all."""
        entries = clock.entries
        known: dict[str, int] = {}
        number = 0
        for counts in self._each:
            if not covers(entries, counts):
                break
            known.update(counts)
            number += 1
        rest = {name: count for name, count in entries.items() if count > known.get(name, 0)}
        return Pruned(self._floors[number], type(clock)(rest))

    def restore(self, pruned: Pruned[C]) -> C:
        """Return the clock that was pruned.

        Raises:
            UndecidedError: the list does not hold the clock's floor.
            ClockValueError: an entry is not above that of the floor, so nothing was pruned to this.
        """
        known: dict[str, int] = {}
        for counts in self._until(pruned.floor):
            known.update(counts)
        for participant, count in pruned.rest.entries.items():
            if count <= known.get(participant, 0):
                raise ClockValueError(
                    f"the entry of {shown(participant)} is {count}, not above the "
                    f"{known[participant]} of the clock's own floor {pruned.floor}"
                )
        return type(pruned.rest)(merge(known, pruned.rest.entries))

    def _until(self, floor: Floor) -> tuple[dict[str, int], ...]:
        """Return the retirements of a floor.

        Raises:
            UndecidedError: they are not in this list.
        """
        if floor.number >= len(self._floors):
            raise UndecidedError(
                f"a clock is pruned at floor {floor}, and the retirements known here end at "
                f"{self.floor}; get the later ones"
            )
        if self._floors[floor.number] != floor:
            raise UndecidedError(
                f"a clock is pruned at floor {floor}, which is {self._floors[floor.number]} here: "
                "it comes from where other participants were retired"
            )
        return self._each[: floor.number]

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Retirements are immutable; retire() returns the next list")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("Retirements are immutable; retire() returns the next list")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Retirements):
            return NotImplemented
        return self._each == other._each

    def __hash__(self) -> int:
        return hash(self.floor)

    def __repr__(self) -> str:
        return f"Retirements({[dict(sorted(counts.items())) for counts in self._each]!r})"

    def __reduce__(self) -> tuple[type[Retirements], tuple[tuple[dict[str, int], ...]]]:
        return Retirements, (self.each,)


def _restored(pruned: Pruned[C], retirements: Retirements | None) -> C:
    if retirements is None:
        raise UndecidedError(
            "clocks that are pruned at different floors are compared and merged with the list of "
            f"retirements; one of them is at floor {pruned.floor}"
        )
    return retirements.restore(pruned)


def _checked(counts: Mapping[str, int], latest: Mapping[str, int]) -> dict[str, int]:
    """Return a retirement that may follow those which ended at `latest`.

    Raises:
        ClockValueError
    """
    retired = counters.checked(counts)
    if not retired:
        raise ClockValueError("a retirement names at least one participant with an event")
    for participant, count in retired.items():
        earlier = latest.get(participant, 0)
        if count <= earlier:
            raise ClockValueError(
                f"{shown(participant)} is retired at {earlier} already, so it cannot be at {count}"
            )
    return retired


def _next_floor(floor: Floor, retired: dict[str, int]) -> Floor:
    fingerprint = blake2b(floor.fingerprint, digest_size=FINGERPRINT_BYTES)
    for participant, count in sorted(retired.items()):
        name = participant.encode()
        fingerprint.update(len(name).to_bytes(2, "big") + name + count.to_bytes(8, "big"))
    return Floor(floor.number + 1, fingerprint.digest())
