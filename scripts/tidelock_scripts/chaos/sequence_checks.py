"""Is every number of a sequence given once, in real time's order, and none left out?"""

from __future__ import annotations

import bisect
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
    tried only where numbers are missing, and only when what is missing besides can be made of the
    counts of others.
    """

    initial = 0

    def __init__(self, takes: Iterable[Take]) -> None:
        self._given: dict[str, list[int]] = defaultdict(list)
        self._sums: dict[str, int] = defaultdict(lambda: 1)
        """Of the counts of unknown calls: bit n is set when some of them make n."""
        for take in takes:
            if take.first is not None:
                bisect.insort(self._given[take.sequence], take.first)
            else:
                sums = self._sums[take.sequence]
                self._sums[take.sequence] = sums | sums << take.count

    def step(self, state: int, action: Take) -> int | None:
        after = state + action.count
        if action.first is not None:
            return after if action.first == state + 1 else None
        given = self._given[action.sequence]
        following = bisect.bisect_right(given, state)
        if following == len(given):
            return after
        missing = given[following] - 1 - after
        return after if missing >= 0 and self._sums[action.sequence] >> missing & 1 else None


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
