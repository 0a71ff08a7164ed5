"""A bank whose rows the cluster locks: local transactions, undone from their images.

Each local transaction writes down what its rows were and are. A rollback puts that back, which is
right only while nobody has written in between: what the row locks are for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ACCOUNTS = 6
OPENED_WITH = 100

Branch = tuple[str, int]
"""Xid and branch id."""


@dataclass(frozen=True, slots=True)
class Images:
    """One local transaction: accounts to balances, before and after."""

    before: dict[int, int]
    after: dict[int, int]


@dataclass(slots=True)
class Bank:
    balances: dict[int, int] = field(
        default_factory=lambda: dict.fromkeys(range(ACCOUNTS), OPENED_WITH)
    )
    undo: dict[Branch, Images] = field(default_factory=dict)
    undone: set[Branch] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)

    def transfer(self, branch: Branch, giver: int, taker: int, amount: int) -> bool:
        """Do a local transaction; False: the money is not there, or it was rolled back before."""
        if branch in self.undone or branch in self.undo or self.balances[giver] < amount:
            return False
        before = {each: self.balances[each] for each in (giver, taker)}
        after = {giver: before[giver] - amount, taker: before[taker] + amount}
        self.undo[branch] = Images(before, after)
        self.balances.update(after)
        return True

    def roll_back(self, branch: Branch) -> bool:
        """Undo it, or see to it that it is not done any more; tell whether there was anything."""
        self.undone.add(branch)
        images = self.undo.pop(branch, None)
        if images is None:
            return False
        if any(self.balances[each] != now for each, now in images.after.items()):
            self.broken.append(f"somebody wrote what {branch} had locked")
        self.balances.update(images.before)
        return True

    def expected(self) -> dict[int, int]:
        """Return the balances that follow from the local transactions that stand."""
        found = dict.fromkeys(range(ACCOUNTS), OPENED_WITH)
        for images in self.undo.values():
            for account, balance in images.after.items():
                found[account] += balance - images.before[account]
        return found
