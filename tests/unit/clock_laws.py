"""The laws of partial orders and join semilattices, for any clock that compares and joins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from tests.unit.histories import Happening, happened_before
from tidelock.clocks import Relation


class Comparable(Protocol):
    def compare(self, other: Any, /) -> Relation: ...


C = TypeVar("C", bound=Comparable)

UP_TO = {Relation.BEFORE, Relation.EQUAL}


def at_most(first: Comparable, second: Comparable) -> bool:
    return first.compare(second) in UP_TO


def assert_partial_order(a: C, b: C, c: C) -> None:
    assert a.compare(a) is Relation.EQUAL
    assert b.compare(a) is a.compare(b).inverse
    assert (a.compare(b) is Relation.EQUAL) == (a == b)
    if a == b:
        assert hash(a) == hash(b)
    if at_most(a, b) and at_most(b, c):
        assert at_most(a, c)


def assert_join_semilattice(a: C, b: C, c: C, join: Callable[[C, C], C]) -> None:
    assert join(a, a) == a
    assert join(a, b) == join(b, a)
    assert join(join(a, b), c) == join(a, join(b, c))
    assert at_most(a, join(a, b))
    assert (join(a, b) == b) == at_most(a, b)
    if at_most(a, c) and at_most(b, c):
        assert at_most(join(a, b), c)
    if at_most(a, b):
        assert at_most(join(a, c), join(b, c))


def true_relation(causes: list[frozenset[int]], first: int, second: int) -> Relation:
    if first == second:
        return Relation.EQUAL
    return {
        (True, False): Relation.BEFORE,
        (False, True): Relation.AFTER,
        (False, False): Relation.CONCURRENT,
    }[first in causes[second], second in causes[first]]


def assert_tells_the_truth(
    history: list[Happening], relation: Callable[[int, int], Relation]
) -> None:
    """Hold `relation` against happened-before, for each pair of events of the history."""
    causes = happened_before(history)
    for first in range(len(history)):
        for second in range(len(history)):
            assert relation(first, second) is true_relation(causes, first, second)
