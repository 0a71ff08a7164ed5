"""An application that uses transactions over HTTP, and a driver that calls nobody."""

from __future__ import annotations

import re
from typing import Any

from statemachine.commands import ReportCalls, ReportedCall
from statemachine.transactions.planning import Call, next_calls
from statemachine.transactions.rows import get_branches, get_global
from tests.integration.serving import TRANSACTIONS, Answered, Api

INSTANT = {"commit": "", "rollback": ""}
"""Callbacks that count as done at once."""


class Application:
    """The words of transaction and resource managers."""

    def __init__(self, api: Api) -> None:
        self.api = api

    async def begin(self, **body: object) -> str:
        answered = await self.api.post(TRANSACTIONS, body)
        assert answered.status == 201, answered.body
        return str(answered.body["xid"])

    async def register(
        self,
        xid: str,
        *rows: object,
        mode: str = "AT",
        callbacks: dict[str, str] | None = None,
        **more: object,
    ) -> Answered:
        body = {"mode": mode, "resourceId": "db", **more}
        if rows:
            body["lockKeys"] = {"t": [[row] for row in rows]}
        if callbacks is not None:
            body["callbacks"] = callbacks
        return await self.api.post(f"{TRANSACTIONS}/{xid}/branches", body)

    async def branch(
        self, xid: str, *rows: object, mode: str = "AT", done: bool = True, **more: Any
    ) -> int:
        answered = await self.register(xid, *rows, mode=mode, callbacks=INSTANT, **more)
        assert answered.status == 201, answered.body
        branch_id = int(answered.body["branchId"])
        if done:
            assert (await self.report(xid, branch_id)).status == 200
        return branch_id

    async def report(
        self, xid: str, branch_id: int, status: str = "PHASE_ONE_DONE", **more: object
    ) -> Answered:
        path = f"{TRANSACTIONS}/{xid}/branches/{branch_id}/report"
        return await self.api.post(path, {"status": status, **more})

    async def commit(self, xid: str, **body: object) -> Answered:
        return await self.api.post(f"{TRANSACTIONS}/{xid}/commit", body)

    async def roll_back(self, xid: str, **body: object) -> Answered:
        return await self.api.post(f"{TRANSACTIONS}/{xid}/rollback", body)

    async def operate(self, xid: str, action: str, reason: str = "asked to") -> Answered:
        path = f"{TRANSACTIONS}/{xid}/operations"
        return await self.api.post(path, {"action": action, "reason": reason})

    async def show(self, xid: str) -> Any:
        answered = await self.api.get(f"{TRANSACTIONS}/{xid}")
        assert answered.status == 200, answered.body
        return answered.body

    def calls(self, xid: str) -> list[Call]:
        """Return what the driver would call."""
        row = get_global(self.api.cluster.store, xid)
        assert row is not None
        return next_calls(row, get_branches(self.api.cluster.store, xid))

    async def told(
        self, xid: str, verdict: str = "DONE", *, result: bytes = b"", name: str | None = None
    ) -> None:
        """Let a driver report what each call, or that of one step, came to."""
        reported = [
            ReportedCall(
                xid=xid,
                branch_id=call.branch.branch_id,
                operation=call.operation,
                verdict=verdict,
                result=result,
                failure_type="" if verdict == "DONE" else "HTTP_409",
                failure_message="" if verdict == "DONE" else "no stock",
                jitter_permille=0,
                attempts=call.branch.attempts,
            )
            for call in self.calls(xid)
            if name in (None, call.branch.name)
        ]
        assert reported
        cluster = self.api.cluster
        command = ReportCalls(epoch=cluster.term, calls=tuple(reported))
        await cluster.propose((command,), timeout_ms=1_000)


MADE_XID = re.compile(r"127\.0\.0\.1:\d+:\d+")
