"""Results of global transactions."""

from __future__ import annotations

from statemachine.outcomes.result import Result


class GlobalAnswered(Result, frozen=True, tag=60):
    """Where a transaction stands."""

    xid: str
    status: str
    reason: str


class BranchRegistered(Result, frozen=True, tag=61):
    xid: str
    branch_id: int


class BranchReported(Result, frozen=True, tag=62):
    xid: str
    branch_id: int
    status: str


class CallsReported(Result, frozen=True, tag=63):
    taken: int
    """The others changed nothing: repeated, late, or of nothing that is to be done."""
