"""The branches at the end of a transaction that may be undone beside each other.

Later branches are undone first, since what they did may stand on what earlier ones did; but Try's
of one transaction stand beside each other. So it is the last branch that has not ended, or all of
TCC behind the last of another mode. It grows towards the first branch, and never shrinks.
"""

from __future__ import annotations

from collections.abc import Mapping

from statemachine.transactions.rows import Branch
from statemachine.transactions.statuses import BRANCH_ENDED, Mode


class Trail:
    """It looks at `branches`, and is told of each that becomes another."""

    __slots__ = ("_before", "_branches", "_left", "_others", "_reaches")

    def __init__(self, branches: Mapping[int, Branch]) -> None:
        self._branches = branches
        self._before = list(branches)
        self._reaches = 0
        """The first branch of it; 0 while there is none."""
        self._left = 0
        """How many of it have not ended."""
        self._others = 0
        """How many of these are of another mode than TCC: one at most."""

    def reaches(self, branch: Branch) -> bool:
        """Whether a branch belongs to it."""
        return 0 < self._reaches <= branch.branch_id

    def change(self, before: Branch, branch: Branch) -> None:
        """Take note of a branch that has become another."""
        if self.reaches(branch):
            self._count(before, -1)
            self._count(branch, 1)

    def _count(self, branch: Branch, one: int) -> None:
        if branch.status not in BRANCH_ENDED:
            self._left += one
            if branch.mode is not Mode.TCC:
                self._others += one

    def lengthen(self) -> list[Branch]:
        """Return what has come to it."""
        found: list[Branch] = []
        while self._before:
            branch = self._branches[self._before[-1]]
            ended = branch.status in BRANCH_ENDED
            beside = branch.mode is Mode.TCC and not self._others
            if not (ended or beside or not self._left):
                break
            self._before.pop()
            self._reaches = branch.branch_id
            self._count(branch, 1)
            found.append(branch)
        return found
