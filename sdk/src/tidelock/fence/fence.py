"""What keeps a step from being done twice, late, or undone before it was done.

It is a Try of TCC with its Confirm and Cancel, or a step of a saga, whose Cancel is its
compensation, and which is never confirmed.

| step | no row | tried | confirmed | cancelled, suspended |
|---|---|---|---|---|
| try | insert *tried*, run | refuse | refuse | refuse |
| confirm | not now | *confirmed*, run | done already | refuse |
| cancel | insert *suspended* | *cancelled*, run | refuse | done already |
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from tidelock.errors import ProblemError
from tidelock.fence.context import ActionContext
from tidelock.rm.resource import BranchCall, BranchStatus, PhaseTwoResult, PhaseTwoStatus
from tidelock.transaction.shielding import Protect

Work = Callable[[ActionContext], Awaitable[Any]]
"""A step, a Confirm or a Cancel."""


class Fence(Protocol):
    """Lets what the branches of one action do pass."""

    async def run_step(
        self, context: ActionContext, work: Work, cancel: Work, protect: Protect
    ) -> Any:
        """Run a step, in the caller's thread or task; return what it returns.

        `cancel` is for one that turns out to be too late when it is done already.

        `protect` runs what is to come to its end when the caller is cancelled.

        Raises:
            StepRefusedError: the branch was cancelled before.
            FenceError, and whatever the step and the driver raise.
        """
        ...

    async def take_back(
        self, context: ActionContext, cancel: Work, refused: ProblemError, protect: Protect
    ) -> None:
        """Undo a step that was done, and that the coordinator does not want any more."""
        ...

    async def confirm(self, call: BranchCall, work: Work) -> PhaseTwoResult:
        """Run a Confirm unless it was run before."""
        ...

    async def cancel(self, call: BranchCall, work: Work) -> PhaseTwoResult:
        """Run a Cancel unless it was run before, or there is nothing to cancel."""
        ...

    async def status(self, call: BranchCall) -> BranchStatus:
        """Tell what became of a branch."""
        ...

    async def sweep(self, cancel: Work) -> None:
        """Delete what is kept of all branches whose transaction is finished.

        `cancel` is for those that came too late, and that nobody took back.
        """
        ...

    async def forget(self, ended: Sequence[BranchCall], cancel: Work) -> None:
        """Delete what is kept of branches whose transaction is finished; `cancel` as there."""
        ...


COMMITTED: Final = PhaseTwoResult(status=PhaseTwoStatus.COMMITTED)
ROLLED_BACK: Final = PhaseTwoResult(status=PhaseTwoStatus.ROLLED_BACK)
NOT_TRIED: Final = PhaseTwoResult(
    status=PhaseTwoStatus.COMMIT_FAILED_RETRYABLE,
    detail="the fence knows of no step that could be confirmed",
)
NO_TRY_FOUND: Final = PhaseTwoResult(
    status=PhaseTwoStatus.ROLLBACK_FAILED_UNRETRYABLE,
    detail="the Try said that it was done, and the fence knows of none that could be cancelled",
)
CANNOT_CONFIRM: Final = PhaseTwoResult(
    status=PhaseTwoStatus.COMMIT_FAILED_UNRETRYABLE,
    detail="the fence says that this branch was cancelled",
)
CANNOT_CANCEL: Final = PhaseTwoResult(
    status=PhaseTwoStatus.ROLLBACK_FAILED_UNRETRYABLE,
    detail="the fence says that this branch was confirmed",
)
