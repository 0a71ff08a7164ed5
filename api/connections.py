"""Connections: what comes before a handler, and what a handler never sees.

aiohttp answers text to what it cannot parse or route, and logs it with a stack trace. Here that is
a problem like any other, and the client's affair. This is the one module that relies on names of
aiohttp that are not public.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.web_protocol import _ErrInfo

from api.errors import INTERNAL, Problem
from api.replies import Replies
from api.settings import ApiSettings

_log: Final = logging.getLogger(__name__)

_TOO_MANY_HEADERS: Final = "Too many headers"

_Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusals:
    """How requests are answered that reach no route."""

    replies: Replies
    settings: ApiSettings
    counted: Callable[[int, float], None]
    """Counts an answer by its status and what it took, in seconds."""

    def malformed(self, error: BaseException | None, message: str | None) -> web.StreamResponse:
        """Answer what is not HTTP. The connection ends with it: nobody knows what follows."""
        if isinstance(error, LineTooLong) or (message or "").startswith(_TOO_MANY_HEADERS):
            settings = self.settings
            problem = Problem(
                "HEAD_TOO_LARGE",
                f"The request line and each header may have {settings.greatest_header_bytes} "
                f"bytes, and there may be {settings.greatest_headers} headers.",
            )
        else:
            problem = Problem("MALFORMED_REQUEST", f"{_first_sentence(message)}.")
        return self._answer(problem)

    def failed(self) -> web.StreamResponse:
        return self._answer(INTERNAL)

    async def unrouted(self, _: web.BaseRequest) -> web.StreamResponse:
        return self._answer(Problem("NOT_FOUND", "No resource of this API has this path."))

    def _answer(self, problem: Problem) -> web.StreamResponse:
        self.counted(problem.status, 0.0)
        return self.replies.problem(problem)


REFUSALS: Final = web.AppKey("refusals", Refusals)

Drain = Callable[[], Awaitable[None]]

DRAINS: Final = web.AppKey("drains", list[Drain])
"""What is to come to its end while clients are still heard: aiohttp's own way to stop begins with
being deaf.
"""


def _first_sentence(message: str | None) -> str:
    """Return what the parser found, without the bytes that it points at."""
    return " ".join((message or "").partition("\n\n")[0].split()) or "The request is not HTTP"


class Connection(web.RequestHandler):
    """One connection of a client."""

    __slots__ = ("_refusals", "on_lost")

    def __init__(self, manager: web.Server, refusals: Refusals, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._refusals = refusals
        self.on_lost: Callable[[], None] | None = None
        """Called once when the connection has ended, however it did."""

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            # A request that is parsed already may still be on its way to its handler.
            self._loop.call_soon(self._break_off, self._messages[-1][0].exc)

    def _break_off(self, error: BaseException) -> None:
        """Tell who reads a body that the rest of it is not HTTP.

        aiohttp forgets such a body, so that its reader would wait until it gives up. What it
        answers is the last answer then.
        """
        request = self._current_request
        if request is not None and not request.content.is_eof():
            request.content.set_exception(error)
            request.content.feed_eof()
            self.close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, HttpProcessingError):
            return self._refusals.malformed(exc, message)
        if isinstance(exc, ConnectionError):
            raise exc
        _log.error("A request failed outside of its handler", exc_info=exc)
        return self._refusals.failed()


class _Server(web.Server):
    """Makes connections."""

    def __init__(
        self, handler: _Handler, refusals: Refusals, request_factory: Any, **settings: Any
    ) -> None:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            try:
                return await handler(request)
            except web.HTTPException:
                # The target is no path at all, as in `OPTIONS *`.
                return await refusals.unrouted(request)

        super().__init__(handle, request_factory=request_factory)
        self._refusals = refusals
        self._settings = settings

    def __call__(self) -> Connection:
        loop = asyncio.get_running_loop()
        return Connection(self, self._refusals, loop=loop, **self._settings)


class ApiRunner(web.AppRunner):
    """Serves the application. Without access log: requests are counted, and a line for each costs
    more than the request.
    """

    async def cleanup(self) -> None:
        for drain in self.app.get(DRAINS, []) if self.server is not None else ():
            await drain()
        await super().cleanup()

    async def _make_server(self) -> web.Server:
        routed = await super()._make_server()
        refusals = self.app[REFUSALS]
        settings = refusals.settings
        return _Server(
            routed.request_handler,
            refusals,
            routed.request_factory,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=settings.keep_alive_s,
            lingering_time=settings.lingering_s,
            max_line_size=settings.greatest_header_bytes,
            max_field_size=settings.greatest_header_bytes,
            max_headers=settings.greatest_headers,
        )
