"""The paths of DTM's HTTP protocol."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from aiohttp import web

from api import requests
from api.gateways import dtm_objects, dtm_topics
from api.gateways.dtm_answers import DtmAnswers, DtmError
from api.gateways.dtm_bodies import DtmBody, read_body, read_flat_strings
from api.gateways.dtm_service import DtmService, new_gid
from api.replies import Reply
from api.settings import ApiSettings

PREFIX: Final = "/api/dtmsvr"

GREATEST_PAGE: Final = 1_000
DEFAULT_PAGE: Final = 100
DEFAULT_RESET_S: Final = 105

_GREATEST_COUNT: Final = 10**12
"""Of transactions or seconds; more is a mistake."""
_GREATEST_TIME_MS: Final = 10**15 - 1
"""Since the epoch, in the year 33658: as many digits as any client writes."""

Handler = Callable[[web.Request], Awaitable[Reply]]
Act = Callable[[web.Request, DtmBody], Awaitable[None]]


class _NewGid(msgspec.Struct):
    gid: str
    dtm_result: str = "SUCCESS"


class _Version(msgspec.Struct):
    version: str


class _Reset(msgspec.Struct):
    has_remaining: bool
    succeed_count: int
    dtm_result: str = "SUCCESS"


class DtmEndpoints:
    """One handler a path."""

    def __init__(
        self, service: DtmService, answers: DtmAnswers, settings: ApiSettings, version: str
    ) -> None:
        self._service = service
        self._answers = answers
        self._settings = settings
        self._version = version

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Return method, path below the prefix, and handler."""
        service = self._service
        return [
            ("GET", "/version", self._get_version),
            ("GET", "/newGid", self._new_gid),
            ("POST", "/prepare", self._acting(service.prepare)),
            ("POST", "/submit", self._acting(service.submit)),
            ("POST", "/abort", self._acting(service.abort)),
            ("POST", "/forceStop", self._force_stop),
            ("POST", "/resetNextCronTime", self._hasten),
            ("POST", "/registerBranch", self._register),
            ("POST", "/registerTccBranch", self._register),
            ("POST", "/registerXaBranch", self._register),
            ("POST", "/prepareWorkflow", self._prepare_workflow),
            ("GET", "/query", self._query),
            ("GET", "/all", self._all),
            ("GET", "/resetCronTime", self._hasten_all),
            ("GET", "/subscribe", self._subscribe),
            ("GET", "/unsubscribe", self._unsubscribe),
            ("DELETE", "/topic/{name}", self._delete_topic),
            ("GET", "/queryKV", self._query_kv),
            ("GET", "/scanKV", self._scan_kv),
        ]

    # --- transactions

    async def _get_version(self, _: web.Request) -> Reply:
        return self._answers.object(_Version(self._version))

    async def _new_gid(self, _: web.Request) -> Reply:
        return self._answers.object(_NewGid(new_gid()))

    def _acting(self, act: Act) -> Handler:
        async def serve(request: web.Request) -> Reply:
            await act(request, await self._body(request))
            return self._answers.success()

        return serve

    async def _force_stop(self, request: web.Request) -> Reply:
        await self._service.force_stop(request, (await self._body(request)).gid)
        return self._answers.success()

    async def _hasten(self, request: web.Request) -> Reply:
        await self._service.hasten(request, (await self._body(request)).gid)
        return self._answers.success()

    async def _register(self, request: web.Request) -> Reply:
        content = await requests.read_body(request, self._settings)
        await self._service.register(request, read_flat_strings(content))
        return self._answers.success()

    async def _prepare_workflow(self, request: web.Request) -> Reply:
        found = await self._service.prepare_workflow(request, await self._body(request))
        return self._answers.object(found)

    async def _body(self, request: web.Request) -> DtmBody:
        return read_body(await requests.read_body(request, self._settings))

    # --- looking

    async def _query(self, request: web.Request) -> Reply:
        gid = request.query.get("gid", "")
        if not gid:
            raise DtmError("no gid specified")
        view = await self._service.view(request)
        return self._answers.object(dtm_objects.show(view.reader, gid))

    async def _all(self, request: web.Request) -> Reply:
        query = request.query
        wanted = dtm_objects.Wanted(
            gid=query.get("gid", ""),
            status=query.get("status", ""),
            trans_type=query.get("transType", ""),
            from_ms=_number(request, "createTimeStart", 0, _GREATEST_TIME_MS),
            to_ms=_number(request, "createTimeEnd", 0, _GREATEST_TIME_MS),
        )
        limit = _limit(request)
        view = await self._service.view(request)
        position = query.get("position", "")
        try:
            listed = dtm_objects.list_transactions(view.reader, wanted, position, limit)
        except ValueError as error:
            raise DtmError(str(error)) from None
        return self._answers.object(listed)

    async def _hasten_all(self, request: web.Request) -> Reply:
        timeout_s = _number(request, "timeout", DEFAULT_RESET_S)
        found = await self._service.hasten_all(request, timeout_s, _limit(request))
        return self._answers.object(_Reset(found.more, found.count))

    # --- topics

    async def _subscribe(self, request: web.Request) -> Reply:
        query = request.query
        await self._service.subscribe(
            request, query.get("topic", ""), query.get("url", ""), query.get("remark", "")
        )
        return self._answers.success()

    async def _unsubscribe(self, request: web.Request) -> Reply:
        query = request.query
        await self._service.unsubscribe(request, query.get("topic", ""), query.get("url", ""))
        return self._answers.success()

    async def _delete_topic(self, request: web.Request) -> Reply:
        await self._service.delete_topic(request, request.match_info["name"])
        return self._answers.success()

    async def _query_kv(self, request: web.Request) -> Reply:
        query = request.query
        view = await self._service.view(request)
        found = dtm_topics.query(view.reader, query.get("cat", ""), query.get("key", ""))
        return self._answers.object(found)

    async def _scan_kv(self, request: web.Request) -> Reply:
        query, limit = request.query, _limit(request)
        view = await self._service.view(request)
        found = dtm_topics.scan(
            view.reader, query.get("cat", ""), query.get("position", ""), limit=limit
        )
        return self._answers.object(found)


def _limit(request: web.Request) -> int:
    return max(1, min(_number(request, "limit", DEFAULT_PAGE), GREATEST_PAGE))


def _number(request: web.Request, name: str, default: int, greatest: int = _GREATEST_COUNT) -> int:
    """Return a number of the query. Raises: DtmError: it is none, or beyond the greatest."""
    text = request.query.get(name, "")
    if not text:
        return default
    is_short = text.isascii() and text.isdigit() and len(text) <= len(str(greatest))
    if not is_short or int(text) > greatest:
        raise DtmError(f"{name} must be a number up to {greatest}, not {text[:40]!r}")
    return int(text)
