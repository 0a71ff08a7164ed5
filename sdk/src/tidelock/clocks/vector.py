"""The vector clock of C. Fidge, "Timestamps in Message-Passing Systems That Preserve the Partial
Ordering", 1988, and F. Mattern, "Virtual Time and Global States of Distributed Systems", 1989.

If each event carries the clock of its participant right after it, then *a* happened before *b*
exactly when the clock of *a* is BEFORE that of *b*. Both directions hold, unlike Lamport's clock,
at the price of an entry for each participant that was ever heard of. (Charron-Bost showed in 1991
that no smaller vector will do.) What departed participants leave behind can be taken out safely:
see `tidelock.clocks.pruning`.
"""

from __future__ import annotations

from typing import Self

from tidelock.clocks.counters import Counters


class VectorClock(Counters):
    """One participant's knowledge: of how many events of each participant it has heard.

    The clock does not know whose it is; its steps are told. `VectorClock({"a": 2, "b": 1})` knows
    two events of a and one of b.
    """

    __slots__ = ()

    def tick(self, participant: str) -> Self:
        """Return the clock after a local event or a send of `participant`: its entry + 1.

        Raises:
            ClockValueError: `participant` is not 1 to 512 bytes of UTF-8.
            ClockOverflowError: the entry stands at `GREATEST`.
        """
        return self._advanced(participant)

    def receive(self, received: Self, participant: str) -> Self:
        """Return the clock after `participant` received a message that carries `received`.

        The receipt is an event of its own: the maximum of each entry, then the participant's
        entry + 1. A receipt by b: {a: 3, b: 3} receives {a: 5, b: 2} and becomes {a: 5, b: 4}.

        Raises:
            ClockValueError: `participant` is not 1 to 512 bytes of UTF-8, or `received` is not a
                vector clock.
            ClockOverflowError: the entry stands at `GREATEST`.
        """
        return self.merge(received)._advanced(participant)
