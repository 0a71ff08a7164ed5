"""Results of DTM's protocol."""

from __future__ import annotations

from statemachine.outcomes.result import Result


class DtmHastened(Result, frozen=True, tag=81):
    count: int
    """Transactions whose next calls are due now."""
    more: bool
    """There are further ones."""
