"""Requests of the HTTP contract that come over the channel of a resource manager.

A message says what a request would have said, and is served by the same handlers: the same answer,
under the same idempotency key, whichever way it came. Many are under way at once; each is answered
when it is done. This module, too, relies on names of aiohttp that are not public.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from msgspec import UNSET
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from api import requests
from api.errors import INTERNAL, Problem
from api.replies import Replies, Reply
from api.rm_messages import Request, response_message

GREATEST_REQUESTS: Final = 500
"""Under way on one channel."""

_CARRIED: Final = ("/api/v1/transactions", "/api/v1/row-locks")
"""What paths begin with. Nothing below them is answered in parts."""

_log: Final = logging.getLogger(__name__)


class _Body:
    """Of a request, as handlers read one that came together with its headers."""

    __slots__ = ("_content",)

    def __init__(self, content: bytes) -> None:
        self._content = content

    def is_eof(self) -> bool:
        return True

    def read_nowait(self) -> bytes:
        return self._content


class CarriedRequest(web.Request):
    """A request as handlers see it."""

    def __init__(self, asked: Request, channel: web.Request) -> None:
        """`channel` is the request that opened the channel."""
        headers = CIMultiDict({requests.CONTENT_TYPE: "application/json"})
        if asked.key:
            headers[requests.IDEMPOTENCY_KEY] = asked.key
        if asked.timeout_ms is not None:
            headers[requests.TIMEOUT] = str(asked.timeout_ms)
        message = RawRequestMessage(
            asked.method, asked.path, HttpVersion11, CIMultiDictProxy(headers), (),
            False, None, False, False, URL(asked.path, encoded=True),
        )  # fmt: skip
        body = b"" if asked.body is UNSET else bytes(asked.body)
        super().__init__(
            message,
            _Body(body) if body else EMPTY_PAYLOAD,  # type: ignore[arg-type]  # all that is read
            channel.protocol,
            channel.writer,
            channel.task,
            asyncio.get_running_loop(),
        )
        self.on_lost: Callable[[], None] | None = None
        """As `Connection.on_lost`: each waits by itself."""


class Carriage:
    """The requests under way on one channel."""

    def __init__(
        self, channel: web.Request, replies: Replies, send: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """`send` sends a message. It raises ConnectionError when nobody hears it."""
        self._channel = channel
        self._replies = replies
        self._send = send
        self._under_way: dict[asyncio.Task[None], CarriedRequest | None] = {}

    @property
    def under_way(self) -> list[asyncio.Task[None]]:
        return list(self._under_way)

    def take(self, asked: Request) -> None:
        """Serve a request, and answer it when that is done."""
        refusal = self._refusal(asked)
        request = CarriedRequest(asked, self._channel) if refusal is None else None
        work = self._serve(asked.request_id, request, refusal)
        task = asyncio.get_running_loop().create_task(work)
        self._under_way[task] = request
        task.add_done_callback(self._forget)

    def lost(self) -> None:
        """The channel is closed: nobody waits for an answer any more."""
        for request in list(self._under_way.values()):
            if request is not None and request.on_lost is not None:
                on_lost, request.on_lost = request.on_lost, None
                on_lost()

    def _refusal(self, asked: Request) -> Problem | None:
        if len(self._under_way) >= GREATEST_REQUESTS:
            return Problem(
                "OVERLOADED", f"{len(self._under_way)} requests are under way on this channel."
            )
        if not asked.path.startswith(_CARRIED):
            return Problem(
                "NOT_FOUND", f"Paths that a channel carries begin with {' or '.join(_CARRIED)}."
            )
        return None

    async def _serve(
        self, request_id: int, request: CarriedRequest | None, refusal: Problem | None
    ) -> None:
        try:
            if request is None:
                response: web.StreamResponse = self._replies.problem(refusal or INTERNAL)
            else:
                response = await self._channel.app._handle(request)
            message = response_message(request_id, response.status, _content_of(response))
            await self._send(message)
        except ConnectionError:
            # Whoever asked has gone, and asks again elsewhere.
            return
        except Exception:
            _log.exception("a request over a channel failed")
            await self._say_failed(request_id)

    async def _say_failed(self, request_id: int) -> None:
        reply = self._replies.problem(INTERNAL)
        try:
            await self._send(response_message(request_id, reply.status, reply.content))
        except ConnectionError:
            return

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task, None)


def _content_of(response: web.StreamResponse) -> bytes:
    """Return the JSON of an answer.

    Raises: TypeError: it is none that is made before it is sent.
    """
    content = response.content if isinstance(response, Reply) else getattr(response, "body", None)
    if not isinstance(content, bytes):
        raise TypeError(f"{type(response).__name__} is no answer that a channel carries")
    return content or b"null"
