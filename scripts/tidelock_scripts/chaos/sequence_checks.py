"""Is every number of a sequence given once, in real time's order, and none left out?"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scripts.tidelock_scripts.chaos.checkers import Violation
from scripts.tidelock_scripts.chaos.linearizability import Operation, Verdict, check_history


@dataclass(frozen=True, slots=True)
class Take:
    """A client's call for the next `count` numbers."""

    sequence: str
    count: int
    begun_ns: int
    ended_ns: int | None
    """None when it was never told: the numbers may be taken."""
    first: int | None

    @property
    def last(self) -> int:
        assert self.first is not None
        return self.first + self.count - 1


def check_sequences(takes: Sequence[Take]) -> list[Violation]:
    """Check all sequences. Calls that certainly were not done are none of these.

    When the last call on a sequence was answered and began after all others were over, a number
    that was left out below it is found as well.
    """
    return [*check_no_number_twice(takes), *check_sequences_by_search(takes)]


def check_no_number_twice(takes: Sequence[Take]) -> list[Violation]:
    """No two clients were given the same number."""
    by_sequence: dict[str, list[Take]] = defaultdict(list)
    for take in takes:
        if take.first is not None:
            by_sequence[take.sequence].append(take)
    violations: list[Violation] = []
    for given in by_sequence.values():
        given.sort(key=lambda take: take.first or 0)
        violations.extend(
            Violation("no number twice", f"{lower} and {upper}")
            for lower, upper in itertools.pairwise(given)
            if upper.first is not None and upper.first <= lower.last
        )
    return violations


class Counter:
    """The sequential object behind a sequence: the last number that was given.

    A number that somebody was given can have been nobody else's, so calls of unknown outcome are
    tried only where numbers are missing.
    """

    initial = 0

    def __init__(self, takes: Iterable[Take]) -> None:
        self._given = {(take.sequence, take.first) for take in takes if take.first is not None}

    def step(self, state: int, action: Take) -> int | None:
        following = state + 1
        if action.first is None:
            known = (action.sequence, following) in self._given
            return None if known else state + action.count
        return state + action.count if action.first == following else None


def check_sequences_by_search(takes: Sequence[Take]) -> list[Violation]:
    """Every number follows the one before it, so an order of the calls must explain each."""
    operations = [Operation(take.sequence, take.begun_ns, take.ended_ns, take) for take in takes]
    return [
        Violation(
            "linearizable by search",
            f"sequence {found.key}, {found.operations} operations, {found.verdict.value}: "
            f"{found.reason}",
        )
        for found in check_history(operations, Counter(takes))
        if found.verdict is not Verdict.LINEARIZABLE
    ]
