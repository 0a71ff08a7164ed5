"""What is to be done next for a global transaction: a function of its rows and of nothing else.

The driver calls what this names, apply checks with it what is reported, and a new leader goes on
with it where the old one stopped, since there is nothing else to know.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from statemachine.transactions.rows import DTM, Branch, Global
from statemachine.transactions.statuses import (
    BRANCH_ENDED,
    COMMIT_FAMILY,
    DRIVEN,
    BranchStatus,
    GlobalStatus,
    Mode,
)


class Program(enum.StrEnum):
    """Who goes on with a transaction until it is decided."""

    CLIENT = "CLIENT"
    """A transaction manager registers branches and decides."""
    SAGA = "SAGA"
    """The cluster calls each step's action; all done decides to commit, one failed to roll back."""
    TCC = "TCC"
    """The cluster calls Try of all; the same decides."""
    MESSAGE = "MESSAGE"
    """The cluster delivers, once it is submitted, until each subscriber has accepted."""
    WORKFLOW = "WORKFLOW"
    """Its client runs it and decides; the cluster calls the client until it has."""
    STATE_MACHINE = "STATE_MACHINE"
    """A saga whose steps follow from a definition, one after the other as it goes on."""


class Operation(enum.StrEnum):
    """What a branch is called for."""

    FORWARD = "FORWARD"
    COMMIT = "COMMIT"
    ROLLBACK = "ROLLBACK"
    QUERY = "QUERY"
    """Whoever prepared a message is asked what became of it; a workflow's client is to go on."""


class Call(msgspec.Struct, frozen=True):
    """A call that is to be made."""

    branch: Branch
    operation: Operation

    @property
    def url(self) -> str | None:
        """Where; empty when there is nothing to call, None over the resource manager's channel."""
        calls = self.branch.calls
        match self.operation:
            case Operation.FORWARD | Operation.QUERY:
                return calls.forward
            case Operation.COMMIT:
                return calls.commit
            case Operation.ROLLBACK:
                return calls.rollback


_ASKED_ABOUT = frozenset({Program.MESSAGE, Program.WORKFLOW})

UNRETRYABLE = frozenset(
    {
        BranchStatus.PHASE_TWO_COMMIT_FAILED_UNRETRYABLE,
        BranchStatus.PHASE_TWO_ROLLBACK_FAILED_UNRETRYABLE,
    }
)


def next_calls(row: Global, branches: Sequence[Branch]) -> list[Call]:
    """Return the calls that may be made now, whenever each is due, in order of registration.

    `branches` are all of the transaction's, in that order.
    """
    if row.status is GlobalStatus.BEGIN:
        return _forward(row, branches)
    if row.status not in DRIVEN:
        return []
    if row.status in COMMIT_FAMILY:
        return _commit(row, branches)
    return _roll_back(row, branches)


def _forward(row: Global, branches: Sequence[Branch]) -> list[Call]:
    if row.program in _ASKED_ABOUT and not row.submitted:
        asked = (
            branch
            for branch in branches
            if branch.status is BranchStatus.REGISTERED and branch.calls.forward
        )
        return [Call(branch, Operation.QUERY) for branch in asked]
    if not row.submitted or row.program == Program.CLIENT:
        return []
    done = {b.branch_id for b in branches if b.status is BranchStatus.PHASE_ONE_DONE}
    return [
        Call(branch, Operation.FORWARD)
        for branch in branches
        if branch.status is BranchStatus.REGISTERED and done.issuperset(branch.depends_on)
    ]


def _commit(row: Global, branches: Sequence[Branch]) -> list[Call]:
    calls = [
        Call(branch, Operation.COMMIT)
        for branch in branches
        if branch.status not in BRANCH_ENDED and branch.status not in UNRETRYABLE
    ]
    if not row.in_order:
        return calls
    return calls[-1:] if _in_order_of_dtm(row, Mode.TCC) else calls[:1]


def _in_order_of_dtm(row: Global, mode: Mode) -> bool:
    """DTM's TCC goes backwards both ways, its XA forwards both ways."""
    return row.protocol == DTM and row.mode == mode


def _roll_back(row: Global, branches: Sequence[Branch]) -> list[Call]:
    """Later branches first: what they did may stand on what earlier ones did.

    Steps of a saga keep only to their graph, and Try's of one transaction stand beside each other
    unless the order was asked for.
    """
    left = [branch for branch in branches if branch.status not in BRANCH_ENDED]
    if row.in_order and _in_order_of_dtm(row, Mode.XA):
        return [Call(branch, Operation.ROLLBACK) for branch in left[:1]]
    if row.program == Program.STATE_MACHINE:
        last = next((b for b in reversed(left) if b.status not in UNRETRYABLE), None)
        return [] if last is None else [Call(last, Operation.ROLLBACK)]
    calls = [
        Call(branch, Operation.ROLLBACK)
        for at, branch in enumerate(left)
        if branch.status not in UNRETRYABLE
        and not any(_stands_on(row, later, branch) for later in left[at + 1 :])
    ]
    return calls[-1:] if row.in_order else calls


def _stands_on(row: Global, later: Branch, earlier: Branch) -> bool:
    if row.program != Program.CLIENT:
        return earlier.branch_id in later.depends_on
    return not later.mode is earlier.mode is Mode.TCC


def may_have_begun(branch: Branch, branches: Sequence[Branch]) -> bool:
    """Whether a leader may have called a step that is not known to have done anything."""
    done = {
        b.branch_id
        for b in branches
        if b.status in (BranchStatus.PHASE_ONE_DONE, BranchStatus.PHASE_TWO_ROLLED_BACK)
    }
    return done.issuperset(branch.depends_on)
