"""A process that takes part in one transaction over a file of SQLite, and dies where a test says.

As a program: `python -m tests.integration.services.dying_manager NODE FILE MODE`. It says `ready
SESSION XID` once its first phase is done, decides when it is told to on standard input, says
`cleaned` once the coordinator had it forget the branch, and ends when it is told to again.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Sequence

from tidelock import Application
from tidelock.client import Client
from tidelock.rm.resource import (
    BranchCall,
    BranchStatus,
    Mode,
    PhaseTwoResult,
    PhaseTwoStatus,
)
from tidelock.rm.workers import in_worker


class Ledger:
    """The first phase notes a transaction as begun; the second says how it ended, once."""

    def __init__(self, path: str, mode: Mode) -> None:
        self.resource_id = "ledger"
        self.mode: Mode = mode
        self._path = path
        self.cleaned: set[str] = set()
        self.lost: list[int] = []
        self._do("CREATE TABLE IF NOT EXISTS entries (xid TEXT PRIMARY KEY, state TEXT)")
        self._do("CREATE TABLE IF NOT EXISTS guards (xid TEXT PRIMARY KEY)")

    def _do(self, *statements: str, xid: str = "") -> list[tuple[str, ...]]:
        connection = sqlite3.connect(self._path, timeout=20)
        try:
            with connection:
                for statement in statements:
                    rows = connection.execute(statement, {"xid": xid}).fetchall()
            return rows
        finally:
            connection.close()

    def begin(self, xid: str) -> None:
        self._do("INSERT INTO entries VALUES (:xid, 'begun')", xid=xid)

    def states(self) -> dict[str, str]:
        return dict(self._do("SELECT xid, state FROM entries"))  # type: ignore[arg-type]

    def guards(self) -> list[str]:
        return [xid for (xid,) in self._do("SELECT xid FROM guards")]

    async def commit(self, call: BranchCall) -> PhaseTwoResult:
        await self._end(call.xid, "committed")
        return PhaseTwoResult(status=PhaseTwoStatus.COMMITTED)

    async def rollback(self, call: BranchCall) -> PhaseTwoResult:
        await self._end(call.xid, "rolled back")
        return PhaseTwoResult(status=PhaseTwoStatus.ROLLED_BACK)

    async def _end(self, xid: str, state: str) -> None:
        statements = (
            "INSERT OR IGNORE INTO guards VALUES (:xid)",
            f"UPDATE entries SET state = '{state}' WHERE xid = :xid AND state = 'begun'",
        )
        await in_worker(lambda: self._do(*statements, xid=xid))

    async def status(self, call: BranchCall) -> BranchStatus:
        return BranchStatus.UNKNOWN

    async def clean(self, ended: Sequence[BranchCall]) -> None:
        await in_worker(lambda: self._forget([call.xid for call in ended]))
        self.cleaned.update(call.xid for call in ended)

    def _forget(self, xids: list[str]) -> None:
        for xid in xids:
            self._do("DELETE FROM guards WHERE xid = :xid", xid=xid)

    async def session_lost(self, session_id: int) -> None:
        self.lost.append(session_id)


async def _take_part(application: Application, ledger: Ledger) -> None:
    session_id = await application.session_id(application.awaiting, timeout_ms=20_000)

    async def begin(client: Client) -> str:
        xid = (await client.transactions.begin(timeout_ms=60_000)).xid
        branch = await client.branches.register(
            xid, ledger.mode, "ledger", session_id=session_id, application_id="orders"
        )
        ledger.begin(xid)
        await client.branches.report(xid, branch.branch_id, "PHASE_ONE_DONE")
        return xid

    xid = await application.awaiting(begin)
    print("ready", session_id, xid, flush=True)
    if not await asyncio.to_thread(sys.stdin.readline):
        return
    await application.awaiting(lambda client: client.transactions.commit(xid, wait_ms=0))
    while xid not in ledger.cleaned:
        await asyncio.sleep(0.005)
    print("cleaned", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


async def main(node: str, path: str, mode: str) -> None:
    ledger = Ledger(path, "LCN" if mode == "LCN" else "AT")
    application = Application([node], application_id="orders", host="h1", discover=False)
    async with application:
        application.attach(ledger)
        await _take_part(application, ledger)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
