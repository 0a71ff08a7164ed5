"""Global row locks: who holds which rows of a resource."""

from __future__ import annotations

import msgspec
from aiohttp import web

from api import json_text, requests
from api.endpoints import BODY_ERRORS, CONSISTENCY, PAGE, READ_ERRORS, Endpoint, Parameter
from api.replies import Reply
from api.row_keys import LockKeys, LockMode, ResourceId, resource, row_locks
from api.service import Service
from api.shapes import Answer, Body, Page
from api.transaction_views import LockedRow, RowHolder, holder_of, row_of
from api.xids import Xid, query_xid
from statemachine.transactions import row_locks as locks
from statemachine.transactions.listing import list_rows


class QueryBody(Body, frozen=True, kw_only=True):
    """Rows of which somebody wants to know whether they can be locked."""

    resource_id: ResourceId
    lock_keys: LockKeys
    lock_mode: LockMode = LockMode.EXCLUSIVE
    xid: Xid | None = None
    """Whose own locks do not count."""


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
        holder = None
        for row in wanted:
            hold = locks.holder_of(view.reader, row, asked.xid or "")
            if hold is not None:
                found = holder_of(hold)
                holder = HolderOfRow(
                    xid=found.xid,
                    branch_id=found.branch_id,
                    lock_mode=found.lock_mode,
                    since=found.since,
                    table=row.table,
                    key=list(row.key),
                )
                break
        answer = Lockable(lockable=holder is None, holder=holder)
        return service.replies.success(200, answer, view.position)

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


def endpoints(service: Service) -> list[Endpoint]:
    held = RowLocks(service)
    path = "/api/v1/row-locks"
    tag = "row locks"
    return [
        Endpoint(
            method="POST",
            path=f"{path}/query",
            operation="queryRowLocks",
            summary="Whether rows can be locked, and who holds the first that cannot",
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
