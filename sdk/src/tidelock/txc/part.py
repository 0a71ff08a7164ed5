"""What a unit has committed in one local transaction, and how it is undone when it fails."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from tidelock.at.branches import Branches
from tidelock.at.resource import AtResource
from tidelock.calls import Calls
from tidelock.crash_points import reached
from tidelock.errors import TidelockError
from tidelock.rm.resource import BranchCall, PhaseTwoStatus
from tidelock.transaction.context import Binding

_log: Final = logging.getLogger("tidelock.txc")


class TxcPart:
    """A branch that was registered and not reported. Implements `tidelock.units.unit.Part`."""

    def __init__(
        self,
        binding: Binding,
        branch_id: int,
        resource: AtResource,
        branches: Branches,
        report: Callable[[Binding, int], Awaitable[None]],
    ) -> None:
        assert binding.xid is not None
        self._binding = binding
        self._xid = binding.xid
        self._branch_id = branch_id
        self._resource = resource
        self._branches = branches
        self._report = report

    async def register(self, calls: Calls) -> None:
        """Nothing: its rows were locked for it."""

    async def report(self, calls: Calls) -> None:
        """Say that it is done."""
        await self._report(self._binding, self._branch_id)

    async def leave(self, calls: Calls) -> None:
        """Undo it from its images, and withdraw it."""
        error = await self._undone(calls)
        if error is not None:
            await self._branches.failed(self._xid, self._branch_id, error)
            return
        try:
            await self._branches.withdraw(self._xid, self._branch_id)
        except TidelockError as lost:
            # Without a report the group cannot be committed.
            _log.warning(
                "branch %d of %s is undone, and not withdrawn: %s",
                *(self._branch_id, self._xid, lost),
            )
        reached("txc.after-withdraw")

    async def spoil(self, calls: Calls, error: BaseException) -> None:
        """Undo it, and keep the group from being committed."""
        await self._undone(calls)
        await self._branches.failed(self._xid, self._branch_id, error)

    async def _undone(self, calls: Calls) -> Exception | None:
        """Undo it on a connection of its own, as phase two does. Return why it is not."""
        asked = BranchCall(
            xid=self._xid,
            branch_id=self._branch_id,
            mode="TXC",
            resource_id=self._resource.resource_id,
            phase_one_done=True,
        )
        reached("txc.before-undo")
        try:
            result = await calls(lambda _: self._resource.rollback(asked))
        except Exception as error:
            return error
        reached("txc.after-undo")
        if result.status is PhaseTwoStatus.ROLLED_BACK:
            return None
        return TidelockError(result.detail)
