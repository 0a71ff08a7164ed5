"""The interval tree clock of P. Almeida, C. Baquero, V. Fonte, "Interval Tree Clocks: A Logical
Clock for Dynamic Systems", OPODIS 2008.

A vector clock needs to know its participants by globally unique names, and keeps an entry for each
for ever. Here nobody needs a name: all begin as one stamp, the seed, that owns the line from 0 to
1; who needs a participant forks one, which takes half of what its parent owns, and who leaves joins
its stamp into another one's. Events of departed participants fold into the common base, so a clock
is as large as the number of *present* participants asks for.

Comparison is as exact as with vector clocks: `a.compare(b)` is BEFORE exactly when b knows all
events that a knows, and more. It holds among all stamps that come from one seed, present and past.

**What it asks for.** Each stamp must be used once: after `fork`, `event` or `join` only the result
counts. Two that go on from copies of one stamp (a restored backup, say) make events that look the
same, as two participants with one name do in a vector clock. `join` refuses identities that
overlap, where it can see it. Stamps of different seeds must never meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from tidelock.clocks import interval_events, interval_ids
from tidelock.clocks.counters import GREATEST_COUNT
from tidelock.clocks.errors import ClockOverflowError, ClockValueError, shown
from tidelock.clocks.interval_events import EventTree
from tidelock.clocks.interval_ids import IdTree
from tidelock.clocks.relation import Relation


@dataclass(frozen=True, slots=True)
class IntervalTreeClock:
    """A stamp: what a participant owns, and the events that it knows.

    Both are held in normal form, so equal stamps are equal values. `compare` looks at the events
    only: stamps may be EQUAL and yet belong to different participants.

    Raises:
        ClockValueError: a part is no such tree, or more than 256 deep.
    """

    identity: IdTree
    """1 for the whole line, 0 for nothing, or (left half, right half)."""
    events: EventTree
    """A count of events, or (base, left half, right half) with the halves above the base."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", interval_ids.normal(self.identity))
        object.__setattr__(self, "events", interval_events.normal(self.events))

    @classmethod
    def seed(cls) -> Self:
        """Return the stamp of the first participant, from which all others must come."""
        return cls._of(1, 0)

    @property
    def is_anonymous(self) -> bool:
        """Whether the stamp owns nothing: it knows events and cannot make any."""
        return self.identity == 0

    def fork(self) -> tuple[Self, Self]:
        """Return two stamps that know the same and share what this one owns.

        Raises:
            ClockOverflowError: what this one owns was halved 256 times already.
        """
        first, second = interval_ids.split(self.identity)
        return self._of(first, self.events), self._of(second, self.events)

    def event(self) -> Self:
        """Return the stamp after a local event; the one before it is BEFORE it.

        Raises:
            ClockValueError: the stamp is anonymous.
            ClockOverflowError: a count would exceed 2**63 - 1.
        """
        if self.is_anonymous:
            raise ClockValueError(
                "an anonymous stamp owns nothing and can make no event; fork a participant's stamp"
            )
        events = interval_events.advance(self.identity, self.events)
        if interval_events.greatest(events) > GREATEST_COUNT:
            raise ClockOverflowError(f"no event follows the {GREATEST_COUNT}th")
        return self._of(self.identity, events)

    def join(self, other: Self) -> Self:
        """Return one stamp that owns what both own and knows what either knows.

        With a participant that leaves, its stamp is retired; with an anonymous one, a message is
        received without counting that as an event.

        Raises:
            ClockValueError: both own something in common, or `other` is no stamp.
        """
        if not isinstance(other, IntervalTreeClock):
            raise ClockValueError(f"a stamp is joined with another stamp, got {shown(other)}")
        identity = interval_ids.add(self.identity, other.identity)
        return self._of(identity, interval_events.join(self.events, other.events))

    def peek(self) -> Self:
        """Return an anonymous copy: what this stamp knows, for a message, a log or a version."""
        return self._of(0, self.events)

    def send(self) -> tuple[Self, Self]:
        """Count the sending as an event; return the stamp after it, and what the message carries.

        Raises:
            ClockValueError: the stamp is anonymous.
            ClockOverflowError: a count would exceed 2**63 - 1.
        """
        sent = self.event()
        return sent, sent.peek()

    def receive(self, message: Self) -> Self:
        """Join what a message carries and count the receipt as an event.

        Raises:
            ClockValueError: this stamp is anonymous, or the message's owns something in common.
            ClockOverflowError: a count would exceed 2**63 - 1.
        """
        return self.join(message).event()

    def leq(self, other: IntervalTreeClock) -> bool:
        """Return whether `other` knows every event that this stamp knows."""
        return interval_events.at_most(self.events, other.events)

    def compare(self, other: IntervalTreeClock) -> Relation:
        """Return the relation of what this stamp knows to what the other one knows."""
        return Relation.of(not self.leq(other), not other.leq(self))

    @classmethod
    def _of(cls, identity: IdTree, events: EventTree) -> Self:
        """Take over trees that are in normal form already."""
        made = object.__new__(cls)
        object.__setattr__(made, "identity", identity)
        object.__setattr__(made, "events", events)
        return made
