"""Transactions for clients of aiohttp, from 3.12 on.

::

    async with ClientSession(middlewares=[carrying()]) as session:
        await session.post("http://orders.internal:8080/orders")

Each request that a redirect leads to is judged by its own host.
"""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import ClientHandlerType, ClientMiddlewareType, ClientRequest, ClientResponse

from tidelock.application import Application
from tidelock.participant_clocks import ParticipantClocks
from tidelock.propagation.carrier import Carrier
from tidelock.propagation.headers import NAMED


def carrying(
    *,
    application: Application | None = None,
    hosts: Iterable[str] | None = None,
    clocks: ParticipantClocks | None = None,
) -> ClientMiddlewareType:
    """Return a middleware for a `ClientSession` that attaches the bound transaction.

    `hosts` are those that are told, as in `AllowedHosts`. They are the application's unless given,
    and so are the clocks.

    Raises:
        ValueError: a host is none.
    """
    carrier = Carrier(application, hosts=hosts, clocks=clocks)

    async def carry(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        for name in NAMED:
            request.headers.popall(name, None)
        request.headers.extend(carrier.leave(request.url.raw_host or "", request.url.port))
        response = await handler(request)
        carrier.hear(lambda name: response.headers.getall(name, ()))
        return response

    return carry
