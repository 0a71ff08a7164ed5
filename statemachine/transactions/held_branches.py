"""What becomes of LCN branches when the channel session ends that holds them.

Before the decision the transaction rolls back. After the decision to commit nobody can say that
the work was committed: the branch has failed, for an operator to see, and the transaction is never
reported as committed by itself.
"""

from __future__ import annotations

from typing import Final

from statemachine.transactions import channel_binding
from statemachine.transactions.channel_rows import bound_branches, unbind_branch
from statemachine.transactions.desk import Desk
from statemachine.transactions.planning import Operation
from statemachine.transactions.rows import Branch
from statemachine.transactions.statuses import BRANCH_ENDED, COMMIT_FAMILY, GlobalStatus
from statemachine.transactions.transaction import Transaction
from statemachine.transactions.transitions import BranchInput, GlobalInput

LOST_AT_ONCE: Final = 100
"""Branches that one command loses: apply must not stall."""


def lose(desk: Desk, session_id: int, place: int) -> bool:
    """Do what follows from the end of a session; True when there is more of it."""
    bound = bound_branches(desk.writes, session_id, LOST_AT_ONCE + 1)
    for xid, branch_id in bound[:LOST_AT_ONCE]:
        unbind_branch(desk.writes, session_id, xid, branch_id)
        transaction = desk.find(xid)
        branch = None if transaction is None else transaction.branch(branch_id)
        if transaction is not None and branch is not None and branch.status not in BRANCH_ENDED:
            _lose(desk, transaction, branch, place)
    return len(bound) > LOST_AT_ONCE


def _lose(desk: Desk, transaction: Transaction, branch: Branch, place: int) -> None:
    if transaction.row.status is GlobalStatus.BEGIN:
        # Its connection is closed, so that its database has rolled back already.
        desk.done(transaction, branch, Operation.ROLLBACK, place)
        desk.decide(transaction, GlobalInput.ROLL_BACK, channel_binding.loss_of(branch), place)
    elif not transaction.is_driven:
        # It has failed already and an operator sees to it.
        return
    elif transaction.row.status in COMMIT_FAMILY:
        message = (
            f"channel session {branch.session_id} ended after the decision to commit, before it "
            "said that its work was committed"
        )
        failure = transaction.failure("CHANNEL_SESSION_ENDED", message)
        transaction.advance_branch(
            branch, BranchInput.COMMIT_REFUSED, place, detail=message, failure=failure
        )
        desk.advance(transaction, place)
    else:
        desk.done(transaction, branch, Operation.ROLLBACK, place)
        desk.advance(transaction, place)
