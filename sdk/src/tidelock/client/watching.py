"""Watching what is applied, at whichever node, with nothing left out and nothing told twice."""

from __future__ import annotations

import asyncio
import codecs
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
import msgspec
from yarl import URL

from tidelock.client.answers import Answer
from tidelock.client.transport import Received, Transport, read_problem, received
from tidelock.errors import of_problem

GREATEST_EVENT_CHARACTERS: Final = 64 << 20
_CONNECT_S: Final = 1.0
_GREATEST_PAUSE_S: Final = 1.0
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_POSITION: Final = re.compile(r"([0-9]{1,19})\.([0-9]{1,10})")

_BROKEN: Final = (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError)
"""What a stream breaks off with, or what it says when no well node says it."""


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
        self._rest: list[str] = []
        """The line that has not ended yet."""
        self._data: list[str] = []
        self._size = 0
        self._rest_size = 0
        self._name = ""
        self._id = last_id

    def feed(self, content: bytes) -> list[Event]:
        """Return the events that these bytes complete.

        Raises: ValueError: an event is larger than any node sends, or no UTF-8.
        """
        text = self._decode.decode(content)
        if self._rest and self._rest[-1] == "\r":
            text = self._rest.pop() + text
        # A carriage return at the end may be the first half of a line's end.
        held = ["\r"] if text.endswith("\r") else []
        *lines, rest = _LINE_END.split(text[: len(text) - len(held)])
        if lines:
            lines[0] = "".join([*self._rest, lines[0]])
            self._rest = []
            self._rest_size = 0
        self._rest += [rest, *held] if rest else held
        self._rest_size += len(rest)
        events = [event for line in lines if (event := self._take(line)) is not None]
        if self._size + self._rest_size > GREATEST_EVENT_CHARACTERS:
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
            # An empty line takes room too.
            self._size += len(value) + 1
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

    async def run(self) -> AsyncGenerator[Applied, None]:
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
            except _BROKEN:
                pass
            self._transport.nodes.avoid(nodes[0])
            failed += 1
            if failed >= len(nodes):
                pause_s = min(0.05 * 2 ** min(failed - len(nodes), 10), _GREATEST_PAUSE_S)
                await asyncio.sleep(random.uniform(0, pause_s))  # noqa: S311

    async def _stream(self, url: URL) -> AsyncIterator[Applied]:
        """Yield what one node tells until its stream breaks off.

        Raises: ProblemError, and what is in `_BROKEN`.
        """
        transport = self._transport
        transport.use()
        headers = {
            **transport.access.headers(),
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
        }
        query = dict(self._query)
        if self._last_id:
            headers["Last-Event-ID"] = self._last_id
        elif self._beginning is not None:
            query["from"] = self._beginning
        timeout = aiohttp.ClientTimeout(
            total=None, connect=self._silence_s, sock_connect=_CONNECT_S, sock_read=self._silence_s
        )
        target = URL(f"{url}/api/v1/watch?{urlencode(query)}", encoded=True)
        async with transport.session(waits=True).get(
            target, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            if response.status != 200:
                _refuse(await received(response))
                return
            encoded = "Content-Encoding" in response.headers
            if response.content_type != "text/event-stream" or encoded:
                raise ValueError("it is no stream of events")
            transport.nodes.answered(url)
            reader = EventReader(self._last_id)
            async for content in response.content.iter_any():
                for event in reader.feed(content):
                    applied = self._take(event)
                    if applied is not None:
                        yield applied

    def _take(self, event: Event) -> Applied | None:
        """Return what an event tells, None when it only says how far the log was read.

        Raises: CompactedError; ValueError: no well node sends it.
        """
        if event.name == "compacted":
            _refuse(Received(410, {}, event.data.encode()))
            raise ValueError("it is not said from where on changes are kept")
        applied = None
        if event.name == "message":
            applied = msgspec.json.decode(event.data, type=Applied)
            if applied.id != event.id or not _is_behind(event.id, self._last_id):
                raise ValueError("what is told does not follow on what was told")
        elif event.name != "position" or not event.id:
            return None
        elif self._last_id and _position(event.id) < _position(self._last_id):
            raise ValueError("it goes back")
        _position(event.id)
        self._last_id = event.id
        return applied


def _refuse(answer: Received) -> None:
    """Raise what a node refuses for good; return when another one may not.

    Raises: ProblemError
    """
    problem = read_problem(answer)
    if problem is not None and problem.status < 500 and problem.status not in (408, 429):
        raise of_problem(problem)


def _position(text: str) -> tuple[int, int]:
    """Raises: ValueError"""
    found = _POSITION.fullmatch(text)
    if found is None:
        raise ValueError("it has no position")
    return int(found[1]), int(found[2])


def _is_behind(later: str, earlier: str) -> bool:
    """Raises: ValueError"""
    return not earlier or _position(later) > _position(earlier)
