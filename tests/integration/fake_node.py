"""Something that listens where a node should, and answers whatever a test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec


class Heard(msgspec.Struct, frozen=True):
    """A request."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in small letters."""
    body: bytes


Answering = Callable[[Heard, asyncio.StreamWriter], Awaitable[None]]
"""Writes an answer. The connection ends with it unless it says how long it is."""


class FakeNode:
    """What it heard so far."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.heard: list[Heard] = []
        self.open = 0
        self.most_open = 0
        self.port = 0
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def close(self) -> None:
        for each in (serving := list(self._serving)):
            each.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            while True:
                heard = await read_request(reader)
                self.heard.append(heard)
                await self.answering(heard, writer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, Hangup):
            pass
        finally:
            self.open -= 1
            writer.close()


class Hangup(Exception):  # noqa: N818 - no error
    """Ends the connection."""


async def read_request(reader: asyncio.StreamReader) -> Heard:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = dict(map(_header, head[1:-2]))
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Heard(method, path, headers, body)


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(": ")
    return name.lower(), value


def written(content: bytes) -> Answering:
    """Answer these bytes, then hang up."""

    async def answer(_: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        await writer.drain()
        raise Hangup

    return answer


def answer_of(
    status: int, body: object, *headers: str, media_type: str = "application/json"
) -> bytes:
    """Return a proper answer; `body` is sent as JSON unless it is bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [
        f"HTTP/1.1 {status} Whatever",
        f"Content-Type: {media_type}",
        f"Content-Length: {len(content)}",
        *headers,
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content


def problem_of(status: int, code: str, **more: Any) -> bytes:
    body = {"status": status, "code": code, "detail": "So it is.", **more}
    return answer_of(status, body, media_type="application/problem+json")


@asynccontextmanager
async def listening(answering: Answering) -> AsyncIterator[FakeNode]:
    node = FakeNode(answering)
    server = await asyncio.start_server(node.accept, "127.0.0.1", 0)
    node.port = server.sockets[0].getsockname()[1]
    try:
        yield node
    finally:
        server.close()
        await node.close()
        await server.wait_closed()
