"""Where the transaction stands that a refused request was about, told with the rejection."""

from __future__ import annotations

import msgspec


class TransactionStanding(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True
):
    """A transaction that cannot do what was asked of it."""

    xid: str
    status: str
    reason: str
    """Why it was decided so; empty when it is not, or nobody said."""
    ended_ms: int
    """In wall time, milliseconds since the epoch; 0 while something of it is left to do."""
    branch_id: int = 0
    """The branch that is the reason; 0: none is."""
