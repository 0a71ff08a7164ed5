"""What may become of a global transaction and of a branch: two tables, and nothing beside them.

What is absent is illegal. The diagrams in docs/TRANSACTIONS.md are drawn from these tables.
"""

from __future__ import annotations

import enum
from typing import Final

from statemachine.transactions.statuses import BranchStatus as B
from statemachine.transactions.statuses import GlobalStatus as G


class GlobalInput(enum.StrEnum):
    """What happens to a global transaction."""

    COMMIT = "commit"
    """The decision to commit; some branch has to be told and may see or refuse it."""
    COMMIT_ASYNC = "commit async"
    """The decision to commit when all that is left to do is cleaning up."""
    ROLL_BACK = "roll back"
    """The decision to roll back."""
    TIME_OUT = "time out"
    """The decision to roll back because nobody decided in time."""
    ALL_ENDED = "all ended"
    """Every branch has done what was decided."""
    RETRY = "retry"
    """A branch could not be told, or could not do it, and will be asked again."""
    GIVE_UP = "give up"
    """The limit of retries is reached."""
    FAIL = "fail"
    """A branch will never do it, and no other is left to be told."""
    RESUME = "resume"
    """An operator asks for another try."""
    FORCE_COMMIT = "force commit"
    """An operator has seen to it that the commit is done."""
    FORCE_ROLLBACK = "force rollback"
    """An operator has seen to it that the rollback is done."""
    FORGET = "forget"
    """An operator accepts what is left undone."""
    STOP = "stop"
    """Somebody wants no more of it to be done, wherever it stands."""


class BranchInput(enum.StrEnum):
    """What happens to a branch."""

    DONE = "done"
    """Its work of phase one is done and can be committed or rolled back."""
    FAILED = "failed"
    READ_ONLY = "read only"
    WITHDRAW = "withdraw"
    COMMITTED = "committed"
    COMMIT_RETRY = "commit, retry"
    COMMIT_NOTA = "commit, not found"
    COMMIT_REFUSED = "commit refused"
    ROLLED_BACK = "rolled back"
    ROLLBACK_RETRY = "rollback, retry"
    ROLLBACK_NOTA = "rollback, not found"
    ROLLBACK_REFUSED = "rollback refused"


def _driven(
    decided: G, retrying: G, *, done: G, failed: G, given_up: G, forced: GlobalInput
) -> dict[tuple[G, GlobalInput], G]:
    """What becomes of a decision while its branches are being told.

    An operator ends what would be retried for ever.
    """
    rows: dict[tuple[G, GlobalInput], G] = {}
    for status in (decided, retrying):
        rows[status, GlobalInput.ALL_ENDED] = done
        rows[status, GlobalInput.RETRY] = retrying
        rows[status, GlobalInput.FAIL] = failed
        rows[status, GlobalInput.GIVE_UP] = given_up
    rows[retrying, forced] = done
    rows[retrying, GlobalInput.FORGET] = G.FINISHED
    return rows


def _stuck(
    status: G, *, resumed: G, forced: GlobalInput, done: G
) -> dict[tuple[G, GlobalInput], G]:
    """What an operator can do about a decision that was not carried out everywhere."""
    return {
        (status, GlobalInput.RESUME): resumed,
        (status, forced): done,
        (status, GlobalInput.FORGET): G.FINISHED,
    }


GLOBAL_TRANSITIONS: Final[dict[tuple[G, GlobalInput], G]] = {
    (G.BEGIN, GlobalInput.COMMIT): G.COMMITTING,
    (G.BEGIN, GlobalInput.COMMIT_ASYNC): G.ASYNC_COMMITTING,
    (G.BEGIN, GlobalInput.ROLL_BACK): G.ROLLING_BACK,
    (G.BEGIN, GlobalInput.TIME_OUT): G.TIMEOUT_ROLLING_BACK,
    **_driven(
        G.COMMITTING,
        G.COMMIT_RETRYING,
        done=G.COMMITTED,
        failed=G.COMMIT_FAILED,
        given_up=G.COMMIT_RETRY_TIMEOUT,
        forced=GlobalInput.FORCE_COMMIT,
    ),
    **_driven(
        G.ASYNC_COMMITTING,
        G.ASYNC_COMMITTING,
        done=G.COMMITTED,
        failed=G.COMMIT_FAILED,
        given_up=G.COMMIT_RETRY_TIMEOUT,
        forced=GlobalInput.FORCE_COMMIT,
    ),
    **_driven(
        G.ROLLING_BACK,
        G.ROLLBACK_RETRYING,
        done=G.ROLLED_BACK,
        failed=G.ROLLBACK_FAILED,
        given_up=G.ROLLBACK_RETRY_TIMEOUT,
        forced=GlobalInput.FORCE_ROLLBACK,
    ),
    **_driven(
        G.TIMEOUT_ROLLING_BACK,
        G.TIMEOUT_ROLLBACK_RETRYING,
        done=G.TIMEOUT_ROLLED_BACK,
        failed=G.TIMEOUT_ROLLBACK_FAILED,
        given_up=G.ROLLBACK_RETRY_TIMEOUT,
        forced=GlobalInput.FORCE_ROLLBACK,
    ),
    **_stuck(
        G.COMMIT_FAILED,
        resumed=G.COMMIT_RETRYING,
        forced=GlobalInput.FORCE_COMMIT,
        done=G.COMMITTED,
    ),
    **_stuck(
        G.COMMIT_RETRY_TIMEOUT,
        resumed=G.COMMIT_RETRYING,
        forced=GlobalInput.FORCE_COMMIT,
        done=G.COMMITTED,
    ),
    **_stuck(
        G.ROLLBACK_FAILED,
        resumed=G.ROLLBACK_RETRYING,
        forced=GlobalInput.FORCE_ROLLBACK,
        done=G.ROLLED_BACK,
    ),
    **_stuck(
        G.ROLLBACK_RETRY_TIMEOUT,
        resumed=G.ROLLBACK_RETRYING,
        forced=GlobalInput.FORCE_ROLLBACK,
        done=G.ROLLED_BACK,
    ),
    **_stuck(
        G.TIMEOUT_ROLLBACK_FAILED,
        resumed=G.TIMEOUT_ROLLBACK_RETRYING,
        forced=GlobalInput.FORCE_ROLLBACK,
        done=G.TIMEOUT_ROLLED_BACK,
    ),
}

