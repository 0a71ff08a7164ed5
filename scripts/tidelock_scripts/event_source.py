"""Server-sent events as a browser reads them, and a watch that outlives the nodes it asks.

The parsing is that of the HTML standard, section 9.2.6: comments are skipped, an id counts once its
event is complete, and what is left of a stream that broke off is thrown away.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import msgspec

WATCH_PATH = "/api/v1/watch"

_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_SILENT_S: Final = 2.5
"""A stream that says nothing for so long is given up: its node is paused or cut off."""
_CONNECT_S: Final = 1.0
_PAUSE_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    data: str
    last_id: str


class EventParser:
    """Makes events of the bytes of one stream."""

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry_ms: int | None = None
        self.comments = 0
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._rest = ""
        self._data: list[str] = []
        self._name = ""
        self._id = last_id

    def feed(self, content: bytes) -> list[Event]:
        """Return the events that these bytes complete."""
        text = self._rest + self._decode.decode(content)
        # A carriage return at the end may be the first half of a line's end.
        held = "\r" if text.endswith("\r") else ""
        *lines, self._rest = _LINE_END.split(text.removesuffix("\r"))
        self._rest += held
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, line: str) -> Event | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not field:
            self.comments += 1
        elif field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        elif field == "id" and "\0" not in value:
            self._id = value
        elif field == "retry" and value.isdecimal():
            self.retry_ms = int(value)
        return None

    def _dispatch(self) -> Event | None:
        self.last_id = self._id
        data, self._data = self._data, []
        name, self._name = self._name or "message", ""
        return Event(name, "\n".join(data), self.last_id) if data else None


class RefusedError(Exception):
    """The node answered with something else than a stream."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status}: {body[:300]!r}")
        self.status = status
        self.body = body

    @property
    def code(self) -> str:
        with contextlib.suppress(msgspec.DecodeError, KeyError, TypeError):
            return str(msgspec.json.decode(self.body)["code"])
        return ""


async def connect(
    session: aiohttp.ClientSession, address: str, *, query: str = "", last_id: str = ""
) -> aiohttp.ClientResponse:
    """Begin a watch.

    Raises:
        RefusedError, aiohttp.ClientError, TimeoutError
    """
    response = await session.get(
        f"http://{address}{WATCH_PATH}{query}",
        headers={"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})},
        timeout=aiohttp.ClientTimeout(total=None, connect=_CONNECT_S, sock_read=_SILENT_S),
    )
    if response.status == 200:
        return response
    async with response:
        raise RefusedError(response.status, await response.read())


async def read_events(
    response: aiohttp.ClientResponse, parser: EventParser
) -> AsyncIterator[Event]:
    """Yield the events of one stream until it ends or nothing came for long."""
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
        async for content in response.content.iter_any():
            for event in parser.feed(content):
                yield event


class Watch:
    """A watch that goes on at the next node where the last one ended."""

    def __init__(
        self, addresses: Sequence[str], *, query: str = "?from=0", last_id: str = ""
    ) -> None:
        self._addresses = list(addresses)
        self._query = query
        self._response: aiohttp.ClientResponse | None = None
        self.last_id = last_id
        self.messages: list[dict[str, Any]] = []
        """The data of every message so far."""
        self.connections = 0

    def cut(self) -> None:
        """Break off the stream; the next one is begun at another node."""
        if self._response is not None:
            self._response.close()

    async def run(self) -> None:
        """Watch until cancelled.

        Raises:
            RefusedError: a node says that it cannot go on from there.
        """
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True)
        ) as session:
            while True:
                address = self._addresses[self.connections % len(self._addresses)]
                self.connections += 1
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                    await self._follow(session, address)
                await asyncio.sleep(_PAUSE_S)

    async def _follow(self, session: aiohttp.ClientSession, address: str) -> None:
        try:
            response = await connect(session, address, query=self._query, last_id=self.last_id)
        except RefusedError as error:
            if error.status in (429, 503):
                return
            raise
        self._response = response
        parser = EventParser(self.last_id)
        async with response:
            async for event in read_events(response, parser):
                if event.name == "message":
                    self.told(event)
                self.last_id = event.last_id

    def told(self, event: Event) -> None:
        """Take a message."""
        self.messages.append(msgspec.json.decode(event.data))
