"""A participant that does nothing: an aiohttp server on uvloop, in a process of its own.

Started by the bench: `python -m scripts.tidelock_scripts.bench.participant`. Prints its port once
it listens; ends when its standard input does. A branch at `/branch?delayMs=N` takes so long.

It notes how long after its answer the next call of the same transaction arrives, which is what the
coordinator adds to a call. `GET /gaps` tells these times and forgets them.
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from typing import Any

import msgspec
import uvloop
from aiohttp import web

BRANCH = "/branch"
GAPS = "/gaps"

_GREATEST_KNOWN = 100_000


class _Participant:
    def __init__(self) -> None:
        self._answered: dict[str, float] = {}
        self._gaps_ms = array("d")

    async def branch(self, request: web.Request) -> web.Response:
        arrived = time.perf_counter()
        xid = request.headers.get("X-Tx-Xid", "")
        answered = self._answered.pop(xid, None)
        if answered is not None:
            self._gaps_ms.append((arrived - answered) * 1000)
        await request.read()
        delay_ms = request.query.get("delayMs")
        if delay_ms is not None:
            await asyncio.sleep(int(delay_ms) / 1000)
        if len(self._answered) < _GREATEST_KNOWN:
            self._answered[xid] = time.perf_counter()
        return web.Response()

    async def gaps(self, _: web.Request) -> web.Response:
        found, self._gaps_ms = self._gaps_ms, array("d")
        self._answered.clear()
        return web.Response(body=msgspec.json.encode(found.tolist()))


async def serve() -> None:
    participant = _Participant()
    application = web.Application()
    application.router.add_post(BRANCH, participant.branch)
    application.router.add_get(GAPS, participant.gaps)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=512)
    await site.start()
    address: Any = runner.addresses[0]
    print(address[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(serve())