GLOBAL_TRANSITIONS.update(
    {
        (status, GlobalInput.STOP): G.FINISHED
        for status in G
        if status not in (G.COMMITTED, G.ROLLED_BACK, G.TIMEOUT_ROLLED_BACK, G.FINISHED)
    }
)

_COMMIT_RETRYABLE: Final = (
    B.PHASE_TWO_COMMIT_FAILED_RETRYABLE,
    B.PHASE_TWO_COMMIT_NOTA_RETRYABLE,
)
_ROLLBACK_RETRYABLE: Final = (
    B.PHASE_TWO_ROLLBACK_FAILED_RETRYABLE,
    B.PHASE_TWO_ROLLBACK_NOTA_RETRYABLE,
)


def _told_to_commit(status: B) -> dict[tuple[B, BranchInput], B]:
    return {
        (status, BranchInput.COMMITTED): B.PHASE_TWO_COMMITTED,
        (status, BranchInput.COMMIT_RETRY): B.PHASE_TWO_COMMIT_FAILED_RETRYABLE,
        (status, BranchInput.COMMIT_NOTA): B.PHASE_TWO_COMMIT_NOTA_RETRYABLE,
        (status, BranchInput.COMMIT_REFUSED): B.PHASE_TWO_COMMIT_FAILED_UNRETRYABLE,
    }


def _told_to_roll_back(status: B) -> dict[tuple[B, BranchInput], B]:
    return {
        (status, BranchInput.ROLLED_BACK): B.PHASE_TWO_ROLLED_BACK,
        (status, BranchInput.ROLLBACK_RETRY): B.PHASE_TWO_ROLLBACK_FAILED_RETRYABLE,
        (status, BranchInput.ROLLBACK_NOTA): B.PHASE_TWO_ROLLBACK_NOTA_RETRYABLE,
        (status, BranchInput.ROLLBACK_REFUSED): B.PHASE_TWO_ROLLBACK_FAILED_UNRETRYABLE,
    }


BRANCH_TRANSITIONS: Final[dict[tuple[B, BranchInput], B]] = {
    (B.REGISTERED, BranchInput.DONE): B.PHASE_ONE_DONE,
    (B.REGISTERED, BranchInput.FAILED): B.PHASE_ONE_FAILED,
    (B.REGISTERED, BranchInput.READ_ONLY): B.PHASE_ONE_READ_ONLY,
    (B.REGISTERED, BranchInput.WITHDRAW): B.WITHDRAWN,
    (B.PHASE_ONE_FAILED, BranchInput.WITHDRAW): B.WITHDRAWN,
    # A branch that has not reported may be told to commit where reports are not the custom.
    **_told_to_commit(B.REGISTERED),
    **_told_to_commit(B.PHASE_ONE_DONE),
    **_told_to_commit(B.PHASE_TWO_COMMIT_FAILED_UNRETRYABLE),
    **{row: to for status in _COMMIT_RETRYABLE for row, to in _told_to_commit(status).items()},
    **_told_to_roll_back(B.REGISTERED),
    **_told_to_roll_back(B.PHASE_ONE_DONE),
    **_told_to_roll_back(B.PHASE_ONE_FAILED),
    **_told_to_roll_back(B.PHASE_TWO_ROLLBACK_FAILED_UNRETRYABLE),
    **{row: to for status in _ROLLBACK_RETRYABLE for row, to in _told_to_roll_back(status).items()},
}


def after(status: G, happens: GlobalInput) -> G | None:
    """Return the status that follows, or None when this cannot happen there."""
    return GLOBAL_TRANSITIONS.get((status, happens))


def branch_after(status: B, happens: BranchInput) -> B | None:
    """Return the status that follows, or None when this cannot happen there."""
    return BRANCH_TRANSITIONS.get((status, happens))
