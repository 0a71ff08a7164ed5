"""The version vector of D. Parker et al., "Detection of Mutual Inconsistency in Distributed
Systems", IEEE Transactions on Software Engineering 9(3), 1983.

It belongs to a copy of an object, where a vector clock belongs to a participant: only writes count,
and taking over another copy's writes is no event. A participant that writes must own its name; two
writers under one name make two versions with one vector, of which one is lost. Where clients write
through servers, use a dotted version vector (`tidelock.clocks.dotted`).
"""

from __future__ import annotations

from typing import Self

from tidelock.clocks.counters import Counters


class VersionVector(Counters):
    """What a copy of an object has seen: of how many writes of each participant it consists.

    BEFORE means that this copy is out of date, CONCURRENT that both copies were written apart from
    each other and have to be reconciled; the reconciled copy is their `merge`, then `increment`.
    """

    __slots__ = ()

    def increment(self, participant: str) -> Self:
        """Return the vector after a write by `participant`: its entry + 1.

        Raises:
            ClockValueError: `participant` is not 1 to 512 bytes of UTF-8.
            ClockOverflowError: the entry stands at `GREATEST`.
        """
        return self._advanced(participant)
