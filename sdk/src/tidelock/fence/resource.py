"""Phase two by the coordinator's word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tidelock.fence.fence import COMMITTED, Fence, Work
from tidelock.fence.source import FencedDataSource
from tidelock.rm.resource import BranchCall, BranchStatus, Mode, PhaseTwoResult


class FencedResource:
    """Phase two of the branches of one action. Implements `tidelock.rm.resource.Resource`."""

    def __init__(
        self,
        mode: Mode,
        resource_id: str,
        origin: str,
        fence: Fence,
        confirm: Work | None,
        cancel: Work,
        source: FencedDataSource | None = None,
    ) -> None:
        """Without a `confirm` nothing is left to do when the transaction commits."""
        self._mode: Final[Mode] = mode
        self._resource_id = resource_id
        self.origin: Final = origin
        """Where its step is written."""
        self.source: Final = source
        """The database in which it works, if it has one."""
        self._fence = fence
        self._confirm = confirm
        self._cancel = cancel

    @property
    def resource_id(self) -> str:
        """The application and the name of the action, unless it was given."""
        return self._resource_id

    @property
    def mode(self) -> Mode:
        """TCC or SAGA."""
        return self._mode

    async def commit(self, call: BranchCall) -> PhaseTwoResult:
        """Confirm."""
        if self._confirm is None:
            return COMMITTED
        return await self._fence.confirm(call, self._confirm)

    async def rollback(self, call: BranchCall) -> PhaseTwoResult:
        """Cancel, or compensate."""
        return await self._fence.cancel(call, self._cancel)

    async def status(self, call: BranchCall) -> BranchStatus:
        """Tell from the fence."""
        return await self._fence.status(call)

    async def clean(self, ended: Sequence[BranchCall]) -> None:
        """Forget finished branches."""
        await self._fence.forget(ended, self._cancel)

    async def sweep(self) -> None:
        """Forget all that are finished, whoever left them."""
        await self._fence.sweep(self._cancel)
