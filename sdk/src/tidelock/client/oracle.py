"""Timestamps for many callers with one request.

Whoever asks while a request is under way waits for the next one, which begins after the question.
So a caller who has a timestamp and then asks for another, anywhere in the cluster, gets a greater
one, as if each had asked alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Unpack

from tidelock.client.answers import Drawn
from tidelock.client.resource import Asking, Resource
from tidelock.errors import ClientClosedError

MOST_AT_ONCE: Final = 10_000

Draw = Callable[[int], Awaitable[Drawn]]
"""Draws so many timestamps in a row."""


class Oracle(Resource):
    """The timestamp oracle."""

    async def draw(self, count: int, **options: Unpack[Asking]) -> Drawn:
        """Return timestamps in a row. Nothing is lost when the request is repeated."""

        def are_as_many(drawn: Drawn) -> bool:
            return drawn.count == count == drawn.last - drawn.first + 1 and drawn.first > 0

        return await self._ask("/api/v1/tso", {"count": count}, Drawn, are_as_many, **options)


class SharedDraws:
    """Gathers callers."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._waiting: list[asyncio.Future[int]] = []
        self._serving: asyncio.Task[None] | None = None

    async def one(self) -> int:
        """Return a timestamp.

        Raises: as the drawing does.
        """
        mine: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve())
        return await mine

    def close(self) -> None:
        """Tell those who wait that the client is closed."""
        if self._serving is not None:
            self._serving.cancel()
        self._dismiss(self._waiting)

    def _dismiss(self, waiting: list[asyncio.Future[int]]) -> None:
        for each in waiting:
            if not each.done():
                each.set_exception(ClientClosedError("the client was closed before the answer"))

    async def _serve(self) -> None:
        served: list[asyncio.Future[int]] = []
        try:
            # Those who ask in the same turn of the loop come along.
            await asyncio.sleep(0)
            while self._waiting:
                served, self._waiting = (
                    self._waiting[:MOST_AT_ONCE],
                    self._waiting[MOST_AT_ONCE:],
                )
                served = [each for each in served if not each.done()]
                if served:
                    await self._serve_these(served)
        finally:
            self._serving = None
            self._dismiss(served)

    async def _serve_these(self, served: list[asyncio.Future[int]]) -> None:
        try:
            drawn = await self._draw(len(served))
        except Exception as error:  # whatever it is, it is theirs
            for each in served:
                if not each.done():
                    each.set_exception(error)
            return
        for timestamp, each in zip(range(drawn.first, drawn.last + 1), served, strict=True):
            if not each.done():
                each.set_result(timestamp)
