"""Answers to what resource managers ask for their branches."""

from __future__ import annotations

from typing import Literal

from tidelock.client.answers.answer import Answer
from tidelock.client.answers.statuses import BranchStatus

FenceVerdict = Literal["PROCEED", "DONE_ALREADY", "REFUSE"]
"""PROCEED: run the step; after DONE: it is noted. DONE_ALREADY: there is nothing to do, and nothing
wrong. REFUSE: it must not run; after DONE: what it did must be undone."""


class BranchState(Answer, frozen=True, kw_only=True):
    """A branch, and where it stands."""

    xid: str
    branch_id: int
    status: BranchStatus


class RowsOfBranch(Answer, frozen=True, kw_only=True):
    """A branch that has the rows it asked for."""

    xid: str
    branch_id: int


class RowsGivenBack(RowsOfBranch, frozen=True, kw_only=True):
    """A branch that gave rows back."""

    unlocked: int
    """How many of the rows it had held."""


class FenceAnswer(Answer, frozen=True, kw_only=True):
    """Whether a step of TCC may run."""

    verdict: FenceVerdict
