"""A branch of which nobody is told, as tests of blocks register it."""

from __future__ import annotations

from typing import Any

from tidelock.testing import Coordinator


def branch(coordinator: Coordinator, xid: str, status: str = "PHASE_ONE_DONE") -> int:
    """Register a branch of which nobody is told, and report how it went."""

    async def work(client: Any) -> int:
        registered = await client.branches.register(
            xid, "TCC", "stock", commit_url="", rollback_url=""
        )
        if status:
            await client.branches.report(xid, registered.branch_id, status)
        return int(registered.branch_id)

    return coordinator.client.run(work)
