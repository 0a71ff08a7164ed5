"""What operators did: a log whose records are bound to each other by their digests."""

from __future__ import annotations

from aiohttp import web

from api import requests
from api.endpoints import CONSISTENCY, PAGE, READ_ERRORS, Endpoint
from api.replies import Reply
from api.service import Service
from api.shapes import Answer
from statemachine.audit import ActionRow, first_fault, list_actions, record_before


class AuditRecord(Answer, frozen=True, kw_only=True):
    """An act of an operator."""

    number: int
    """From 1 on, without gaps."""
    at: int
    """Milliseconds since the epoch."""
    principal: str
    """Who did it; empty as long as nobody needs to say."""
    action: str
    target: str
    """A transaction or a node."""
    reason: str
    outcome: str
    """DONE, ASKED of what is done elsewhere than in the state, or the code of a refusal."""
    previous_digest: str
    """Of the record before it, in hexadecimal digits; empty in the first."""
    digest: str
    """SHA-256 over `previousDigest`, a line feed and the JSON array of the fields from `number` to
    `outcome`, in this order, without blanks, in UTF-8."""


class AuditPage(Answer, frozen=True, kw_only=True):
    """A part of the log, the first record first."""

    items: list[AuditRecord]
    intact: bool
    """Each record here has the digest that it must have, and follows the one before it."""
    first_fault: int | None
    """The first record of which that is not so."""
    next_cursor: str | None


class AuditLog:
    """The handler of `/api/v1/audit`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def list(self, request: web.Request) -> Reply:
        limit, cursor = requests.page(request)
        view = await self._service.view(request)
        rows, next_cursor = list_actions(view.reader, cursor=cursor, limit=limit)
        before = record_before(view.reader, rows[0].number) if rows else None
        fault = first_fault(rows, before)
        page = AuditPage(
            items=[_record(row) for row in rows],
            intact=fault is None,
            first_fault=fault,
            next_cursor=next_cursor,
        )
        return self._service.replies.success(200, page, view.position)


def _record(row: ActionRow) -> AuditRecord:
    return AuditRecord(
        number=row.number,
        at=row.at_ms,
        principal=row.principal,
        action=row.action,
        target=row.target,
        reason=row.reason,
        outcome=row.outcome,
        previous_digest=row.previous.hex(),
        digest=row.digest.hex(),
    )


def endpoints(service: Service) -> list[Endpoint]:
    return [
        Endpoint(
            method="GET",
            path="/api/v1/audit",
            operation="listAuditRecords",
            summary="What operators did, and whether the records are what they were",
            tag="audit",
            handler=AuditLog(service).list,
            answer=AuditPage,
            parameters=(*PAGE, CONSISTENCY),
            errors=READ_ERRORS,
            timed=True,
        )
    ]
