"""Transactions that entries worked on lately, kept in memory as their rows are.

A saga of a thousand steps has as many entries. To read all its branches for each of them would
take longer than all that is done with them. What is kept here is no part of the state: a node that
has just begun reads the rows, and comes to the same.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from statemachine.transactions.transaction import Transaction

GREATEST_WEIGHT: Final = 16 << 20
"""In bytes, as transactions weigh themselves."""

_WEIGHT_OF_TRANSACTION: Final = 2_000


class KeptTransactions:
    """The one that was kept longest ago is let go first."""

    __slots__ = ("_by_xid", "_weight")

    def __init__(self) -> None:
        self._by_xid: OrderedDict[str, tuple[Transaction, int]] = OrderedDict()
        self._weight = 0

    def keep(self, transaction: Transaction) -> None:
        """Keep one whose changes are all written."""
        weight = _WEIGHT_OF_TRANSACTION + transaction.weight
        if weight > GREATEST_WEIGHT:
            return
        self._by_xid[transaction.row.xid] = transaction, weight
        self._weight += weight
        while self._weight > GREATEST_WEIGHT:
            _, (_, lightened) = self._by_xid.popitem(last=False)
            self._weight -= lightened

    def take(self, xid: str) -> Transaction | None:
        """Return one that is about to be changed, and keep it no longer."""
        found = self._by_xid.pop(xid, None)
        if found is None:
            return None
        self._weight -= found[1]
        return found[0]
