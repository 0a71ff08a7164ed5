"""Server-sent events as an answer: its head is sent at once, its body whenever there is something.

The bytes go to the transport as they are, so that many streams can be given the same ones. The end
of the connection is the end of the body, which needs no framing. An answer of this kind is the last
one of its connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

from api.connections import Connection

MEDIA_TYPE: Final = "text/event-stream"

_AS_IT_COMES: Final = "Cache-Control: no-store\r\nX-Accel-Buffering: no\r\nConnection: close\r\n"
"""Nothing on the way may keep a stream, or hold it back to send it in larger pieces."""

COMMENT: Final = b":\n\n"
"""What keeps a stream alive that has nothing to say."""


def event(data: bytes, *, name: str = "", event_id: str = "") -> bytes:
    """Return one event. `data` is one line: JSON that our encoder made, or `one_line`."""
    head = f"event: {name}\n" if name else ""
    if event_id:
        head += f"id: {event_id}\n"
    return b"%bdata: %b\n\n" % (head.encode(), data)


def one_line(json: bytes) -> bytes:
    """Return the same JSON without line ends, which can only stand between its parts."""
    return json.translate(_ONE_LINE)


def comment(text: str) -> bytes:
    """Return a line that clients skip and people read."""
    return f": {text}\n\n".encode()


_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")


class EventStream(web.StreamResponse):
    """An answer that goes on. `run` is called once its head has left, and the answer ends with it.

    `run` is not called for a client that has gone, nor for one that wants the head only.
    """

    def __init__(self, head: str, run: Callable[[EventStream], Awaitable[None]]) -> None:
        """`head` is what `Replies.head` returns."""
        super().__init__(status=200)
        self._head = head
        self._run = run
        self._transport: asyncio.WriteTransport | None = None
        self._drain: Callable[[], Awaitable[None]]
        self._head_only = False
        self.is_draining = False
        """Whether somebody waits for the client to take what was written."""
        self.on_gone: Callable[[], None] = lambda: None
        """Called when the client has left."""

    @property
    def keep_alive(self) -> bool:
        return False

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Send the head.

        Raises:
            ConnectionResetError: the client has gone.
        """
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone before its answer was sent")
        self._transport = transport
        self._drain = request.writer.drain
        self._head_only = request.method == "HEAD"
        if isinstance(request.protocol, Connection):
            request.protocol.on_lost = self._gone
        transport.write(f"{self._head}{_AS_IT_COMES}\r\n".encode())
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the body, for as long as that takes."""
        if not self._head_only:
            await self._run(self)

    def _gone(self) -> None:
        self.on_gone()

    @property
    def is_gone(self) -> bool:
        """Whether the client has left: what is written now reaches nobody."""
        return self._transport is None or self._transport.is_closing()

    @property
    def unsent_bytes(self) -> int:
        """What was written and the client's side has not taken yet."""
        if self._transport is None or self._transport.is_closing():
            return 0
        return self._transport.get_write_buffer_size()

    def send(self, content: bytes) -> None:
        """Send this, now or as soon as what is unsent has left. Nothing happens once it is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(content)

    async def drain(self) -> None:
        """Return when most of what was written has left, or the client has.

        Only the transport's own threshold counts, 64 KiB: with less unsent it returns at once.
        """
        if self.is_gone:
            return
        self.is_draining = True
        try:
            await self._drain()
        except ConnectionError:
            return
        finally:
            self.is_draining = False

    def abort(self) -> None:
        """End the connection without waiting for what is unsent."""
        if self._transport is not None:
            self._transport.abort()
