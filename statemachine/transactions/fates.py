"""What became of the transactions for which a resource manager still keeps something.

A transaction that has not ended is never forgotten. So one of which nothing is kept has ended, if
it was ever here: the id of its branch tells, since this cluster gives each to one branch only, and
in order.
"""

from __future__ import annotations

from typing import Final

import msgspec

from statemachine.state import MachineState
from statemachine.store import Reader
from statemachine.transactions.rows import get_global
from statemachine.transactions.statuses import ENDED
from statemachine.transactions.summaries import get_summary

FORGOTTEN: Final = "FORGOTTEN"
"""It ended so long ago that nothing is kept of it."""

UNKNOWN: Final = "UNKNOWN"
"""This cluster never had such a branch: nobody here can say anything of it."""


class Fate(msgspec.Struct, frozen=True):
    """Where a branch's transaction stands."""

    status: str
    """Of the transaction, or one of the above."""
    may_clean: bool
    """Whether what guards against late calls of it may go."""


def fate_of(
    state: MachineState, reader: Reader, xid: str, branch_id: int, clean_after_ms: int
) -> Fate:
    """Return what became of a branch's transaction; both are of one moment."""
    over_before_ms = state.elapsed_ms - clean_after_ms
    row = get_global(reader, xid)
    if row is not None:
        return Fate(row.status.value, row.status in ENDED and row.over_ms <= over_before_ms)
    summary = get_summary(reader, xid)
    if summary is not None:
        return Fate(summary.status, summary.over_ms <= over_before_ms)
    if 0 < branch_id <= state.last_branch:
        return Fate(FORGOTTEN, may_clean=True)
    return Fate(UNKNOWN, may_clean=False)
