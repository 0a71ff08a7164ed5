"""The yardstick: an aiohttp server on uvloop that answers each body with itself, and no more.

A process of its own, started by the bench: `python -m scripts.tidelock_scripts.bench.echo`. Prints
its port once it listens; ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop
from aiohttp import web

PATH = "/echo"


async def _echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read(), content_type="application/json")


async def serve() -> None:
    application = web.Application()
    application.router.add_post(PATH, _echo)
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
