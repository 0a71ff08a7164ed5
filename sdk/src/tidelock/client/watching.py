"""Watching what is applied, at whichever node, with nothing left out and nothing told twice."""

from __future__ import annotations

import asyncio
import codecs
import random
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
import msgspec
from yarl import URL

from tidelock.client.answers import Answer
from tidelock.client.transport import Transport, read_problem
from tidelock.errors import of_problem

GREATEST_EVENT_CHARACTERS: Final = 64 << 20
_CONNECT_S: Final = 1.0
_GREATEST_PAUSE_S: Final = 1.0
_LINE_END: Final = re.compile(r"\r\n|\r|\n")


class Applied(Answer, frozen=True, kw_only=True):
    """Everything that one applied command changed, of the kinds that were asked for."""

    id: str
    """The position in the log; `after=` it, a later watch goes on behind it."""
    at: int
    """The replicated wall time, milliseconds since the epoch."""
    changes: list[dict[str, Any]]
    """Each names its `kind`; the other members depend on that."""


class Event(msgspec.Struct, frozen=True):
    """One server-sent event."""

    name: str
    data: str
    id: str


class EventReader:
    """Makes events of the bytes of one stream, as section 9.2.6 of the HTML standard says."""

    def __init__(self, last_id: str) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._rest = ""
        self._data: list[str] = []
        self._size = 0
        self._name = ""
        self._id = last_id

    def feed(self, content: bytes) -> list[Event]:
        """Return the events that these bytes complete.

        Raises: ValueError: an event is larger than any node sends, or no UTF-8.
        """
        text = self._rest + self._decode.decode(content)
        # A carriage return at the end may be the first half of a line's end.
        held = "\r" if text.endswith("\r") else ""
        *lines, rest = _LINE_END.split(text[: len(text) - len(held)])
        self._rest = rest + held
        events = [event for line in lines if (event := self._take(line)) is not None]
        if self._size + len(self._rest) > GREATEST_EVENT_CHARACTERS:
            raise ValueError("an event of the watch is larger than any node sends")
        return events

    def _take(self, line: str) -> Event | None:
        if not line:
            data, name = "\n".join(self._data), self._name or "message"
            complete = bool(self._data)
            self._data, self._name, self._size = [], "", 0
            return Event(name, data, self._id) if complete else None
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
            self._size += len(value)
        elif field == "event":
            self._name = value
        elif field == "id" and "\0" not in value:
            self._id = value
        return None


class Watching:
    """One watch over all the streams that it takes."""

    def __init__(
        self,
        transport: Transport,
        *,
        kinds: Sequence[str],
        after: str | None,
        silence_ms: int,
    ) -> None:
        self._transport = transport
        self._query = {"kinds": ",".join(kinds)} if kinds else {}
        self._beginning = after
        self._last_id = ""
        self._silence_s = silence_ms / 1000

    async def run(self) -> AsyncIterator[Applied]:
        """Yield what is applied, for ever.

        Raises: CompactedError, and other kinds of ProblemError when the nodes refuse.
        """
        failed = 0
        while True:
            nodes = self._transport.nodes.in_order()
            try:
                async for applied in self._stream(nodes[0]):
                    failed = 0
                    yield applied
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
                pass
            self._transport.nodes.avoid(nodes[0])
            failed += 1
            if failed >= len(nodes):
                pause_s = min(0.05 * 2 ** min(failed - len(nodes), 10), _GREATEST_PAUSE_S)
                await asyncio.sleep(random.uniform(0, pause_s))  # noqa: S311

    async def _stream(self, url: URL) -> AsyncIterator[Applied]:
        """Yield what one node tells until its stream breaks off.

        Raises: ProblemError, ValueError, and what aiohttp does.
        """
        session = self._transport.use()
        headers = {"Accept": "text/event-stream"}
        query = dict(self._query)
        if self._last_id:
            headers["Last-Event-ID"] = self._last_id
        elif self._beginning is not None:
            query["from"] = self._beginning
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=_CONNECT_S, sock_read=self._silence_s
        )
        target = URL(f"{url}/api/v1/watch?{urlencode(query)}", encoded=True)
        async with session.get(
            target, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            if response.status != 200:
                problem = read_problem(response.status, await response.read())
                if response.status < 500 and response.status not in (408, 429):
                    raise of_problem(problem)
                return
            self._transport.nodes.answered(url)
            reader = EventReader(self._last_id)
            async for content in response.content.iter_any():
                for event in reader.feed(content):
                    if event.name == "compacted":
                        raise of_problem(read_problem(410, event.data.encode()))
                    self._last_id = event.id or self._last_id
                    if event.name == "message":
                        yield msgspec.json.decode(event.data, type=Applied)
