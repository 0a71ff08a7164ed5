"""A participant of transactions, in the test's loop, that answers as it is told."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Called:
    """One call as it arrived."""

    path: str
    xid: str
    operation: str
    step: str
    epoch: int
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)


class Participant:
    """Answers 200 to everything, unless `answers` has statuses or behaviours for a path."""

    def __init__(self) -> None:
        self.calls: list[Called] = []
        self.answers: dict[str, list[int | Behaviour]] = {}
        """By path: answers in turn, the last one for ever."""
        self.latency_s = 0.0
        self.under_way: Counter[str] = Counter()
        self.overlapped: list[str] = []
        """Branches that were called while they were at it."""
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def start(self) -> None:
        app = web.Application(client_max_size=4 << 20)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Die: connections break off. It may start again at the same port."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._port}/{path}"

    def paths(self, xid: str = "") -> list[str]:
        return [call.path for call in self.calls if xid in ("", call.xid)]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        content = await request.read()
        headers = request.headers
        path = request.match_info["path"]
        xid = headers.get("X-Tx-Xid", "")
        self.calls.append(
            Called(
                path,
                xid,
                headers.get("Tidelock-Operation", ""),
                headers.get("Tidelock-Step", ""),
                int(headers.get("Tidelock-Epoch", "0")),
                dict(headers),
                content,
            )
        )
        branch = f"{xid} {headers.get('Tidelock-Branch-Id', '')}"
        self.under_way[branch] += 1
        if self.under_way[branch] > 1:
            self.overlapped.append(branch)
        try:
            return await self._answer(request, path)
        finally:
            self.under_way[branch] -= 1

    async def _answer(self, request: web.Request, path: str) -> web.StreamResponse:
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        answers = self.answers.get(path)
        answer: int | Behaviour = 200
        if answers:
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if callable(answer):
            return await answer(request)
        return web.json_response({"path": path, "status": answer}, status=answer)


@asynccontextmanager
async def participating() -> AsyncIterator[Participant]:
    participant = Participant()
    await participant.start()
    try:
        yield participant
    finally:
        await participant.stop()
