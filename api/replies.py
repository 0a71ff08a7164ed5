"""Answers: made whole, then sent with one write.

Every answer carries `Tidelock-Node`, `Tidelock-Term` and `Tidelock-Index`.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11
from aiohttp.web_request import BaseRequest

from api.cluster import Cluster
from api.errors import Problem
from statemachine.outcomes import Position

JSON: Final = "application/json"
PROBLEM_JSON: Final = "application/problem+json"

GREATEST_UNSENT_BYTES: Final = 64 * 1024
"""What a connection may have waiting before the next answer waits for the client to read."""

_encode: Final = msgspec.json.Encoder().encode


class Reply(web.StreamResponse):
    """An answer that is complete before it is sent.

    `web.Response` copies its headers, asks for their presence one by one, and serialises them
    again for each answer: a quarter of the CPU of a small request. Here the head is text that is
    mostly prepared, so `prepare` has nothing to do but to write. Signals such as
    `on_response_prepare` do not see it, and it has no `headers`.
    """

    def __init__(self, status: int, head: str, body: bytes) -> None:
        """`head` is the status line and the headers, each line with its end."""
        super().__init__(status=status)
        self._head = head
        self._whole_body = body
        self._stays_open = False
        self._closes = False

    @property
    def keep_alive(self) -> bool:
        """Whether the connection serves another request; known once the answer is sent."""
        return self._stays_open

    @property
    def content(self) -> bytes:
        """The body."""
        return self._whole_body

    def close(self) -> None:
        """End the connection with this answer."""
        self._closes = True

    def add_header(self, line: str) -> None:
        """Add one header, written as a line with its end."""
        self._head += line

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Send head and body.

        Raises:
            ConnectionResetError: the client has gone.
        """
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone before its answer was sent")
        keep_alive = self._stays_open = request.keep_alive and not self._closes
        head = self._head
        if not keep_alive:
            head += "Connection: close\r\n"
        elif request.version != HttpVersion11:
            head += "Connection: keep-alive\r\n"
        content = (head + "\r\n").encode()
        if request.method != "HEAD":
            content += self._whole_body
        transport.write(content)
        if transport.get_write_buffer_size() > GREATEST_UNSENT_BYTES:
            await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` sent everything."""


class Replies:
    """Makes the answers of one node."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lines: dict[tuple[int, str], str] = {}
        self._date_s = 0
        self._date = ""

    def success(self, status: int, answer: object, position: Position | None = None) -> Reply:
        """Return `answer` as JSON. Without a position: where this node has got to."""
        return self.of_bytes(status, JSON, _encode(answer), position)

    def problem(self, problem: Problem) -> Reply:
        more = "".join(f"{name}: {value}\r\n" for name, value in problem.headers().items())
        body = _encode(problem.body())
        reply = self.of_bytes(problem.status, PROBLEM_JSON, body, problem.position, more)
        if problem.kind.closes:
            reply.close()
        return reply

    def of_bytes(
        self,
        status: int,
        content_type: str,
        body: bytes,
        position: Position | None = None,
        more: str = "",
    ) -> Reply:
        """Return an answer of these bytes. `more` are further header lines, each with its end."""
        if position is None:
            position = self._cluster.applied_position()
        return Reply(
            status,
            f"{self.head(status, content_type, position)}Content-Length: {len(body)}\r\n{more}",
            body,
        )

    def head(self, status: int, content_type: str, position: Position) -> str:
        """Return the status line and the headers that every answer has, each with its end."""
        lines = self._lines.get((status, content_type))
        if lines is None:
            lines = self._lines[(status, content_type)] = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
                f"Content-Type: {content_type}\r\n"
                f"Server: Tidelock\r\n"
                f"Tidelock-Node: {self._cluster.node_id}\r\n"
            )
        now_s = int(time.time())
        if now_s != self._date_s:
            self._date_s = now_s
            self._date = formatdate(now_s, usegmt=True)
        return (
            f"{lines}Date: {self._date}\r\n"
            f"Tidelock-Term: {self._cluster.term}\r\n"
            f"Tidelock-Index: {position.entry}.{position.place}\r\n"
        )
