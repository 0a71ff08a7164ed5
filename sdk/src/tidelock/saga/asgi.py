"""Requests of ASGI servers, for what answers calls of the cluster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

from tidelock.saga.serving import GREATEST_BODY_BYTES, Reply, Request, failed

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def serve(
    answer: Callable[[Request], Awaitable[Reply]], scope: Scope, receive: Receive, send: Send
) -> None:
    """Serve one scope of ASGI by `answer`."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})
    elif scope["method"] != "POST":
        await _send(send, failed(405, "METHOD_NOT_ALLOWED", "the cluster calls by POST"))
    else:
        body = await _body(receive)
        if body is None:
            return
        if len(body) > GREATEST_BODY_BYTES:
            reply = failed(413, "REQUEST_TOO_LARGE", f"more than {GREATEST_BODY_BYTES} bytes")
        else:
            reply = await answer(_request(scope, body))
        await _send(send, reply)


def _request(scope: Scope, body: bytes) -> Request:
    path: str = scope["path"]
    return Request(
        path=path.removeprefix(scope.get("root_path", "")),
        query=dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"))),
        headers={key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]},
        body=body,
    )


async def _body(receive: Receive) -> bytes | None:
    """Return the body, or a little more than is allowed; None: the caller has gone."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        if size <= GREATEST_BODY_BYTES:
            parts.append(part)
            size += len(part)
    return b"".join(parts)


async def _send(send: Send, reply: Reply) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(reply.body)).encode()),
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
