"""The fence where the resource has no database: the coordinator keeps it.

It orders the steps and tells a repeated one from a first one, but not together with what they do:
who dies in between is let in again, so each step is done *at least* once, and a Cancel may come
while, or after, its step was done in part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidelock.application import Application
from tidelock.calls import Calls
from tidelock.client.branches import FencePhase, FenceStep
from tidelock.crash_points import reached
from tidelock.errors import (
    BranchNotFoundError,
    BranchNotTriedError,
    ProblemError,
    TransactionNotFoundError,
)
from tidelock.fence.context import ActionContext, decoded
from tidelock.fence.errors import StepRefusedError
from tidelock.fence.fence import (
    CANNOT_CANCEL,
    CANNOT_CONFIRM,
    COMMITTED,
    NOT_TRIED,
    ROLLED_BACK,
    Work,
)
from tidelock.rm.resource import BranchCall, BranchStatus, PhaseTwoResult
from tidelock.transaction.shielding import Protect


class CoordinatorFence:
    """The fence of one action. Implements `tidelock.fence.fence.Fence`."""

    def __init__(
        self,
        application: Application,
        name: str,
        calls: Calls,
        refusal: type[StepRefusedError],
    ) -> None:
        """`calls` are for the steps; phase two is done on the application's own loop."""
        self._application = application
        self._name = name
        self._calls = calls
        self._refusal_type = refusal

    async def run_step(
        self, context: ActionContext, work: Work, cancel: Work, protect: Protect
    ) -> Any:
        """Ask, run the step, and say that it is done."""
        try:
            verdict = await self._pass(self._calls, context, "TRY", "ENTER")
        except (TransactionNotFoundError, BranchNotFoundError) as gone:
            raise self._refusal(context) from gone
        if verdict != "PROCEED":
            raise self._refusal(context)
        value = await work(context)
        reached("fence.before-fence-done")
        if not await protect(self._is_tried(context)):
            await protect(_run(cancel, context))
            raise self._refusal(context)
        reached("fence.after-fence-done")
        return value

    async def _is_tried(self, context: ActionContext) -> bool:
        """Say that it is done; return whether it may stay done."""
        try:
            return await self._pass(self._calls, context, "TRY", "DONE") != "REFUSE"
        except (TransactionNotFoundError, BranchNotFoundError):
            return False

    async def take_back(
        self, context: ActionContext, cancel: Work, refused: ProblemError, protect: Protect
    ) -> None:
        """Cancel at once when the transaction has ended; else the coordinator will ask for it."""
        standing = refused.transaction
        if standing is None or standing.ended_at is not None:
            await protect(_run(cancel, context))

    async def confirm(self, call: BranchCall, work: Work) -> PhaseTwoResult:
        """Ask, run the Confirm, and say that it is done."""
        try:
            return await self._do(call, "CONFIRM", work, COMMITTED, CANNOT_CONFIRM)
        except BranchNotTriedError:
            return NOT_TRIED

    async def cancel(self, call: BranchCall, work: Work) -> PhaseTwoResult:
        """Ask, run the Cancel, and say that it is done."""
        return await self._do(call, "CANCEL", work, ROLLED_BACK, CANNOT_CANCEL)

    async def _do(
        self,
        call: BranchCall,
        step: FenceStep,
        work: Work,
        done: PhaseTwoResult,
        refused: PhaseTwoResult,
    ) -> PhaseTwoResult:
        context = ActionContext(
            xid=call.xid,
            branch_id=call.branch_id,
            name=self._name,
            data=decoded(call.application_data),
        )
        calls = self._application.awaiting
        verdict = await self._pass(calls, context, step, "ENTER")
        if verdict == "PROCEED":
            await work(context)
            reached("fence.before-fence-done")
            verdict = await self._pass(calls, context, step, "DONE")
            reached("fence.after-fence-done")
        return refused if verdict == "REFUSE" else done

    async def _pass(
        self, calls: Calls, context: ActionContext, step: FenceStep, phase: FencePhase
    ) -> str:
        if phase == "ENTER":
            reached("fence.before-fence-enter")
        verdict = await calls(
            lambda client: client.branches.fence(context.xid, context.branch_id, step, phase)
        )
        if phase == "ENTER":
            reached("fence.after-fence-enter")
        return verdict

    def _refusal(self, context: ActionContext) -> StepRefusedError:
        return self._refusal_type(
            f"{self._name} was called too late: its transaction {context.xid} was rolled back"
        )

    async def status(self, call: BranchCall) -> BranchStatus:
        """Nobody but the coordinator knows."""
        return BranchStatus.UNKNOWN

    async def forget(self, ended: Sequence[BranchCall], cancel: Work) -> None:
        """The coordinator forgets by itself."""

    async def sweep(self, cancel: Work) -> None:
        """Nothing is kept here."""


async def _run(work: Work, context: ActionContext) -> None:
    await work(context)
