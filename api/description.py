"""What the API says of itself: the OpenAPI document for programs, and a page of it for people."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import hdrs, web

from api import openapi
from api.docs_page.page import Page, render
from api.endpoints import Endpoint
from api.replies import JSON, Reply
from api.service import Service

VERSION: Final = "1"
"""Of the HTTP contract, as in the paths."""

OPENAPI_PATH: Final = "/openapi.json"
DOCS_PATH: Final = "/docs"

HTML: Final = "text/html; charset=utf-8"

_COMPRESSED: Final = "Content-Encoding: gzip\r\n"


@dataclass(frozen=True, slots=True)
class Made:
    """What is sent."""

    document: bytes
    page: Page


class Description:
    """The handlers of the document and of the page.

    Both are made when the first client asks, in a thread: it takes longer than a leader may keep
    its followers waiting.
    """

    def __init__(self, service: Service) -> None:
        self._replies = service.replies
        self._settings = service.settings
        self._making: asyncio.Task[Made] | None = None
        self.endpoints: Sequence[Endpoint] = ()

    async def _made(self) -> Made:
        if self._making is None:
            self._making = asyncio.create_task(asyncio.to_thread(self._make))
        return await asyncio.shield(self._making)

    def _make(self) -> Made:
        document = openapi.document(self.endpoints, VERSION, self._settings)
        return Made(msgspec.json.encode(document), render(document))

    async def show_document(self, _: web.Request) -> Reply:
        made = await self._made()
        return self._replies.of_bytes(200, JSON, made.document)

    async def show_page(self, request: web.Request) -> Reply:
        page = (await self._made()).page
        if "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
            more = page.headers + _COMPRESSED
            return self._replies.of_bytes(200, HTML, page.compressed, more=more)
        return self._replies.of_bytes(200, HTML, page.content, more=page.headers)


def endpoints(service: Service, others: Sequence[Endpoint]) -> list[Endpoint]:
    """Return the endpoints that describe the others and themselves."""
    description = Description(service)
    tag = "description"
    own = [
        Endpoint(
            method="GET",
            path=OPENAPI_PATH,
            operation="getOpenApi",
            summary="The OpenAPI document of all operations",
            tag=tag,
            handler=description.show_document,
            answer=dict,
        ),
        Endpoint(
            method="GET",
            path=DOCS_PATH,
            operation="getDocs",
            summary="The document as a page, without a network",
            tag=tag,
            handler=description.show_page,
            answer=None,
            media_type="text/html",
        ),
    ]
    description.endpoints = (*others, *own)
    return own
