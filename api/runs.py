"""Transactions that the cluster runs by itself: how they are begun, and what is shown of them."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from msgspec import UNSET, Raw, UnsetType

from api.replies import Reply
from api.service import Service, applied
from api.shapes import Answer
from api.transaction_views import BranchFailure, TransactionState, failure_of, stored_json
from api.transactions import not_found
from statemachine.commands import CancelWait, RunGlobal, StartSaga
from statemachine.outcomes import GlobalAnswered
from statemachine.store import Reader
from statemachine.transactions.planning import Program
from statemachine.transactions.rows import Branch, get_branches, get_global
from statemachine.transactions.statuses import ENDED, FAILED, BranchStatus, GlobalStatus
from statemachine.transactions.summaries import get_summary


class StepState(Answer, frozen=True, kw_only=True):
    """A step, and where it stands."""

    name: str
    branch_id: int
    status: BranchStatus
    """REGISTERED until its action is done, then PHASE_ONE_DONE; at the end PHASE_TWO_COMMITTED, or
    PHASE_TWO_ROLLED_BACK when it was compensated. WITHDRAWN: there was nothing to undo."""
    attempts: int
    """How often the present call did not succeed."""
    result: Raw | UnsetType = UNSET
    """What its action answered."""
    error: BranchFailure | UnsetType = UNSET
    """What went wrong last."""


class RunState(TransactionState, frozen=True, kw_only=True):
    """A transaction that the cluster runs, step by step."""

    steps: list[StepState]
    """In the order of their registration; none when its retention is over."""


async def run(
    service: Service,
    request: web.Request,
    body: bytes,
    command: RunGlobal | StartSaga,
    shown: Callable[[Reader, RunState], RunState] = lambda _, answer: answer,
) -> Reply:
    """Begin what the cluster runs: 200 when it is at its end, 201 while it goes on.

    `shown` may add to the answer what else the state says.
    """
    # It goes on though its client has gone: only the wait is over then.
    outcome = await service.propose_waiting(
        request,
        body,
        command,
        wait_ms=command.wait_ms,
        undo=lambda at: CancelWait(ticket=at),
    )
    done = applied(outcome)
    assert isinstance(done, GlobalAnswered)
    status = GlobalStatus(done.status)
    view = await service.own_view()
    answer = RunState(
        xid=done.xid,
        status=status,
        reason=done.reason,
        steps=[_step(branch) for branch in get_branches(view.reader, done.xid)],
    )
    code = 200 if status in ENDED | FAILED else 201
    return service.written(code, shown(view.reader, answer), outcome, outcome.position)


def state_of(reader: Reader, xid: str, *programs: Program) -> RunState:
    """Return where a transaction of one of these programs stands.

    Raises:
        Problem: there is none.
    """
    row = get_global(reader, xid)
    if row is not None and row.program in programs:
        return RunState(
            xid=xid,
            status=row.status,
            reason=row.reason,
            steps=[_step(branch) for branch in get_branches(reader, xid)],
        )
    summary = get_summary(reader, xid)
    if summary is None or summary.program not in programs:
        raise not_found(xid)
    return RunState(xid=xid, status=GlobalStatus(summary.status), reason=summary.reason, steps=[])


def _step(branch: Branch) -> StepState:
    error = failure_of(branch.failure)
    return StepState(
        name=branch.name,
        branch_id=branch.branch_id,
        status=branch.status,
        attempts=branch.attempts,
        result=stored_json(branch.result) if branch.result else UNSET,
        error=UNSET if error is None else error,
    )
