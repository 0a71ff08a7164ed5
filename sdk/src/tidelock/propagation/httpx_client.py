"""Transactions for clients of httpx, blocking and asynchronous.

::

    client = carry(httpx.AsyncClient(), hosts=["orders.internal:8080"])

Each request that a redirect leads to is judged by its own host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from tidelock.application import Application
from tidelock.participant_clocks import ParticipantClocks
from tidelock.propagation.carrier import Carrier
from tidelock.propagation.headers import NAMED

try:
    import httpx
except ImportError as missing:  # pragma: no cover
    raise ImportError(f'{missing}; it comes with: pip install "tidelock[httpx]"') from missing

HttpxClient = TypeVar("HttpxClient", httpx.Client, httpx.AsyncClient)


def carry(
    client: HttpxClient,
    *,
    application: Application | None = None,
    hosts: Iterable[str] | None = None,
    clocks: ParticipantClocks | None = None,
) -> HttpxClient:
    """Have a client attach the bound transaction to its requests. Returns the client.

    `hosts` are those that are told, as in `AllowedHosts`. They are the application's unless given,
    and so are the clocks. Hooks that the client has stay, and come first.

    Raises:
        ValueError: a host is none.
    """
    carrier = Carrier(application, hosts=hosts, clocks=clocks)

    def leave(request: httpx.Request) -> None:
        for name in NAMED:
            request.headers.pop(name, None)
        host = request.url.raw_host.decode("ascii")
        request.headers.update(carrier.leave(host, _port(request.url)))

    def hear(response: httpx.Response) -> None:
        carrier.hear(response.headers.get_list)

    async def leave_later(request: httpx.Request) -> None:
        leave(request)

    async def hear_later(response: httpx.Response) -> None:
        hear(response)

    waits = isinstance(client, httpx.AsyncClient)
    hooks: dict[str, list[Callable[..., Any]]] = client.event_hooks
    client.event_hooks = {
        "request": [*hooks["request"], leave_later if waits else leave],
        "response": [*hooks["response"], hear_later if waits else hear],
    }
    return client


def _port(url: httpx.URL) -> int | None:
    return url.port or {"http": 80, "https": 443}.get(url.scheme)
