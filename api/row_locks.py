"""Global row locks: who holds which rows of a resource."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from aiohttp import web

from api import json_text, requests
from api.cluster import View
from api.endpoints import BODY_ERRORS, CONSISTENCY, PAGE, READ_ERRORS, Endpoint, Parameter
from api.replies import Reply
from api.row_keys import LockKeys, LockMode, ResourceId, resource, row_locks
from api.service import Service
from api.shapes import Answer, Body, Page
from api.transaction_views import LockedRow, RowHolder, holder_of, row_of
from api.xids import Xid, query_xid
from statemachine.transactions import row_locks as locks
from statemachine.transactions.listing import list_rows

GREATEST_WAIT_MS: Final = 3_600_000

_LOOK_EVERY_S: Final = 0.01
"""How often the row that is waited for is looked at, at most, while entries are applied."""


class QueryBody(Body, frozen=True, kw_only=True):
    """Rows of which somebody wants to know whether they can be locked."""

    resource_id: ResourceId
    lock_keys: LockKeys
    lock_mode: LockMode = LockMode.EXCLUSIVE
    xid: Xid | None = None
    """Whose own locks do not count."""
    wait_ms: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=GREATEST_WAIT_MS,
            description="How long to wait until the rows can be locked; 0 is not to wait. Nothing "
            "is locked, and who waits to lock them comes first.",
        ),
    ] = 0


class HolderOfRow(RowHolder, frozen=True, kw_only=True):
    """Who holds the first row that is not free."""

    table: str
    key: list[int | str | bool | None]


class Lockable(Answer, frozen=True, kw_only=True):
    lockable: bool
    holder: HolderOfRow | None


class RowLocks:
    """The handlers of `/api/v1/row-locks`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._queries = msgspec.json.Decoder(QueryBody)

    async def query(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._queries)
        resource_id = resource("resourceId", asked.resource_id)
        wanted = row_locks(resource_id, [], asked.lock_keys, asked.lock_mode)
        view = await service.view(request)
        xid = asked.xid or ""
        ends_at = asyncio.get_running_loop().time() + asked.wait_ms / 1000
        waits = asked.wait_ms > 0
        while (found := _first_held(view, wanted, xid)) is not None and waits:
            # One row is looked at while others wait for many, and all of them at the end.
            freed = self._freed(view, found[0], xid)
            waits = await service.waits.until(request, freed, ends_at)
            view = await service.own_view()
        holder = None if found is None else _shown(*found)
        answer = Lockable(lockable=holder is None, holder=holder)
        return service.replies.success(200, answer, view.position)

    async def _freed(self, view: View, row: locks.RowLock, xid: str) -> None:
        """Return once nobody keeps a transaction from a row, as this node applies it."""
        while locks.holder_of(view.reader, row, xid) is not None:
            await self._service.cluster.changes.wait(view.position)
            await asyncio.sleep(_LOOK_EVERY_S)
            view = await self._service.own_view()

    async def list(self, request: web.Request) -> Reply:
        limit, cursor = requests.page(request)
        resource_id, xid = request.query.get("resourceId"), query_xid(request)
        if resource_id is not None:
            resource("resourceId", resource_id)
        view = await self._service.view(request)
        rows, next_cursor = list_rows(
            view.reader, resource_id=resource_id, xid=xid, cursor=cursor, limit=limit
        )
        page = Page(items=[row_of(row) for row in rows], next_cursor=next_cursor)
        return self._service.replies.success(200, page, view.position)


def _first_held(
    view: View, wanted: Sequence[locks.RowLock], xid: str
) -> tuple[locks.RowLock, locks.Hold] | None:
    """Return the first row that a transaction cannot lock, and who holds it."""
    for row in wanted:
        hold = locks.holder_of(view.reader, row, xid)
        if hold is not None:
            return row, hold
    return None


def _shown(row: locks.RowLock, hold: locks.Hold) -> HolderOfRow:
    found = holder_of(hold)
    return HolderOfRow(
        xid=found.xid,
        branch_id=found.branch_id,
        lock_mode=found.lock_mode,
        since=found.since,
        table=row.table,
        key=list(row.key),
    )


def endpoints(service: Service) -> list[Endpoint]:
    held = RowLocks(service)
    path = "/api/v1/row-locks"
    tag = "row locks"
    return [
        Endpoint(
            method="POST",
            path=f"{path}/query",
            operation="queryRowLocks",
            summary="Whether rows can be locked, now or within a time, and who holds the first",
            tag=tag,
            handler=held.query,
            body=QueryBody,
            answer=Lockable,
            parameters=(CONSISTENCY,),
            errors=(*BODY_ERRORS, *READ_ERRORS),
            keyed=True,
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=path,
            operation="listRowLocks",
            summary="Rows that are locked or waited for, of a resource or of a transaction",
            tag=tag,
            handler=held.list,
            answer=Page[LockedRow],
            parameters=(
                Parameter(
                    name="resourceId", type=ResourceId, description="Only rows of this resource."
                ),
                Parameter(name="xid", type=Xid, description="Only rows of this transaction."),
                *PAGE,
                CONSISTENCY,
            ),
            errors=READ_ERRORS,
            timed=True,
        ),
    ]
