"""Dotted version vectors: versions of an object that clients write through a few servers.

Sources: N. Preguiça, C. Baquero, P. Almeida, V. Fonte, R. Gonçalves, "Dotted Version Vectors:
Logical Clocks for Optimistic Replication", 2010, and their "Brief Announcement: Efficient Causality
Tracking in Distributed Storage Systems with Dotted Version Vectors", PODC 2012. The set is that of
P. Almeida, C. Baquero, R. Gonçalves, N. Preguiça, V. Fonte, "Scalable and Accurate Causality
Tracking for Eventually Consistent Stores", DAIS 2014.

With one entry for each *server*, a version vector cannot tell apart two clients that read the same
version and write through the same server: the second write looks newer and the first is lost. A
dotted version vector separates what a version *is*, its dot, from what its writer *had read*, its
past. The vector stays as small as there are servers, and concurrent writes stay siblings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tidelock.clocks.counters import GREATEST_COUNT, require_participant, successor
from tidelock.clocks.errors import ClockValueError, require_integer, shown
from tidelock.clocks.relation import Relation
from tidelock.clocks.version import VersionVector


@dataclass(frozen=True, slots=True, order=True)
class Dot:
    """One event: the `count`-th of a participant, counted from 1. Sorts by participant, then count.

    Raises:
        ClockValueError: `participant` is not 1 to 512 bytes of UTF-8, or `count` is not an integer
            from 1 to 2**63 - 1.
    """

    participant: str
    count: int

    def __post_init__(self) -> None:
        require_participant(self.participant)
        require_integer("count", self.count, GREATEST_COUNT)
        if self.count == 0:
            raise ClockValueError("count must be at least 1, the first event of a participant")


_NOTHING_READ: Final = VersionVector()


@dataclass(frozen=True, slots=True)
class DottedVersionVector:
    """One version: the write that made it, and all writes that its writer had read.

    Its causal history is the dot together with the first n writes of each participant whose entry
    in `past` is n. The dot need not follow `past` without a gap; the gap are the writes of that
    participant which this version does not replace.

    Raises:
        ClockValueError: `dot` is within `past`, or one of both is of another type.
    """

    dot: Dot
    past: VersionVector = _NOTHING_READ

    def __post_init__(self) -> None:
        if type(self.dot) is not Dot or type(self.past) is not VersionVector:
            raise ClockValueError(
                f"a version is a Dot and a VersionVector, got {shown(self.dot)}, {shown(self.past)}"
            )
        if self.dot.count <= self.past.of(self.dot.participant):
            raise ClockValueError(f"{self.dot} is within the past of its version")

    def knows(self, dot: Dot) -> bool:
        """Return whether the event is in this version's causal history."""
        return dot == self.dot or dot.count <= self.past.of(dot.participant)

    def context(self) -> VersionVector:
        """Return the least version vector that covers this version."""
        return VersionVector._of({**self.past.entries, self.dot.participant: self.dot.count})

    def compare(self, other: DottedVersionVector) -> Relation:
        """Return the relation of the causal histories.

        Two versions have the same dot only if they are the same version, so among versions that
        one system made, looking for each dot in the other's history decides. Values that no system
        made are compared by their whole histories too, which keeps this a partial order.
        """
        return Relation.of(not other._includes(self), not self._includes(other))

    def _includes(self, other: DottedVersionVector) -> bool:
        if not self.knows(other.dot):
            return False
        past = self.past._counters
        for participant, count in other.past._counters.items():
            known = past.get(participant, 0)
            # A dot right after the vector makes it longer by one.
            if self.dot.participant == participant and self.dot.count == known + 1:
                known += 1
            if count > known:
                return False
        return True

    def _count_of(self, participant: str) -> int:
        """Return the latest event of the participant in the causal history."""
        dot = self.dot
        return dot.count if dot.participant == participant else self.past.of(participant)

    @classmethod
    def write(
        cls, participant: str, context: VersionVector, siblings: Iterable[DottedVersionVector] = ()
    ) -> DottedVersionVector:
        """Return the version that a server makes of a client's write.

        `participant` is the server, `context` what the client had read, joined (empty when it read
        nothing), and `siblings` are the versions that the server has. The papers' *update*: the
        dot is the server's next, the past is the context. Versions of `siblings` that are BEFORE
        the new one are replaced by it.

        Raises:
            ClockValueError: `participant` is not 1 to 512 bytes of UTF-8.
            ClockOverflowError: no later dot exists.
        """
        require_participant(participant)
        known = max((version._count_of(participant) for version in siblings), default=0)
        count = successor(participant, max(known, context.of(participant)))
        return cls(Dot(participant, count), context)

    @classmethod
    def sync(
        cls, first: Iterable[DottedVersionVector], second: Iterable[DottedVersionVector]
    ) -> frozenset[DottedVersionVector]:
        """Return the versions of both sets that no other one replaces: the papers' *sync*."""
        versions = frozenset(first) | frozenset(second)
        return frozenset(
            version
            for version in versions
            if all(version.compare(other) is not Relation.BEFORE for other in versions)
        )

    @classmethod
    def join(cls, versions: Iterable[DottedVersionVector]) -> VersionVector:
        """Return the context of all these versions together, for their reader to write with."""
        context = _NOTHING_READ
        for version in versions:
            context = context.merge(version.context())
        return context
