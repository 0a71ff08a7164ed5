"""Event trees of interval tree clocks: how many events each part of the line from 0 to 1 has seen.

A tree is a number, the count of the whole line, or (base, left, right): the counts of both halves
above a common base. It is in normal form when the smaller half begins at 0 and two halves that are
the same number are folded into one. The functions are those of sections 5.2 and 5.3 of the paper
(see `tidelock.clocks.interval_tree`); they take normal forms and give normal forms.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from tidelock.clocks.counters import GREATEST_COUNT
from tidelock.clocks.errors import ClockValueError, require_integer, shown
from tidelock.clocks.interval_ids import GREATEST_DEPTH, IdTree

EventTree: TypeAlias = "int | tuple[int, EventTree, EventTree]"
"""A count, or a base and the counts of both halves above it."""

_EXPANSION_COST: Final = 4 * GREATEST_DEPTH
"""To halve a number costs more than any path, so that trees grow in depth only when they must."""


def normal(events: object, depth: int = 0, base: int = 0) -> EventTree:
    """Return the normal form of what claims to be an event tree.

    Raises:
        ClockValueError: it is none, deeper than `GREATEST_DEPTH`, or counts beyond 2**63 - 1.
    """
    if type(events) is int:
        require_integer("the count of an event tree", base + events, GREATEST_COUNT)
        require_integer("a number of an event tree", events, GREATEST_COUNT)
        return events
    if depth < GREATEST_DEPTH and type(events) is tuple and len(events) == 3:
        own, left, right = events
        require_integer("the base of an event tree", own, GREATEST_COUNT)
        above = base + own
        return _node(own, normal(left, depth + 1, above), normal(right, depth + 1, above))
    raise ClockValueError(
        "an event tree is a number or (base, left, right) with event trees for both halves, at "
        f"most {GREATEST_DEPTH} deep, got {shown(events)} at depth {depth}"
    )


def at_most(first: EventTree, second: EventTree, above: int = 0, other_above: int = 0) -> bool:
    """Return whether no part of the line has a greater count in `first` than in `second`.

    Args:
        above: added to all counts of `first`.
        other_above: added to all counts of `second`.
    """
    if isinstance(first, int):
        return above + first <= other_above + _least(second)
    base, left, right = first
    if isinstance(second, int):
        return above + greatest(first) <= other_above + second
    other_base, other_left, other_right = second
    above += base
    other_above += other_base
    return at_most(left, other_left, above, other_above) and at_most(
        right, other_right, above, other_above
    )


def join(first: EventTree, second: EventTree) -> EventTree:
    """Return the greater count of both, for each part of the line."""
    if isinstance(first, int) and isinstance(second, int):
        return max(first, second)
    base, left, right = _opened(first)
    other_base, other_left, other_right = _opened(second)
    up = other_base - base
    return _node(base, join(left, _lift(other_left, up)), join(right, _lift(other_right, up)))


def greatest(events: EventTree) -> int:
    """Return the greatest count of any part of the line."""
    if isinstance(events, int):
        return events
    base, left, right = events
    return base + max(greatest(left), greatest(right))


def advance(identity: IdTree, events: EventTree) -> EventTree:
    """Return the tree after an event of the owner of `identity`: *event* of section 5.3.

    Counts grow only within what the identity owns, and somewhere they do. Where that can make the
    tree simpler it is made simpler (*fill*), else it grows by one at the cheapest place (*grow*).

    The identity must own something.
    """
    filled = _fill(identity, events)
    if filled != events:
        return filled
    grown, _ = _grow(identity, events)
    return grown


def _fill(identity: IdTree, events: EventTree) -> EventTree:
    """Raise what the identity owns as far as that simplifies the tree, and not above its
    greatest count.
    """
    if identity == 0 or isinstance(events, int):
        return events
    if isinstance(identity, int):
        return greatest(events)
    own_left, own_right = identity
    base, left, right = events
    if own_left == 1:
        right = _fill(own_right, right)
        left = max(greatest(left), _least(right))
    elif own_right == 1:
        left = _fill(own_left, left)
        right = max(greatest(right), _least(left))
    else:
        left, right = _fill(own_left, left), _fill(own_right, right)
    return _node(base, left, right)


def _grow(identity: IdTree, events: EventTree) -> tuple[EventTree, int]:
    """Add one event where the tree grows least; return the tree and what that costs.

    Called when nothing can be filled: so where the identity owns all, the tree is a number.
    """
    if isinstance(identity, int):
        assert identity == 1
        assert isinstance(events, int)
        return events + 1, 0
    if isinstance(events, int):
        grown, cost = _grow(identity, (events, 0, 0))
        return grown, cost + _EXPANSION_COST
    own_left, own_right = identity
    base, left, right = events
    if own_left == 0:
        grown, cost = _grow(own_right, right)
        return _node(base, left, grown), cost + 1
    if own_right == 0:
        grown, cost = _grow(own_left, left)
        return _node(base, grown, right), cost + 1
    grown_left, cost_left = _grow(own_left, left)
    grown_right, cost_right = _grow(own_right, right)
    if cost_left < cost_right:
        return _node(base, grown_left, right), cost_left + 1
    return _node(base, left, grown_right), cost_right + 1


def _node(base: int, left: EventTree, right: EventTree) -> EventTree:
    """Return the normal form of a node whose halves are in normal form."""
    if isinstance(left, int) and left == right:
        return base + left
    down = min(_least(left), _least(right))
    return base + down, _lift(left, -down), _lift(right, -down)


def _least(events: EventTree) -> int:
    """Return the least count of any part of the line: in normal form, the base."""
    return events if isinstance(events, int) else events[0]


def _lift(events: EventTree, by: int) -> EventTree:
    if isinstance(events, int):
        return events + by
    return events[0] + by, events[1], events[2]


def _opened(events: EventTree) -> tuple[int, EventTree, EventTree]:
    return (events, 0, 0) if isinstance(events, int) else events
