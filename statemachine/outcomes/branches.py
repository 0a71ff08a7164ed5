"""Results of what branches ask for beyond registration and report."""

from __future__ import annotations

from statemachine.outcomes.result import Result


class RowsLocked(Result, frozen=True, tag=66):
    xid: str
    branch_id: int


class RowsUnlocked(Result, frozen=True, tag=67):
    xid: str
    branch_id: int
    unlocked: int
    """How many of the rows the branch had held."""


class FencePassed(Result, frozen=True, tag=68):
    verdict: str
    """PROCEED, DONE_ALREADY or REFUSE."""


class BranchAbandoned(Result, frozen=True, tag=69):
    abandoned: bool
    """False when there was nothing to undo any more."""
