"""A service of aiohttp that calls others by aiohttp."""

from __future__ import annotations

import asyncio

from aiohttp import ClientSession, web

from tests.integration.services.told import HOSTS, told
from tidelock.propagation.aiohttp_client import carrying
from tidelock.propagation.aiohttp_server import transaction_middleware
from tidelock.transaction.context import current_xid


async def xid(request: web.Request) -> web.Response:
    return web.json_response(told())


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(int(request.query.get("parts", "3"))):
        await asyncio.sleep(0)
        await response.write(f"{current_xid()}\n".encode())
    return response


async def fail(request: web.Request) -> web.Response:
    raise LookupError("broken on purpose")


async def following(request: web.Request) -> web.Response:
    async with (
        ClientSession(middlewares=[carrying(hosts=HOSTS)]) as session,
        session.get(request.query["url"]) as response,
    ):
        return web.json_response({**told(), "next": await response.json()})


def make_app() -> web.Application:
    app = web.Application(middlewares=[transaction_middleware()])
    app.router.add_get("/xid", xid)
    app.router.add_get("/stream", stream)
    app.router.add_get("/fail", fail)
    app.router.add_get("/next", following)
    return app
