"""An HTTP server in the process of a chaos run, which nodes call as a participant."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

Answer = Callable[[str, str, int], int | None]
"""Given path, xid or gid, and branch id of our own protocol, returns a status, or None for an
answer that nobody hears."""


class ParticipantServer:
    """Serves while a round lasts."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        address: Any = self._runner.addresses[0]
        self._port = address[1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._port}/{path}"

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        headers = request.headers
        branch_id = int(headers.get("Tidelock-Branch-Id", "0"))
        path = request.match_info["path"]
        # DTM's protocol says in the query what ours says in headers.
        xid = headers.get("X-Tx-Xid") or request.query.get("gid", "")
        status = self._answer(path, xid, branch_id)
        if status is None:
            transport = request.transport
            if transport is not None:
                transport.abort()
            await asyncio.sleep(0)
            return web.Response(status=500)
        return web.Response(status=status)
