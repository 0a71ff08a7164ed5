"""Transactions for ASGI applications: FastAPI, Starlette, Django under ASGI, and all others.

::

    app = FastAPI()
    app.add_middleware(TransactionMiddleware)

The binding holds for the whole request, with the parts of its answer that are still being made
after it began. Background tasks of Starlette run within it too: what they do for the transaction
after its end is refused by the cluster.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

from tidelock.application import Application
from tidelock.participant_clocks import ParticipantClocks
from tidelock.propagation.carrier import Arrival, Carrier
from tidelock.propagation.headers import Find, RefusedRequestError
from tidelock.transaction.context import bound

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_POLICY_VIOLATION: Final = 1008
"""The code with which a WebSocket is closed whose server cannot answer otherwise (RFC 6455)."""


class TransactionMiddleware:
    """Binds the transaction of each request, and of each WebSocket, while it is served.

    A request that brings no usable xid where it brings one is answered 400.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        application: Application | None = None,
        clocks: ParticipantClocks | None = None,
    ) -> None:
        """Serve `app`. The clocks are the application's unless given."""
        self.app = app
        self._carrier = Carrier(application, clocks=clocks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            arrival = self._carrier.arrive(_finder(scope["headers"]))
        except RefusedRequestError as refused:
            await _refuse(scope, receive, send, refused)
            return
        with bound(arrival.xid):
            await self.app(scope, receive, _answering(send, arrival))


def _finder(headers: Iterable[tuple[bytes, bytes]]) -> Find:
    def find(name: str) -> list[str]:
        wanted = name.lower().encode()
        return [value.decode("latin-1") for key, value in headers if key.lower() == wanted]

    return find


def _answering(send: Send, arrival: Arrival) -> Send:
    if not arrival.answers_clocks:
        return send

    async def answer(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.accept"):
            ours = [(name.lower().encode(), value.encode()) for name, value in arrival.answer()]
            message = {**message, "headers": [*message.get("headers", ()), *ours]}
        await send(message)

    return answer


async def _refuse(scope: Scope, receive: Receive, send: Send, refused: RefusedRequestError) -> None:
    kind = "http"
    if scope["type"] == "websocket":
        await receive()
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        kind = "websocket.http"
    headers = [(name.lower().encode(), value.encode()) for name, value in refused.headers]
    await send({"type": f"{kind}.response.start", "status": 400, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": refused.body})
