"""Interval tree clocks: normal forms, what a stamp owns, and true causality while participants come
and go. Trees are held against the functions on the line from 0 to 1 that they stand for.
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, field
from fractions import Fraction
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.clock_laws import assert_join_semilattice, assert_partial_order, at_most
from tidelock.clocks import (
    ClockOverflowError,
    ClockValueError,
    IntervalTreeClock,
    Relation,
)
from tidelock.clocks.errors import shown

GREATEST = 2**63 - 1
SEED = IntervalTreeClock.seed()


def owned(identity: Any, width: Fraction = Fraction(1)) -> Fraction:
    """How much of the line an identity owns."""
    if isinstance(identity, int):
        return width * identity
    left, right = identity
    return owned(left, width / 2) + owned(right, width / 2)


def identity_at(identity: Any, place: Fraction) -> int:
    """Whether the identity owns this place of the line."""
    if isinstance(identity, int):
        return identity
    place *= 2
    return identity_at(identity[1], place - 1) if place >= 1 else identity_at(identity[0], place)


def count_at(events: Any, place: Fraction) -> int:
    """The count of an event tree at this place of the line."""
    if isinstance(events, int):
        return events
    base, left, right = events
    place *= 2
    above = count_at(right, place - 1) if place >= 1 else count_at(left, place)
    return int(base) + above


def places(*trees: Any) -> list[Fraction]:
    """A place in each part of the line that any of the trees tells apart."""

    def depth(tree: Any) -> int:
        return 0 if isinstance(tree, int) else 1 + max(depth(half) for half in tree[-2:])

    parts = 2 ** max(depth(tree) for tree in trees)
    return [Fraction(part, parts) for part in range(parts)]


def is_normal_identity(identity: Any) -> bool:
    if isinstance(identity, int):
        return identity in (0, 1)
    left, right = identity
    return (
        is_normal_identity(left) and is_normal_identity(right) and identity not in ((0, 0), (1, 1))
    )


def is_normal_tree(events: Any) -> bool:
    if isinstance(events, int):
        return events >= 0
    base, left, right = events
    smaller = min(half if isinstance(half, int) else half[0] for half in (left, right))
    folded = isinstance(left, int) and left == right
    return bool(base >= 0 and smaller == 0 and not folded) and all(
        map(is_normal_tree, (left, right))
    )


@dataclass
class System:
    """Participants that fork, leave, act and send; and which events each stamp truly knows."""

    stamps: list[IntervalTreeClock] = field(default_factory=lambda: [SEED])
    known: list[frozenset[int]] = field(default_factory=lambda: [frozenset()])
    seen: list[tuple[IntervalTreeClock, frozenset[int]]] = field(default_factory=list)
    """Every stamp that ever was, anonymous ones too."""

    def put(self, place: int, stamp: IntervalTreeClock, known: frozenset[int]) -> None:
        self.stamps[place], self.known[place] = stamp, known
        self.seen.append((stamp, known))

    def fork(self, place: int) -> None:
        first, second = self.stamps[place].fork()
        self.put(place, first, self.known[place])
        self.stamps.append(first)
        self.known.append(frozenset())
        self.put(-1, second, self.known[place])

    def leave(self, place: int, heir: int) -> None:
        joined = self.stamps[heir].join(self.stamps[place])
        self.put(heir, joined, self.known[heir] | self.known[place])
        del self.stamps[place], self.known[place]

    def act(self, place: int, number: int) -> None:
        self.put(place, self.stamps[place].event(), self.known[place] | {number})

    def send(self, place: int, to: int, number: int, *, counted: bool) -> None:
        """A message, counted as events at both ends or not at all."""
        if counted:
            sent, message = self.stamps[place].send()
            self.put(place, sent, self.known[place] | {2 * number})
            self.seen.append((message, self.known[place]))
            known = self.known[to] | self.known[place] | {2 * number + 1}
            self.put(to, self.stamps[to].receive(message), known)
        else:
            known = self.known[to] | self.known[place]
            self.put(to, self.stamps[to].join(self.stamps[place].peek()), known)


@st.composite
def systems(draw: st.DrawFn) -> System:
    system = System()
    for number in range(draw(st.integers(0, 25))):
        place = draw(st.integers(0, len(system.stamps) - 1))
        other = draw(st.integers(0, len(system.stamps) - 1))
        step = draw(st.sampled_from(["fork", "act", "act", "send", "tell", "leave"]))
        if step == "fork" and len(system.stamps) < 8:
            system.fork(place)
        elif step == "leave" and place != other:
            system.leave(place, other)
        elif step == "act":
            system.act(place, 2 * number)
        elif place != other:
            system.send(place, other, number, counted=step == "send")
    return system


identities = st.recursive(st.integers(0, 1), lambda half: st.tuples(half, half), max_leaves=8)
trees = st.recursive(
    st.integers(0, 3),
    lambda half: st.tuples(st.integers(0, 3), half, half),
    max_leaves=8,
)
stamps = st.builds(IntervalTreeClock, identities, trees)
anonymous = st.builds(IntervalTreeClock, st.just(0), trees)
participants = stamps.filter(lambda stamp: not stamp.is_anonymous)


# Against true causality.


@given(systems())
def test_stamps_tell_exactly_who_knows_what_while_participants_come_and_go(
    system: System,
) -> None:
    for first, known in system.seen:
        for second, others in system.seen:
            expected = Relation.of(bool(known - others), bool(others - known))
            assert first.compare(second) is expected
            assert first.leq(second) == (known <= others)


@given(systems())
def test_present_participants_own_the_whole_line_and_nothing_in_common(system: System) -> None:
    for first, second in combinations(system.stamps, 2):
        for place in places(first.identity, second.identity):
            assert identity_at(first.identity, place) + identity_at(second.identity, place) <= 1
    assert sum(owned(stamp.identity) for stamp in system.stamps) == 1


@given(systems())
def test_when_all_have_left_but_one_the_clock_is_a_single_number(system: System) -> None:
    last, *others = system.stamps
    for stamp in others:
        last = last.join(stamp)
    assert last.identity == 1
    assert isinstance(last.event().events, int)


@given(systems())
def test_every_stamp_is_in_normal_form(system: System) -> None:
    for stamp, _ in system.seen:
        assert is_normal_identity(stamp.identity), stamp
        assert is_normal_tree(stamp.events), stamp


# The operations, on any trees.


@given(participants)
def test_fork_shares_what_the_stamp_owns_and_join_undoes_it(stamp: IntervalTreeClock) -> None:
    first, second = stamp.fork()
    assert first.events == second.events == stamp.events
    assert not first.is_anonymous
    assert not second.is_anonymous
    for place in places(first.identity, second.identity, stamp.identity):
        shares = identity_at(first.identity, place) + identity_at(second.identity, place)
        assert shares == identity_at(stamp.identity, place)
    assert is_normal_identity(first.identity)
    assert is_normal_identity(second.identity)
    assert first.join(second) == second.join(first) == stamp


@given(participants)
def test_an_event_advances_the_clock_and_only_where_the_stamp_owns(
    stamp: IntervalTreeClock,
) -> None:
    after = stamp.event()
    assert stamp.compare(after) is Relation.BEFORE
    assert after.identity == stamp.identity
    assert is_normal_tree(after.events)
    for place in places(stamp.identity, stamp.events, after.events):
        if not identity_at(stamp.identity, place):
            assert count_at(after.events, place) == count_at(stamp.events, place)


@given(stamps, stamps)
def test_joined_events_are_the_greater_count_at_each_place(
    first: IntervalTreeClock, second: IntervalTreeClock
) -> None:
    joined = first.peek().join(second.peek())
    assert is_normal_tree(joined.events)
    for place in places(first.events, second.events, joined.events):
        counts = count_at(first.events, place), count_at(second.events, place)
        assert count_at(joined.events, place) == max(counts)


@given(stamps, stamps)
def test_at_most_means_at_most_at_each_place(
    first: IntervalTreeClock, second: IntervalTreeClock
) -> None:
    assert first.leq(second) == all(
        count_at(first.events, place) <= count_at(second.events, place)
        for place in places(first.events, second.events)
    )


@given(anonymous, anonymous, anonymous)
def test_comparing_is_a_partial_order(
    a: IntervalTreeClock, b: IntervalTreeClock, c: IntervalTreeClock
) -> None:
    assert_partial_order(a, b, c)


@given(anonymous, anonymous, anonymous)
def test_joining_is_a_join(
    a: IntervalTreeClock, b: IntervalTreeClock, c: IntervalTreeClock
) -> None:
    assert_join_semilattice(a, b, c, IntervalTreeClock.join)


@given(identities, trees)
def test_a_stamp_is_put_into_normal_form_and_stands_for_the_same(
    identity: Any, events: Any
) -> None:
    stamp = IntervalTreeClock(identity, events)
    assert is_normal_identity(stamp.identity)
    assert is_normal_tree(stamp.events)
    for place in places(identity, events):
        assert identity_at(stamp.identity, place) == identity_at(identity, place)
        assert count_at(stamp.events, place) == count_at(events, place)


@given(participants, anonymous)
def test_send_and_receive_are_made_of_event_peek_and_join(
    stamp: IntervalTreeClock, message: IntervalTreeClock
) -> None:
    assert stamp.send() == (stamp.event(), stamp.event().peek())
    assert stamp.receive(message) == stamp.join(message).event()
    assert at_most(message, stamp.receive(message))
    assert stamp.peek().compare(stamp) is Relation.EQUAL


# Worked cases.


def test_the_life_of_a_few_stamps() -> None:
    """Worked by hand from the definitions of section 5: forks, events, a join and what it folds."""
    a, b = SEED.fork()
    assert (a.identity, b.identity) == ((1, 0), (0, 1))
    a, b = a.event(), b.event().event()
    assert (a.events, b.events) == ((0, 1, 0), (0, 0, 2))
    assert a.compare(b) is Relation.CONCURRENT
    a, c = a.fork()
    assert (a.identity, c.identity) == (((1, 0), 0), ((0, 1), 0))
    a = a.event()
    assert a.events == (0, (1, 1, 0), 0)
    b = b.join(c)
    assert b == IntervalTreeClock(((0, 1), 1), (1, 0, 1))
    b, d = b.fork()
    assert (b.identity, d.identity) == (((0, 1), 0), (0, 1))
    # b owns the second quarter and raises it to what surrounds it: the tree gets no deeper.
    assert b.event().events == (1, (0, 0, 1), 1)
    a = a.join(b.event())
    assert a == IntervalTreeClock((1, 0), 2)


@pytest.mark.parametrize(
    ("identity", "events", "after"),
    [
        # What fills a gap makes the tree simpler, from either side.
        ((1, 0), (0, 0, 2), 2),
        ((0, 1), (0, 2, 0), 2),
        ((1, 0), (0, 0, (1, 0, 1)), (1, 0, (0, 0, 1))),
        ((0, 1), (0, (1, 0, 1), 0), (1, (0, 0, 1), 0)),
        ((1, 0), (0, (0, 0, 1), 0), (0, 1, 0)),
        # Else the tree grows at the least depth,
        (((1, 0), ((1, 0), 0)), 0, (0, (0, 1, 0), 0)),
        ((((1, 0), 0), (1, 0)), 0, (0, 0, (0, 1, 0))),
        # and where a number must be halved only if it must.
        (((1, 0), ((1, 0), 0)), (0, 0, (0, (0, 1, 0), 0)), (0, 0, (0, (0, 2, 0), 0))),
    ],
)
def test_an_event_keeps_the_tree_as_simple_as_it_can(
    identity: Any, events: Any, after: Any
) -> None:
    assert IntervalTreeClock(identity, events).event().events == after


def test_events_between_two_participants_stay_small_for_ever() -> None:
    a, b = SEED.fork()
    for _ in range(200):
        a, message = a.send()
        b = b.receive(message)
        b, message = b.send()
        a = a.receive(message)
    assert isinstance(a.events, int) or all(isinstance(part, int) for part in a.events)


# What is refused.


def test_an_anonymous_stamp_makes_no_event() -> None:
    with pytest.raises(ClockValueError, match="owns nothing"):
        SEED.peek().event()
    first, second = SEED.peek().fork()
    assert first.is_anonymous
    assert second.is_anonymous


@given(participants)
def test_copies_of_a_stamp_are_not_joined(stamp: IntervalTreeClock) -> None:
    with pytest.raises(ClockValueError, match="both stamps own the same part"):
        stamp.join(stamp.event())


def test_what_is_no_stamp_is_not_joined() -> None:
    with pytest.raises(ClockValueError, match="joined with another stamp"):
        SEED.join(1)  # type: ignore[arg-type]


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    "identity",
    [2, -1, True, None, "1", (1,), (1, 0, 1), (1, 2), [1, 0], ENDLESS, 10**5000],
    ids=shown,
)
def test_what_is_no_identity_is_refused(identity: Any) -> None:
    with pytest.raises(ClockValueError, match="an identity is 0, 1 or a pair of identities"):
        IntervalTreeClock(identity, 0)


@pytest.mark.parametrize(
    "events",
    [-1, True, None, 1.0, "1", (1, 2), (1, 0, -1), (0, 0, None), (-1, 1, 2), (True, 1, 2),
     2**63, (2**62, 2**62, 0), (1, GREATEST, 0), ENDLESS, 10**5000, (10**5000, 0, 0)],
    ids=shown,
)  # fmt: skip
def test_what_is_no_event_tree_is_refused(events: Any) -> None:
    with pytest.raises(ClockValueError, match="event tree"):
        IntervalTreeClock(1, events)


def deep_identity(depth: int) -> Any:
    identity: Any = 1
    for _ in range(depth):
        identity = (identity, 0)
    return identity


def deep_events(depth: int) -> Any:
    events: Any = 1
    for _ in range(depth):
        events = (1, events, 0)
    return events


def test_the_line_is_halved_256_times_and_no_more() -> None:
    stamp = SEED
    for _ in range(256):
        stamp, _other = stamp.fork()
    assert stamp.identity == deep_identity(256)
    with pytest.raises(ClockOverflowError, match="cannot be forked"):
        stamp.fork()
    acted = stamp.event()
    assert stamp.compare(acted) is Relation.BEFORE
    assert acted.join(IntervalTreeClock(0, deep_events(256))).leq(acted) is False
    assert IntervalTreeClock(stamp.identity, acted.events) == acted
    for identity, events in [
        (deep_identity(257), 0),
        (1, deep_events(257)),
        (deep_identity(5_000), 0),
        (1, deep_events(5_000)),
    ]:
        with pytest.raises(ClockValueError, match="256 deep"):
            IntervalTreeClock(identity, events)


def test_no_event_follows_the_greatest_count() -> None:
    assert IntervalTreeClock(1, GREATEST - 1).event().events == GREATEST
    with pytest.raises(ClockOverflowError, match="no event follows"):
        IntervalTreeClock(1, GREATEST).event()
    # Where the rest of the line lags behind, there is room beside the greatest count.
    lagging = IntervalTreeClock((0, 1), (0, GREATEST, 0))
    assert lagging.event().events == GREATEST


def test_a_stamp_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        SEED.events = 1  # type: ignore[misc]
