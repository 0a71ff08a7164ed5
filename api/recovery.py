"""Recovery: what new leaders found unfinished, and what was done about it.

A leader that takes over goes on at once with every transaction that is under way: forward, to the
commit or to the rollback that was decided, never to another decision.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from api import requests
from api.endpoints import CONSISTENCY, PAGE, READ_ERRORS, Endpoint, Parameter
from api.replies import Reply
from api.service import Service
from api.shapes import Answer, Page
from api.xids import Xid, query_xid
from statemachine.store import Reader
from statemachine.transactions.recovery import Found, list_recoveries
from statemachine.transactions.rows import Happening, get_global, get_timeline

GREATEST_ACTIONS: Final = 100
"""Of a record; the transaction's timeline has all of them."""


class FoundBranch(Answer, frozen=True, kw_only=True):
    """A branch as it was found."""

    branch_id: int
    status: str


class FoundTransaction(Answer, frozen=True, kw_only=True):
    """A transaction as it was found."""

    status: str
    branches: list[FoundBranch]


class RecoveryAction(Answer, frozen=True, kw_only=True):
    """What happened since: a line of the transaction's timeline."""

    index: int
    """The log entry."""
    event: str
    branch_id: int | None
    """null: of the transaction itself."""
    detail: str


class RecoveryRecord(Answer, frozen=True, kw_only=True):
    """One transaction that a leader found unfinished when it took over."""

    term: int
    """The leader's."""
    at: int
    """Milliseconds since the epoch."""
    index: int
    """The log entry that recorded it."""
    xid: str
    found: FoundTransaction
    decision: str
    """CONTINUE_FORWARD, CONTINUE_COMMIT or CONTINUE_ROLLBACK."""
    actions: list[RecoveryAction]
    finished_at: int | None
    """When the transaction ended, milliseconds since the epoch; null while it is under way."""


class Recoveries:
    """The handler of /api/v1/recovery."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def list(self, request: web.Request) -> Reply:
        limit, cursor = requests.page(request)
        xid = query_xid(request)
        view = await self._service.view(request)
        found, next_cursor = list_recoveries(view.reader, xid=xid, cursor=cursor, limit=limit)
        items = [_record(view.reader, each) for each in found]
        page = Page(items=items, next_cursor=next_cursor)
        return self._service.replies.success(200, page, view.position)


def _record(reader: Reader, found: Found) -> RecoveryRecord:
    recovery = found.recovery
    row = get_global(reader, found.xid)
    lines = get_timeline(reader, found.xid)
    since = lines[recovery.happenings : recovery.happenings + GREATEST_ACTIONS]
    return RecoveryRecord(
        term=recovery.term,
        at=recovery.at_ms,
        index=found.position.entry,
        xid=found.xid,
        found=FoundTransaction(
            status=recovery.status,
            branches=[
                FoundBranch(branch_id=branch_id, status=status)
                for branch_id, status in recovery.branches
            ],
        ),
        decision=recovery.decision,
        actions=[_action(line) for line in since if line.event != "RECOVERED"],
        finished_at=None if row is None or not row.ended_ms else row.ended_ms,
    )


def _action(line: Happening) -> RecoveryAction:
    return RecoveryAction(
        index=line.index.entry,
        event=line.event,
        branch_id=line.branch_id or None,
        detail=line.detail,
    )


def endpoints(service: Service) -> list[Endpoint]:
    recoveries = Recoveries(service)
    return [
        Endpoint(
            method="GET",
            path="/api/v1/recovery",
            operation="listRecoveries",
            summary="What new leaders found unfinished, the newest first",
            tag="recovery",
            handler=recoveries.list,
            answer=Page[RecoveryRecord],
            parameters=(
                Parameter(name="xid", type=Xid, description="Only of this transaction."),
                *PAGE,
                CONSISTENCY,
            ),
            errors=READ_ERRORS,
            timed=True,
        ),
    ]
