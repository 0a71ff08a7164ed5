"""Transactions for servers of aiohttp.

::

    app = web.Application(middlewares=[transaction_middleware()])

What a handler writes to a `StreamResponse` is written within the transaction. An iterator that is
given to `web.Response` as its body is read after the handler, by aiohttp, and is not. An answer of
which a handler has sent a part carries no clocks.
"""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from tidelock.application import Application
from tidelock.participant_clocks import ParticipantClocks
from tidelock.propagation.carrier import Arrival, Carrier
from tidelock.propagation.headers import RefusedRequestError
from tidelock.transaction.context import bound


def transaction_middleware(
    *, application: Application | None = None, clocks: ParticipantClocks | None = None
) -> Middleware:
    """Return a middleware that binds the transaction of each request while it is served.

    A request that brings no usable xid where it brings one is answered 400. The clocks are the
    application's unless given.
    """
    carrier = Carrier(application, clocks=clocks)

    @web.middleware
    async def serve(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            arrival = carrier.arrive(lambda name: request.headers.getall(name, ()))
        except RefusedRequestError as refused:
            return web.Response(
                status=400, body=refused.body, content_type="application/problem+json"
            )
        with bound(arrival.xid):
            try:
                response = await handler(request)
            except web.HTTPException as raised:
                _answer(raised, arrival)
                raise
        _answer(response, arrival)
        return response

    return serve


def _answer(response: web.StreamResponse, arrival: Arrival) -> None:
    if not response.prepared:
        for name, value in arrival.answer():
            response.headers[name] = value
