"""A purchase: what is planned, what came of it, and what must hold then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from scripts.tidelock_scripts.purchase.books import SERVICES, Stand
from scripts.tidelock_scripts.purchase.wires import Call

MODES: Final = ("AT", "XA", "TCC", "SAGA", "MIXED")
VICTIMS: Final = ("leader", *SERVICES, "business")

PRICE: Final = 100
BOUGHT: Final = 2
TOO_MANY: Final = 20
"""More chairs than the money is enough for, and fewer than there are in stock."""

CRASH_POINTS: Final = {
    "AT": "at.after-local-commit",
    "XA": "xa.after-prepare",
    "TCC": "fence.after-step-commit",
    "SAGA": "fence.after-step-commit",
}
"""Where a service dies unless told otherwise: its work is done for good, and nobody was told."""

_MIXED: Final = {"storage": "AT", "order": "TCC", "account": "SAGA"}


def modes_of(mode: str) -> Mapping[str, str]:
    """Return in which mode each service takes part, as examples/purchase/business.py has it."""
    return _MIXED if mode == "MIXED" else dict.fromkeys(SERVICES, mode)


@dataclass(frozen=True, slots=True)
class Plan:
    """A purchase that is to be made."""

    mode: str
    fails: bool = False
    """The account has too little money."""
    victim: str = ""
    """Who is killed on the way."""
    crash_at: str = ""
    """Where a service dies; empty: at the point of its mode in `CRASH_POINTS`."""

    @property
    def count(self) -> int:
        return TOO_MANY if self.fails else BOUGHT

    @property
    def is_refusing(self) -> bool:
        """Whether the victim is the one that says no."""
        return self.fails and self.victim == "account"

    def crash_point(self) -> str:
        """Return the point of its code at which the victim dies; empty: it is killed from outside.

        So is an account that has too little money, since it does not come far.
        """
        if self.victim not in SERVICES or (self.is_refusing and not self.crash_at):
            return ""
        return self.crash_at or CRASH_POINTS[modes_of(self.mode)[self.victim]]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was done to the shop, or in it."""

    at_ms: int
    who: str
    what: str


@dataclass
class Purchase:
    """What came of a plan."""

    plan: Plan
    before: Stand
    after: Stand
    answer: str
    """What business said; empty when it said nothing."""
    calls: list[Call]
    events: list[Event]
    transaction: dict[str, Any]
    """As the cluster shows it."""
    left_behind: dict[str, int]
    was_killed: bool
    """Whether the victim of the plan, if it has one, died."""

    @property
    def xid(self) -> str:
        return str(self.transaction["xid"])

    @property
    def is_bought(self) -> bool:
        """Whether it was decided to commit."""
        return bool(self.transaction["status"] == "COMMITTED")

    def faults(self) -> list[str]:
        """Return what is not as it must be: everything or nothing, and nothing left behind."""
        count = self.plan.count if self.is_bought else 0
        wanted = (count, 1 if count else 0, count * PRICE)
        moved = self.after.moved_since(self.before)
        found = []
        if moved != wanted:
            goods, orders, money = moved
            found.append(
                f"the transaction is {self.transaction['status']}, and {goods} goods, "
                f"{orders} orders and {money} of money have moved"
            )
        if not self.after.is_settled:
            found.append(f"something is still reserved: {self.after}")
        if self.plan.fails and self.is_bought:
            found.append("it was bought without enough money")
        if not (self.plan.fails or self.plan.victim or self.is_bought):
            found.append(f"it was not bought: {self.answer}")
        if self.plan.victim and not self.was_killed:
            where = self.plan.crash_point() or "where it was to die"
            found.append(f"{self.plan.victim} was not killed: the purchase never came to {where}")
        left = {what: count for what, count in self.left_behind.items() if count}
        return [*found, *(f"{count} {what} are left behind" for what, count in left.items())]
