"""A client that reads a watch as far as it wants to, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from scripts.tidelock_scripts.event_source import Event, EventParser, connect

WITHIN_S = 10.0


class Stream:
    """One open stream."""

    def __init__(self, response: aiohttp.ClientResponse, last_id: str) -> None:
        self.response = response
        self.parser = EventParser(last_id)
        self._waiting: list[Event] = []

    async def event(self) -> Event:
        """Return the next event, whatever its name."""
        async with asyncio.timeout(WITHIN_S):
            while not self._waiting:
                content = await self.response.content.readany()
                assert content, "the stream ended"
                self._waiting = self.parser.feed(content)
        return self._waiting.pop(0)

    async def message(self) -> Any:
        """Return the data of the next message."""
        while True:
            event = await self.event()
            if event.name == "message":
                return msgspec.json.decode(event.data)

    async def messages(self, count: int) -> list[Any]:
        return [await self.message() for _ in range(count)]

    async def rest(self) -> bytes:
        """Return what comes until the node ends the stream."""
        async with asyncio.timeout(WITHIN_S):
            return await self.response.content.read()


@asynccontextmanager
async def watching(port: int, query: str = "", last_id: str = "") -> AsyncIterator[Stream]:
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        response = await connect(session, f"127.0.0.1:{port}", query=query, last_id=last_id)
        try:
            yield Stream(response, last_id)
        finally:
            response.close()
