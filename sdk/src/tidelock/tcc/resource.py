"""Confirm and Cancel by the coordinator's word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tidelock.rm.resource import BranchCall, BranchStatus, Mode, PhaseTwoResult
from tidelock.tcc.fence import Fence, Work


class TccResource:
    """Phase two of the branches of one action. Implements `tidelock.rm.resource.Resource`."""

    mode: Final[Mode] = "TCC"

    def __init__(
        self, resource_id: str, origin: str, fence: Fence, confirm: Work, cancel: Work
    ) -> None:
        self._resource_id = resource_id
        self.origin: Final = origin
        """Where its Try is written."""
        self._fence = fence
        self._confirm = confirm
        self._cancel = cancel

    @property
    def resource_id(self) -> str:
        """The application and the name of the action, unless it was given."""
        return self._resource_id

    async def commit(self, call: BranchCall) -> PhaseTwoResult:
        """Confirm."""
        return await self._fence.confirm(call, self._confirm)

    async def rollback(self, call: BranchCall) -> PhaseTwoResult:
        """Cancel."""
        return await self._fence.cancel(call, self._cancel)

    async def status(self, call: BranchCall) -> BranchStatus:
        """Tell from the fence."""
        return await self._fence.status(call)

    async def clean(self, ended: Sequence[BranchCall]) -> None:
        """Forget finished branches."""
        await self._fence.forget(ended)

    async def sweep(self) -> None:
        """Forget all that are finished, whoever left them."""
        await self._fence.sweep()
