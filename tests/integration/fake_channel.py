"""A node that opens channels and says on them whatever a test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import WSMsgType, web

DEADLINE_S = 20.0

Message = dict[str, Any]


class Line:
    """One connection, from the node's side."""

    def __init__(self, socket: web.WebSocketResponse, request: web.Request) -> None:
        self.socket = socket
        self.request = request
        self.heard: list[Message] = []
        self.news = asyncio.Event()
        self.welcomed = asyncio.Event()

    async def say(self, message: Message | str | bytes) -> None:
        if isinstance(message, bytes):
            await self.socket.send_bytes(message)
        else:
            text = message if isinstance(message, str) else json.dumps(message)
            await self.socket.send_str(text)
            if isinstance(message, dict) and message["type"] == "welcome":
                self.welcomed.set()

    async def next(self, kind: str, number: int = 1) -> Message:
        """Return the message of this type and number, once it has come."""
        async with asyncio.timeout(DEADLINE_S):
            while len(found := [each for each in self.heard if each["type"] == kind]) < number:
                self.news.clear()
                await self.news.wait()
        return found[number - 1]

    async def welcome(self, session_id: int = 7, **differently: Any) -> None:
        """Welcome who registers."""
        await self.next("register")
        await self.say(welcome(session_id, **differently))

    async def call(self, kind: str = "branch-commit", request_id: int = 1, **more: Any) -> None:
        """Ask, once it has welcomed."""
        async with asyncio.timeout(DEADLINE_S):
            await self.welcomed.wait()
        await self.say(called(kind, request_id, **more))

    async def close(self, code: int) -> None:
        await self.socket.close(code=code)

    def break_off(self) -> None:
        assert self.request.transport is not None
        self.request.transport.abort()


def welcome(session_id: int = 7, **differently: Any) -> Message:
    return {
        "type": "welcome",
        "sessionId": session_id,
        "resumed": False,
        "nodeId": "fake",
        "heartbeatMs": 60_000,
        "graceMs": 10_000,
        **differently,
    }


def called(kind: str = "branch-commit", request_id: int = 1, **more: Any) -> Message:
    return {
        "type": kind,
        "requestId": request_id,
        "xid": "x",
        "branchId": 1,
        "mode": "AT",
        "resourceId": "db",
        "epoch": 1,
        **more,
    }


class FakeChannels:
    """What listens. Each connection is handled by `serve`."""

    def __init__(self, serve: Callable[[Line], Awaitable[None]]) -> None:
        self.serve = serve
        self.lines: list[Line] = []
        self.refuse_with: Callable[[], web.HTTPException] | None = None
        self.address = ""

    async def line(self, number: int = 1) -> Line:
        """Return the connection of this number, once it is there."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.lines) < number:
                await asyncio.sleep(0.005)
        return self.lines[number - 1]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.refuse_with is not None:
            raise self.refuse_with()
        socket = web.WebSocketResponse(timeout=0.2, max_msg_size=1 << 20)
        await socket.prepare(request)
        line = Line(socket, request)
        self.lines.append(line)
        serving = asyncio.create_task(self._serve(line))
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    line.heard.append(json.loads(message.data))
                    line.news.set()
                    if line.heard[-1]["type"] == "leave":
                        await socket.close()
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
        return socket

    async def _serve(self, line: Line) -> None:
        await self.serve(line)


async def friendly(line: Line) -> None:
    """Welcome everybody, to the session that is named."""
    registered = await line.next("register")
    session_id = registered.get("sessionId", 0)
    await line.say(welcome(session_id or 7, resumed=bool(session_id)))


@asynccontextmanager
async def listening(
    serve: Callable[[Line], Awaitable[None]] = friendly,
) -> AsyncIterator[FakeChannels]:
    fake = FakeChannels(serve)
    app = web.Application()
    app.router.add_get("/api/v1/rm/channel", fake.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        fake.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield fake
    finally:
        await runner.cleanup()
