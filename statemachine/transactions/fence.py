"""The fence that the cluster keeps for TCC branches whose resource has no database.

It orders the steps of a branch and tells a repeated step from a first one; it is not atomic with
what the step does. So a step is done at least once: who enters and dies before it says that it is
done is let in again.

    fence         xid\\0  branch id        -> its state
"""

from __future__ import annotations

import enum
from typing import Final

from statemachine import keys
from statemachine.commands.branches import PassFence
from statemachine.outcomes import Applied, FencePassed, Outcome, Rejected, RejectionCode
from statemachine.transactions.desk import Desk
from statemachine.transactions.locking import branch_not_found
from statemachine.transactions.participation import not_found
from statemachine.transactions.statuses import BranchStatus, GlobalStatus


class Step(enum.StrEnum):
    TRY = "TRY"
    CONFIRM = "CONFIRM"
    CANCEL = "CANCEL"


class Phase(enum.StrEnum):
    ENTER = "ENTER"
    """May the step run?"""
    DONE = "DONE"
    """It has run."""


class Verdict(enum.StrEnum):
    PROCEED = "PROCEED"
    """Run it; after DONE: it is noted."""
    DONE_ALREADY = "DONE_ALREADY"
    """There is nothing to do, and nothing wrong."""
    REFUSE = "REFUSE"
    """It must not run; after DONE: what it did must be undone."""


class State(enum.StrEnum):
    """Where a branch stands. The -ING ones were entered and not done yet."""

    TRYING = "TRYING"
    TRIED = "TRIED"
    CONFIRMING = "CONFIRMING"
    CONFIRMED = "CONFIRMED"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"
    SUSPENDED = "SUSPENDED"
    """Cancelled before it was tried: nothing was done, and a late Try is stopped."""


_BEGUN: Final = (State.TRYING, State.TRIED)
_KEPT: Final = (State.CONFIRMING, State.CONFIRMED)
_GIVEN_UP: Final = (State.CANCELLING, State.CANCELLED, State.SUSPENDED)

_Row = dict[tuple[State | None, Step, Phase], tuple[State, Verdict]]


def _refused(states: tuple[State, ...], *steps: tuple[Step, Phase]) -> _Row:
    return {(at, *step): (at, Verdict.REFUSE) for at in states for step in steps}


FENCE: Final[_Row] = {
    (None, Step.TRY, Phase.ENTER): (State.TRYING, Verdict.PROCEED),
    (State.TRYING, Step.TRY, Phase.ENTER): (State.TRYING, Verdict.PROCEED),
    (State.TRIED, Step.TRY, Phase.ENTER): (State.TRIED, Verdict.DONE_ALREADY),
    (State.TRYING, Step.TRY, Phase.DONE): (State.TRIED, Verdict.PROCEED),
    (State.TRIED, Step.TRY, Phase.DONE): (State.TRIED, Verdict.DONE_ALREADY),
    **_refused(_KEPT + _GIVEN_UP, (Step.TRY, Phase.ENTER), (Step.TRY, Phase.DONE)),
    **{
        (at, Step.CONFIRM, Phase.ENTER): (State.CONFIRMING, Verdict.PROCEED)
        for at in (*_BEGUN, State.CONFIRMING)
    },
    (State.CONFIRMING, Step.CONFIRM, Phase.DONE): (State.CONFIRMED, Verdict.PROCEED),
    (State.CONFIRMED, Step.CONFIRM, Phase.ENTER): (State.CONFIRMED, Verdict.DONE_ALREADY),
    (State.CONFIRMED, Step.CONFIRM, Phase.DONE): (State.CONFIRMED, Verdict.DONE_ALREADY),
    **_refused(_BEGUN, (Step.CONFIRM, Phase.DONE)),
    **_refused(_GIVEN_UP, (Step.CONFIRM, Phase.ENTER), (Step.CONFIRM, Phase.DONE)),
    (None, Step.CANCEL, Phase.ENTER): (State.SUSPENDED, Verdict.DONE_ALREADY),
    **{
        (at, Step.CANCEL, Phase.ENTER): (State.CANCELLING, Verdict.PROCEED)
        for at in (*_BEGUN, State.CANCELLING)
    },
    (State.CANCELLING, Step.CANCEL, Phase.DONE): (State.CANCELLED, Verdict.PROCEED),
    **{
        (at, Step.CANCEL, phase): (at, Verdict.DONE_ALREADY)
        for at in (State.CANCELLED, State.SUSPENDED)
        for phase in Phase
    },
    **_refused(_BEGUN, (Step.CANCEL, Phase.DONE)),
    **_refused(_KEPT, (Step.CANCEL, Phase.ENTER), (Step.CANCEL, Phase.DONE)),
}
"""From a state, by a step's phase, to a state and what the caller is told.

What is absent needs a Try first: confirm it, or say that something is done that was never entered.
"""

_UNKNOWN: Final = Rejected(
    RejectionCode.INVALID_COMMAND,
    "step is none of TRY, CONFIRM and CANCEL, or phase is neither ENTER nor DONE.",
)


def pass_fence(desk: Desk, command: PassFence) -> Outcome:
    """Say whether a step may run, or take note that it has."""
    if command.step not in tuple(Step) or command.phase not in tuple(Phase):
        return _UNKNOWN
    step, phase = Step(command.step), Phase(command.phase)
    transaction = desk.find(command.xid)
    if transaction is None:
        return not_found(desk, command.xid)
    branch = transaction.branch(command.branch_id)
    if branch is None:
        return branch_not_found(command.xid, command.branch_id)
    key = keys.FENCE + keys.terminated(command.xid) + keys.pack_number(command.branch_id)
    row = desk.writes.get(key)
    state = None if row is None else State(row.decode())
    late = transaction.row.status is not GlobalStatus.BEGIN or (
        branch.status is BranchStatus.WITHDRAWN
    )
    if state is None and late and step is Step.TRY:
        return Applied(FencePassed(verdict=Verdict.REFUSE))
    passed = FENCE.get((state, step, phase))
    if passed is None:
        return _not_tried(command)
    then, verdict = passed
    if then is not state:
        desk.writes.put(key, then.value.encode())
    return Applied(FencePassed(verdict=verdict))


def _not_tried(command: PassFence) -> Rejected:
    return Rejected(
        RejectionCode.BRANCH_NOT_TRIED,
        f"Branch {command.branch_id} has not entered its Try, so there is nothing to "
        f"{'confirm' if command.step == Step.CONFIRM else 'be done with'}. Try again later.",
        retryable=True,
    )
