"""What the services have in common: who they are, and how they are called."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

import tidelock
from tidelock.propagation.aiohttp_server import transaction_middleware

Body = dict[str, Any]
Actions = Mapping[str, Callable[..., object]]
"""What a service does, by mode."""


class RefusedError(Exception):
    """The business says no: there is too little in stock, or too little money."""


class BodyError(Exception):
    """What was asked for cannot be: it is no JSON, or its fields are not those of the call."""


def setting(name: str, otherwise: str) -> str:
    """Return a variable of the environment: PURCHASE_PORT, PURCHASE_DATABASE, …"""
    return os.environ.get(f"PURCHASE_{name}", otherwise)


def configure(name: str, *, calls: tuple[str, ...] = ()) -> tidelock.Application:
    """Make this process the application `name`, which may take transactions along to `calls`."""
    cluster = setting("CLUSTER", "http://127.0.0.1:7101")
    return tidelock.configure(
        tidelock.Application(cluster.split(","), application_id=name, propagate_to=calls)
    )


def serve(
    path: str,
    answer: Callable[[Body], Awaitable[object]],
    *,
    port: int,
    on_start: Callable[[], object] = lambda: None,
) -> None:
    """Serve `POST path` until the process is told to end."""

    async def respond(request: web.Request) -> web.Response:
        try:
            return web.json_response(await answer(await _body(request)))
        except RefusedError as refused:
            return web.json_response({"error": str(refused)}, status=409)
        except BodyError as wrong:
            return web.json_response({"error": str(wrong)}, status=400)

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"connected": tidelock.configured().health().connected})

    async def lifespan(_: web.Application) -> AsyncIterator[None]:
        await asyncio.to_thread(on_start)
        yield
        await tidelock.configured().aclose()

    # Who is called within a global transaction works within it: that is this middleware.
    app = web.Application(middlewares=[transaction_middleware()])
    app.cleanup_ctx.append(lifespan)
    app.router.add_post(path, respond)
    app.router.add_get("/health", health)
    port = int(setting("PORT", str(port)))
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


async def _body(request: web.Request) -> Body:
    try:
        body = await request.json()
    except ValueError as error:
        raise BodyError(f"the body is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise BodyError("the body is no object")
    return body


def in_mode(actions: Actions) -> Callable[[Body], Awaitable[object]]:
    """Answer a request with the function of the mode that it asks for, in a thread."""

    async def act(body: Body) -> object:
        return await asyncio.to_thread(actions[body.pop("mode")], **body)

    return act
