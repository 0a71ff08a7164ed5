"""A resource that does nothing but remember what it was asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from tidelock.rm.resource import (
    BranchCall,
    BranchStatus,
    Mode,
    PhaseTwoResult,
    PhaseTwoStatus,
)

WITHIN_S = 20.0


async def until(holds: Callable[[], object], what: str = "") -> None:
    """Return once `holds()`; fail when it does not in time."""
    ends_at = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < ends_at, f"not in time: {what}"
        await asyncio.sleep(0.005)


class Recording:
    """Agrees to everything, unless `commit_with` says otherwise."""

    def __init__(self, resource_id: str = "db", mode: Mode = "AT") -> None:
        self.resource_id = resource_id
        self.mode: Mode = mode
        self.calls: list[tuple[str, BranchCall]] = []
        self.commit_with: Callable[[BranchCall], PhaseTwoResult] | None = None
        self.waits = False
        """While it is set, commits do not return. From any thread."""

    @property
    def asked(self) -> list[str]:
        """What it was asked for, in order."""
        return [what for what, _ in self.calls]

    async def commit(self, call: BranchCall) -> PhaseTwoResult:
        self.calls.append(("commit", call))
        while self.waits:
            await asyncio.sleep(0.005)
        if self.commit_with is not None:
            return self.commit_with(call)
        return PhaseTwoResult(status=PhaseTwoStatus.COMMITTED)

    async def rollback(self, call: BranchCall) -> PhaseTwoResult:
        self.calls.append(("rollback", call))
        return PhaseTwoResult(status=PhaseTwoStatus.ROLLED_BACK)

    async def status(self, call: BranchCall) -> BranchStatus:
        self.calls.append(("status", call))
        return BranchStatus.UNKNOWN

    async def clean(self, ended: Sequence[BranchCall]) -> None:
        self.calls += [("clean", call) for call in ended]


class SessionRecording(Recording):
    """One whose branches end with the session."""

    def __init__(self, resource_id: str = "db", mode: Mode = "LCN") -> None:
        super().__init__(resource_id, mode)
        self.lost: list[int] = []
        self.rolls_back_slowly = False

    async def session_lost(self, session_id: int) -> None:
        while self.rolls_back_slowly:
            await asyncio.sleep(0.005)
        self.lost.append(session_id)
